package records

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// reads implements recordstore.Reads.
type reads struct {
	db *pebble.DB
	keys
}

var _ recordstore.Reads = reads{}

// get reads a record and reports whether there is one.
func (r reads) get(ctx context.Context, key []byte, record wire.Checker) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	v, closer, err := r.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The result of Decode has no reference to its input.
	if err := errors.Join(wire.Decode(v, maxRecord, record), closer.Close()); err != nil {
		return false, fmt.Errorf("record %q: %w", key[len(r.prefix):], err)
	}
	return true, nil
}

// each calls do with the records whose keys begin with prefix, in the order of the keys, until do returns an error.
// errStop ends the walk and is not returned. Keys and values are valid until do returns.
func (r reads) each(ctx context.Context, prefix []byte, do func(key, value []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for it.First(); it.Valid() && err == nil; it.Next() {
		err = do(it.Key(), it.Value())
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return errors.Join(err, it.Error(), it.Close())
}

// User implements recordstore.Reads.
func (r reads) User(ctx context.Context, u wire.UserID) (*recordstore.User, error) {
	var rec userRecord
	if ok, err := r.get(ctx, r.ofUser(kindUser, u), &rec); err != nil || !ok {
		return nil, err
	}
	rec.ID = u
	return &rec.User, nil
}

// Users implements recordstore.Reads.
func (r reads) Users(ctx context.Context, org wire.Domain) (list []recordstore.User, err error) {
	prefix := r.key(kindUser)
	err = r.each(ctx, prefix, func(key, value []byte) error {
		var rec userRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		rec.ID, err = wire.NewUserID(org, string(key[len(prefix):]))
		list = append(list, rec.User)
		return err
	})
	return list, err
}

// Account implements recordstore.Reads.
func (r reads) Account(ctx context.Context, u wire.UserID) (*recordstore.Account, error) {
	var rec accountRecord
	if ok, err := r.get(ctx, r.ofUser(kindAccount, u), &rec); err != nil || !ok {
		return nil, err
	}
	rec.User = u
	return &rec.Account, nil
}

// Accounts implements recordstore.Reads.
func (r reads) Accounts(ctx context.Context, org wire.Domain) (list []recordstore.Account, err error) {
	prefix := r.key(kindAccount)
	err = r.each(ctx, prefix, func(key, value []byte) error {
		var rec accountRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		rec.User, err = wire.NewUserID(org, string(key[len(prefix):]))
		list = append(list, rec.Account)
		return err
	})
	return list, err
}

// Person implements recordstore.Reads.
func (r reads) Person(ctx context.Context, u wire.UserID) (*recordstore.Person, error) {
	var rec personRecord
	if ok, err := r.get(ctx, r.ofUser(kindPerson, u), &rec); err != nil || !ok {
		return nil, err
	}
	rec.User = u
	return &rec.Person, nil
}

// Device implements recordstore.Reads.
func (r reads) Device(ctx context.Context, v wire.DeviceID) (*recordstore.Device, error) {
	var rec deviceRecord
	if ok, err := r.get(ctx, r.device(v), &rec); err != nil || !ok {
		return nil, err
	}
	rec.ID = v
	return &rec.Device, nil
}

// Devices implements recordstore.Reads.
func (r reads) Devices(ctx context.Context, u wire.UserID) (list []wire.DeviceID, err error) {
	prefix := r.belowUser(kindDevice, u)
	err = r.each(ctx, prefix, func(key, _ []byte) error {
		v, err := wire.NewDeviceID(u, strings.TrimPrefix(string(key), string(prefix)))
		list = append(list, v)
		return err
	})
	return list, err
}

// DevicesAt implements recordstore.Reads.
func (r reads) DevicesAt(ctx context.Context, tokens ...wire.Token) (map[wire.Token]wire.DeviceID, error) {
	list := make(map[wire.Token]wire.DeviceID, len(tokens))
	for _, t := range tokens {
		var rec addressRecord
		ok, err := r.get(ctx, r.key(kindAddress, t[:]), &rec)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		switch device, err := r.Device(ctx, rec.Device); {
		case err != nil:
			return nil, err
		case device != nil && device.Enrolled == rec.Enrolled:
			list[t] = rec.Device
		}
	}
	return list, nil
}

func (r reads) invitation(hash wire.Hash) []byte { return r.key(kindInvitation, hash[:16]) }

// Invitation implements recordstore.Reads. The look-up is by half of the hash, from which nothing of a code can be
// learnt.
func (r reads) Invitation(ctx context.Context, hash wire.Hash) (*recordstore.Invitation, error) {
	var rec invitationRecord
	if ok, err := r.get(ctx, r.invitation(hash), &rec); err != nil || !ok {
		return nil, err
	}
	return &rec.Invitation, nil
}

// Known implements recordstore.Reads.
func (r reads) Known(ctx context.Context, k *recordstore.KeyPackage) (bool, error) {
	here, err := r.get(ctx, r.keyPackage(k), new(keyPackageRecord))
	if err != nil || here {
		return here, err
	}
	return r.get(ctx, r.key(kindUsed, k.Ref), new(timeRecord))
}

// Pool implements recordstore.Reads.
func (r reads) Pool(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time) (count, bytes int, err error) {
	pool := r.pool(v, suite)
	err = r.each(ctx, pool, func(key, value []byte) error {
		if expiryIn(key, pool) <= now {
			return nil
		}
		var rec keyPackageRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		count++
		bytes += len(rec.Message)
		return nil
	})
	return count, bytes, err
}

// LastResort implements recordstore.Reads.
func (r reads) LastResort(ctx context.Context, v wire.DeviceID, suite uint16) (*recordstore.LastResort, error) {
	var rec keyPackageRecord
	if ok, err := r.get(ctx, r.lastResort(v, suite), &rec); err != nil || !ok {
		return nil, err
	}
	rec.Device, rec.Suite = v, suite
	return &recordstore.LastResort{KeyPackage: rec.KeyPackage}, nil
}

// LastResorts implements recordstore.Reads.
func (r reads) LastResorts(ctx context.Context, v wire.DeviceID) (list []recordstore.LastResort, err error) {
	prefix := r.belowDevice(kindLastResort, v)
	err = r.each(ctx, prefix, func(key, value []byte) error {
		var rec keyPackageRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		if rest := key[len(prefix):]; len(rest) == 2 {
			rec.Device, rec.Suite = v, uint16(rest[0])<<8|uint16(rest[1])
			list = append(list, recordstore.LastResort{KeyPackage: rec.KeyPackage})
			return nil
		}
		return fmt.Errorf("key %q of a last resort", key)
	})
	return list, err
}

func (r reads) claim(by recordstore.Claimant, id wire.SubmissionID) []byte {
	return r.key(kindClaim, by[:], id[:])
}

// Claim implements recordstore.Reads.
func (r reads) Claim(ctx context.Context, by recordstore.Claimant, id wire.SubmissionID) (*recordstore.Claim, error) {
	var rec claimRecord
	if ok, err := r.get(ctx, r.claim(by, id), &rec); err != nil || !ok {
		return nil, err
	}
	rec.By, rec.ID = by, id
	return &rec.Claim, nil
}

func (r reads) pairBucket(by recordstore.Claimant, u wire.UserID) []byte {
	return r.belowUser(kindPairBucket, u, by[:]...)
}

// Buckets implements recordstore.Reads.
func (r reads) Buckets(ctx context.Context, by recordstore.Claimant, u wire.UserID) (recordstore.Buckets, error) {
	var pair, all bucketRecord
	_, err := r.get(ctx, r.pairBucket(by, u), &pair)
	if err == nil {
		_, err = r.get(ctx, r.ofUser(kindUserBucket, u), &all)
	}
	return recordstore.Buckets{By: by, User: u, Pair: pair.FullAt, All: all.FullAt}, err
}

func (r reads) use(t wire.Token, id wire.ConversationID) []byte {
	h := sha256.Sum256([]byte(id))
	return r.key(kindBound, t[:], h[:16])
}

// Use implements recordstore.Reads.
func (r reads) Use(ctx context.Context, t wire.Token, id wire.ConversationID) (*recordstore.Use, error) {
	var rec boundRecord
	if ok, err := r.get(ctx, r.use(t, id), &rec); err != nil || !ok {
		return nil, err
	}
	rec.Token, rec.Conversation = t, id
	return &rec.Use, nil
}

// Uses implements recordstore.Reads.
func (r reads) Uses(ctx context.Context, t wire.Token, most int) (n int, err error) {
	if most <= 0 {
		return 0, nil
	}
	err = r.each(ctx, r.key(kindBound, t[:]), func(_, _ []byte) error {
		if n++; n == most {
			return errStop
		}
		return nil
	})
	return n, err
}

// Shared implements recordstore.Reads.
func (r reads) Shared(ctx context.Context, t wire.Token) (*recordstore.Shared, error) {
	var rec sharedRecord
	if ok, err := r.get(ctx, r.key(kindShared, t[:]), &rec); err != nil || !ok {
		return nil, err
	}
	rec.Token = t
	return &rec.Shared, nil
}

// Subject implements recordstore.Reads.
func (r reads) Subject(ctx context.Context, u wire.UserID) (*recordstore.Subject, error) {
	var rec subjectRecord
	if ok, err := r.get(ctx, r.ofUser(kindSubject, u), &rec); err != nil || !ok {
		return nil, err
	}
	rec.User = u
	return &rec.Subject, nil
}

func (r reads) subjectUser(issuer, subject string) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "mlsfed subject 1\x00%d:%s%s", len(issuer), issuer, subject))
	return r.key(kindSubjectUser, h[:])
}

