package directory

import (
	"bytes"
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Sweep removes KeyPackages, invitations, tokens, claims and revocations that have ended, buckets that are
// full, and the addresses of devices that were revoked.
func (d *Directory) Sweep(ctx context.Context) error {
	now, count := d.now(), d.count()
	old := func(t wire.Time) bool { return t < now }
	sweeps := []struct {
		kind  byte
		ended func(value []byte) (bool, error)
	}{
		{kindKeyPackage, func(v []byte) (bool, error) {
			var r keyPackageRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.Expires), err
		}},
		{kindLastResort, func(v []byte) (bool, error) {
			var r keyPackageRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.Expires), err
		}},
		{kindUsed, func(v []byte) (bool, error) {
			var r timeRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.Time), err
		}},
		{kindInvitation, func(v []byte) (bool, error) {
			var r invitationRecord
			err := wire.Decode(v, maxRecord, &r)
			return r.Expires < count, err
		}},
		{kindClaim, func(v []byte) (bool, error) {
			var r claimRecord
			err := wire.Decode(v, maxRecord, &r)
			return after(r.Time, d.cfg.ClaimMemory) < count, err
		}},
		{kindToken, func(v []byte) (bool, error) {
			var r tokenRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.Expires), err
		}},
		{kindPairBucket, d.fullBucket},
		{kindUserBucket, d.fullBucket},
		{kindAddress, func(v []byte) (bool, error) {
			var r addressRecord
			if err := wire.Decode(v, maxRecord, &r); err != nil {
				return false, err
			}
			var device deviceRecord
			there, err := d.get(d.deviceKey(r.Device), &device)
			return err == nil && (!there || device.Enrolled != r.Enrolled), err
		}},
		{kindShared, func(v []byte) (bool, error) {
			var r sharedRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.Ends), err
		}},
		{kindRevoked, func(v []byte) (bool, error) {
			var r revocationRecord
			err := wire.Decode(v, maxRecord, &r)
			return old(r.NotAfter), err
		}},
	}
	for _, s := range sweeps {
		if err := d.sweep(ctx, s.kind, s.ended); err != nil {
			return err
		}
	}
	return d.sweepBound(ctx)
}

// sweepBound deletes what was known of addresses that are nobody's any more.
func (d *Directory) sweepBound(ctx context.Context) error {
	prefix := d.key(kindBound)
	var stale [][]byte
	err := d.each(prefix, func(key, _ []byte) (bool, error) {
		var token wire.Token
		copy(token[:], key[len(prefix):])
		owner, err := d.owner(token)
		if owner == "" {
			stale = append(stale, bytes.Clone(key))
		}
		return ctx.Err() == nil, err
	})
	for _, key := range stale {
		if err == nil {
			err = d.db.Delete(key, pebble.NoSync) // without a lock: a new owner of an address does not need it
		}
	}
	return errors.Join(err, ctx.Err())
}

// fullBucket says of a bucket that the lack of it means the same.
func (d *Directory) fullBucket(v []byte) (bool, error) {
	var r bucketRecord
	err := wire.Decode(v, maxRecord, &r)
	return r.FullAt < d.now(), err
}

// sweep deletes the records of a kind that have ended.
func (d *Directory) sweep(ctx context.Context, kind byte, ended func([]byte) (bool, error)) error {
	var stale [][]byte
	err := d.each(d.key(kind), func(key, value []byte) (bool, error) {
		old, err := ended(value)
		if old {
			stale = append(stale, bytes.Clone(key))
		}
		return ctx.Err() == nil, err
	})
	for _, key := range stale {
		if err == nil && (kind == kindLastResort || kind == kindPairBucket || kind == kindUserBucket) {
			err = d.sweepLocked(key, ended)
		} else if err == nil {
			// Without a lock: it is never written again, and whoever finds it treats it as ended.
			err = d.db.Delete(key, pebble.NoSync)
		}
	}
	return errors.Join(err, ctx.Err())
}

// sweepLocked reads a record again under the lock of the user whose name begins its key: last resorts and
// buckets are replaced in place.
func (d *Directory) sweepLocked(key []byte, ended func([]byte) (bool, error)) error {
	name, _, _ := bytes.Cut(key[len(d.prefix)+1:], []byte("/"))
	u, err := wire.NewUserID(d.cfg.Domain, string(name))
	if err != nil {
		return err
	}
	return d.update(u, func(b *pebble.Batch) error {
		v, closer, err := d.db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		old, err := ended(v)
		if err := errors.Join(err, closer.Close()); err != nil || !old {
			return err
		}
		return b.Delete(key, nil)
	})
}
