package records

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// tx implements recordstore.Tx.
type tx struct {
	reads
	b *pebble.Batch
}

// Set implements recordstore.Tx.
func (t tx) Set(ctx context.Context, records ...recordstore.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, r := range records {
		if err := t.set(r); err != nil {
			return err
		}
	}
	return nil
}

func (t tx) set(record recordstore.Record) error {
	switch r := record.(type) {
	case *recordstore.User:
		return set(t.b, t.ofUser(kindUser, r.ID), &userRecord{recordVersion, *r})
	case *recordstore.Account:
		return set(t.b, t.ofUser(kindAccount, r.User), &accountRecord{recordVersion, *r})
	case *recordstore.Person:
		return set(t.b, t.ofUser(kindPerson, r.User), &personRecord{recordVersion, *r})
	case *recordstore.Device:
		return set(t.b, t.device(r.ID), &deviceRecord{recordVersion, *r})
	case *recordstore.Address:
		return set(t.b, t.key(kindAddress, r.Token[:]), &addressRecord{recordVersion, *r})
	case *recordstore.Invitation:
		return set(t.b, t.invitation(r.Hash), &invitationRecord{recordVersion, *r})
	case *recordstore.KeyPackage:
		return set(t.b, t.keyPackage(r), &keyPackageRecord{recordVersion, *r})
	case *recordstore.LastResort:
		return set(t.b, t.lastResort(r.Device, r.Suite), &keyPackageRecord{recordVersion, r.KeyPackage})
	case *recordstore.Claim:
		return set(t.b, t.claim(r.By, r.ID), &claimRecord{recordVersion, *r})
	case *recordstore.Buckets:
		return errors.Join(
			set(t.b, t.pairBucket(r.By, r.User), &bucketRecord{recordVersion, r.Pair}),
			set(t.b, t.ofUser(kindUserBucket, r.User), &bucketRecord{recordVersion, r.All}),
		)
	case *recordstore.Use:
		return set(t.b, t.use(r.Token, r.Conversation), &boundRecord{recordVersion, *r})
	case *recordstore.Shared:
		return set(t.b, t.key(kindShared, r.Token[:]), &sharedRecord{recordVersion, *r})
	case *recordstore.Subject:
		return errors.Join(
			set(t.b, t.ofUser(kindSubject, r.User), &subjectRecord{recordVersion, *r}),
			set(t.b, t.subjectUser(r.Issuer, r.Subject), &subjectUserRecord{recordVersion, r.User}),
		)
	case *recordstore.Token:
		return set(t.b, t.token(r.User, r.Hash), &tokenRecord{recordVersion, *r})
	}
	return fmt.Errorf("records: %T is no record", record)
}

// Take implements recordstore.Tx.
func (t tx) Take(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time, most int) (k *recordstore.KeyPackage, left int, err error) {
	pool := t.pool(v, suite)
	err = t.each(ctx, pool, func(key, value []byte) error {
		if expiryIn(key, pool) <= now {
			return nil
		}
		if k != nil {
			if left++; left >= most {
				return errStop
			}
			return nil
		}
		rec := new(keyPackageRecord)
		if err := wire.Decode(value, maxRecord, rec); err != nil {
			return err
		}
		k = &rec.KeyPackage
		k.Device, k.Suite, k.Ref = v, suite, bytes.Clone(key[len(pool)+8:])
		if err := t.b.Delete(key, nil); err != nil {
			return err
		}
		return set(t.b, t.key(kindUsed, k.Ref), &timeRecord{recordVersion, k.Expires})
	})
	if err != nil {
		return nil, 0, err
	}
	return k, left, nil
}

// RemoveUser implements recordstore.Tx.
func (t tx) RemoveUser(ctx context.Context, u wire.UserID) error {
	if err := t.RemoveSubject(ctx, u); err != nil {
		return err
	}
	if err := errors.Join(t.b.Delete(t.ofUser(kindUser, u), nil), t.b.Delete(t.ofUser(kindPerson, u), nil)); err != nil {
		return err
	}
	return t.each(ctx, t.key(kindInvitation), func(key, value []byte) error {
		var rec invitationRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil || rec.User != u {
			return err
		}
		return t.b.Delete(key, nil)
	})
}

// RemoveDevice implements recordstore.Tx.
func (t tx) RemoveDevice(ctx context.Context, v wire.DeviceID) error {
	if err := t.RemoveKeyPackages(ctx, v); err != nil {
		return err
	}
	return t.b.Delete(t.device(v), nil)
}

// RemoveKeyPackages implements recordstore.Tx.
func (t tx) RemoveKeyPackages(ctx context.Context, v wire.DeviceID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(deleteAll(t.b, t.belowDevice(kindKeyPackage, v)), deleteAll(t.b, t.belowDevice(kindLastResort, v)))
}

// RemoveSubject implements recordstore.Tx.
func (t tx) RemoveSubject(ctx context.Context, u wire.UserID) error {
	bound, err := t.Subject(ctx, u)
	if err != nil || bound == nil {
		return err
	}
	return errors.Join(t.b.Delete(t.ofUser(kindSubject, u), nil), t.b.Delete(t.subjectUser(bound.Issuer, bound.Subject), nil))
}
