package directory

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestCancelledRequests checks that a request whose context has ended reads and writes nothing, whatever it asks for.
func TestCancelledRequests(t *testing.T) {
	disk := pebbletest.Memory()
	s := disk.Open(t)
	defer s.Close()
	d := on(t, s.Records(), Config{})
	e := enrol(t, d, phone, 1)
	code := invite(t, d, alice)
	message := e.keyPackage(t, d, mlscore.KeyPackageOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	syncs := disk.Syncs()
	token := wire.Token{1}
	for name, do := range map[string]func() error{
		"Account":            func() error { _, err := d.Account(ctx, alice); return err },
		"Accounts":           func() error { _, err := d.Accounts(ctx); return err },
		"Admit":              func() error { _, err := d.Admit(ctx, phone, nil, nil); return err },
		"Attach":             func() error { return d.Attach(ctx, phone, token) },
		"Bind":               func() error { _, err := d.Bind(ctx, "one", token, nil); return err },
		"Chain":              func() error { _, err := d.Chain(ctx, phone); return err },
		"ClaimKeyPackages":   func() error { _, err := d.ClaimKeyPackages(ctx, claimOf(1, 1)); return err },
		"CountKeyPackages":   func() error { _, err := d.CountKeyPackages(ctx, phone); return err },
		"DeleteAccount":      func() error { _, err := d.DeleteAccount(ctx, alice); return err },
		"Device":             func() error { _, err := d.Device(ctx, phone); return err },
		"DeviceAt":           func() error { _, err := d.DeviceAt(ctx, token); return err },
		"Devices":            func() error { _, err := d.Devices(ctx, alice); return err },
		"DiscardKeyPackages": func() error { return d.DiscardKeyPackages(ctx, phone) },
		"Enrol":              func() error { _, err := d.Enrol(ctx, code, e.enrolment(t)); return err },
		"Invite":             func() error { _, err := d.Invite(ctx, alice, time.Hour); return err },
		"MayRead":            func() error { _, err := d.MayRead(ctx, "one", token); return err },
		"Rebind":             func() error { return d.Rebind(ctx, alice, "", "") },
		"Refuse":             func() error { return d.Refuse(ctx, phone, "one", token) },
		"RemoveUser":         func() error { return d.RemoveUser(ctx, alice) },
		"Renew":              func() error { _, err := d.Renew(ctx, phone); return err },
		"Restored":           func() error { return d.Restored(ctx) },
		"RevocationList":     func() error { _, err := d.RevocationList(ctx); return err },
		"Revoke":             func() error { return d.Revoke(ctx, phone) },
		"SetAccount":         func() error { _, err := d.SetAccount(ctx, alice, "", false); return err },
		"Subject":            func() error { _, _, err := d.Subject(ctx, alice); return err },
		"Sweep":              func() error { return d.Sweep(ctx) },
		"UploadKeyPackages":  func() error { return d.UploadKeyPackages(ctx, phone, Upload{Message: message}) },
		"Users":              func() error { _, err := d.Users(ctx); return err },
	} {
		if err := do(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := disk.Syncs() - syncs; n != 0 {
		t.Errorf("cancelled requests cost %d fsyncs", n)
	}
	if list, err := d.Users(t.Context()); err != nil || len(list) != 1 || len(list[0].Devices) != 1 {
		t.Errorf("after cancelled requests: %+v (%v)", list, err)
	}
}
