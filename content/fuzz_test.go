package content_test

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/content"
)

// FuzzContent checks that a content that Decode accepts encodes to the same bytes, and that no function that looks at a
// decoded content fails.
func FuzzContent(f *testing.F) {
	for _, e := range examples {
		f.Add(readExample(f, e.name))
	}
	f.Add(unhex(f, value("a2 01 f97e00 4161 d82061 61")))
	f.Add(unhex(f, with(noFields, "85 01 60 1865 81 00 a1 01 00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		c, err := content.Decode(b, content.Limits{})
		if !bytes.Equal(b, before) {
			t.Fatal("the input has changed")
		}
		if err != nil {
			return
		}
		if again, err := c.Encode(content.Limits{}); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("encoded to %x (%v), want %x", again, err, b)
		}
		for n := range b[:min(len(b), 200)] {
			if _, err := content.Decode(b[:n], content.Limits{}); err == nil {
				t.Fatalf("the first %d bytes are accepted", n)
			}
		}
		c.Kind()
		c.Reactions()
		c.Mentions(nil)
		c.Time()
		c.EditNumber()
		for _, d := range []content.Device{content.TextDevice, {MediaTypes: []string{"*/*"}, Languages: []string{"en"}}} {
			d.Plain(&c.Body)
		}
		for _, p := range c.Body.All() {
			if p.External != nil {
				p.External.SafeName()
				_, _ = p.External.Open(nil, 0) // any error
			}
		}
	})
}

// FuzzDerived checks that derived values that DecodeDerived accepts encode to the same bytes.
func FuzzDerived(f *testing.F) {
	f.Add(readExample(f, "implied-original"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := content.DecodeDerived(b, content.Limits{})
		if err != nil {
			return
		}
		if again, err := d.Encode(content.Limits{}); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("encoded to %x (%v), want %x", again, err, b)
		}
		for n := range b {
			if _, err := content.DecodeDerived(b[:n], content.Limits{}); err == nil {
				t.Fatalf("the first %d bytes are accepted", n)
			}
		}
	})
}
