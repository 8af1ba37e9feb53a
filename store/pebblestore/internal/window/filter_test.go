package window

import (
	"encoding/binary"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func numbered(n int) []byte { return binary.BigEndian.AppendUint64(make([]byte, 16), uint64(n)) }

// TestFilter checks that a filter with several layers knows all its ids, and reports few others.
func TestFilter(t *testing.T) {
	f := emptyFilter()
	const ids = 5 * firstBlocks * perBlock
	for n := range ids {
		f.add(numbered(n))
	}
	if len(f.layers) != 3 {
		t.Errorf("%d layers, want 3", len(f.layers))
	}
	for n := range ids {
		if !f.mayHave(numbered(n)) {
			t.Fatalf("id %d is not known", n)
		}
	}
	wrong := 0
	for n := range ids {
		if f.mayHave(numbered(ids + n)) {
			wrong++
		}
	}
	if wrong > ids/50 {
		t.Errorf("%d of %d other ids are reported", wrong, ids)
	}
}

// TestFiltersAreFilled checks that after a restart the filters are used when they have all ids of both periods, and
// that no id is missed meanwhile.
func TestFiltersAreFilled(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w, err := Open(db, []byte("d"), 0)
	if err != nil {
		t.Fatal(err)
	}
	const each = 2*fillStep + 1
	add := func(period, n int) {
		t.Helper()
		b := db.NewBatch()
		if _, err := w.Advance(b, int64(period), 1); err != nil {
			t.Fatal(err)
		}
		if err := b.Set(w.Key(numbered(n)), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	for n := range each {
		add(7, n)
	}
	for n := range each {
		add(8, each+n)
	}
	if w, err = Open(db, []byte("d"), 0); err != nil {
		t.Fatal(err)
	}
	known := 2 * each
	for steps := 0; w.newest.from != nil || w.before.from != nil; steps++ {
		if steps > 6 {
			t.Fatal("the filters are not complete after 6 steps")
		}
		for n := range known {
			if key, _, err := w.Find(numbered(n)); err != nil || key == nil {
				t.Fatalf("id %d after %d steps: %x, %v", n, steps, key, err)
			}
		}
		add(8, known)
		known++
	}
	add(9, known)
	for n := range known + 1 {
		key, _, err := w.Find(numbered(n))
		if err != nil || (key != nil) != (n >= each) {
			t.Fatalf("id %d in the next period: %x, %v", n, key, err)
		}
	}
}
