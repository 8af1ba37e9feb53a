// Package markdown parses texts of the media type text/markdown;variant=GFM-MIMI (draft-ietf-mimi-content §7.1.1) into
// a small tree that a program can show without further checks.
//
// The tree has no HTML: tags in a text are part of the text. A link or an image has a URL with an allowed scheme;
// otherwise its source is part of the text. Control characters become U+FFFD. The tree has a bounded depth and a
// bounded number of nodes: a text beyond the bounds stays visible, without its markup. Parsing takes time in
// proportion to the length of the text.
//
// The package supports a part of GitHub Flavored Markdown: paragraphs, headings, lists with task items, quotes, code,
// tables, rules, emphasis, strikethrough, links, images, autolinks in angle brackets, hard line breaks. Link reference
// definitions are shown as text, as are autolinks without brackets.
package markdown

import (
	"slices"
	"strings"
	"unicode"
)

// Kind is the kind of a node.
type Kind uint8

// Kinds of nodes. Blocks come first.
const (
	Document  Kind = iota // blocks
	Paragraph             // inlines
	Heading               // inlines; Level 1 to 6
	List                  // items; Ordered, Start
	Item                  // blocks; Task
	Quote                 // blocks
	CodeBlock             // Text; Info
	Rule                  // a thematic break
	Table                 // rows; the first one is the header
	Row                   // cells
	Cell                  // inlines; Align

	Text     // Text, which can have line ends
	Code     // Text
	Emphasis // inlines
	Strong   // inlines
	Strike   // inlines
	Link     // inlines; URL, Title
	Mention  // a link that names a user or a room: inlines, which are the sender's wish for its display; URL
	Image    // inlines, which describe the picture; URL, Title
	Break    // a hard line break
)

var kinds = [...]string{
	"document", "paragraph", "heading", "list", "item", "quote", "code block", "rule", "table", "row", "cell",
	"text", "code", "emphasis", "strong", "strike", "link", "mention", "image", "break",
}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "kind"
}

// Task is the state of a task list item.
type Task uint8

// States of a task list item.
const (
	NoTask Task = iota
	Open
	Done
)

// Align is the alignment of a table cell.
type Align uint8

// Alignments.
const (
	AlignNone Align = iota
	AlignLeft
	AlignCenter
	AlignRight
)

// Node is a node of the tree. The comments of the kinds name the fields that each kind has.
type Node struct {
	Kind     Kind
	Level    uint8
	Task     Task
	Align    Align
	Ordered  bool
	Start    int32
	Text     string
	Info     string
	URL      string
	Title    string
	Children []*Node
}

// Bounds of a tree.
const (
	MaxBlockDepth  = 8     // lists and quotes within each other, with their items
	MaxInlineDepth = 16    // inlines within each other
	MaxNodes       = 10000 // the default of Options.Nodes
	maxColumns     = 64    // of a table
	maxURL         = 2048  // bytes
	maxTitle       = 512   // bytes
)

// MaxDepth is the largest depth of a tree; the document has depth 1. A table adds two levels, a list two for each.
const MaxDepth = 2*MaxBlockDepth + MaxInlineDepth + 8

// Schemes are the default of Options.Schemes. "cid" names another part of the same message.
var Schemes = []string{"https", "http", "mailto", "mimi", "im", "cid"}

// Options sets what a tree may have. The zero value means the defaults.
type Options struct {
	// Schemes are the schemes of URLs, in lower case.
	Schemes []string
	// Mention reports whether a URL names a user or a room; nil means IsMention. A client passes a function that knows
	// the members: only a member can be mentioned (§9.6).
	Mention func(url string) bool
	// Nodes is the most nodes of a tree.
	Nodes int
}

// Parse parses a text. It never fails: invalid UTF-8 becomes U+FFFD, and markup that is not understood is text.
func Parse(text string, o Options) *Node {
	p := newParser(o)
	return p.document(text)
}

// parser has the state of one call of Parse.
type parser struct {
	schemes []string
	mention func(string) bool
	left    int // nodes that may still be made
	steps   int // the work done, for tests of linear time
}

func newParser(o Options) *parser {
	p := &parser{schemes: o.Schemes, mention: o.Mention, left: o.Nodes}
	if p.schemes == nil {
		p.schemes = Schemes
	}
	if p.mention == nil {
		p.mention = IsMention
	}
	if p.left <= 0 {
		p.left = MaxNodes
	}
	return p
}

func (p *parser) document(text string) *Node {
	text = strings.ToValidUTF8(text, "\uFFFD")
	return &Node{Kind: Document, Children: p.blocks(lines(text), 0)}
}

// node returns a new node, or nil if the tree is full.
func (p *parser) node(k Kind) *Node {
	if p.left <= 0 {
		return nil
	}
	p.left--
	return &Node{Kind: k}
}

// IsMention reports whether a URL has the form of a user or a room: mimi://a.example/u/alice, mimi://a.example/r/room,
// im:alice@a.example.
func IsMention(url string) bool {
	scheme, rest, _ := strings.Cut(url, ":")
	switch strings.ToLower(scheme) {
	case "im":
		return rest != ""
	case "mimi":
		return strings.Contains(rest, "/u/") || strings.Contains(rest, "/r/")
	}
	return false
}

// allowed reports whether a URL has an allowed scheme and no character that could deceive a reader.
func (p *parser) allowed(url string) bool {
	scheme, rest, ok := strings.Cut(url, ":")
	if !ok || rest == "" || len(url) > maxURL || !slices.Contains(p.schemes, strings.ToLower(scheme)) {
		return false
	}
	return !strings.ContainsFunc(url, func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune("<>\"\\`", r)
	})
}

// Clean replaces control characters, other than line ends and tabs, and invalid UTF-8 by U+FFFD.
func Clean(s string) string { return clean(strings.ToValidUTF8(s, "\uFFFD")) }

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}

// lines splits a text into lines without their ends: LF, CR or both.
func lines(text string) []string {
	if strings.Contains(text, "\r") {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	}
	return strings.Split(text, "\n")
}
