package directory

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// kinds makes an empty record of each kind.
var kinds = map[string]func() wire.Checker{
	"person":     func() wire.Checker { return new(personRecord) },
	"address":    func() wire.Checker { return new(addressRecord) },
	"user":       func() wire.Checker { return new(userRecord) },
	"device":     func() wire.Checker { return new(deviceRecord) },
	"invitation": func() wire.Checker { return new(invitationRecord) },
	"KeyPackage": func() wire.Checker { return new(keyPackageRecord) },
	"claim":      func() wire.Checker { return new(claimRecord) },
	"mark":       func() wire.Checker { return new(timeRecord) },
	"revocation": func() wire.Checker { return new(revocationRecord) },
	"list":       func() wire.Checker { return new(listRecord) },
	"use":        func() wire.Checker { return new(boundRecord) },
	"shared":     func() wire.Checker { return new(sharedRecord) },
	"subject":    func() wire.Checker { return new(subjectRecord) },
	"user of":    func() wire.Checker { return new(subjectUserRecord) },
	"token":      func() wire.Checker { return new(tokenRecord) },
	"account":    func() wire.Checker { return new(accountRecord) },
	"bucket":     func() wire.Checker { return new(bucketRecord) },
}

func samples() map[string]wire.Checker {
	return map[string]wire.Checker{
		"person":     &personRecord{1, wire.AccountID{2}, 3},
		"address":    &addressRecord{1, phone, 3},
		"user":       &userRecord{1, 2},
		"device":     &deviceRecord{1, 2, []byte("key"), []byte("certificate"), 5, []issued{{[]byte("serial"), 6}}},
		"invitation": &invitationRecord{1, wire.Hash{2}, alice, 4, phone},
		"KeyPackage": &keyPackageRecord{1, []byte("message"), wire.Token{3}, 4},
		"claim":      &claimRecord{1, 2, alice, 1, []Claimed{{Device: phone, Address: wire.Token{1}, Message: []byte("m"), LastResort: true}}},
		"mark":       &timeRecord{1, 2},
		"revocation": &revocationRecord{1, phone, 3, 4},
		"list":       &listRecord{1, 2, 3, []byte("list")},
		"use":        &boundRecord{1, 2, true},
		"shared":     &sharedRecord{1, 2, 3},
		"subject":    &subjectRecord{1, "https://i.example", "1234"},
		"user of":    &subjectUserRecord{1, alice},
		"token":      &tokenRecord{1, phone, 3},
		"account":    &accountRecord{1, "x7", true, false, 2, 3},
		"bucket":     &bucketRecord{1, 2},
	}
}

func TestRecords(t *testing.T) {
	for name, record := range samples() {
		b, err := wire.Encode(record)
		if err != nil {
			t.Fatal(err)
		}
		again := kinds[name]()
		if err := wire.Decode(b, maxRecord, again); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if back, err := wire.Encode(again); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%s: %x became %x, %v", name, b, back, err)
		}
		for n := range b {
			if err := wire.Decode(b[:n], maxRecord, kinds[name]()); err == nil {
				t.Errorf("%s: a prefix of %d bytes was accepted", name, n)
			}
		}
		newer := bytes.Replace(b, []byte{1, 1}, []byte{1, 2}, 1) // field 1 is the version
		wantCode(t, wire.Decode(newer, maxRecord, kinds[name]()), wire.Version)
	}
}

func FuzzRecords(f *testing.F) {
	for _, record := range samples() {
		b, err := wire.Encode(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, empty := range kinds {
			record := empty()
			if wire.Decode(b, maxRecord, record) != nil {
				continue
			}
			if again, err := wire.Encode(record); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%s: %x became %x, %v", name, b, again, err)
			}
			for n := range b {
				if wire.Decode(b[:n], maxRecord, empty()) == nil {
					t.Fatalf("%s: a prefix of %d of %x was accepted", name, n, b)
				}
			}
		}
	})
}

func FuzzCode(f *testing.F) {
	f.Add(formatCode([]byte("0123456789abcdef")))
	f.Fuzz(func(t *testing.T, s string) {
		b, err := parseCode(s)
		if err != nil {
			return
		}
		again, err := parseCode(formatCode(b))
		if err != nil || !bytes.Equal(again, b) || len(b) != codeSize {
			t.Fatalf("%q is %x, and then %x, %v", s, b, again, err)
		}
	})
}
