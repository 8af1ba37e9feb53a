package blob

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	good := refOf([]byte("content")).String()
	ref, err := ParseRef(good)
	if err != nil || ref != refOf([]byte("content")) || ref.IsZero() || !(Ref{}).IsZero() {
		t.Fatal(ref, err)
	}
	for _, s := range []string{"", "sha256-", good + "0000000000000000000000", strings.ToUpper(good), good + " ", " " + good,
		strings.Replace(good, "-7", "-07", 1), strings.Replace(good, "-7", "-+7", 1), strings.Replace(good, "-7", "--7", 1),
		strings.Replace(good, "-7", "-", 1), strings.Replace(good, "sha256", "sha512", 1), good[:70], "../" + good} {
		if r, err := ParseRef(s); !errors.Is(err, ErrBadRef) {
			t.Errorf("%q was read as %v, %v", s, r, err)
		}
	}
}

// FuzzRefText reads references as text and checks that an accepted text is written unchanged.
func FuzzRefText(f *testing.F) {
	f.Add([]byte(refOf([]byte("content")).String()))
	f.Add([]byte(Ref{Size: 1<<64 - 1}.String()))
	f.Add([]byte("sha256-00-1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Ref
		if err := r.UnmarshalText(b); err != nil {
			if !errors.Is(err, ErrBadRef) {
				t.Fatal(err)
			}
			return
		}
		if again, err := r.MarshalText(); err != nil || string(again) != string(b) {
			t.Fatalf("%q writes %q, %v", b, again, err)
		}
		// A shorter size is another reference; all other prefixes fail.
		for n := range len(refPrefix) + 65 {
			if _, err := ParseRef(string(b[:n])); err == nil {
				t.Fatalf("%d of %d bytes are read", n, len(b))
			}
		}
	})
}

// FuzzRefBinary reads references in binary.
func FuzzRefBinary(f *testing.F) {
	b, err := refOf([]byte("content")).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:39])
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Ref
		if err := r.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, ErrBadRef) || len(b) == RefSize {
				t.Fatal(err)
			}
			return
		}
		if again, err := r.MarshalBinary(); err != nil || string(again) != string(b) {
			t.Fatalf("%x writes %x, %v", b, again, err)
		}
		for n := range b {
			if new(Ref).UnmarshalBinary(b[:n]) == nil {
				t.Fatalf("%d of %d bytes are read", n, len(b))
			}
		}
	})
}