// SubjectUser implements recordstore.Reads.
func (r reads) SubjectUser(ctx context.Context, issuer, subject string) (wire.UserID, error) {
	var rec subjectUserRecord
	_, err := r.get(ctx, r.subjectUser(issuer, subject), &rec)
	return rec.User, err
}

func (r reads) token(u wire.UserID, hash wire.Hash) []byte {
	return r.belowUser(kindToken, u, hash[:]...)
}

// Token implements recordstore.Reads.
func (r reads) Token(ctx context.Context, u wire.UserID, hash wire.Hash) (*recordstore.Token, error) {
	var rec tokenRecord
	if ok, err := r.get(ctx, r.token(u, hash), &rec); err != nil || !ok {
		return nil, err
	}
	rec.User, rec.Hash = u, hash
	return &rec.Token, nil
}

// Tokens implements recordstore.Reads.
func (r reads) Tokens(ctx context.Context, u wire.UserID, now wire.Time, most int) (n int, err error) {
	if most <= 0 {
		return 0, nil
	}
	err = r.each(ctx, r.belowUser(kindToken, u), func(_, value []byte) error {
		var rec tokenRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		if rec.Expires >= now {
			n++
		}
		if n == most {
			return errStop
		}
		return nil
	})
	return n, err
}

// Revoked implements recordstore.Reads.
func (r reads) Revoked(ctx context.Context, serial []byte) (bool, error) {
	return r.get(ctx, r.key(kindRevoked, serial), new(revocationRecord))
}

// List implements recordstore.Reads.
func (r reads) List(ctx context.Context) (*recordstore.List, error) {
	var rec listRecord
	if ok, err := r.get(ctx, r.key(kindList), &rec); err != nil || !ok {
		return nil, err
	}
	return &rec.List, nil
}

// revocations returns the revocations of certificates that end at a time or later, by serial number.
func (r reads) revocations(ctx context.Context, now wire.Time) (list []recordstore.Revocation, err error) {
	prefix := r.key(kindRevoked)
	err = r.each(ctx, prefix, func(key, value []byte) error {
		var rec revocationRecord
		if err := wire.Decode(value, maxRecord, &rec); err != nil {
			return err
		}
		if rec.NotAfter >= now {
			rec.Serial = append([]byte{}, key[len(prefix):]...)
			list = append(list, rec.Revocation)
		}
		return nil
	})
	return list, err
}

// Each calls do with every record as it is on disk: its kind, the rest of its key, and its value. Tests count and
// compare records with it.
func (r reads) Each(ctx context.Context, do func(kind byte, key, value []byte) error) error {
	return r.each(ctx, r.prefix, func(key, value []byte) error {
		return do(key[len(r.prefix)], key[len(r.prefix)+1:], value)
	})
}
