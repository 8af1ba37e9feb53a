package client

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/wire"
)

// recordOwnName is the letter of the records that hold the user's own names: conversation → nameRecord.
const recordOwnName = 'N'

// nameRecord is the user's own name for a conversation. An empty Name hides the name of the conversation that this
// one succeeds.
type nameRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Name    string `cbor:"2,keyasint,omitempty"`
}

// minIDDigits is the number of hexadecimal digits from which a name looks like the beginning of an id: commands print
// that many.
const minIDDigits = 8

// LooksLikeID reports whether a conversation's name could be taken for the beginning of an id: it has at least 8
// visible characters, and all of them are hexadecimal digits.
func LooksLikeID(name string) bool {
	digits := 0
	for _, r := range name {
		switch {
		case '0' <= r && r <= '9' || 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F':
			digits++
		case unicode.IsSpace(r) || !unicode.IsGraphic(r): // spaces, control and format characters
		default:
			return false
		}
	}
	return digits >= minIDDigits
}

// CheckName refuses a name for a conversation that is longer than MaxName, not UTF-8 ([Malformed]), or looks like
// an id ([Invalid]). Other members' devices may still use such a name: see LooksLikeID.
func CheckName(name string) error {
	if len(name) > MaxName || !utf8.ValidString(name) {
		return wire.Errorf(wire.Malformed, "name", "the name has %d bytes, wanted at most %d of UTF-8", len(name), MaxName)
	}
	if LooksLikeID(name) {
		return wire.Errorf(wire.Invalid, "name", "the name %q looks like the id of a conversation: choose another one", name)
	}
	return nil
}

func ownNameKey(id ConversationID) []byte { return recordKey(recordOwnName, idPart(id)) }

// ownName returns the user's own name for a conversation, or for the one that it succeeds; "" for none.
func (t *conversation) ownName() (string, error) {
	id, r := t.id, t.rec
	for r != nil {
		n := new(nameRecord)
		ok, err := t.u.getRecord(ownNameKey(id), n)
		if err != nil || ok {
			return n.Name, err
		}
		if id, r, err = t.predecessor(r); err != nil {
			return "", err
		}
	}
	return "", nil
}

// SetOwnName gives a conversation a name that only this device knows; "" removes it. Two conversations of a device
// never have the same own name, ignoring case: SetOwnName returns [Exists] then.
func (d *Device) SetOwnName(ctx context.Context, id ConversationID, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		return t.setOwnName(name)
	})
}

func (t *conversation) setOwnName(name string) error {
	if name != "" {
		other, err := t.d.named(t.u, name)
		if err != nil {
			return err
		}
		if other != "" && other != t.id {
			return wire.Errorf(wire.Exists, "name", "%q is the own name of %v already", name, other)
		}
	}
	return t.u.putRecord(ownNameKey(t.id), &nameRecord{Version: recordVersion, Name: name})
}

// named finds the conversation that the user gave a name; "" if there is none.
func (d *Device) named(u *unit, name string) (found ConversationID, err error) {
	prefix := recordKey(recordOwnName)
	err = u.Scan(prefix, func(key, value []byte) error {
		n := new(nameRecord)
		if err := wire.Decode(value, maxRecord, n); err != nil {
			return err
		}
		if found == "" && n.Name != "" && strings.EqualFold(n.Name, name) {
			found = wire.ConversationID(key[len(prefix)+1:])
		}
		return nil
	})
	if err != nil || found == "" {
		return "", err
	}
	t, err := d.findConversation(u, found)
	if err != nil || t == nil {
		return "", err
	}
	if t, err = t.shownIn(); err != nil {
		return "", err
	}
	if now, err := t.ownName(); err != nil || !strings.EqualFold(now, name) {
		return "", err // the successor has another name
	}
	return t.id, nil
}
