package pebblestore

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// epochs implements store.Epochs. Keys are prefix, conversation with its length before it, epoch, entry; values are
// submission keys. The record without an epoch says that the conversation was searched.
type epochs struct {
	db     *pebble.DB
	prefix []byte
}

func (p *epochs) of(id wire.ConversationID, numbers ...uint64) []byte {
	key := append(append([]byte{}, p.prefix...), byte(len(id)))
	key = append(key, id...)
	for _, n := range numbers {
		key = binary.BigEndian.AppendUint64(key, n)
	}
	return key
}

func ofEpochs(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("keys of past epochs: %w", err)
}

// pruneAtOnce bounds the old keys that one Note forgets.
const pruneAtOnce = 32

// Note implements store.Epochs.
func (p *epochs) Note(ctx context.Context, id wire.ConversationID, k store.EpochKey, branches int, before wire.Epoch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := p.db.NewBatch()
	defer b.Close()
	if k.Epoch == 0 {
		if err := b.Set(p.of(id), nil, nil); err != nil {
			return ofEpochs(err)
		}
	}
	if err := b.Set(p.of(id, uint64(k.Epoch), uint64(k.Sequence)), k.Key[:], nil); err != nil {
		return ofEpochs(err)
	}
	first, n, err := p.count(id, k.Epoch)
	if err == nil && n >= branches {
		err = b.Delete(first, nil)
	}
	if err == nil && before > 0 {
		err = p.prune(b, id, before)
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	return ofEpochs(err)
}

// count counts the keys of an epoch, and returns the record of the oldest.
func (p *epochs) count(id wire.ConversationID, e wire.Epoch) (first []byte, n int, err error) {
	err = p.each(p.of(id, uint64(e)), after(p.of(id, uint64(e))), func(key, _ []byte) error {
		if n++; n == 1 {
			first = append([]byte{}, key...)
		}
		return nil
	})
	return first, n, err
}

// prune stages the removal of keys before an epoch, a few at a time.
func (p *epochs) prune(b *pebble.Batch, id wire.ConversationID, before wire.Epoch) error {
	n := 0
	err := p.each(p.of(id, 0), p.of(id, uint64(before)), func(key, _ []byte) error {
		if n++; n > pruneAtOnce {
			return errEnough
		}
		return b.Delete(key, nil)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends each.
var errEnough = errors.New("enough")

func (p *epochs) each(from, to []byte, do func(key, value []byte) error) error {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		if err := do(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// Keys implements store.Epochs.
func (p *epochs) Keys(ctx context.Context, id wire.ConversationID, e wire.Epoch) (list []wire.SubmissionKey, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	prefix := p.of(id, uint64(e))
	err = p.each(prefix, after(prefix), func(_, value []byte) error {
		var k wire.SubmissionKey
		if copy(k[:], value) != ed25519.PublicKeySize {
			return fmt.Errorf("value of %d bytes", len(value))
		}
		list = append(list, k)
		return nil
	})
	return list, ofEpochs(err)
}

// Searched implements store.Epochs.
func (p *epochs) Searched(ctx context.Context, id wire.ConversationID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	v, err := get(p.db, p.of(id))
	return v != nil, ofEpochs(err)
}

// SetSearched implements store.Epochs.
func (p *epochs) SetSearched(ctx context.Context, id wire.ConversationID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ofEpochs(p.db.Set(p.of(id), nil, pebble.NoSync))
}

// Forget implements store.Epochs.
func (p *epochs) Forget(ctx context.Context, id wire.ConversationID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ofEpochs(p.db.DeleteRange(p.of(id), after(p.of(id)), pebble.NoSync))
}

// Sweep implements store.Epochs.
func (p *epochs) Sweep(ctx context.Context, held func(wire.ConversationID) bool) error {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return ofEpochs(err)
	}
	defer it.Close()
	for it.First(); it.Valid() && ctx.Err() == nil; {
		rest := it.Key()[len(p.prefix):]
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return ofEpochs(fmt.Errorf("key of %d bytes", len(it.Key())))
		}
		id := wire.ConversationID(rest[1 : 1+int(rest[0])])
		if !held(id) {
			if err := p.Forget(ctx, id); err != nil {
				return err
			}
		}
		it.SeekGE(after(p.of(id)))
	}
	return ofEpochs(errors.Join(it.Error(), ctx.Err()))
}
