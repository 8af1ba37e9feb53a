package client

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/mlscore"
)

// TestUnitIsTheStoreAfterwards checks that a turn sees its writes as if they were in the store, and that the store is
// the same afterwards.
func TestUnitIsTheStoreAfterwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 1, 3, -1)
		model := make(map[string]string)
		base := mlscore.NewMemoryStore()
		change := func(u *unit, n int) {
			k := key.Draw(t, "key")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				u.delete([]byte(k))
				delete(model, k)
			case 1:
				u.deleteAll([]byte(k))
				maps.DeleteFunc(model, func(have, _ string) bool { return strings.HasPrefix(have, k) })
			default:
				u.put([]byte(k), []byte(fmt.Sprint(n)))
				model[k] = fmt.Sprint(n)
			}
		}
		compare := func(s mlscore.Store) {
			prefix := rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 0, 2, -1).Draw(t, "prefix")
			var want, got []string
			for _, k := range slices.Sorted(maps.Keys(model)) {
				if strings.HasPrefix(k, prefix) {
					want = append(want, k+"="+model[k])
				}
				v, ok, err := s.Get([]byte(k))
				if err != nil || !ok || string(v) != model[k] {
					t.Fatalf("%q is %q (%v, %v), wanted %q", k, v, ok, err, model[k])
				}
			}
			err := s.Scan([]byte(prefix), func(k, v []byte) error { got = append(got, string(k)+"="+string(v)); return nil })
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("under %q: %q, wanted %q (%v)", prefix, got, want, err)
			}
		}
		for turn := range 3 {
			u := newUnit(base)
			for n := range rapid.IntRange(0, 12).Draw(t, "changes") {
				change(u, 100*turn+n)
				compare(u)
			}
			if err := u.commit(); err != nil {
				t.Fatal(err)
			}
			compare(base)
		}
	})
}

func TestUnitIsWrittenWholeOrNotAtAll(t *testing.T) {
	d := &disk{MemoryStore: mlscore.NewMemoryStore(), left: 0}
	u := newUnit(d)
	u.put([]byte("a"), []byte("1"))
	u.put([]byte("b"), []byte("2"))
	if err := u.commit(); err == nil {
		t.Fatal("no error")
	}
	if _, ok, _ := d.Get([]byte("a")); ok {
		t.Error("half a turn was written")
	}
}

func TestWritesOutsideATurnAreRefused(t *testing.T) {
	s := &turnStore{}
	if err := s.Apply(mlscore.Batch{}); err == nil {
		t.Error("written")
	}
	if _, _, err := s.Get(nil); err == nil {
		t.Error("read")
	}
	if err := s.Scan(nil, nil); err == nil {
		t.Error("scanned")
	}
}

func TestSealedChunksCannotBeChanged(t *testing.T) {
	const size = 2*chunkSize + 10
	content := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
	s, err := newSealer(make([]byte, fileKeySize), size)
	check(t, err)
	var sealed [][]byte
	for n := range chunks(size) {
		b, err := s.seal(bytes.NewReader(content), n)
		check(t, err)
		sealed = append(sealed, b)
	}
	open := func(n uint64, b []byte) error { _, err := s.open(n, bytes.Clone(b)); return err }
	for n, b := range sealed {
		if err := open(uint64(n), b); err != nil {
			t.Fatal(err)
		}
		b = bytes.Clone(b)
		b[len(b)/2]++
		if open(uint64(n), b) == nil {
			t.Errorf("chunk %d was changed", n)
		}
	}
	if open(0, sealed[1]) == nil {
		t.Error("chunks change places")
	}
	short, err := newSealer(make([]byte, fileKeySize), 2*chunkSize)
	check(t, err)
	if _, err := short.open(1, bytes.Clone(sealed[1])); err == nil {
		t.Error("a file is cut off after a whole chunk")
	}
	if sealedSize(MaxFileSize+1) != 0 || sealedSize(0) != tagSize {
		t.Error("sizes at the edges")
	}
}
