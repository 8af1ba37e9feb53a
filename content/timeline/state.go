package timeline

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/content"
)

// Role says what a content is to its conversation.
type Role uint8

// Roles. Numbers are stored.
const (
	Unseen   Role = 0 // the content has not come; others concern it
	Message  Role = 1 // a message of the history
	Reaction Role = 2 // to the message Target
	Edit     Role = 3 // of the message Target, or a change of the reaction Target
	Delete   Role = 4 // of the message Target, or the withdrawal of the reaction Target
	Other    Role = 5 // a content that is not shown
)

// ActKind is the kind of an Act.
type ActKind uint8

// Kinds. Numbers are stored.
const (
	ActDelete ActKind = 1 // of a message, or the withdrawal of a reaction
	ActEdit   ActKind = 2
	ActChange ActKind = 3 // of a reaction
)

// Act is all that one user has done to a message with contents of one kind.
type Act struct {
	Kind   ActKind           `cbor:"1,keyasint"`
	Sender string            `cbor:"2,keyasint"`           // the URI of the user
	Number uint64            `cbor:"3,keyasint,omitempty"` // of the greatest edit
	ID     content.MessageID `cbor:"4,keyasint"`           // of the greatest edit; of the least delete
	// Ends is the earliest absolute end of the user's edits: seconds after the start of the UNIX epoch, 0 for none.
	Ends      uint64   `cbor:"5,keyasint,omitempty"`
	Moderator bool     `cbor:"6,keyasint,omitempty"` // the user had the right to delete messages of others
	Raw       []byte   `cbor:"7,keyasint,omitempty"` // the encoded content of the greatest edit
	Texts     []string `cbor:"8,keyasint,omitempty"` // of the greatest change of a reaction
}

// State is what a device knows of one message id.
type State struct {
	Version uint8             `cbor:"1,keyasint"`
	Role    Role              `cbor:"2,keyasint"`
	Sender  string            `cbor:"3,keyasint,omitempty"` // the URI of the user
	Target  content.MessageID `cbor:"4,keyasint"`           // see Role; zero for others
	// Ends is the earliest known end: seconds after the start of the UNIX epoch, 0 for none.
	Ends uint64 `cbor:"5,keyasint,omitempty"`
	// Relative reports that the message ends After seconds after it was read; Read says that it was read.
	Relative bool     `cbor:"6,keyasint,omitempty"`
	After    uint32   `cbor:"7,keyasint,omitempty"`
	Read     bool     `cbor:"8,keyasint,omitempty"`
	Texts    []string `cbor:"9,keyasint,omitempty"`  // of a reaction
	Acts     []Act    `cbor:"10,keyasint,omitempty"` // sorted by kind and sender
	// Erased reports that the message is deleted or has expired, or that the reaction has no message any more: its
	// content is to be erased, and must not be kept if it comes.
	Erased bool `cbor:"11,keyasint,omitempty"`
	// Place belongs to the caller: the number of the message in the history plus one.
	Place uint64 `cbor:"12,keyasint,omitempty"`
}

// stateVersion is the version of the states that this package makes.
const stateVersion = 1

// Bounds.
const (
	MaxActs      = 1024 // acts that are kept for a message that has not come: deletes first, then by sender
	maxEdits     = 128  // edits among them, each with its content
	maxOthers    = 32   // acts of others that are kept for a message, in the same order
	MaxReactions = 256  // reactions of one user to one message that count: those with the least ids
	maxTexts     = 4    // texts of one reaction
	maxText      = 64   // bytes of one of them
)

// empty reports whether a state says nothing.
func (s *State) empty() bool { return s.Role == Unseen && len(s.Acts) == 0 }

// original reports whether acts can concern the content.
func (s *State) original() bool { return s.Role == Message || s.Role == Reaction }

// end returns the absolute end of a content, 0 for none.
func end(e *content.Expiration) uint64 {
	if e == nil || e.Relative {
		return 0
	}
	return max(1, uint64(e.Seconds)) // 0 means none
}

// earlier returns the earlier one of two ends.
func earlier(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// textsOf returns the texts of a reaction, shortened to their bounds.
func textsOf(c *content.Content) []string {
	texts := c.Reactions()
	texts = texts[:min(len(texts), maxTexts)]
	for i, text := range texts {
		text = strings.TrimSpace(text)
		for len(text) > maxText {
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		}
		texts[i] = text
	}
	return texts
}

func compareActs(a, b Act) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Sender, b.Sender))
}

// add merges an act into the state.
func (s *State) add(a Act) {
	i, found := slices.BinarySearchFunc(s.Acts, a, compareActs)
	if !found {
		s.Acts = slices.Insert(s.Acts, i, a)
	} else {
		s.Acts[i] = merge(s.Acts[i], a)
	}
	edits := 0
	s.Acts = slices.DeleteFunc(s.Acts, func(a Act) bool {
		if a.Kind == ActEdit {
			edits++
		}
		return a.Kind == ActEdit && edits > maxEdits
	})
	if len(s.Acts) > MaxActs {
		s.Acts = s.Acts[:MaxActs]
	}
	s.settle()
}

