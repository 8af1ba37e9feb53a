// Package records implements recordstore.Store in a Pebble database.
package records

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/wire"
)

// Records implements recordstore.Store.
type Records struct {
	reads
	seed     maphash.Seed
	locks    [64]sync.Mutex // by user: of reading and changing that user's records
	subjects sync.Mutex     // of UpdateSubject; taken before a user's lock
	list     sync.Mutex     // of the revocation list and the revocations; taken after a user's lock
}

var _ recordstore.Store = (*Records)(nil)

// New returns the records whose keys begin with prefix.
func New(db *pebble.DB, prefix []byte) *Records {
	return &Records{reads: reads{db: db, keys: keys{slices.Clone(prefix)}}, seed: maphash.MakeSeed()}
}

// Update implements recordstore.Store.
func (r *Records) Update(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	if err := r.stage(u, b, stage); err != nil {
		return err
	}
	return b.SyncWait()
}

// stage applies a change under the lock of a user, and does not wait for the disk: changes of one user share an fsync.
func (r *Records) stage(u wire.UserID, b *pebble.Batch, stage func(recordstore.Tx) error) error {
	defer r.lockName(u.Name())()
	if err := stage(tx{r.reads, b}); err != nil {
		return err
	}
	if b.Empty() {
		if err := b.LogData(nil, nil); err != nil {
			return err
		}
	}
	return r.db.ApplyNoSyncWait(b, pebble.Sync)
}

// lockName takes the lock of the records of a user, by name, and returns the function that releases the lock.
func (r *Records) lockName(name string) (unlock func()) {
	mu := &r.locks[maphash.String(r.seed, name)%uint64(len(r.locks))]
	mu.Lock()
	return mu.Unlock
}

// UpdateSubject implements recordstore.Store.
func (r *Records) UpdateSubject(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	r.subjects.Lock()
	err := r.stage(u, b, stage)
	r.subjects.Unlock()
	if err != nil {
		return err
	}
	return b.SyncWait()
}

// Note implements recordstore.Store.
func (r *Records) Note(ctx context.Context, u wire.UserID, stage func(recordstore.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer r.lockName(u.Name())()
	b := r.db.NewBatch()
	defer b.Close()
	if err := stage(tx{r.reads, b}); err != nil {
		return err
	}
	return b.Commit(pebble.NoSync)
}

// AddRevocations implements recordstore.Store.
func (r *Records) AddRevocations(ctx context.Context, list ...recordstore.Revocation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.list.Lock()
	defer r.list.Unlock()
	present, err := r.listed(ctx)
	if err != nil {
		return err
	}
	present.Next = 0
	b := r.db.NewBatch()
	defer b.Close()
	for i := range list {
		if err := set(b, r.key(kindRevoked, list[i].Serial), &revocationRecord{recordVersion, list[i]}); err != nil {
			return err
		}
	}
	if err := set(b, r.key(kindList), &listRecord{recordVersion, present}); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// listed returns the present list, empty if there is none.
func (r *Records) listed(ctx context.Context) (recordstore.List, error) {
	present, err := r.List(ctx)
	if err != nil || present == nil {
		return recordstore.List{}, err
	}
	return *present, nil
}

// RenewList implements recordstore.Store.
func (r *Records) RenewList(ctx context.Context, now wire.Time, next func(recordstore.List, []recordstore.Revocation) (*recordstore.List, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.list.Lock()
	defer r.list.Unlock()
	present, err := r.listed(ctx)
	if err != nil {
		return err
	}
	revoked, err := r.revocations(ctx, now)
	if err != nil {
		return err
	}
	list, err := next(present, revoked)
	if err != nil || list == nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	if err := set(b, r.key(kindList), &listRecord{recordVersion, *list}); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// Restored implements recordstore.Store.
func (r *Records) Restored(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	for _, kind := range []byte{kindKeyPackage, kindInvitation, kindClaim} {
		if err := deleteAll(b, r.key(kind)); err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}

// set stages a record.
func set(b *pebble.Batch, key []byte, record any) error {
	v, err := wire.Encode(record)
	if err != nil {
		return err
	}
	return b.Set(key, v, nil)
}

// deleteAll stages the removal of the records whose keys begin with prefix.
func deleteAll(b *pebble.Batch, prefix []byte) error {
	return b.DeleteRange(prefix, after(prefix), nil)
}

// after returns the first key behind all keys that begin with prefix.
func after(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// errStop ends a walk over records.
var errStop = errors.New("stop")
