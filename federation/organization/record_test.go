package organization

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// FuzzRecord checks that a Verifier accepts no record but the signed one.
func FuzzRecord(f *testing.F) {
	dir := newOrganization(f, "a.example")
	id, err := LoadIdentity(dir)
	if err != nil {
		f.Fatal(err)
	}
	peers, err := OpenPeers(filepath.Join(dir, "peers"))
	if err != nil {
		f.Fatal(err)
	}
	raw, err := id.SignRecord("127.0.0.1:9", wire.TimeOf(time.Now()), false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	v := NewVerifier(id, peers, time.Now)
	if _, err := v.Record(raw, 2<<10); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := v.Record(b, 2<<10); err == nil && !bytes.Equal(b, raw) {
			t.Fatalf("a record that was never signed: %+v", r.Record)
		}
		r := new(Record)
		if wire.Decode(b, 2<<10, r) != nil {
			return
		}
		if again, err := wire.Encode(r); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is encoded again as %x", b, again)
		}
		for n := range b {
			if wire.Decode(b[:n], 2<<10, new(Record)) == nil {
				t.Fatalf("the first %d bytes of %x are a record too", n, b)
			}
		}
	})
}

// TestDocumentRecords checks the records in the document of an organization that nobody has admitted.
func TestDocumentRecords(t *testing.T) {
	load := func(d wire.Domain) *Identity {
		id, err := LoadIdentity(newOrganization(t, d))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	b, c, again := load("b.example"), load("c.example"), load("b.example")
	now := time.Now()
	for _, r := range []struct {
		name, address string
		by            *Identity
		at            time.Time
		want          string // a reason
	}{
		{"good", "n1.b.example:7443", b, now, ""},
		{"port 443", "n1.b.example:443", b, now, ""},
		{"port 25", "n1.b.example:25", b, now, ReasonMalformed},
		{"another organization", "n1.c.example:7443", c, now, ReasonWrongOrganization},
		{"another root", "n1.b.example:7443", again, now, ReasonWrongOrganization},
		{"from the future", "n1.b.example:7443", b, now.Add(2 * maxAhead), reasonFuture},
	} {
		raw, err := r.by.SignRecord(r.address, wire.TimeOf(r.at), false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DocumentRecord(raw, "b.example", b.Root, now)
		var refusal *Refusal
		switch {
		case r.want == "" && (err != nil || got.Address != r.address || got.Root != b.Root):
			t.Errorf("%s: %v", r.name, err)
		case r.want != "" && (!errors.As(err, &refusal) || refusal.Reason != r.want):
			t.Errorf("%s: %v, wanted %s", r.name, err, r.want)
		}
	}
	if _, err := DocumentRecord(make([]byte, 3<<10), "b.example", b.Root, now); err == nil {
		t.Error("a record of 3 KiB is accepted")
	}
}
