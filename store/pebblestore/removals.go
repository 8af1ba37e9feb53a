package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// removals implements store.Removals.
//
// Keys are prefix, 'm', token, conversation, with the epoch as value; and prefix, 'r', conversation with its length before
// it, epoch that the entry ended, entry, with an encoded store.Removal: a message of the present epoch meets none.
type removals struct {
	db     *pebble.DB
	prefix []byte
}

const maxRemoval = 32 << 20 // bytes of a record: 131,072 readers

func ofRemovals(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("removals: %w", err)
}

func (r *removals) memberKey(t wire.Token, id wire.ConversationID) []byte {
	return append(append(append(slices.Clone(r.prefix), 'm'), t[:]...), id...)
}

func (r *removals) of(id wire.ConversationID) []byte {
	return append(append(append(slices.Clone(r.prefix), 'r'), byte(len(id))), id...)
}

func (r *removals) from(id wire.ConversationID, epoch wire.Epoch) []byte {
	return binary.BigEndian.AppendUint64(r.of(id), uint64(epoch))
}

// Since implements store.Removals.
func (r *removals) Since(ctx context.Context, t wire.Token, id wire.ConversationID) (wire.Epoch, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	v, closer, err := r.db.Get(r.memberKey(t, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil // it joined under an earlier build
	}
	if err != nil {
		return 0, ofRemovals(err)
	}
	if len(v) != 8 {
		return 0, ofRemovals(errors.Join(fmt.Errorf("value of %d bytes", len(v)), closer.Close()))
	}
	return wire.Epoch(binary.BigEndian.Uint64(v)), closer.Close()
}

// Note implements store.Removals.
func (r *removals) Note(ctx context.Context, id wire.ConversationID, since wire.Epoch, join []wire.Token, rec *store.Removal) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	if rec != nil {
		for _, m := range rec.Members {
			if err := b.Delete(r.memberKey(m.Token, id), nil); err != nil {
				return ofRemovals(err)
			}
		}
		if err := r.set(b, id, rec); err != nil {
			return err
		}
	}
	for _, t := range join {
		if err := b.Set(r.memberKey(t, id), binary.BigEndian.AppendUint64(nil, uint64(since)), nil); err != nil {
			return ofRemovals(err)
		}
	}
	return ofRemovals(b.Commit(pebble.NoSync))
}

// Between implements store.Removals.
func (r *removals) Between(ctx context.Context, id wire.ConversationID, first, last wire.Epoch) (list []store.Removal, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	prefix := len(r.of(id))
	err = r.each(r.from(id, first), after(r.from(id, last)), func(key []byte, rec store.Removal) error {
		if len(key) != prefix+16 {
			return fmt.Errorf("key of %d bytes", len(key))
		}
		rec.Sequence = wire.SequenceNumber(binary.BigEndian.Uint64(key[prefix+8:]))
		list = append(list, rec)
		return nil
	})
	return list, err
}

func (r *removals) each(from, to []byte, do func(key []byte, rec store.Removal) error) error {
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return ofRemovals(err)
	}
	for it.First(); it.Valid() && err == nil; it.Next() {
		var rec store.Removal
		if err = wire.Decode(it.Value(), maxRemoval, &rec); err == nil {
			err = do(it.Key(), rec)
		}
	}
	return ofRemovals(errors.Join(err, it.Error(), it.Close()))
}

// Set implements store.Removals.
func (r *removals) Set(ctx context.Context, id wire.ConversationID, rec *store.Removal) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.set(r.db, id, rec)
}

func (r *removals) set(to pebble.Writer, id wire.ConversationID, rec *store.Removal) error {
	v, err := wire.Encode(rec)
	if err == nil {
		err = to.Set(binary.BigEndian.AppendUint64(r.from(id, rec.Epoch), uint64(rec.Sequence)), v, pebble.NoSync)
	}
	return ofRemovals(err)
}

// Sweep implements store.Removals.
func (r *removals) Sweep(ctx context.Context, until wire.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	prefix := append(slices.Clone(r.prefix), 'r')
	return r.each(prefix, after(prefix), func(key []byte, rec store.Removal) error {
		if rec.Time > until {
			return nil
		}
		return r.db.Delete(key, pebble.NoSync)
	})
}
