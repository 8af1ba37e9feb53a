package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// reads implements recordstore.Reads, in a transaction or outside of one.
type reads struct {
	ask func(ctx context.Context, q string, args []any, row func(pgx.Rows) error) error
}

var _ recordstore.Reads = reads{}

func decode(value []byte, to any) error {
	if err := wire.Decode(value, maxRecord, to); err != nil {
		return fmt.Errorf("record: %w: %w", err, errData)
	}
	return nil
}

// get reads a record and reports whether there is one.
func (r reads) get(ctx context.Context, kind int16, owner, key []byte, to any) (ok bool, err error) {
	if key == nil {
		key = []byte{}
	}
	err = r.ask(ctx, "SELECT value FROM record WHERE kind = $1 AND owner = $2 AND key = $3", []any{kind, owner, key}, func(rows pgx.Rows) error {
		var value []byte
		if err := rows.Scan(&value); err != nil {
			return err
		}
		ok = true
		return decode(value, to)
	})
	return ok && err == nil, err
}

// all calls do with the records of a kind, by owner.
func (r reads) all(ctx context.Context, kind int16, do func(owner, value []byte) error) error {
	return r.ask(ctx, "SELECT owner, value FROM record WHERE kind = $1 ORDER BY owner, key", []any{kind}, func(rows pgx.Rows) error {
		var owner, value []byte
		if err := rows.Scan(&owner, &value); err != nil {
			return err
		}
		return do(owner, value)
	})
}

// of calls do with the records of a kind and an owner, by key.
func (r reads) of(ctx context.Context, kind int16, owner []byte, do func(key, value []byte) error) error {
	return r.ask(ctx, "SELECT key, value FROM record WHERE kind = $1 AND owner = $2 ORDER BY key", []any{kind, owner}, func(rows pgx.Rows) error {
		var key, value []byte
		if err := rows.Scan(&key, &value); err != nil {
			return err
		}
		return do(key, value)
	})
}

// count reads one number.
func (r reads) count(ctx context.Context, q string, args ...any) (n int, err error) {
	err = r.ask(ctx, q, args, func(rows pgx.Rows) error { return rows.Scan(&n) })
	return n, err
}

// User implements recordstore.Reads.
func (r reads) User(ctx context.Context, u wire.UserID) (*recordstore.User, error) {
	rec := &recordstore.User{}
	if ok, err := r.get(ctx, kindUser, nameOf(u), nil, rec); !ok {
		return nil, err
	}
	rec.ID = u
	return rec, nil
}

// Users implements recordstore.Reads.
func (r reads) Users(ctx context.Context, org wire.Domain) (list []recordstore.User, err error) {
	err = r.all(ctx, kindUser, func(owner, value []byte) (err error) {
		var rec recordstore.User
		if err := decode(value, &rec); err != nil {
			return err
		}
		rec.ID, err = wire.NewUserID(org, string(owner))
		list = append(list, rec)
		return err
	})
	return list, err
}

// Account implements recordstore.Reads.
func (r reads) Account(ctx context.Context, u wire.UserID) (*recordstore.Account, error) {
	rec := &recordstore.Account{}
	if ok, err := r.get(ctx, kindAccount, nameOf(u), nil, rec); !ok {
		return nil, err
	}
	rec.User = u
	return rec, nil
}

// Accounts implements recordstore.Reads.
func (r reads) Accounts(ctx context.Context, org wire.Domain) (list []recordstore.Account, err error) {
	err = r.all(ctx, kindAccount, func(owner, value []byte) (err error) {
		var rec recordstore.Account
		if err := decode(value, &rec); err != nil {
			return err
		}
		rec.User, err = wire.NewUserID(org, string(owner))
		list = append(list, rec)
		return err
	})
	return list, err
}

// Person implements recordstore.Reads.
func (r reads) Person(ctx context.Context, u wire.UserID) (*recordstore.Person, error) {
	rec := &recordstore.Person{}
	if ok, err := r.get(ctx, kindPerson, nameOf(u), nil, rec); !ok {
		return nil, err
	}
	rec.User = u
	return rec, nil
}

// Device implements recordstore.Reads.
func (r reads) Device(ctx context.Context, v wire.DeviceID) (*recordstore.Device, error) {
	rec := &recordstore.Device{}
	if ok, err := r.get(ctx, kindDevice, nameOf(v.User()), []byte(v.Name()), rec); !ok {
		return nil, err
	}
	rec.ID = v
	return rec, nil
}

// Devices implements recordstore.Reads.
func (r reads) Devices(ctx context.Context, u wire.UserID) (list []wire.DeviceID, err error) {
	err = r.of(ctx, kindDevice, nameOf(u), func(key, _ []byte) error {
		v, err := wire.NewDeviceID(u, string(key))
		list = append(list, v)
		return err
	})
	return list, err
}

