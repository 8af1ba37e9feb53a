package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// The kinds of records, by owner and key.
const (
	kindUser        = iota + 1 // user name
	kindAccount                // user name
	kindPerson                 // user name
	kindDevice                 // user name; device name
	kindAddress                // token
	kindInvitation             // half a hash
	kindKeyPackage             // user/device; suite, expiry, reference
	kindLastResort             // user/device; suite
	kindTaken                  // reference of a KeyPackage that was taken
	kindClaim                  // claimant; id
	kindPairBucket             // user name; claimant
	kindUserBucket             // user name
	kindUse                    // token; hash of the conversation
	kindShared                 // token
	kindSubject                // user name
	kindSubjectUser            // hash of issuer and subject
	kindToken                  // user name; hash of the token
	kindRevoked                // serial number
	kindList                   //
)

// maxRecord bounds a record: the largest is a claim's, with a KeyPackage for each device.
const maxRecord = 16 << 20

// timeValue is the value of a bucket, and of a mark of a KeyPackage that was taken.
type timeValue struct {
	Time wire.Time `cbor:"1,keyasint"`
}

// userValue is the value of kindSubjectUser.
type userValue struct {
	User wire.UserID `cbor:"1,keyasint"`
}

// row is a record as it is stored.
type row struct {
	kind       int16
	owner, key []byte
	ends       *int64 // the time after which it is swept, nil for never
	value      any
}

func ends(t wire.Time) *int64 { n := int64(t); return &n }

func nameOf(u wire.UserID) []byte { return []byte(u.Name()) }

func deviceOf(v wire.DeviceID) []byte { return []byte(v.User().Name() + "/" + v.Name()) }

func suiteOf(s uint16) []byte { return binary.BigEndian.AppendUint16(nil, s) }

func poolKey(suite uint16, expires wire.Time) []byte {
	return binary.BigEndian.AppendUint64(suiteOf(suite), uint64(max(expires, 0)))
}

func conversationOf(id wire.ConversationID) []byte {
	h := sha256.Sum256([]byte(id))
	return h[:16]
}

func subjectOf(issuer, subject string) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "mlsfed subject 1\x00%d:%s%s", len(issuer), issuer, subject))
	return h[:]
}

// rowsOf returns the rows of a record.
func rowsOf(record recordstore.Record) ([]row, error) {
	switch r := record.(type) {
	case *recordstore.User:
		return []row{{kind: kindUser, owner: nameOf(r.ID), value: r}}, nil
	case *recordstore.Account:
		return []row{{kind: kindAccount, owner: nameOf(r.User), value: r}}, nil
	case *recordstore.Person:
		return []row{{kind: kindPerson, owner: nameOf(r.User), value: r}}, nil
	case *recordstore.Device:
		return []row{{kind: kindDevice, owner: nameOf(r.ID.User()), key: []byte(r.ID.Name()), value: r}}, nil
	case *recordstore.Address:
		return []row{{kind: kindAddress, owner: r.Token[:], value: r}}, nil
	case *recordstore.Invitation:
		return []row{{kind: kindInvitation, owner: r.Hash[:16], ends: ends(r.Expires), value: r}}, nil
	case *recordstore.KeyPackage:
		return []row{{kind: kindKeyPackage, owner: deviceOf(r.Device), key: append(poolKey(r.Suite, r.Expires), r.Ref...), ends: ends(r.Expires), value: r}}, nil
	case *recordstore.LastResort:
		return []row{{kind: kindLastResort, owner: deviceOf(r.Device), key: suiteOf(r.Suite), ends: ends(r.Expires), value: r}}, nil
	case *recordstore.Claim:
		return []row{{kind: kindClaim, owner: r.By[:], key: r.ID[:], ends: ends(r.Time), value: r}}, nil
	case *recordstore.Buckets:
		return []row{
			{kind: kindPairBucket, owner: nameOf(r.User), key: r.By[:], ends: ends(r.Pair), value: &timeValue{r.Pair}},
			{kind: kindUserBucket, owner: nameOf(r.User), ends: ends(r.All), value: &timeValue{r.All}},
		}, nil
	case *recordstore.Use:
		return []row{{kind: kindUse, owner: r.Token[:], key: conversationOf(r.Conversation), value: r}}, nil
	case *recordstore.Shared:
		return []row{{kind: kindShared, owner: r.Token[:], ends: ends(r.Ends), value: r}}, nil
	case *recordstore.Subject:
		return []row{
			{kind: kindSubject, owner: nameOf(r.User), value: r},
			{kind: kindSubjectUser, owner: subjectOf(r.Issuer, r.Subject), value: &userValue{r.User}},
		}, nil
	case *recordstore.Token:
		return []row{{kind: kindToken, owner: nameOf(r.User), key: r.Hash[:], ends: ends(r.Expires), value: r}}, nil
	}
	return nil, fmt.Errorf("records: %T is no record", record)
}

