package content

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A Key names an extension field (§4.3): Name if it is not empty, otherwise Number, which is not zero. Positive numbers
// are IANA's; negative numbers and names are private.
type Key struct {
	Name   string
	Number int64
}

// Keys that this package knows. docs/spec/content.md specifies the private ones.
var (
	KeySender = Key{Number: 1}           // the URI of the sender (§8.2.1)
	KeyRoom   = Key{Number: 2}           // the URI of the room (§8.2.1)
	KeyTime   = Key{Name: "mlsfed.time"} // private: the sender's time
	KeyEdit   = Key{Name: "mlsfed.edit"} // private: the number of an edit
)

func (k Key) String() string {
	if k.Name != "" {
		return strconv.Quote(k.Name)
	}
	return strconv.FormatInt(k.Number, 10)
}

// append appends the encoding of the key.
func (k Key) append(b []byte) []byte {
	switch {
	case k.Name != "":
		return appendText(b, k.Name)
	case k.Number < 0:
		return appendHead(b, majorNegint, uint64(-1-k.Number))
	}
	return appendHead(b, majorUint, uint64(k.Number))
}

// Extension is one extension field.
type Extension struct {
	Key   Key
	Value Raw
}

// Raw is the encoding of one CBOR item. Encode refuses one that is not deterministic, or exceeds MaxExtensionDepth.
type Raw []byte

// Uint returns the encoding of an unsigned integer.
func Uint(n uint64) Raw { return appendHead(nil, majorUint, n) }

// TextString returns the encoding of a text string.
func TextString(s string) Raw { return appendText(nil, s) }

// ByteString returns the encoding of a byte string.
func ByteString(s []byte) Raw { return appendBytes(nil, s) }

// Uint returns the value of an unsigned integer, and false for another item.
func (v Raw) Uint() (uint64, bool) {
	r := reader{b: v}
	h, err := r.want(majorUint, "value")
	return h.arg, err == nil && r.at == len(v)
}

// Text returns the value of a text string, and false for another item.
func (v Raw) Text() (string, bool) {
	r := reader{b: v}
	s, err := r.text("value")
	return s, err == nil && r.at == len(v)
}

// Bytes returns the value of a byte string, and false for another item.
func (v Raw) Bytes() ([]byte, bool) {
	r := reader{b: v}
	s, err := r.bytes("value")
	return s, err == nil && r.at == len(v)
}

// Extension returns the value of an extension field.
func (c *Content) Extension(key Key) (Raw, bool) {
	for i := range c.Extensions {
		if c.Extensions[i].Key == key {
			return c.Extensions[i].Value, true
		}
	}
	return nil, false
}

// SetExtension sets the value of an extension field. A nil value removes the field.
func (c *Content) SetExtension(key Key, value Raw) {
	c.Extensions = slices.DeleteFunc(slices.Clone(c.Extensions), func(e Extension) bool { return e.Key == key })
	if value != nil {
		c.Extensions = append(c.Extensions, Extension{Key: key, Value: value})
	}
}

// maxTime is the last millisecond of the year 9999.
const maxTime = 253402300799999

// Time returns the sender's time, with the precision of a millisecond, if the content has it.
func (c *Content) Time() (time.Time, bool) {
	v, _ := c.Extension(KeyTime)
	n, ok := v.Uint()
	if !ok || n > maxTime {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(n)).UTC(), true
}

// SetTime sets the sender's time, from 1970 to 9999.
func (c *Content) SetTime(t time.Time) {
	c.SetExtension(KeyTime, Uint(uint64(min(max(t.UnixMilli(), 0), maxTime))))
}

// MaxEdits is the largest number of an edit.
const MaxEdits = maxKeyNumber

// EditNumber returns the number of an edit: the sender sets it to one more than the highest number that it has seen in
// an edit of the same message. It is zero for a content without a number.
func (c *Content) EditNumber() uint64 {
	v, _ := c.Extension(KeyEdit)
	n, ok := v.Uint()
	if !ok || n > MaxEdits {
		return 0
	}
	return n
}

// CompareEdits returns the order of two edits of one message: by number, then by id. The greatest one is shown. The
// order does not depend on the order in which the edits arrive.
func CompareEdits(number1 uint64, id1 MessageID, number2 uint64, id2 MessageID) int {
	switch {
	case number1 < number2:
		return -1
	case number1 > number2:
		return 1
	}
	return id1.Compare(id2)
}

// appendExtensions appends the map of all extension fields, in the order of the encoded keys.
func appendExtensions(b []byte, extensions []Extension) ([]byte, error) {
	type pair struct{ key, value []byte }
	pairs := make([]pair, 0, len(extensions))
	for _, e := range extensions {
		if e.Key.Name != "" && e.Key.Number != 0 {
			return nil, fmt.Errorf("%w: the key of an extension has a name and a number", ErrMalformed)
		}
		if err := e.Value.check(); err != nil {
			return nil, fmt.Errorf("extension %v: %w", e.Key, err)
		}
		pairs = append(pairs, pair{key: e.Key.append(nil), value: e.Value})
	}
	slices.SortFunc(pairs, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	b = appendHead(b, majorMap, uint64(len(pairs)))
	for _, p := range pairs {
		b = append(append(b, p.key...), p.value...)
	}
	return b, nil
}

// check refuses bytes that are not exactly one item: such bytes could otherwise change the items after it.
func (v Raw) check() error {
	r := reader{b: v}
	if err := r.item(MaxExtensionDepth); err != nil {
		return err
	}
	if r.at != len(v) {
		return malformed(r.at, "a value has more than one item")
	}
	return nil
}
