package lineage

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// envelopeText is the JSON object of a document, without the rules of its reader.
type envelopeText struct {
	Version   int      `json:"mlsfed"`
	Domain    string   `json:"domain"`
	Links     []string `json:"links"`
	Statement string   `json:"statement"`
	Records   []string `json:"records"`
}

func base64Of(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// FuzzDocument checks that a document that is accepted has the published links and statement only, and that it reads
// the same after Encode.
func FuzzDocument(f *testing.F) {
	a := found(f, exampleDomain, "root", "recovery")
	docs := []*Document{a.document(f, start), a.succeed(f, "second").recover(f, "third", "recovery 2").document(f, start)}
	made := make(map[wire.Hash]bool)
	statements := make(map[wire.Hash]bool)
	for _, d := range docs {
		b, err := d.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		statements[d.statement] = true
		for _, l := range d.chain {
			made[l.hash] = true
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDocument(b, exampleDomain)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("an error of type %T: %v", err, err)
			}
			return
		}
		if !statements[d.statement] {
			t.Fatal("a statement that was never signed")
		}
		for _, l := range d.chain {
			if !made[l.hash] {
				t.Fatal("a link that was never signed")
			}
		}
		again, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if other, err := ParseDocument(again, exampleDomain); err != nil || other.Link != d.Link || other.statement != d.statement {
			t.Fatalf("the document reads otherwise after it was encoded: %v", err)
		}
	})
}

// FuzzChain checks that a link or statement has one encoding, that no prefix is one, and that a stored pin is read
// only as it was written.
func FuzzChain(f *testing.F) {
	a := found(f, exampleDomain, "root", "recovery")
	r := a.recover(f, "second", "recovery 2")
	p := mustPin(f, a.document(f, start))
	_, p, err := p.Compare(r.document(f, start), start)
	if err != nil {
		f.Fatal(err)
	}
	pin, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{a.chain[0], r.chain[1], r.statement(f, start), pin} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := DecodePin(b); err == nil {
			if again, err := p.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("a pin is encoded otherwise again: %v", err)
			}
		}
		s := new(Signed)
		if wire.Decode(b, MaxLink, s) != nil {
			return
		}
		roundTrip(t, b, s)
		for _, v := range []any{new(Link), new(Statement)} {
			if wire.Decode(s.Body, MaxLink, v) == nil {
				roundTrip(t, s.Body, v)
			}
		}
		for n := range b {
			if wire.Decode(b[:n], MaxLink, new(Signed)) == nil {
				t.Fatalf("the first %d bytes of %x are a link too", n, b)
			}
		}
	})
}

func roundTrip(t *testing.T, b []byte, v any) {
	t.Helper()
	if again, err := wire.Encode(v); err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%x is encoded again as %x", b, again)
	}
}