// setRow queues the statement that writes a row.
func setRow(b *pgx.Batch, r row) error {
	v, err := wire.Encode(r.value)
	if err != nil {
		return err
	}
	if r.key == nil {
		r.key = []byte{}
	}
	b.Queue(`INSERT INTO record (kind, owner, key, ends, value) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, owner, key) DO UPDATE SET ends = excluded.ends, value = excluded.value`, r.kind, r.owner, r.key, r.ends, v)
	return nil
}

// records implements recordstore.Store.
type records struct {
	reads
	d *Database
}

var _ recordstore.Store = (*records)(nil)

func newRecords(d *Database) *records { return &records{reads: reads{ask: d.query}, d: d} }

// The rows of record_lock that are of no user: a name has neither of these bytes. They are taken in the order subjects,
// user, list.
var (
	lockSubjects = []byte{0}
	lockList     = []byte{1}
)

// Update implements recordstore.Store.
func (r *records) Update(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	return r.change(ctx, false, stage, nameOf(u))
}

// Note implements recordstore.Store.
func (r *records) Note(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	return r.change(ctx, true, stage, nameOf(u))
}

// UpdateSubject implements recordstore.Store.
func (r *records) UpdateSubject(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	return r.change(ctx, false, stage, lockSubjects, nameOf(u))
}

// errStage carries an error of stage, which is not repeated.
type errStage struct{ error }

// change makes a change under the locks of rows. It is repeated, with stage, after a conflict or a lost connection.
func (r *records) change(ctx context.Context, lazy bool, stage func(recordstore.Tx) error, locks ...[]byte) error {
	return r.locked(ctx, lazy, func(t *recordTx) error { return stage(t) }, locks...)
}

func (r *records) locked(ctx context.Context, lazy bool, stage func(*recordTx) error, locks ...[]byte) error {
	err := r.d.retry(ctx, func(ctx context.Context) error {
		c, err := r.d.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		return r.attempt(ctx, c.Conn(), lazy, stage, locks)
	})
	var failed errStage
	if errors.As(err, &failed) {
		return failed.error
	}
	return err
}

func (r *records) attempt(ctx context.Context, c *pgx.Conn, lazy bool, stage func(*recordTx) error, locks [][]byte) error {
	b := begin(lazy)
	for _, name := range locks { // a write, so that the commit waits for the disk also if stage changes nothing
		b.Queue("INSERT INTO record_lock (name, count) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET count = record_lock.count + 1", name)
	}
	if err := send(c, b); err != nil {
		return err
	}
	t := &recordTx{b: &pgx.Batch{}}
	t.reads = reads{ask: func(ctx context.Context, q string, args []any, row func(pgx.Rows) error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, err := c.Query(context.WithoutCancel(ctx), q, args...)
		if err := each(rows, err, row); err != nil {
			t.failed = errors.Join(t.failed, err)
			return err
		}
		return nil
	}}
	if err := stage(t); err != nil {
		rollback(c)
		if transient(t.failed) {
			return t.failed
		}
		return errStage{err}
	}
	return commit(c, t.b)
}

