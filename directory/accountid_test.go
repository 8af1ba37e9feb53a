package directory

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

func accountIDOf(t *testing.T, chain [][]byte) wire.AccountID {
	t.Helper()
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	a := wire.AccountOf(cert)
	if a == (wire.AccountID{}) {
		t.Error("a certificate without an account")
	}
	return a
}

// TestAccountIsOfAPersonNotOfAName: all certificates of a user name one account, and those of the next user of the name
// another one.
func TestAccountIsOfAPersonNotOfAName(t *testing.T) {
	clock := newClock()
	d := open(t, Config{Clock: clock})
	first := enrol(t, d, phone, mlscore.MLS128X25519AES128Ed25519)
	account := accountIDOf(t, first.chain)
	if second := enrol(t, d, laptop, mlscore.MLS256X448AES256Ed448); accountIDOf(t, second.chain) != account {
		t.Error("another device of the user has another account")
	}
	clock.advance(d.cfg.CertificateLife - time.Hour)
	renewed, err := d.Renew(t.Context(), phone)
	if err != nil || string(renewed[0]) == string(first.chain[0]) || accountIDOf(t, renewed) != account {
		t.Errorf("a renewed certificate has another account, or is not new: %v", err)
	}
	if bob := enrol(t, d, "mimi://a.example/d/bob/phone", 1); accountIDOf(t, bob.chain) == account {
		t.Error("two users have one account")
	}
	if err := d.RemoveUser(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	returned := accountIDOf(t, enrol(t, d, phone, 1).chain)
	if returned == account {
		t.Error("the name was given again, with the account of before")
	}

	// An earlier release removes the user, and leaves the account's record.
	clock.advance(time.Second)
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	if accountIDOf(t, enrol(t, d, phone, 1).chain) != returned {
		t.Error("the account changed with a device")
	}
	if err := d.store.Update(t.Context(), alice, func(tx recordstore.Tx) error {
		person, err := tx.Person(t.Context(), alice)
		if err != nil {
			return err
		}
		return errors.Join(tx.RemoveUser(t.Context(), alice), tx.Set(t.Context(), person))
	}); err != nil {
		t.Fatal(err)
	}
	if accountIDOf(t, enrol(t, d, laptop, 1).chain) == returned {
		t.Error("the name was given again after an earlier release removed the user, with the account of before")
	}
}

// TestAccountOfATokensUser: the user, the account and the device are made in one batch.
func TestAccountOfATokensUser(t *testing.T) {
	l := newLogin(t, Config{}, false)
	byToken := func(v wire.DeviceID, id int) wire.AccountID {
		e := newDevice(t, v, 1)
		chain, err := l.d.EnrolByToken(t.Context(), l.tokens, l.token(l.issuer, "1234", "alice", e, id), e.enrolment(t))
		if err != nil {
			t.Fatal(err)
		}
		return accountIDOf(t, chain)
	}
	if byToken(phone, 1) != byToken(laptop, 2) {
		t.Error("two devices of one user have two accounts")
	}
}

// TestOldUserGetsAnAccount: a user of an earlier release has none in the store.
func TestOldUserGetsAnAccount(t *testing.T) {
	clock, disk := newClock(), pebbletest.Memory()
	cfg := Config{Clock: clock, CA: ed25519CA(t)}
	s := disk.Open(t)
	d := on(t, s.Records(), cfg)
	enrol(t, d, phone, 1)
	d, s = withoutKind(t, disk, s, kindPerson, cfg)
	defer s.Close()
	account := accountIDOf(t, enrol(t, d, laptop, 1).chain)
	clock.advance(d.cfg.CertificateLife - time.Hour)
	renewed, err := d.Renew(t.Context(), phone)
	if err != nil || accountIDOf(t, renewed) != account {
		t.Errorf("the device of before has another account than the new one: %v", err)
	}
}
