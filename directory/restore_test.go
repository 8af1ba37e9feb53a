package directory

import (
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRestored: what could be used twice after a backup was restored is gone; users and devices stay.
func TestRestored(t *testing.T) {
	d := open(t, Config{})
	e := enrol(t, d, phone, 1)
	upload(t, d, phone, e.uploads(t, d, 3, mlscore.KeyPackageOptions{})...)
	upload(t, d, phone, e.uploads(t, d, 1, mlscore.KeyPackageOptions{LastResort: true})...)
	code := invite(t, d, alice)
	if err := d.Restored(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts, err := d.CountKeyPackages(t.Context(), phone)
	if err != nil || len(counts) != 1 || counts[0].Left != 0 || !counts[0].LastResort {
		t.Fatalf("%+v, %v", counts, err)
	}
	if _, err := d.Device(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	other := newDevice(t, laptop, 1)
	_, err = d.Enrol(t.Context(), code, Enrolment{Device: laptop, Key: other.pub, Proof: other.sign(t, wire.EnrolInput(laptop, other.pub))})
	wantCode(t, err, wire.Denied)
}

func TestAttach(t *testing.T) {
	d := open(t, Config{})
	enrol(t, d, phone, 1)
	enrol(t, d, laptop, 1)
	at := wire.Token{7}
	for range 2 {
		if err := d.Attach(t.Context(), phone, at); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := d.DeviceAt(t.Context(), at); err != nil || v != phone {
		t.Fatalf("%s, %v", v, err)
	}
	wantCode(t, d.Attach(t.Context(), laptop, at), wire.Exists)
	wantCode(t, d.Attach(t.Context(), phone, wire.Token{}), wire.Malformed)
	wantCode(t, d.Attach(t.Context(), "mimi://a.example/d/alice/none", wire.Token{8}), wire.NotFound)
	if err := d.Revoke(t.Context(), phone); err != nil {
		t.Fatal(err)
	}
	_, err := d.DeviceAt(t.Context(), at)
	wantCode(t, err, wire.NotFound)
}
