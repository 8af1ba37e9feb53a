package content

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/mlsfed/mlsfed/content/markdown"
)

// Plain returns the body as a text without markup, for a terminal, a notification or a search index. It shows the
// parts that Choose chooses; a part that another one names by its content ID is shown once (§4.4). A part that is no
// text becomes a description in brackets.
func (d Device) Plain(body *Part) string {
	parts, ok := d.Choose(body)
	if !ok {
		return describeUnsupported(body)
	}
	var texts []string
	var seen []*Part
	for _, p := range parts {
		if slices.Contains(seen, p) {
			continue
		}
		text, named := plainPart(body, p)
		seen = append(seen, named...)
		if text != "" {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "\n\n")
}

// maxNamed bounds the parts that the text of one part takes into itself.
const maxNamed = 16

// plainPart returns the text of a part, and the parts that the text names.
func plainPart(body, p *Part) (string, []*Part) {
	switch {
	case p.Cardinality == External:
		return describeExternal(p), nil
	case !isText(p.ContentType):
		return fmt.Sprintf("[%s, %d bytes]", markdown.Clean(p.ContentType), len(p.Content)), nil
	case !isMarkdown(p.ContentType):
		return markdown.Clean(string(p.Content)), nil
	}
	tree := markdown.Parse(string(p.Content), markdown.Options{})
	var named []*Part
	tree.Walk(func(n *markdown.Node) {
		if (n.Kind == markdown.Link || n.Kind == markdown.Image) && len(named) < maxNamed {
			if other := body.Referenced(n.URL); other != nil {
				named = append(named, other)
			}
		}
	})
	return tree.Plain(), named
}

func isMarkdown(s string) bool { return parseMediaType(s).name == "text/markdown" }

func describeUnsupported(body *Part) string {
	var types []string
	for _, p := range body.All() {
		switch {
		case !p.Cardinality.Known():
			types = append(types, p.Cardinality.String())
		case p.ContentType != "":
			types = append(types, markdown.Clean(p.ContentType))
		}
		if len(types) == maxNamed {
			types = append(types, "…")
			break
		}
	}
	return "[this device cannot show " + strings.Join(types, ", ") + "]"
}

func describeExternal(p *Part) string {
	var b strings.Builder
	b.WriteString("[" + p.Disposition.String())
	for _, s := range []string{p.External.Filename, p.ContentType} {
		if s != "" {
			b.WriteString(", " + markdown.Clean(s))
		}
	}
	if p.External.Size > 0 {
		fmt.Fprintf(&b, ", %d bytes", p.External.Size)
	}
	if p.External.Description != "" {
		b.WriteString(": " + markdown.Clean(p.External.Description))
	}
	if p.Disposition == DispConference {
		b.WriteString(" (" + markdown.Clean(p.External.URL) + ")")
	}
	b.WriteString("]")
	return b.String()
}

// Mention is a user or a room that a text names (§5.4).
type Mention struct {
	URL  string
	Text string // the text that the sender wishes to show; it can be anything
}

// Mentions returns the users and rooms that the Markdown texts of the content name, each URL once. member reports
// whether a URL is one of the room's members: only a member can be mentioned (§9.6). If member is nil, every URL that
// has the form of a user or a room counts.
func (c *Content) Mentions(member func(url string) bool) []Mention {
	var found []Mention
	known := make(map[string]bool)
	for _, p := range c.Body.All() {
		if p.Cardinality != Single || !isMarkdown(p.ContentType) || !isText(p.ContentType) {
			continue
		}
		tree := markdown.Parse(string(p.Content), markdown.Options{Mention: member})
		for _, n := range tree.Mentions() {
			if !known[n.URL] {
				known[n.URL] = true
				found = append(found, Mention{URL: n.URL, Text: n.Label()})
			}
		}
	}
	return found
}

// SafeName returns the file name without folders and without characters that a file system or a terminal could
// misunderstand; it has at most 200 bytes. It returns "file" if nothing remains.
func (e *Reference) SafeName() string {
	const longest = 200
	name := e.Filename
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`:*?"<>|`, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	name = strings.Trim(name, " .")
	if len(name) > longest {
		name = strings.ToValidUTF8(name[:longest], "")
	}
	if name == "" {
		return "file"
	}
	return name
}
