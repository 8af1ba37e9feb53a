package records

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/directory/recordstore"
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

const (
	alice = wire.UserID("mimi://a.example/u/alice")
	phone = wire.DeviceID("mimi://a.example/d/alice/phone")
)

func samples() map[string]wire.Checker {
	return map[string]wire.Checker{
		"person":  &personRecord{1, recordstore.Person{ID: wire.AccountID{2}, Made: 3}},
		"address": &addressRecord{1, recordstore.Address{Device: phone, Enrolled: 3}},
		"user":    &userRecord{1, recordstore.User{Created: 2}},
		"device": &deviceRecord{1, recordstore.Device{
			Enrolled: 2, Key: []byte("key"), Certificate: []byte("certificate"), NotAfter: 5, Issued: []recordstore.Issued{{Serial: []byte("serial"), NotAfter: 6}},
		}},
		"invitation": &invitationRecord{1, recordstore.Invitation{Hash: wire.Hash{2}, User: alice, Expires: 4, Used: phone}},
		"KeyPackage": &keyPackageRecord{1, recordstore.KeyPackage{Message: []byte("message"), Address: wire.Token{3}, Expires: 4}},
		"claim": &claimRecord{1, recordstore.Claim{
			Time: 2, User: alice, Suite: 1, Results: []recordstore.Claimed{{Device: phone, Address: wire.Token{1}, Message: []byte("m"), LastResort: true}},
		}},
		"mark":       &timeRecord{1, 2},
		"revocation": &revocationRecord{1, recordstore.Revocation{Device: phone, Time: 3, NotAfter: 4}},
		"list":       &listRecord{1, recordstore.List{Number: 2, Next: 3, DER: []byte("list")}},
		"use":        &boundRecord{1, recordstore.Use{Since: 2, Refused: true}},
		"shared":     &sharedRecord{1, recordstore.Shared{FullAt: 2, Ends: 3}},
		"subject":    &subjectRecord{1, recordstore.Subject{Issuer: "https://i.example", Subject: "1234"}},
		"user of":    &subjectUserRecord{1, alice},
		"token":      &tokenRecord{1, recordstore.Token{Device: phone, Expires: 3}},
		"account":    &accountRecord{1, recordstore.Account{External: "x7", Active: true, Created: 2, Modified: 3}},
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
		if err := wire.Decode(newer, maxRecord, kinds[name]()); wire.CodeOf(err) != wire.Version {
			t.Errorf("%s of a later version: %v", name, err)
		}
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
