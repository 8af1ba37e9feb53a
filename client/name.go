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

// nameRecord is the user's own name of a conversation. An empty Name hides that of a conversation which this one
// succeeds.
type nameRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Name    string `cbor:"2,keyasint,omitempty"`
}

// minIDDigits is the number of hexadecimal digits from which on a name looks like the beginning of an id: as many as
// commands print.
const minIDDigits = 8

// LooksLikeID reports whether a conversation's name could be taken for the beginning of an id: it has at least 8
// characters that can be seen, and all of them are hexadecimal digits.
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

// CheckName refuses a name for a conversation that is longer than MaxName, no UTF-8 (wire.Malformed), or looks like an
// id (wire.Invalid). Other members' devices may let such a name in: see LooksLikeID.
func CheckName(name string) error {
	if len(name) > MaxName || !utf8.ValidString(name) {
		return wire.Errorf(wire.Malformed, "name", "the name has %d bytes, wanted at most %d of UTF-8", len(name), MaxName)
	}
	if LooksLikeID(name) {
		return wire.Errorf(wire.Invalid, "name", "the name %q looks like the id of a conversation: choose another one", name)
	}
	return nil
}

func ownNameKey(id wire.ConversationID) []byte { return recordKey(recordOwnName, idPart(id)) }

// ownName is the user's own name of a conversation, or of the one that it succeeds; "" for none.
func (t *thread) ownName() (string, error) {
	id, r := t.id, t.rec
	for r != nil {
		n := new(nameRecord)
		ok, err := t.u.getRecord(ownNameKey(id), n)
		if err != nil || ok {
			return n.Name, err
		}
		if id, r, err = t.before(r); err != nil {
			return "", err
		}
	}
	return "", nil
}

// SetOwnName gives a conversation a name that only this device knows; "" takes it away. Two conversations of a device
// never have the same own name, and case does not distinguish them: wire.Exists says so.
func (d *Device) SetOwnName(ctx context.Context, id wire.ConversationID, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		return t.setOwnName(name)
	})
}

func (t *thread) setOwnName(name string) error {
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

// named finds the conversation to which the user gave a name; "" if there is none.
func (d *Device) named(u *unit, name string) (found wire.ConversationID, err error) {
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
	t, err := d.thread(u, found)
	if err != nil || t == nil {
		return "", err
	}
	if t, err = t.home(); err != nil {
		return "", err
	}
	if now, err := t.ownName(); err != nil || !strings.EqualFold(now, name) {
		return "", err // its successor has another one
	}
	return t.id, nil
}
