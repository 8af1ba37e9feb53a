package window

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// quiet is a log of the database that nobody reads.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func open(t *rapid.T, fs vfs.FS) *pebble.DB {
	db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestWindowProperty compares a window with a list of ids: over times that also go back, and over restarts, an id is
// known for the length of the window and for at most twice that length after it was added.
func TestWindowProperty(t *testing.T) {
	const length = 10
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		db := open(t, fs)
		defer func() { db.Close() }()
		w, err := Open(db, []byte("p/d"), 0)
		if err != nil {
			t.Fatal(err)
		}
		// Neighbours of the window's keys stay, whatever the window deletes.
		for _, key := range []string{"p/c", "p/e", "p"} {
			if err := db.Set([]byte(key), nil, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		type entry struct {
			period uint64
			at     int64
		}
		now, added := int64(0), make(map[byte]entry)
		// seen is the time as the window knows it. It goes back with a restart that knows no ids of the current period.
		seen := func() int64 { return max(now, int64(w.Current())*length) }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = max(0, now+int64(rapid.IntRange(-5, 15).Draw(t, "pass")))
			b := db.NewBatch()
			if _, err := w.Advance(b, now, length); err != nil {
				t.Fatal(err)
			}
			for id, was := range added {
				if w.Current() <= was.period+1 {
					continue
				}
				if seen()-was.at < length {
					t.Fatalf("id %d of %+v has expired at %d", id, was, seen())
				}
				delete(added, id) // for good, even if the clock goes back
			}
			id := rapid.Byte().Draw(t, "id") % 8
			key, value, err := w.Find([]byte{id})
			if err != nil {
				t.Fatal(err)
			}
			was, known := added[id]
			switch {
			case key != nil && (!known || value[0] != id):
				t.Fatalf("id %d is known at %d, and was not added or has expired", id, now)
			case key == nil && known:
				t.Fatalf("id %d of %+v is not known at %d", id, was, seen())
			case key != nil && seen()-was.at >= 2*length:
				t.Fatalf("id %d of %+v is known at %d", id, was, seen())
			}
			if key == nil {
				if err := b.Set(w.Key([]byte{id}), []byte{id}, nil); err != nil {
					t.Fatal(err)
				}
				added[id] = entry{period: w.Current(), at: seen()}
			}
			if err := b.Commit(pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				least := rapid.SampledFrom([]uint64{0, w.Current()}).Draw(t, "least")
				empty := w.Current() // a period without ids is known from least alone
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = open(t, fs)
				if w, err = Open(db, []byte("p/d"), least); err != nil {
					t.Fatal(err)
				}
				if least == empty && w.Current() != empty {
					t.Fatalf("period %d after a restart, wanted %d", w.Current(), empty)
				}
				if w.Current() > empty {
					t.Fatalf("period %d after a restart, had %d", w.Current(), empty)
				}
			}
		}
		for _, key := range []string{"p/c", "p/e", "p"} {
			_, closer, err := db.Get([]byte(key))
			if err != nil {
				t.Fatalf("key %q: %v", key, err)
			}
			closer.Close()
		}
	})
}

// TestOldPeriodsAreDeleted checks that the database holds the ids of two periods, and no older ones.
func TestOldPeriodsAreDeleted(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w, err := Open(db, []byte("d"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for now := range int64(100) {
		b := db.NewBatch()
		if _, err := w.Advance(b, now, 10); err != nil {
			t.Fatal(err)
		}
		if err := b.Set(w.Key([]byte{byte(now)}), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		n++
	}
	if n != 20 {
		t.Errorf("%d ids in the database, wanted those of two periods", n)
	}
}
