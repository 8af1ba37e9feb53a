package content_test

import (
	"bytes"
	"flag"
	"reflect"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/content"
)

// sortExtensions puts the extension fields of a generated content into the order of a decoded one.
func sortExtensions(c *content.Content) {
	encoded := func(k content.Key) []byte {
		switch {
		case k.Name != "":
			return content.TextString(k.Name)
		case k.Number < 0:
			v := content.Uint(uint64(-1 - k.Number))
			v[0] |= 1 << 5
			return v
		}
		return content.Uint(uint64(k.Number))
	}
	slices.SortFunc(c.Extensions, func(a, b content.Extension) int { return bytes.Compare(encoded(a.Key), encoded(b.Key)) })
	if len(c.Extensions) == 0 {
		c.Extensions = nil
	}
}

// TestRoundTrip encodes 1,000 generated contents, decodes them to the same values, and encodes those to the same bytes.
// Another implementation of deterministic CBOR agrees with the bytes.
func TestRoundTrip(t *testing.T) {
	checks := 1000
	if testing.Short() {
		checks /= 5 // as rapid does
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		defer f.Value.Set(f.DefValue)
		if err := f.Value.Set("1000"); err != nil {
			t.Fatal(err)
		}
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	rapid.Check(t, func(t *rapid.T) {
		done++
		c := drawContent(t)
		b, err := c.Encode(content.Limits{})
		if err != nil {
			t.Fatalf("encode %+v: %v", c, err)
		}
		before := bytes.Clone(b)
		got, err := content.Decode(b, content.Limits{})
		if err != nil {
			t.Fatalf("decode %x: %v", b, err)
		}
		sortExtensions(c)
		if !reflect.DeepEqual(got, c) {
			t.Fatalf("decoded\n%+v, want\n%+v", got, c)
		}
		clear(b) // the decoded content has a copy
		again, err := got.Encode(content.Limits{})
		if err != nil || !bytes.Equal(again, before) {
			t.Fatalf("encoded again to\n%x (%v), want\n%x", again, err, before)
		}
		var value any
		if err := cbor.Unmarshal(before, &value); err != nil {
			t.Fatalf("another decoder refuses %x: %v", before, err)
		}
		if other, err := mode.Marshal(value); err != nil || !bytes.Equal(other, before) {
			t.Fatalf("another encoder makes\n%x (%v), want\n%x", other, err, before)
		}
		for _, d := range []content.Device{content.TextDevice, {}, {MediaTypes: []string{"*/*"}}} {
			d.Plain(&got.Body)
		}
		got.Kind()
		got.Reactions()
		got.Mentions(nil)
	})
	if done < checks {
		t.Errorf("%d contents, want %d", done, checks)
	}
}

// TestFieldsAreSeparate checks that appending to one field of a decoded content changes no other one.
func TestFieldsAreSeparate(t *testing.T) {
	b := encode(t, content.Reply(content.MessageID{1, 1}, content.MarkdownPart("hi")).WithTopic([]byte("topic")).WithSalt(content.Salt{1}))
	c := decode(t, b)
	_ = append(c.TopicID, bytes.Repeat([]byte{0xff}, max(1, cap(c.TopicID)-len(c.TopicID)))...)
	if got := encode(t, c); !bytes.Equal(got, b) {
		t.Errorf("encoded to\n%x, want\n%x", got, b)
	}
}

// TestPrefixes checks that no prefix of an encoded content is a content.
func TestPrefixes(t *testing.T) {
	for _, e := range examples {
		b := readExample(t, e.name)
		for n := range b {
			if _, err := content.Decode(b[:n], content.Limits{}); err == nil {
				t.Errorf("%s: the first %d bytes are accepted", e.name, n)
			}
		}
	}
}