// DevicesAt implements recordstore.Reads, in two queries for any number of addresses.
func (r reads) DevicesAt(ctx context.Context, tokens ...wire.Token) (map[wire.Token]wire.DeviceID, error) {
	list := make(map[wire.Token]wire.DeviceID, len(tokens))
	if len(tokens) == 0 {
		return list, ctx.Err()
	}
	owners := make([][]byte, len(tokens))
	for i := range tokens {
		owners[i] = tokens[i][:]
	}
	at := make(map[wire.Token]recordstore.Address)
	err := r.ask(ctx, "SELECT owner, value FROM record WHERE kind = $1 AND owner = ANY($2::bytea[])", []any{kindAddress, owners}, func(rows pgx.Rows) error {
		var owner, value []byte
		var rec recordstore.Address
		if err := rows.Scan(&owner, &value); err != nil {
			return err
		}
		if len(owner) != len(rec.Token) {
			return fmt.Errorf("address of %d bytes: %w", len(owner), errData)
		}
		err := decode(value, &rec)
		at[wire.Token(owner)] = rec
		return err
	})
	if err != nil || len(at) == 0 {
		return list, err
	}
	var users, names [][]byte
	seen := make(map[wire.DeviceID]bool)
	for _, a := range at {
		if !seen[a.Device] {
			seen[a.Device] = true
			users, names = append(users, nameOf(a.Device.User())), append(names, []byte(a.Device.Name()))
		}
	}
	enrolled := make(map[string]wire.Time)
	err = r.ask(ctx, `SELECT t.owner, t.key, r.value FROM unnest($2::bytea[], $3::bytea[]) AS t(owner, key)
		CROSS JOIN LATERAL (SELECT value FROM record WHERE kind = $1 AND owner = t.owner AND key = t.key OFFSET 0) r`, []any{kindDevice, users, names}, func(rows pgx.Rows) error {
		var owner, key, value []byte
		var rec recordstore.Device
		if err := rows.Scan(&owner, &key, &value); err != nil {
			return err
		}
		err := decode(value, &rec)
		enrolled[string(owner)+"/"+string(key)] = rec.Enrolled
		return err
	})
	if err != nil {
		return nil, err
	}
	for t, a := range at {
		if when, ok := enrolled[string(deviceOf(a.Device))]; ok && when == a.Enrolled {
			list[t] = a.Device
		}
	}
	return list, nil
}

// Invitation implements recordstore.Reads. The look-up is by half of the hash, from which nothing of a code can be
// learnt.
func (r reads) Invitation(ctx context.Context, hash wire.Hash) (*recordstore.Invitation, error) {
	rec := &recordstore.Invitation{}
	if ok, err := r.get(ctx, kindInvitation, hash[:16], nil, rec); !ok {
		return nil, err
	}
	return rec, nil
}

// Known implements recordstore.Reads.
func (r reads) Known(ctx context.Context, k *recordstore.KeyPackage) (known bool, err error) {
	err = r.ask(ctx, "SELECT EXISTS (SELECT FROM record WHERE kind = $1 AND owner = $2 AND key = $3) OR EXISTS (SELECT FROM record WHERE kind = $4 AND owner = $5)",
		[]any{kindKeyPackage, deviceOf(k.Device), append(poolKey(k.Suite, k.Expires), k.Ref...), kindTaken, k.Ref}, func(rows pgx.Rows) error { return rows.Scan(&known) })
	return known, err
}

// Pool implements recordstore.Reads.
func (r reads) Pool(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time) (count, bytes int, err error) {
	err = r.ask(ctx, "SELECT value FROM record WHERE kind = $1 AND owner = $2 AND key > $3 AND key < $4",
		[]any{kindKeyPackage, deviceOf(v), poolKey(suite, now+1), nextSuite(suite)}, func(rows pgx.Rows) error {
			var value []byte
			var rec recordstore.KeyPackage
			if err := rows.Scan(&value); err != nil {
				return err
			}
			err := decode(value, &rec)
			count++
			bytes += len(rec.Message)
			return err
		})
	return count, bytes, err
}

// LastResort implements recordstore.Reads.
func (r reads) LastResort(ctx context.Context, v wire.DeviceID, suite uint16) (*recordstore.LastResort, error) {
	rec := &recordstore.LastResort{}
	if ok, err := r.get(ctx, kindLastResort, deviceOf(v), suiteOf(suite), rec); !ok {
		return nil, err
	}
	rec.Device, rec.Suite = v, suite
	return rec, nil
}

// LastResorts implements recordstore.Reads.
func (r reads) LastResorts(ctx context.Context, v wire.DeviceID) (list []recordstore.LastResort, err error) {
	err = r.of(ctx, kindLastResort, deviceOf(v), func(key, value []byte) error {
		var rec recordstore.LastResort
		if len(key) != 2 {
			return fmt.Errorf("last resort with a key of %d bytes: %w", len(key), errData)
		}
		if err := decode(value, &rec); err != nil {
			return err
		}
		rec.Device, rec.Suite = v, uint16(key[0])<<8|uint16(key[1])
		list = append(list, rec)
		return nil
	})
	return list, err
}

