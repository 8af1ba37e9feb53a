package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// bindings implements store.Bindings. It knows for which conversations a file was uploaded: it is handed out to readers of those alone, and
// can be named by entries of those alone. A device that uploads a file for a second conversation has to show
// that it has the content, so that knowing a file's name is not enough to bind it.
//
// A file without a binding was uploaded to a build that did not record them. Readers of any conversation can
// fetch it until it expires.
//
// Keys are prefix, hash, size in 8 bytes, conversation; values are empty. A binding is on disk before its file
// is stored.
type bindings struct {
	db     *pebble.DB
	prefix []byte
}

func (b *bindings) keys(ref wire.BlobRef) []byte {
	key := make([]byte, 0, len(b.prefix)+len(ref.Hash)+8+wire.MaxConversationID)
	key = append(append(key, b.prefix...), ref.Hash[:]...)
	return binary.BigEndian.AppendUint64(key, ref.Size)
}

// Add implements store.Bindings.
func (b *bindings) Add(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.db.Set(append(b.keys(ref), id...), nil, pebble.Sync); err != nil {
		return fmt.Errorf("bind a file: %w", err)
	}
	return nil
}

// Allows implements store.Bindings.
func (b *bindings) Allows(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	prefix := b.keys(ref)
	_, closer, err := b.db.Get(append(prefix, id...))
	if err == nil {
		return true, closer.Close()
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return false, fmt.Errorf("bindings of a file: %w", err)
	}
	it, err := b.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return false, fmt.Errorf("bindings of a file: %w", err)
	}
	bound := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return false, fmt.Errorf("bindings of a file: %w", err)
	}
	return !bound, nil
}

// Sweep implements store.Bindings.
func (b *bindings) Sweep(ctx context.Context, stored func(wire.BlobRef) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it, err := b.db.NewIter(&pebble.IterOptions{LowerBound: b.prefix, UpperBound: after(b.prefix)})
	if err != nil {
		return fmt.Errorf("sweep bindings: %w", err)
	}
	defer it.Close()
	batch := b.db.NewBatch()
	defer batch.Close()
	for it.First(); it.Valid(); it.Next() {
		ref, err := b.parse(it.Key())
		if err != nil {
			return err
		}
		if stored(ref) {
			continue
		}
		if err := batch.Delete(it.Key(), nil); err != nil {
			return fmt.Errorf("sweep bindings: %w", err)
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("sweep bindings: %w", err)
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("sweep bindings: %w", err)
	}
	return nil
}

func (b *bindings) parse(key []byte) (ref wire.BlobRef, err error) {
	rest := key[len(b.prefix):]
	if len(rest) < len(ref.Hash)+8 {
		return ref, fmt.Errorf("sweep bindings: key of %d bytes", len(key))
	}
	n := copy(ref.Hash[:], rest)
	ref.Size = binary.BigEndian.Uint64(rest[n:])
	return ref, nil
}
