package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// founders implements store.Founders. Keys are prefix, conversation; values the time in eight bytes and the user.
type founders struct {
	db     *pebble.DB
	prefix []byte
}

func (f *founders) key(id wire.ConversationID) []byte { return append(bytes.Clone(f.prefix), id...) }

// Load implements store.Founders.
func (f *founders) Load(ctx context.Context, do func(wire.ConversationID, store.Founding) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it, err := f.db.NewIter(&pebble.IterOptions{LowerBound: f.prefix, UpperBound: after(f.prefix)})
	if err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		v := it.Value()
		if len(v) < 8 {
			return fmt.Errorf("founders: value of %d bytes", len(v))
		}
		found := store.Founding{User: wire.UserID(v[8:]), At: wire.Time(binary.BigEndian.Uint64(v))}
		if err := do(wire.ConversationID(it.Key()[len(f.prefix):]), found); err != nil {
			return err
		}
	}
	return it.Error()
}

// Set implements store.Founders.
func (f *founders) Set(ctx context.Context, id wire.ConversationID, v store.Founding) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	value := append(binary.BigEndian.AppendUint64(nil, uint64(v.At)), v.User...)
	if err := f.db.Set(f.key(id), value, pebble.NoSync); err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	return nil
}

// Delete implements store.Founders.
func (f *founders) Delete(ctx context.Context, ids ...wire.ConversationID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, f.db.Delete(f.key(id), pebble.NoSync))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("founders: %w", err)
	}
	return nil
}

// clock implements store.Clock: one record.
type clock struct {
	db  *pebble.DB
	key []byte
}

// Load implements store.Clock.
func (c *clock) Load(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return get(c.db, c.key)
}

// Save implements store.Clock.
func (c *clock) Save(ctx context.Context, state []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.db.Set(c.key, state, pebble.Sync)
}

// get returns a copy of a value, nil where there is none.
func get(db *pebble.DB, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return append([]byte{}, v...), closer.Close()
}