// Claim implements recordstore.Reads.
func (r reads) Claim(ctx context.Context, by recordstore.Claimant, id wire.SubmissionID) (*recordstore.Claim, error) {
	rec := &recordstore.Claim{}
	if ok, err := r.get(ctx, kindClaim, by[:], id[:], rec); !ok {
		return nil, err
	}
	rec.By, rec.ID = by, id
	return rec, nil
}

// Buckets implements recordstore.Reads.
func (r reads) Buckets(ctx context.Context, by recordstore.Claimant, u wire.UserID) (recordstore.Buckets, error) {
	v := recordstore.Buckets{By: by, User: u}
	err := r.ask(ctx, "SELECT kind, value FROM record WHERE (kind = $1 AND owner = $3 AND key = $4) OR (kind = $2 AND owner = $3)",
		[]any{kindPairBucket, kindUserBucket, nameOf(u), by[:]}, func(rows pgx.Rows) error {
			var kind int16
			var value []byte
			var at timeValue
			if err := rows.Scan(&kind, &value); err != nil {
				return err
			}
			err := decode(value, &at)
			if kind == kindPairBucket {
				v.Pair = at.Time
			} else {
				v.All = at.Time
			}
			return err
		})
	return v, err
}

// Use implements recordstore.Reads.
func (r reads) Use(ctx context.Context, t wire.Token, id wire.ConversationID) (*recordstore.Use, error) {
	rec := &recordstore.Use{}
	if ok, err := r.get(ctx, kindUse, t[:], conversationOf(id), rec); !ok {
		return nil, err
	}
	rec.Token, rec.Conversation = t, id
	return rec, nil
}

// Uses implements recordstore.Reads.
func (r reads) Uses(ctx context.Context, t wire.Token, most int) (int, error) {
	return r.count(ctx, "SELECT count(*) FROM (SELECT FROM record WHERE kind = $1 AND owner = $2 LIMIT $3) u", kindUse, t[:], max(most, 0))
}

// Shared implements recordstore.Reads.
func (r reads) Shared(ctx context.Context, t wire.Token) (*recordstore.Shared, error) {
	rec := &recordstore.Shared{}
	if ok, err := r.get(ctx, kindShared, t[:], nil, rec); !ok {
		return nil, err
	}
	rec.Token = t
	return rec, nil
}

// Subject implements recordstore.Reads.
func (r reads) Subject(ctx context.Context, u wire.UserID) (*recordstore.Subject, error) {
	rec := &recordstore.Subject{}
	if ok, err := r.get(ctx, kindSubject, nameOf(u), nil, rec); !ok {
		return nil, err
	}
	rec.User = u
	return rec, nil
}

// SubjectUser implements recordstore.Reads.
func (r reads) SubjectUser(ctx context.Context, issuer, subject string) (wire.UserID, error) {
	var rec userValue
	_, err := r.get(ctx, kindSubjectUser, subjectOf(issuer, subject), nil, &rec)
	return rec.User, err
}

// Token implements recordstore.Reads.
func (r reads) Token(ctx context.Context, u wire.UserID, hash wire.Hash) (*recordstore.Token, error) {
	rec := &recordstore.Token{}
	if ok, err := r.get(ctx, kindToken, nameOf(u), hash[:], rec); !ok {
		return nil, err
	}
	rec.User, rec.Hash = u, hash
	return rec, nil
}

// Tokens implements recordstore.Reads.
func (r reads) Tokens(ctx context.Context, u wire.UserID, now wire.Time, most int) (int, error) {
	return r.count(ctx, "SELECT count(*) FROM (SELECT FROM record WHERE kind = $1 AND owner = $2 AND ends >= $3 LIMIT $4) t", kindToken, nameOf(u), int64(now), max(most, 0))
}

// Revoked implements recordstore.Reads.
func (r reads) Revoked(ctx context.Context, serial []byte) (bool, error) {
	return r.get(ctx, kindRevoked, serial, nil, new(recordstore.Revocation))
}

// List implements recordstore.Reads.
func (r reads) List(ctx context.Context) (*recordstore.List, error) {
	rec := &recordstore.List{}
	if ok, err := r.get(ctx, kindList, []byte{}, nil, rec); !ok {
		return nil, err
	}
	return rec, nil
}

// revocations returns the revocations of certificates that end at a time or later, by serial number.
func (r reads) revocations(ctx context.Context, now wire.Time) (list []recordstore.Revocation, err error) {
	err = r.all(ctx, kindRevoked, func(owner, value []byte) error {
		var rec recordstore.Revocation
		if err := decode(value, &rec); err != nil {
			return err
		}
		if rec.NotAfter >= now {
			rec.Serial = owner
			list = append(list, rec)
		}
		return nil
	})
	return list, err
}