// merge returns the sum of two acts of one kind by one user. The order of a and b has no effect.
func merge(a, b Act) Act {
	if a.Kind == ActDelete {
		a.Moderator = a.Moderator || b.Moderator
		if bytes.Compare(b.ID[:], a.ID[:]) < 0 {
			a.ID = b.ID
		}
		return a
	}
	ends := earlier(a.Ends, b.Ends)
	if content.CompareEdits(a.Number, a.ID, b.Number, b.ID) < 0 {
		a = b
	}
	a.Ends = ends
	return a
}

// allowed reports whether an act on the message counts.
func (s *State) allowed(a *Act) bool {
	switch a.Kind {
	case ActEdit:
		return s.Role == Message && a.Sender == s.Sender
	case ActChange:
		return s.Role == Reaction && a.Sender == s.Sender
	}
	return a.Sender == s.Sender || a.Moderator
}

// deleted reports whether a delete of the message counts.
func (s *State) deleted() bool {
	return s.original() && slices.ContainsFunc(s.Acts, func(a Act) bool { return a.Kind == ActDelete && s.allowed(&a) })
}

// settle applies the acts that the state holds.
func (s *State) settle() {
	if s.Role == Unseen {
		return
	}
	if !s.original() {
		s.Acts = nil // such as an edit of an edit
		return
	}
	for i := range s.Acts {
		a := &s.Acts[i]
		if !s.allowed(a) {
			a.Raw, a.Texts = nil, nil
		} else if a.Ends > 0 {
			s.Ends = earlier(s.Ends, a.Ends)
		}
	}
	if s.deleted() {
		s.Erased = true
	}
	if s.Erased {
		s.Texts = nil
		s.Acts = slices.DeleteFunc(s.Acts, func(a Act) bool { return a.Kind != ActDelete || !s.allowed(&a) })
	}
	others := 0
	s.Acts = slices.DeleteFunc(s.Acts, func(a Act) bool {
		if a.Sender != s.Sender {
			others++
		}
		return a.Sender != s.Sender && others > maxOthers
	})
}

// expire erases what has ended, and reports whether something has.
func (s *State) expire(now uint64) bool {
	changed := false
	if s.Role == Unseen {
		for i := range s.Acts { // the end of the message is the end of its edits
			if a := &s.Acts[i]; a.Ends > 0 && a.Ends <= now && (a.Raw != nil || a.Texts != nil) {
				a.Raw, a.Texts, changed = nil, nil, true
			}
		}
		return changed
	}
	if s.Erased || s.Ends == 0 || s.Ends > now {
		return false
	}
	s.Erased = true
	s.settle()
	return true
}

// Due returns when Expire has something to erase next: seconds after the start of the UNIX epoch, 0 for never.
func (s *State) Due() uint64 {
	if s.Erased {
		return 0
	}
	due := s.Ends
	if s.Role == Unseen {
		for i := range s.Acts {
			if a := &s.Acts[i]; a.Raw != nil || a.Texts != nil {
				due = earlier(due, a.Ends)
			}
		}
	}
	return due
}

// Latest returns the greatest edit of the message, or nil if it has none.
func (s *State) Latest() *Act {
	for i := range s.Acts {
		if a := &s.Acts[i]; a.Kind != ActDelete && s.allowed(a) {
			return a
		}
	}
	return nil
}

// Highest returns the highest number of an edit, for the number of the next one.
func (s *State) Highest() uint64 {
	var most uint64
	for i := range s.Acts {
		if a := &s.Acts[i]; s.allowed(a) {
			most = max(most, a.Number)
		}
	}
	return most
}

// Gone says whether a message can still be shown.
type Gone uint8

// Values of Gone.
const (
	Here    Gone = 0
	Deleted Gone = 1
	Expired Gone = 2
)

// Gone returns whether the message is deleted or has expired, and for a deleted one by whom: the author, if the author
// deleted it, otherwise the moderator with the least URI. now is in seconds after the start of the UNIX epoch.
func (s *State) Gone(now uint64) (Gone, string) {
	if s.deleted() {
		by := ""
		for i := range s.Acts {
			a := &s.Acts[i]
			if a.Kind != ActDelete || !s.allowed(a) {
				continue
			}
			if a.Sender == s.Sender {
				return Deleted, a.Sender
			}
			if by == "" {
				by = a.Sender // they are sorted
			}
		}
		return Deleted, by
	}
	if s.Erased || s.Ends > 0 && s.Ends <= now {
		return Expired, ""
	}
	return Here, ""
}

// maxRefused bounds the refused attempts that are reported for one message.
const maxRefused = 16

// Refused is an attempt by somebody else to change a message. It had no effect.
type Refused struct {
	Sender string
	Delete bool // otherwise an edit
}

// Refused returns the attempts of others to edit or delete the message, at most 16 of them, sorted.
func (s *State) Refused() []Refused {
	var list []Refused
	for i := range s.Acts {
		a := &s.Acts[i]
		if s.Role != Message || s.allowed(a) || a.Sender == s.Sender {
			continue
		}
		r := Refused{Sender: a.Sender, Delete: a.Kind == ActDelete}
		if len(list) < maxRefused && !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}
