package wire

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	const bad = "\ufffd"
	for in, want := range map[string]string{
		"plain: ä 漢 👩‍👩‍👧 שלום\nnext\tcolumn": "plain: ä 漢 👩‍👩‍👧 שלום\nnext\tcolumn",
		"\x1b]0;pwned\x07\x1b[2J":             bad + "]0;pwned" + bad + bad + "[2J",
		"a\u009b2Jb":                          "a" + bad + "2Jb",
		"a\rb\x7fc\x00":                       "a" + bad + "b" + bad + "c" + bad,
		"exe\u202egpj.":                       "exe" + bad + "gpj.",
		"\u2066x\u2069":                       bad + "x" + bad,
		"a\u200bb\ufeffc\u2028d":              "a" + bad + "b" + bad + "c" + bad + "d",
		"a\x80b":                              "a" + bad + "b", // not UTF-8: C1 in Latin-1
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if got := Line(" a\n\tb\u200dc  d\u200e "); got != "a b"+bad+"c d"+bad {
		t.Errorf("a line: %q", got)
	}
	for _, blank := range []string{"\u3164", "\u115f", "\u1160", "\uffa0", "\u2800", "\u034f", "\u17b4"} {
		if got := Line("Lunch" + blank); got != "Lunch"+bad {
			t.Errorf("%+q at the end of a line became %q", blank, got)
		}
	}
}

// FuzzPrintable checks that no remaining character controls anything, and that clean text stays unchanged.
func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[2J\u009b\u202e")
	f.Add("text")
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{Printable(s), Line(s)} {
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
				return unicode.IsControl(r) && r != '\n' && r != '\t' || r >= 0x202a && r <= 0x202e
			}) {
				t.Errorf("%q became %q", s, got)
			}
			if Printable(got) != got {
				t.Errorf("%q is not clean", got)
			}
		}
		if l := Line(s); strings.ContainsAny(l, "\n\t") || Line(l) != l {
			t.Errorf("%q became %q", s, l)
		}
	})
}

// TestErrorRefusesForeignCodes checks that a peer's error code is a word, and that its texts cannot control a
// terminal.
func TestErrorRefusesForeignCodes(t *testing.T) {
	const evil = "\x1b]0;pwned\x07\x1b[2J"
	for _, e := range []*Error{
		{Code: Code(evil)}, {Code: "Busy"}, {Code: "busy "}, {Code: "a-b"}, {Code: "\u0430"}, {Code: Code(strings.Repeat("a", maxCode+1))},
		{Code: Busy, Op: evil}, {Code: Busy, Op: "op\n"}, {Code: NoQuorum, Nodes: []NodeID{NodeID(evil)}},
	} {
		b, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(b, MaxError, new(Error)); CodeOf(err) != Malformed {
			t.Errorf("%q: %v", e, err)
		}
	}
	for _, e := range []*Error{{Code: "later_code", Op: "open mail"}, {Code: Code(strings.Repeat("a", maxCode))}, {Code: Busy, Op: "putBlob", Text: evil + "\nmlsfed: all is well"}} {
		b, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(b, MaxError, new(Error)); err != nil {
			t.Errorf("%q: %v", e, err)
		}
		if got := e.Error(); strings.ContainsAny(got, "\x1b\x07\n") {
			t.Errorf("%q", got)
		}
	}
	if got := Errorf(Busy, "x", "%s", evil).Text; strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
	if Code("later_code").Known() || !NoneLeft.Known() || !Internal.Known() {
		t.Error("codes are taken for others")
	}
}
