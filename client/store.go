package client

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore"
)

// Store holds all durable data of a device: the records of mlscore and of this package. Its Apply is one transaction.
// boltstore.Store implements it with files; a browser provides its own.
type Store = mlscore.Store

// errNoTurn means that mlscore wrote outside a turn.
var errNoTurn = errors.New("a write without a turn")

// unit is the read and write set of one turn. It wraps the store, implements mlscore.Store, and passes all writes on
// in one batch when the turn ends. So a group's new state, the outgoing message and the data that the application
// sees become durable together or not at all.
type unit struct {
	base   Store
	writes []mlscore.Write
	now    map[string][]byte // writes of this turn; nil for a deleted key
	gone   [][]byte          // prefixes that this turn has deleted
	after  []func()          // run once the batch is on disk, or, if relaxed, written
	// relaxed: a power failure may undo this turn. See mlscore.Batch.
	relaxed bool
	settle  bool // earlier turns that were relaxed have to reach the disk
}

// onlyCursors reports whether the turn has only skipped items of streams, such as own messages that come back. If a
// power failure undoes the turn, these items come again.
func (u *unit) onlyCursors() bool {
	return len(u.after) == 0 && !slices.ContainsFunc(u.writes, func(w mlscore.Write) bool {
		return w.Prefix || !bytes.HasPrefix(w.Key, recordKey(recordCursor))
	})
}

func newUnit(base Store) *unit { return &unit{base: base, now: make(map[string][]byte)} }

// Apply implements mlscore.Store. mlscore erases its values after the call, so they are copied.
func (u *unit) Apply(b mlscore.Batch) error {
	for _, w := range b.Writes {
		switch {
		case w.Prefix:
			u.deleteAll(w.Key)
		case w.Value == nil:
			u.delete(w.Key)
		default:
			u.put(w.Key, w.Value)
		}
	}
	return nil
}

func (u *unit) put(key, value []byte) {
	v := append([]byte{}, value...)
	u.writes = append(u.writes, mlscore.Write{Key: bytes.Clone(key), Value: v})
	u.now[string(key)] = v
}

func (u *unit) delete(key []byte) {
	u.writes = append(u.writes, mlscore.Write{Key: bytes.Clone(key)})
	u.now[string(key)] = nil
}

func (u *unit) deleteAll(prefix []byte) {
	u.writes = append(u.writes, mlscore.Write{Key: bytes.Clone(prefix), Prefix: true})
	u.gone = append(u.gone, bytes.Clone(prefix))
	for k := range u.now {
		if strings.HasPrefix(k, string(prefix)) {
			u.now[k] = nil
		}
	}
}

func (u *unit) isGone(key []byte) bool {
	return slices.ContainsFunc(u.gone, func(p []byte) bool { return bytes.HasPrefix(key, p) })
}

// Get implements mlscore.Store.
func (u *unit) Get(key []byte) ([]byte, bool, error) {
	if v, ok := u.now[string(key)]; ok {
		return bytes.Clone(v), v != nil, nil
	}
	if u.isGone(key) {
		return nil, false, nil
	}
	v, ok, err := u.base.Get(key)
	if err != nil {
		err = &storeError{err}
	}
	return v, ok, err
}

// Scan implements mlscore.Store.
func (u *unit) Scan(prefix []byte, visit func(key, value []byte) error) error {
	var mine []string
	for k := range u.now {
		if strings.HasPrefix(k, string(prefix)) {
			mine = append(mine, k)
		}
	}
	slices.Sort(mine)
	flush := func(before []byte) error { // writes of this turn that sort before a key of the store
		for len(mine) > 0 && (before == nil || mine[0] < string(before)) {
			k := mine[0]
			mine = mine[1:]
			if v := u.now[k]; v != nil {
				if err := visit([]byte(k), bytes.Clone(v)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var visited error // an error of visit, which is not the store's
	err := u.base.Scan(prefix, func(key, value []byte) error {
		if visited = flush(key); visited != nil {
			return visited
		}
		if _, ok := u.now[string(key)]; !ok && !u.isGone(key) { // otherwise flush visits the key, or it is deleted
			visited = visit(key, value)
		}
		return visited
	})
	switch {
	case visited != nil:
		return visited
	case err != nil:
		return &storeError{err}
	}
	return flush(nil)
}

// then runs f when the turn's writes are on disk.
func (u *unit) then(f func()) { u.after = append(u.after, f) }

// commit makes the writes durable, and erases the copies.
func (u *unit) commit() error {
	if len(u.writes) == 0 && !u.settle {
		return nil
	}
	err := u.base.Apply(mlscore.Batch{Writes: u.writes, Relaxed: u.relaxed})
	for _, w := range u.writes {
		clear(w.Value)
	}
	if err != nil {
		return &storeError{err}
	}
	return nil
}

// storeError means that the store failed. No message caused the error.
type storeError struct{ err error }

func (e *storeError) Error() string { return "the device's store: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// isStore reports whether an error comes from the store.
func isStore(err error) bool {
	var e *storeError
	return errors.As(err, &e) || errors.Is(err, mlscore.ErrStore) || errors.Is(err, errNoTurn)
}

// turnStore is the mlscore.Store of a device: the unit of the current turn.
type turnStore struct{ unit *unit }

func (t *turnStore) Apply(b mlscore.Batch) error {
	if t.unit == nil {
		return errNoTurn
	}
	return t.unit.Apply(b)
}

func (t *turnStore) Get(key []byte) ([]byte, bool, error) {
	if t.unit == nil {
		return nil, false, errNoTurn
	}
	return t.unit.Get(key)
}

func (t *turnStore) Scan(prefix []byte, visit func(key, value []byte) error) error {
	if t.unit == nil {
		return errNoTurn
	}
	return t.unit.Scan(prefix, visit)
}
