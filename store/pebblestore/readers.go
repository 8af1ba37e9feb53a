package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// readers implements store.Readers. Keys are prefix, device, a zero byte, token, conversation; values the time since
// when.
type readers struct {
	db     *pebble.DB
	prefix []byte
}

func (s *readers) devicePrefix(d wire.DeviceID) []byte {
	return append(append(bytes.Clone(s.prefix), d...), 0)
}

func (s *readers) key(d wire.DeviceID, r store.Reader) []byte {
	return append(append(s.devicePrefix(d), r.Token[:]...), r.Conversation...)
}

// add is the change that notes readers.
func (s *readers) add(list []store.Joined) batch.Change {
	return batch.Change{Part: s, Sync: true, Stage: func(to batch.Share) error {
		for _, j := range list {
			if err := to.(readersShare).b.Set(s.key(j.Device, j.Reader), binary.BigEndian.AppendUint64(nil, uint64(j.Since)), nil); err != nil {
				return fmt.Errorf("readers: %w", err)
			}
		}
		return nil
	}}
}

// readersShare is what the readers have in one batch.
type readersShare struct{ b *pebble.Batch }

// Begin implements batch.Part.
func (s *readers) Begin(b *pebble.Batch) (batch.Share, error) { return readersShare{b}, nil }

// Seal implements batch.Share.
func (readersShare) Seal() error { return nil }

// Settle implements batch.Share.
func (readersShare) Settle() {}

// Announce implements batch.Share.
func (readersShare) Announce() {}

// Of implements store.Readers.
func (s *readers) Of(ctx context.Context, d wire.DeviceID) ([]store.Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	prefix := s.devicePrefix(d)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("readers: %w", err)
	}
	defer it.Close()
	var list []store.Reader
	for it.First(); it.Valid(); it.Next() {
		rest := it.Key()[len(prefix):]
		var r store.Reader
		if n := copy(r.Token[:], rest); n < len(r.Token) {
			return nil, fmt.Errorf("readers: key of %d bytes", len(rest))
		}
		r.Conversation = wire.ConversationID(rest[len(r.Token):])
		list = append(list, r)
	}
	return list, it.Error()
}

// In implements store.Readers.
func (s *readers) In(ctx context.Context, d wire.DeviceID, id wire.ConversationID) ([]store.Reader, error) {
	list, err := s.Of(ctx, d)
	return slices.DeleteFunc(list, func(r store.Reader) bool { return r.Conversation != id }), err
}

// Since implements store.Readers.
func (s *readers) Since(ctx context.Context, d wire.DeviceID, r store.Reader) (wire.Time, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	v, closer, err := s.db.Get(s.key(d, r))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("readers: %w", err)
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, false, fmt.Errorf("readers: value of %d bytes", len(v))
	}
	return wire.Time(binary.BigEndian.Uint64(v)), true, nil
}

// Drop implements store.Readers. A crash may bring the reader back: then it is dropped again.
func (s *readers) Drop(ctx context.Context, d wire.DeviceID, r store.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.db.Delete(s.key(d, r), pebble.NoSync); err != nil {
		return fmt.Errorf("readers: %w", err)
	}
	return nil
}

// after is the first key behind all that begin with prefix.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
