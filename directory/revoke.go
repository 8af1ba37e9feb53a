package directory

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Revoke ends a device: its certificates are on the next revocation list, its KeyPackages are gone and
// its name is free. wire.NotFound if there is no such device.
func (d *Directory) Revoke(v wire.DeviceID) error {
	if err := d.checkDevice("revoke", v); err != nil {
		return err
	}
	return d.update(v.User(), func(b *pebble.Batch) error {
		if _, err := d.device("revoke", v); err != nil {
			return err
		}
		return d.revoke(b, v)
	})
}

// RemoveUser ends a user: all devices are revoked, open invitations are void, and the user is no subject of
// an issuer any more. A user who is made under the name later has another account. ID tokens that were used stay used.
func (d *Directory) RemoveUser(u wire.UserID) error {
	if err := d.checkUser("remove user", u); err != nil {
		return err
	}
	d.subjects.Lock()
	defer d.subjects.Unlock()
	return d.update(u, func(b *pebble.Batch) error {
		ok, err := d.get(d.userKey(u), new(userRecord))
		if err != nil {
			return err
		}
		if !ok {
			return wire.Errorf(wire.NotFound, "remove user", "%s", u)
		}
		return d.removeUser(b, u)
	})
}

// removeUser stages the end of a user.
func (d *Directory) removeUser(b *pebble.Batch, u wire.UserID) error {
	devices, err := d.Devices(u)
	if err != nil {
		return err
	}
	if err := d.revoke(b, devices...); err != nil {
		return err
	}
	if err := errors.Join(b.Delete(d.userKey(u), nil), b.Delete(d.personKey(u), nil), d.forgetSubject(b, u)); err != nil {
		return err
	}
	return d.each(d.key(kindInvitation), func(key, value []byte) (bool, error) {
		var r invitationRecord
		if err := wire.Decode(value, maxRecord, &r); err != nil || r.User != u {
			return true, err
		}
		return true, b.Delete(append([]byte{}, key...), nil)
	})
}

func (d *Directory) revoke(b *pebble.Batch, devices ...wire.DeviceID) error {
	fresh := make(map[string]revocationRecord)
	for _, v := range devices {
		r, err := d.device("revoke", v)
		if err != nil {
			return err
		}
		for _, i := range r.Issued {
			fresh[string(i.Serial)] = revocationRecord{Version: recordVersion, Device: v, Time: d.now(), NotAfter: i.NotAfter}
		}
		if err := b.Delete(d.deviceKey(v), nil); err != nil {
			return err
		}
		if err := d.dropKeyPackages(b, v); err != nil {
			return err
		}
	}
	return d.addRevocations(fresh)
}

// addRevocations writes fresh revocations in a batch of their own, before the devices themselves are removed.
// After a crash in between, a device is still listed among its user's and can do nothing; revoking it again
// completes the work. The other order could forget a revocation. The list is made again when it is asked for
// next, so that many revocations in a row cost one list.
func (d *Directory) addRevocations(fresh map[string]revocationRecord) error {
	d.list.Lock()
	defer d.list.Unlock()
	var r listRecord
	if _, err := d.get(d.key(kindList), &r); err != nil {
		return err
	}
	b := d.db.NewBatch()
	defer b.Close()
	for serial, record := range fresh {
		if err := set(b, d.key(kindRevoked, serial), &record); err != nil {
			return err
		}
	}
	r.Version, r.Next = recordVersion, 0 // the life of the list that is there is over
	if err := set(b, d.key(kindList), &r); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// renewList makes the next list.
func (d *Directory) renewList() error {
	d.list.Lock()
	defer d.list.Unlock()
	var r listRecord
	if _, err := d.get(d.key(kindList), &r); err != nil {
		return err
	}
	now := d.now()
	if d.lives(&r, now) {
		return nil // another call has made it
	}
	b := d.db.NewBatch()
	defer b.Close()
	entries, err := d.revocations(now)
	if err != nil {
		return err
	}
	r.Version, r.Number, r.Next = recordVersion, r.Number+1, after(now, d.cfg.ListLife)
	r.List, err = x509.CreateRevocationList(d.cfg.Rand, &x509.RevocationList{
		Number: new(big.Int).SetUint64(r.Number), ThisUpdate: now.Std(), NextUpdate: r.Next.Std(),
		RevokedCertificateEntries: entries,
	}, d.cfg.CA.Certificate(), d.cfg.CA.Signer())
	if err != nil {
		return fmt.Errorf("revocation list %d: %w", r.Number, err)
	}
	if err := set(b, d.key(kindList), &r); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// lives reports whether less than half of a list's life is over.
func (d *Directory) lives(r *listRecord, now wire.Time) bool {
	return r.Next-now > wire.Time(d.cfg.ListLife.Milliseconds()/2)
}

// revocations returns all revocations that hold, by serial number. A certificate that has ended by itself
// needs none.
func (d *Directory) revocations(now wire.Time) ([]x509.RevocationListEntry, error) {
	all := make(map[string]revocationRecord)
	prefix := d.key(kindRevoked)
	err := d.each(prefix, func(key, value []byte) (bool, error) {
		var r revocationRecord
		err := wire.Decode(value, maxRecord, &r)
		if err == nil && r.NotAfter >= now {
			all[string(key[len(prefix):])] = r
		}
		return true, err
	})
	entries := make([]x509.RevocationListEntry, 0, len(all))
	for _, serial := range slices.Sorted(maps.Keys(all)) {
		entries = append(entries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).SetBytes([]byte(serial)), RevocationTime: all[serial].Time.Std(),
		})
	}
	return entries, err
}

// RevocationList is the organization's certificate revocation list (RFC 5280 §5), DER: signed by its
// authority, with a number that grows with each new list. It is made anew when half of its life is over.
func (d *Directory) RevocationList() ([]byte, error) {
	for {
		var r listRecord
		ok, err := d.get(d.key(kindList), &r)
		if err != nil {
			return nil, err
		}
		if ok && d.lives(&r, d.now()) {
			return r.List, nil
		}
		if err := d.renewList(); err != nil {
			return nil, err
		}
	}
}
