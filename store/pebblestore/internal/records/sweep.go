package records

import (
	"bytes"
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// ended reports whether a record has ended.
type ended func(ctx context.Context, value []byte) (bool, error)

// by returns the ended of a kind of record.
func by[T any, R interface {
	*T
	wire.Checker
}](over func(R) bool) ended {
	return func(_ context.Context, value []byte) (bool, error) {
		r := R(new(T))
		err := wire.Decode(value, maxRecord, r)
		return err == nil && over(r), err
	}
}

// Sweep implements recordstore.Store.
func (r *Records) Sweep(ctx context.Context, t recordstore.Times) error {
	old := func(at wire.Time) bool { return at < t.Now }
	keyPackage := by(func(k *keyPackageRecord) bool { return old(k.Expires) })
	bucket := by(func(b *bucketRecord) bool { return old(b.FullAt) }) // the lack of a full bucket means the same
	for _, s := range []struct {
		kind  byte
		ended ended
		// replaced: records of the kind are replaced in place, so that the lock of their user is needed. Records of
		// another kind are never written again, and each reader treats a record that has ended as absent.
		replaced bool
	}{
		{kind: kindKeyPackage, ended: keyPackage},
		{kind: kindLastResort, ended: keyPackage, replaced: true},
		{kind: kindUsed, ended: by(func(m *timeRecord) bool { return old(m.Time) })},
		{kind: kindInvitation, ended: by(func(i *invitationRecord) bool { return i.Expires < t.Count })},
		{kind: kindClaim, ended: by(func(c *claimRecord) bool { return c.Time < t.Claims })},
		{kind: kindToken, ended: by(func(v *tokenRecord) bool { return old(v.Expires) })},
		{kind: kindPairBucket, ended: bucket, replaced: true},
		{kind: kindUserBucket, ended: bucket, replaced: true},
		{kind: kindAddress, ended: r.ownerless},
		{kind: kindShared, ended: by(func(s *sharedRecord) bool { return old(s.Ends) })},
		{kind: kindRevoked, ended: by(func(v *revocationRecord) bool { return old(v.NotAfter) })},
	} {
		if err := r.sweep(ctx, s.kind, s.replaced, s.ended); err != nil {
			return err
		}
	}
	return r.sweepUses(ctx)
}

// ownerless reports whether the device of an address was removed.
func (r *Records) ownerless(ctx context.Context, value []byte) (bool, error) {
	var rec addressRecord
	if err := wire.Decode(value, maxRecord, &rec); err != nil {
		return false, err
	}
	device, err := r.Device(ctx, rec.Device)
	return err == nil && (device == nil || device.Enrolled != rec.Enrolled), err
}

// sweepUses deletes the uses of addresses without a device.
func (r *Records) sweepUses(ctx context.Context) error {
	prefix := r.key(kindBound)
	var stale [][]byte
	err := r.each(ctx, prefix, func(key, _ []byte) error {
		var token wire.Token
		copy(token[:], key[len(prefix):])
		owner, err := r.DevicesAt(ctx, token)
		if err == nil && owner[token] == "" {
			stale = append(stale, bytes.Clone(key))
		}
		return err
	})
	for _, key := range stale {
		if err == nil {
			err = r.db.Delete(key, pebble.NoSync) // without a lock: a new owner of an address does not need the record
		}
	}
	return errors.Join(err, ctx.Err())
}

// sweep deletes the records of a kind that have ended.
func (r *Records) sweep(ctx context.Context, kind byte, replaced bool, ended ended) error {
	var stale [][]byte
	err := r.each(ctx, r.key(kind), func(key, value []byte) error {
		old, err := ended(ctx, value)
		if err == nil && old {
			stale = append(stale, bytes.Clone(key))
		}
		return errors.Join(err, ctx.Err())
	})
	for _, key := range stale {
		switch {
		case err != nil:
		case replaced:
			err = r.sweepReplaced(ctx, key, ended)
		default:
			err = r.db.Delete(key, pebble.NoSync)
		}
	}
	return errors.Join(err, ctx.Err())
}

// sweepReplaced reads a record again under the lock of the user whose name begins its key, and deletes it if it has
// ended.
func (r *Records) sweepReplaced(ctx context.Context, key []byte, ended ended) error {
	name, _, _ := bytes.Cut(key[len(r.prefix)+1:], []byte("/"))
	defer r.lockName(string(name))()
	value, closer, err := r.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := ended(ctx, value)
	if err := errors.Join(err, closer.Close()); err != nil || !old {
		return err
	}
	return r.db.Delete(key, pebble.NoSync)
}
