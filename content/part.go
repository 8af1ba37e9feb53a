package content

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Disposition is the purpose of a part (§4.4). Values up to 255 that have no name here are kept; a device treats them
// as Render (§9.1).
type Disposition uint8

// Dispositions of §8.2.2.
const (
	Unspecified     Disposition = 0
	Render          Disposition = 1 // show by local policy
	DispReaction    Disposition = 2
	DispProfile     Disposition = 3 // the profile of a participant or a room
	Inline          Disposition = 4 // show in the conversation itself
	Icon            Disposition = 5
	DispAttachment  Disposition = 6 // to be downloaded rather than shown at once
	DispConference  Disposition = 7 // a multimedia session, or a URI to join one
	DispPreview     Disposition = 8 // a preview that the sender made
	lastDisposition             = DispPreview
)

var dispositions = [...]string{"unspecified", "render", "reaction", "profile", "inline", "icon", "attachment", "session", "preview"}

// Known reports whether the draft defines the disposition.
func (d Disposition) Known() bool { return d <= lastDisposition }

func (d Disposition) String() string {
	if d.Known() {
		return dispositions[d]
	}
	return "disposition " + strconv.Itoa(int(d))
}

// Cardinality says how many bodies a part has. Unknown values are kept, with the rest of the part.
type Cardinality uint64

// Cardinalities of §4.4.
const (
	Null     Cardinality = 0
	Single   Cardinality = 1
	External Cardinality = 2
	Multi    Cardinality = 3
)

// Known reports whether the draft defines the cardinality.
func (c Cardinality) Known() bool { return c <= Multi }

func (c Cardinality) String() string {
	if c.Known() {
		return [...]string{"null", "single", "external", "multi"}[c]
	}
	return "cardinality " + strconv.FormatUint(uint64(c), 10)
}

// Semantics is the relation of the parts of a Multi part. Other values are malformed (§9.1).
type Semantics uint8

// Semantics of §4.4.
const (
	ChooseOne  Semantics = 0 // the receiver processes one part
	SingleUnit Semantics = 1 // the receiver processes all parts or none
	ProcessAll Semantics = 2 // the receiver processes as many parts as possible
)

func (s Semantics) String() string {
	if s <= ProcessAll {
		return [...]string{"choose one", "single unit", "process all"}[s]
	}
	return "semantics " + strconv.Itoa(int(s))
}

// Part is a body or a part of one: NestedPart of §4.4. Cardinality says which of the further fields belong to it.
type Part struct {
	Disposition Disposition
	Language    string // language tags of RFC 5646, separated by commas; may be empty
	Cardinality Cardinality

	ContentType string // Single and External: a media type with parameters
	Content     []byte // Single

	External *Reference // External

	Semantics Semantics // Multi
	Parts     []Part    // Multi: two or more

	Rest []Raw // an unknown cardinality: the items that follow it
}

// Reference is the place of the content of an External part, with the data for its decryption (§4.5).
type Reference struct {
	URL         string
	Expires     uint32        // seconds after the start of the UNIX epoch; zero for none
	Size        uint64        // bytes; zero for unknown
	Encryption  EncryptionAlg // zero for none
	Key         []byte
	Nonce       []byte
	AAD         []byte
	Hash        HashAlg // zero for none
	ContentHash []byte  // of the data at URL, as encrypted
	Description string
	Filename    string
}

// All returns the part and the parts within it with their part indexes, in depth-first order (§4.4).
func (p *Part) All() iter.Seq2[int, *Part] {
	return func(yield func(int, *Part) bool) {
		next := 0
		p.walk(&next, 1, yield)
	}
}

func (p *Part) walk(next *int, depth int, yield func(int, *Part) bool) bool {
	if depth > MaxPartDepth {
		return true // Encode refuses it
	}
	if !yield(*next, p) {
		return false
	}
	*next++
	for i := range p.Parts {
		if !p.Parts[i].walk(next, depth+1, yield) {
			return false
		}
	}
	return true
}

// Index returns the part with a part index, or nil.
func (p *Part) Index(index int) *Part {
	for i, part := range p.All() {
		if i == index {
			return part
		}
	}
	return nil
}

// Form of a content ID URI of another part of the same message: cid:5@local.invalid (§4.4).
const (
	cidPrefix = "cid:"
	cidSuffix = "@local.invalid"
)

// CID returns the URI of the part with a part index, for the text of another part of the same message.
func CID(index int) string { return cidPrefix + strconv.Itoa(index) + cidSuffix }

// ParseCID returns the part index that a content ID URI names.
func ParseCID(uri string) (int, bool) {
	s, ok := strings.CutPrefix(uri, cidPrefix)
	if !ok {
		return 0, false
	}
	if s, ok = strings.CutSuffix(s, cidSuffix); !ok {
		return 0, false
	}
	index, err := strconv.ParseUint(s, 10, 31)
	if err != nil || CID(int(index)) != uri {
		return 0, false
	}
	return int(index), true
}

// Referenced returns the part that a content ID URI names, or nil: only a Single or External part can be named (§4.4).
func (p *Part) Referenced(uri string) *Part {
	index, ok := ParseCID(uri)
	if !ok {
		return nil
	}
	part := p.Index(index)
	if part == nil || part.Cardinality != Single && part.Cardinality != External {
		return nil
	}
	return part
}

// check refuses a part with fields that do not belong to its cardinality: they would be lost.
func (p *Part) check() error {
	single := p.Cardinality == Single || p.Cardinality == External
	wrong := p.ContentType != "" && !single ||
		len(p.Content) > 0 && p.Cardinality != Single ||
		(p.External != nil) != (p.Cardinality == External) ||
		(len(p.Parts) > 0 || p.Semantics != 0) && p.Cardinality != Multi ||
		len(p.Rest) > 0 && p.Cardinality.Known()
	if wrong {
		return fmt.Errorf("%w: a part has fields that do not belong to its cardinality (%v)", ErrMalformed, p.Cardinality)
	}
	return nil
}

// Languages returns the language tags of the part.
func (p *Part) Languages() []string {
	tags := strings.Split(p.Language, ",")
	for i := range tags {
		tags[i] = strings.TrimSpace(tags[i])
	}
	return slices.DeleteFunc(tags, func(tag string) bool { return tag == "" })
}