// AddRevocations implements recordstore.Store.
func (r *records) AddRevocations(ctx context.Context, list ...recordstore.Revocation) error {
	return r.locked(ctx, false, func(t *recordTx) error {
		present, err := t.List(ctx)
		if err != nil {
			return err
		}
		if present == nil {
			present = new(recordstore.List)
		}
		present.Next = 0
		rows := []row{{kind: kindList, owner: []byte{}, value: present}}
		for i := range list {
			rows = append(rows, row{kind: kindRevoked, owner: list[i].Serial, ends: ends(list[i].NotAfter), value: &list[i]})
		}
		for _, row := range rows {
			err = errors.Join(err, setRow(t.b, row))
		}
		return err
	}, lockList)
}

// RenewList implements recordstore.Store.
func (r *records) RenewList(ctx context.Context, now wire.Time, next func(recordstore.List, []recordstore.Revocation) (*recordstore.List, error)) error {
	return r.locked(ctx, false, func(t *recordTx) error {
		present, err := t.List(ctx)
		if err != nil {
			return err
		}
		if present == nil {
			present = new(recordstore.List)
		}
		revoked, err := t.revocations(ctx, now)
		if err != nil {
			return err
		}
		list, err := next(*present, revoked)
		if err != nil || list == nil {
			return err
		}
		return setRow(t.b, row{kind: kindList, owner: []byte{}, value: list})
	}, lockList)
}

// Restored implements recordstore.Store.
func (r *records) Restored(ctx context.Context) error {
	return r.d.eager(ctx, func(b *pgx.Batch) {
		b.Queue("DELETE FROM record WHERE kind = ANY($1::smallint[])", []int16{kindKeyPackage, kindInvitation, kindClaim})
	})
}

