// Package window remembers ids in a Pebble database for a deduplication window: each id for at least the length of the
// window, and for at most twice that time. Ids are in periods, one for each length of time; the window consists of the
// current period and the one before. The current period never goes back, whatever the clock does.
package window

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Nearly every id that is looked up is new. Filters in memory report that an id of a period is not there, so that such a
// look-up does not read the database. The filters of the periods that are in the database at Open are filled in steps,
// one with each Advance, and are used when they are complete.

// Window is a table of ids. A key consists of the prefix, the number of the period (8 bytes, big-endian) and the id. A
// Window is not safe for concurrent use.
type Window struct {
	db      *pebble.DB
	prefix  []byte
	current uint64
	older   bool // the period before the current one may hold ids

	newest, before *filter // of the current period and of the one before
}

// Open returns the window at a prefix, with the newest period in the database as the current one, but at least least.
// prefix must not be a prefix of other keys.
func Open(db *pebble.DB, prefix []byte, least uint64) (*Window, error) {
	w := &Window{db: db, prefix: slices.Clone(prefix), current: least}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: w.period(0), UpperBound: w.period(^uint64(0))})
	if err != nil {
		return nil, err
	}
	if it.Last() {
		w.current = max(w.current, binary.BigEndian.Uint64(it.Key()[len(prefix):]))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, err
	}
	w.newest, w.before = newFilter(w.period(w.current)), newFilter(w.period(w.current-min(w.current, 1)))
	return w, w.lookBehind()
}

// lookBehind finds out whether the period before the current one has to be searched at all.
func (w *Window) lookBehind() error {
	w.older = false
	if w.current == 0 {
		return nil
	}
	it, err := w.db.NewIter(&pebble.IterOptions{LowerBound: w.period(w.current - 1), UpperBound: w.period(w.current)})
	if err != nil {
		return err
	}
	w.older = it.First()
	return errors.Join(it.Error(), it.Close())
}

func (w *Window) period(n uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(w.prefix), n)
}

// Current returns the number of the current period.
func (w *Window) Current() uint64 { return w.current }

// Advance makes the period of a time the current one, and stages the deletion of all periods but it and the one before.
// now and length have the same unit. Advance reports whether the current period has changed.
func (w *Window) Advance(to *pebble.Batch, now int64, length int64) (bool, error) {
	period := uint64(max(now, 0)) / uint64(length)
	if period <= w.current {
		return false, w.fill()
	}
	w.before = w.newest
	if period > w.current+1 {
		w.before = emptyFilter()
	}
	w.current, w.newest = period, emptyFilter()
	if err := to.DeleteRange(w.period(0), w.period(period-1), nil); err != nil {
		return false, err
	}
	return true, w.lookBehind()
}

// fill takes one more step to complete the filters.
func (w *Window) fill() error {
	if err := w.newest.fill(w.db, w.period(w.current+1)); err != nil || w.newest.from != nil || !w.older {
		return err
	}
	return w.before.fill(w.db, w.period(w.current))
}

// Key returns the key of an id in the current period. The caller stores a value of its own under the key.
func (w *Window) Key(id []byte) []byte {
	w.newest.add(id)
	return append(w.period(w.current), id...)
}

// Find returns the key and the value of an id in the database, or a nil key if the window does not have the id.
func (w *Window) Find(id []byte) (key, value []byte, err error) {
	for back := uint64(0); back <= 1 && back <= w.current; back++ {
		if back == 1 && !w.older {
			break
		}
		if of := []*filter{w.newest, w.before}; !of[back].mayHave(id) {
			continue
		}
		key := append(w.period(w.current-back), id...)
		v, closer, err := w.db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		value := bytes.Clone(v)
		return key, value, closer.Close()
	}
	return nil, nil, nil
}
