package markdown

import (
	"fmt"
	"strconv"
	"strings"
)

// Plain returns the node as a text without markup, for example for a search index, a notification or a terminal. A link
// whose text differs from its URL shows both.
func (n *Node) Plain() string {
	var b strings.Builder
	n.plain(&b)
	return b.String()
}

func (n *Node) plain(b *strings.Builder) {
	switch n.Kind {
	case Document, Item:
		n.blocks(b, "\n\n")
	case Quote:
		prefixed(b, n.inner("\n\n"), "> ", "> ")
	case List:
		n.list(b)
	case CodeBlock, Text, Code:
		b.WriteString(n.Text)
	case Rule:
		b.WriteString("---")
	case Table:
		n.blocks(b, "\n")
	case Row:
		n.blocks(b, " | ")
	case Break:
		b.WriteString("\n")
	case Link, Mention, Image:
		n.link(b)
	default:
		n.blocks(b, "")
	}
}

// Label returns the text within a node, without URLs.
func (n *Node) Label() string {
	var b strings.Builder
	n.Walk(func(node *Node) {
		if node.Kind == Break {
			b.WriteString("\n")
		}
		b.WriteString(node.Text)
	})
	return b.String()
}

// blocks writes the children with a separator.
func (n *Node) blocks(b *strings.Builder, separator string) {
	for i, child := range n.Children {
		if i > 0 {
			b.WriteString(separator)
		}
		child.plain(b)
	}
}

func (n *Node) inner(separator string) string {
	var b strings.Builder
	n.blocks(&b, separator)
	return b.String()
}

// prefixed writes a text with one prefix for its first line and another for each further line.
func prefixed(b *strings.Builder, text, first, further string) {
	prefix := first
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			prefix = strings.TrimRight(prefix, " ")
		}
		b.WriteString(prefix)
		b.WriteString(line)
		prefix = further
	}
	if text == "" {
		b.WriteString(strings.TrimRight(first, " "))
	}
}

func (n *Node) list(b *strings.Builder) {
	for i, item := range n.Children {
		if i > 0 {
			b.WriteString("\n")
		}
		mark := "- "
		if n.Ordered {
			mark = fmt.Sprintf("%d. ", int64(n.Start)+int64(i))
		}
		indent := strings.Repeat(" ", len(mark))
		switch item.Task {
		case Open:
			mark += "[ ] "
		case Done:
			mark += "[x] "
		}
		prefixed(b, item.inner("\n"), mark, indent)
	}
}

func (n *Node) link(b *strings.Builder) {
	text := n.inner("")
	if n.Kind == Image {
		text = "[image: " + text + "]"
	}
	b.WriteString(text)
	if text != n.URL && "mailto:"+text != n.URL {
		b.WriteString(" (" + n.URL + ")")
	}
}

// Mentions returns the nodes of the kind Mention in a tree, in their order.
func (n *Node) Mentions() []*Node {
	var found []*Node
	n.Walk(func(node *Node) {
		if node.Kind == Mention {
			found = append(found, node)
		}
	})
	return found
}

// Walk calls see for a node and the nodes below it, in their order.
func (n *Node) Walk(see func(*Node)) {
	see(n)
	for _, child := range n.Children {
		child.Walk(see)
	}
}

// Misleading reports whether a link shows a text that differs from its target, so that a device asks before it opens
// the link (§9.6). A text that is the URL, or the URL without its scheme if that is https, is no reason to ask.
func (n *Node) Misleading() bool {
	if n.Kind != Link && n.Kind != Image {
		return false
	}
	text := strings.TrimSpace(n.Label())
	return text != n.URL && "https://"+text != n.URL && "mailto:"+text != n.URL
}

// Escape returns a text in Markdown that is shown as s. Empty lines separate paragraphs, also if there are several.
func Escape(s string) string {
	var b strings.Builder
	begin := true // of a line, or of its text
	digits := false
	for i, r := range s {
		switch {
		case r == '\n':
			if i > 0 && s[i-1] != '\n' && i+1 < len(s) && s[i+1] != '\n' {
				b.WriteByte('\\') // a hard break
			}
			b.WriteByte('\n')
			begin, digits = true, false
			continue
		case begin && (r == ' ' || r == '\t'):
			b.WriteString("&#" + strconv.Itoa(int(r)) + ";")
			continue
		case strings.ContainsRune("\\`*_~[]<&|!", r),
			begin && strings.ContainsRune("#+-=>", r),
			digits && (r == '.' || r == ')'):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
		digits = '0' <= r && r <= '9'
		begin = false
	}
	return b.String()
}

// LinkTo returns a link in Markdown that shows a text. Characters that a URL cannot have are percent-encoded.
func LinkTo(url, text string) string {
	var b strings.Builder
	b.WriteString("[" + Escape(text) + "](")
	for i := range len(url) {
		switch c := url[i]; {
		case c <= ' ' || c == 0x7f || strings.IndexByte("<>()\\\"`", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		case c == '&': // it could begin a character reference
			b.WriteString("&amp;")
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString(")")
	return b.String()
}