// Sweep implements recordstore.Store. A record that was replaced meanwhile is judged by its new end.
func (r *records) Sweep(ctx context.Context, t recordstore.Times) error {
	for _, s := range []struct {
		before wire.Time
		kinds  []int16
	}{
		{t.Now, []int16{kindKeyPackage, kindLastResort, kindTaken, kindToken, kindPairBucket, kindUserBucket, kindShared, kindRevoked}},
		{t.Count, []int16{kindInvitation}},
		{t.Claims, []int16{kindClaim}},
	} {
		err := r.d.lazy(ctx, func(b *pgx.Batch) {
			b.Queue("DELETE FROM record WHERE kind = ANY($1::smallint[]) AND ends < $2", s.kinds, int64(s.before))
		})
		if err != nil {
			return err
		}
	}
	for _, kind := range []int16{kindAddress, kindUse} {
		if err := r.sweepOwnerless(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

// sweepOwnerless deletes the addresses, or the uses of addresses, whose device was removed.
func (r *records) sweepOwnerless(ctx context.Context, kind int16) error {
	for after := []byte{}; ; {
		var tokens []wire.Token
		err := r.d.query(ctx, "SELECT DISTINCT owner FROM record WHERE kind = $1 AND owner > $2 ORDER BY owner LIMIT $3", []any{kind, after, sweepPage}, func(rows pgx.Rows) error {
			var owner []byte
			if err := rows.Scan(&owner); err != nil {
				return err
			}
			if len(owner) != len(wire.Token{}) {
				return fmt.Errorf("address of %d bytes: %w", len(owner), errData)
			}
			tokens = append(tokens, wire.Token(owner))
			return nil
		})
		if err != nil || len(tokens) == 0 {
			return err
		}
		owned, err := r.DevicesAt(ctx, tokens...)
		if err != nil {
			return err
		}
		var stale [][]byte
		for _, t := range tokens {
			if owned[t] == "" {
				stale = append(stale, t[:])
			}
		}
		if len(stale) > 0 {
			if err := r.d.lazy(ctx, func(b *pgx.Batch) {
				b.Queue("DELETE FROM record WHERE kind = $1 AND owner = ANY($2::bytea[])", kind, stale)
			}); err != nil {
				return err
			}
		}
		last := tokens[len(tokens)-1]
		after = last[:]
	}
}

// recordTx implements recordstore.Tx. Changes are queued, and sent with COMMIT: reads show the records without the
// change.
type recordTx struct {
	reads
	b      *pgx.Batch
	failed error // of the database, in a read
}

var _ recordstore.Tx = (*recordTx)(nil)

// Set implements recordstore.Tx.
func (t *recordTx) Set(ctx context.Context, list ...recordstore.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, r := range list {
		rows, err := rowsOf(r)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := setRow(t.b, row); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *recordTx) remove(kind int16, owner, key []byte) {
	t.b.Queue("DELETE FROM record WHERE kind = $1 AND owner = $2 AND key = $3", kind, owner, key)
}

// Take implements recordstore.Tx.
func (t *recordTx) Take(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time, most int) (k *recordstore.KeyPackage, left int, err error) {
	var key []byte
	err = t.ask(ctx, `SELECT key, value FROM record WHERE kind = $1 AND owner = $2 AND key > $3 AND key < $4 ORDER BY key LIMIT $5`,
		[]any{kindKeyPackage, deviceOf(v), poolKey(suite, now+1), nextSuite(suite), max(most, 1) + 1}, func(rows pgx.Rows) error {
			if k != nil {
				left++
				return nil
			}
			var value []byte
			if err := rows.Scan(&key, &value); err != nil {
				return err
			}
			k = new(recordstore.KeyPackage)
			return decode(value, k)
		})
	if err != nil || k == nil {
		return nil, 0, err
	}
	if len(key) < 10 {
		return nil, 0, fmt.Errorf("KeyPackage with a key of %d bytes: %w", len(key), errData)
	}
	k.Device, k.Suite, k.Ref = v, suite, key[10:]
	t.remove(kindKeyPackage, deviceOf(v), key)
	return k, left, setRow(t.b, row{kind: kindTaken, owner: k.Ref, ends: ends(k.Expires), value: &timeValue{k.Expires}})
}

// nextSuite is the first key behind those of a suite.
func nextSuite(suite uint16) []byte {
	b := suiteOf(suite)
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
}

// RemoveUser implements recordstore.Tx.
func (t *recordTx) RemoveUser(ctx context.Context, u wire.UserID) error {
	if err := t.RemoveSubject(ctx, u); err != nil {
		return err
	}
	t.remove(kindUser, nameOf(u), []byte{})
	t.remove(kindPerson, nameOf(u), []byte{})
	return t.ask(ctx, "SELECT owner, value FROM record WHERE kind = $1", []any{kindInvitation}, func(rows pgx.Rows) error {
		var owner, value []byte
		if err := rows.Scan(&owner, &value); err != nil {
			return err
		}
		var rec recordstore.Invitation
		if err := decode(value, &rec); err != nil || rec.User != u {
			return err
		}
		t.remove(kindInvitation, owner, []byte{})
		return nil
	})
}

// RemoveDevice implements recordstore.Tx.
func (t *recordTx) RemoveDevice(ctx context.Context, v wire.DeviceID) error {
	if err := t.RemoveKeyPackages(ctx, v); err != nil {
		return err
	}
	t.remove(kindDevice, nameOf(v.User()), []byte(v.Name()))
	return nil
}

// RemoveKeyPackages implements recordstore.Tx.
func (t *recordTx) RemoveKeyPackages(ctx context.Context, v wire.DeviceID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.b.Queue("DELETE FROM record WHERE kind = ANY($1::smallint[]) AND owner = $2", []int16{kindKeyPackage, kindLastResort}, deviceOf(v))
	return nil
}

// RemoveSubject implements recordstore.Tx.
func (t *recordTx) RemoveSubject(ctx context.Context, u wire.UserID) error {
	bound, err := t.Subject(ctx, u)
	if err != nil || bound == nil {
		return err
	}
	t.remove(kindSubject, nameOf(u), []byte{})
	t.remove(kindSubjectUser, subjectOf(bound.Issuer, bound.Subject), []byte{})
	return nil
}
