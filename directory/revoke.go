package directory

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Revoke ends a device: its certificates are on the next revocation list, its KeyPackages are gone and
// its name is free. wire.NotFound if there is no such device.
func (d *Directory) Revoke(ctx context.Context, v wire.DeviceID) error {
	if err := d.checkDevice("revoke", v); err != nil {
		return err
	}
	return d.store.Update(ctx, v.User(), func(tx recordstore.Tx) error {
		if _, err := d.device(ctx, tx, "revoke", v); err != nil {
			return err
		}
		return d.revoke(ctx, tx, v)
	})
}

// RemoveUser ends a user: all devices are revoked, open invitations are void, and the user is no subject of
// an issuer any more. A user who is made under the name later has another account. ID tokens that were used stay used.
func (d *Directory) RemoveUser(ctx context.Context, u wire.UserID) error {
	if err := d.checkUser("remove user", u); err != nil {
		return err
	}
	return d.store.UpdateSubject(ctx, u, func(tx recordstore.Tx) error {
		user, err := tx.User(ctx, u)
		if err != nil {
			return err
		}
		if user == nil {
			return wire.Errorf(wire.NotFound, "remove user", "%s", u)
		}
		return d.removeUser(ctx, tx, u)
	})
}

// removeUser stages the end of a user.
func (d *Directory) removeUser(ctx context.Context, tx recordstore.Tx, u wire.UserID) error {
	devices, err := tx.Devices(ctx, u)
	if err != nil {
		return err
	}
	// Revocations are on disk before the rest is staged: from there on, a request that ends must not stop the removal.
	ctx = context.WithoutCancel(ctx)
	if err := d.revoke(ctx, tx, devices...); err != nil {
		return err
	}
	return tx.RemoveUser(ctx, u)
}

// revoke stages the end of devices. Their revocations are written in a change of their own, before the devices
// themselves are removed. After a crash in between, a device is still listed among its user's and can do nothing;
// revoking it again completes the work. The other order could forget a revocation. The list is made again when it is
// asked for next, so that many revocations in a row cost one list.
func (d *Directory) revoke(ctx context.Context, tx recordstore.Tx, devices ...wire.DeviceID) error {
	var fresh []recordstore.Revocation
	for _, v := range devices {
		r, err := d.device(ctx, tx, "revoke", v)
		if err != nil {
			return err
		}
		for _, i := range r.Issued {
			fresh = append(fresh, recordstore.Revocation{Serial: i.Serial, Device: v, Time: d.now(), NotAfter: i.NotAfter})
		}
	}
	if err := d.store.AddRevocations(ctx, fresh...); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // not half: the revocations are on disk
	for _, v := range devices {
		if err := tx.RemoveDevice(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// lives reports whether less than half of a list's life is over.
func (d *Directory) lives(r *recordstore.List, now wire.Time) bool {
	return r.Next-now > wire.Time(d.cfg.ListLife.Milliseconds()/2)
}

// RevocationList is the organization's certificate revocation list (RFC 5280 §5), DER: signed by its authority, with
// a number that grows with each new list. It is made again when half of its life is over.
func (d *Directory) RevocationList(ctx context.Context) ([]byte, error) {
	r, err := d.store.List(ctx)
	if err != nil {
		return nil, err
	}
	if r != nil && d.lives(r, d.now()) {
		return r.DER, nil
	}
	return d.renewList(ctx)
}

// renewList makes the next list, and returns it. A certificate that has ended by itself is not on it.
func (d *Directory) renewList(ctx context.Context) (der []byte, err error) {
	now := d.now()
	err = d.store.RenewList(ctx, now, func(r recordstore.List, revoked []recordstore.Revocation) (*recordstore.List, error) {
		if d.lives(&r, now) { // another call has made it
			der = r.DER
			return nil, nil
		}
		entries := make([]x509.RevocationListEntry, len(revoked))
		for i, v := range revoked {
			entries[i] = x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(v.Serial), RevocationTime: v.Time.Std()}
		}
		r.Number, r.Next = r.Number+1, after(now, d.cfg.ListLife)
		r.DER, err = x509.CreateRevocationList(d.cfg.Rand, &x509.RevocationList{
			Number: new(big.Int).SetUint64(r.Number), ThisUpdate: now.Std(), NextUpdate: r.Next.Std(),
			RevokedCertificateEntries: entries,
		}, d.cfg.CA.Certificate(), d.cfg.CA.Signer())
		if err != nil {
			return nil, fmt.Errorf("revocation list %d: %w", r.Number, err)
		}
		der = r.DER
		return &r, nil
	})
	if err != nil {
		return nil, err
	}
	return der, nil
}
