package content

import (
	"mime"
	"slices"
	"strings"
)

// Device describes the content that a device can show to its user.
type Device struct {
	// MediaTypes are the media types, the preferred one first: "text/html", "image/*", "*/*". A type with parameters
	// matches only parts that have these parameters.
	MediaTypes []string
	// Languages are the tags of the languages that the user reads, the preferred one first. "en" matches "en-GB".
	Languages []string
}

// TextDevice can show what each device must be able to show (§7.1).
var TextDevice = Device{MediaTypes: []string{Markdown, "text/plain"}}

// mediaType is a media type with the parameters that follow it.
type mediaType struct {
	name       string // in lower case; empty if malformed
	parameters map[string]string
}

func parseMediaType(s string) mediaType {
	name, parameters, err := mime.ParseMediaType(s)
	if err != nil {
		return mediaType{}
	}
	return mediaType{name: name, parameters: parameters}
}

// isText reports whether a media type is a text in UTF-8.
func isText(s string) bool {
	t := parseMediaType(s)
	return strings.HasPrefix(t.name, "text/") && t.utf8()
}

// utf8 reports whether the charset, if the type has one, is UTF-8 or a subset of it.
func (t mediaType) utf8() bool {
	charset := t.parameters["charset"]
	return charset == "" || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "us-ascii")
}

// matches reports whether a part's type t is one of those that the pattern of a device covers.
func (t mediaType) matches(pattern mediaType) bool {
	family, all := strings.CutSuffix(pattern.name, "*")
	if t.name != pattern.name && !(all && (family == "*/" || strings.HasPrefix(t.name, family))) {
		return false
	}
	for name, value := range pattern.parameters {
		if !strings.EqualFold(t.parameters[name], value) {
			return false
		}
	}
	return !strings.HasPrefix(t.name, "text/") || t.utf8()
}

// chooser has the parsed types of a device.
type chooser struct {
	types     []mediaType
	languages []string
}

// A choice is the parts to show of one part, with the rank of the part among its alternatives: the lower the better.
type choice struct {
	parts          []*Part
	partial        bool // the device can show some of the part, not all
	language, kind int
	ok             bool // the device can show the part, or some of it
}

// before reports whether c is better than another choice that comes before it in the message.
func (c choice) before(other choice) bool {
	switch {
	case c.partial != other.partial:
		return other.partial
	case c.language != other.language:
		return c.language < other.language
	}
	return c.kind < other.kind
}

// Choose returns the parts of the body that the device shows, in their order: from parts with the semantics "choose
// one" the best one, from a single unit all or none, otherwise all that the device supports. A part is better if the
// device can show all of it, then by its language, then by its media type, then by its place in the message. Parts of
// unknown disposition count as Render.
//
// If the device can show nothing of the body, Choose returns nil and false. It returns nil and true for an empty body.
func (d Device) Choose(body *Part) ([]*Part, bool) {
	c := &chooser{languages: d.Languages}
	for _, s := range d.MediaTypes {
		if t := parseMediaType(s); t.name != "" {
			c.types = append(c.types, t)
		}
	}
	chosen := c.choose(body, 1)
	return chosen.parts, chosen.ok
}

func (c *chooser) choose(p *Part, depth int) choice {
	switch {
	case depth > MaxPartDepth:
		return choice{}
	case p.Cardinality == Null:
		return choice{language: c.language(p), kind: len(c.types), ok: true}
	case p.Cardinality == Single || p.Cardinality == External:
		kind, ok := c.kind(p)
		if !ok {
			return choice{}
		}
		return choice{parts: []*Part{p}, language: c.language(p), kind: kind, ok: true}
	case p.Cardinality == Multi:
		return c.multi(p, depth)
	}
	return choice{}
}

func (c *chooser) multi(p *Part, depth int) choice {
	all := choice{language: len(c.languages) + 1, kind: len(c.types)}
	missing := false
	for i := range p.Parts {
		one := c.choose(&p.Parts[i], depth+1)
		if !one.ok {
			missing = true
			continue
		}
		if p.Semantics == ChooseOne {
			if !all.ok || one.before(all) {
				all = one
			}
			continue
		}
		all.ok = true
		all.partial = all.partial || one.partial
		all.parts = append(all.parts, one.parts...)
		all.language = min(all.language, one.language)
		all.kind = min(all.kind, one.kind)
	}
	switch {
	case p.Semantics == SingleUnit && (missing || all.partial):
		return choice{}
	case p.Semantics != ChooseOne:
		all.partial = all.partial || missing
	}
	if p.Language != "" {
		all.language = c.language(p)
	}
	return all
}

// kind returns the place of a part's media type among those of the device. A session needs no type: a person opens its
// URL. An external part without a type counts as one that every device can offer for download.
func (c *chooser) kind(p *Part) (int, bool) {
	if p.Cardinality == External && (p.Disposition == DispAttachment || p.Disposition == DispConference) {
		return len(c.types), true
	}
	t := parseMediaType(p.ContentType)
	if t.name == "" {
		return 0, false
	}
	i := slices.IndexFunc(c.types, t.matches)
	return i, i >= 0
}

// language returns the place of a part's language among those of the device. A part without a language comes after
// those that the user reads, and before the others.
func (c *chooser) language(p *Part) int {
	tags := p.Languages()
	if len(tags) == 0 {
		return len(c.languages)
	}
	for i, want := range c.languages {
		for _, tag := range tags {
			if len(tag) >= len(want) && strings.EqualFold(tag[:len(want)], want) && (len(tag) == len(want) || tag[len(want)] == '-') {
				return i
			}
		}
	}
	return len(c.languages) + 1
}
