package streams

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// rebaseBatch is the size of one batch of Rebase, in bytes.
const rebaseBatch = 4 << 20

// Rebase moves every stream on by a number of places, in a database that comes from a backup and that no
// mailbox runs on. Devices have seen items that the backup does not know: their places must not be given
// to others. Readers see a gap from their cursors on, and then what they had not acknowledged when the
// backup was made. It is not atomic: a database in which it failed has to be restored again.
func Rebase(db *pebble.DB, prefix []byte, by uint64) error {
	m := New(db, prefix, Config{})
	for from := m.keys.of(keyHead); from != nil; {
		names, next, err := m.names(from)
		if err != nil {
			return fmt.Errorf("rebase: %w", err)
		}
		for name := range names {
			if err := m.rebase(name, by); err != nil {
				return fmt.Errorf("rebase %s: %w", name, err)
			}
		}
		from = next
	}
	return nil
}

func (m *Mailbox) rebase(name Stream, by uint64) error {
	s := &stream{name: name}
	if err := m.loadHead(s); err != nil {
		return err
	}
	old := s.head
	w := &rebaser{m: m, batch: m.db.NewBatch()}
	defer func() { w.batch.Close() }()
	if err := w.items(old, by); err != nil {
		return err
	}
	if err := w.leavers(old, by); err != nil {
		return err
	}
	moved := old
	moved.last, moved.removed = old.last+by, old.removed+by
	key := m.keys.head(name)
	if err := w.batch.Set(key, moved.encode(key), nil); err != nil {
		return err
	}
	return w.batch.Commit(pebble.Sync)
}

// rebaser writes in batches.
type rebaser struct {
	m     *Mailbox
	batch *pebble.Batch
}

func (w *rebaser) room() error {
	if w.batch.Len() < rebaseBatch {
		return nil
	}
	err := errors.Join(w.batch.Commit(pebble.NoSync), w.batch.Close())
	w.batch = w.m.db.NewBatch()
	return err
}

// items copies all items to their new places and deletes the old ones. Iterators see the database as it
// was when they were made.
func (w *rebaser) items(h head, by uint64) error {
	it, err := w.m.db.NewIter(w.m.items(h.number, h.removed))
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		sequence := sequenceOf(it.Key())
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		i, err := decodeItem(it.Key(), value)
		if err != nil {
			return err
		}
		key := w.m.keys.item(h.number, sequence+by)
		if err := w.batch.Set(key, i.encode(key, make([]byte, i.size())), nil); err != nil {
			return err
		}
		if err := w.room(); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	// The senders of the items are not known any longer: the shares of a restored stream are counted from here on.
	return errors.Join(
		w.batch.DeleteRange(w.m.keys.of(keySent, u64(h.number)), w.m.keys.of(keySent, u64(h.number+1)), nil),
		w.batch.DeleteRange(w.m.keys.of(keyKept, u64(h.number)), w.m.keys.of(keyKept, u64(h.number+1)), nil),
		w.batch.DeleteRange(w.m.keys.item(h.number, 0), w.m.keys.item(h.number, h.last+1), nil))
}

// leavers moves the ends of readers who leave with an item that is still there.
func (w *rebaser) leavers(h head, by uint64) error {
	return w.m.eachCursor(h.number, func(r wire.Token, c cursor) error {
		if c.until <= h.removed {
			return nil // stays, or has nothing left to read
		}
		c.until += by
		key := w.m.keys.cursor(h.number, r)
		if err := w.batch.Set(key, c.encode(key), nil); err != nil {
			return err
		}
		return w.room()
	})
}
