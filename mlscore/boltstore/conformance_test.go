package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

// testStores are the implementations that must behave in the same way.
var testStores = map[string]func(t *testing.T) mlscore.Store{
	"memory":          func(*testing.T) mlscore.Store { return mlscore.NewMemoryStore() },
	"bolt":            func(t *testing.T) mlscore.Store { return openTest(t, newPath(t), Options{}) },
	"bolt, keepFreed": func(t *testing.T) mlscore.Store { return openTest(t, newPath(t), Options{KeepFreed: true}) },
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "store") }

// testKey returns a store's key, different for each n.
func testKey(n byte) mlscore.Secret { return mlscore.NewSecret(bytes.Repeat([]byte{n, 7}, KeySize/2)) }

// openTest opens a store under testKey(1) and closes it with the test.
func openTest(t testing.TB, path string, opts Options) *Store {
	t.Helper()
	s, err := Open(path, testKey(1), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(key, value string) mlscore.Write {
	return mlscore.Write{Key: []byte(key), Value: append([]byte{}, value...)}
}
func del(key string) mlscore.Write    { return mlscore.Write{Key: []byte(key)} }
func delAll(key string) mlscore.Write { return mlscore.Write{Key: []byte(key), Prefix: true} }

func apply(t testing.TB, s mlscore.Store, writes ...mlscore.Write) {
	t.Helper()
	if err := s.Apply(mlscore.Batch{Writes: writes}); err != nil {
		t.Fatal(err)
	}
}

// fold folds the journal of a store.
func fold(t testing.TB, s *Store) {
	t.Helper()
	s.writer.Lock()
	defer s.writer.Unlock()
	if err := s.fold(nil); err != nil {
		t.Fatal(err)
	}
}

// content returns the records of a store with a prefix, in the order of Scan.
func content(t testing.TB, s mlscore.Store, prefix string) []string {
	t.Helper()
	var list []string
	err := s.Scan([]byte(prefix), func(key, value []byte) error {
		list = append(list, string(key)+"="+string(value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func expect(t testing.TB, s mlscore.Store, prefix string, want ...string) {
	t.Helper()
	if got := content(t, s, prefix); !slices.Equal(got, want) {
		t.Errorf("under %q: %q, want %q", prefix, got, want)
	}
}

// TestStoreConformance checks the contract of mlscore.Store with every implementation.
func TestStoreConformance(t *testing.T) {
	tests := map[string]func(*testing.T, mlscore.Store){
		"get":                    conformGet,
		"writes in their order":  conformOrder,
		"delete by prefix":       conformPrefix,
		"scan":                   conformScan,
		"scan and change":        conformScanChange,
		"scan and stop":          conformScanStop,
		"memory is the caller's": conformMemory,
		"random against a model": conformRandom,
		"many goroutines":        conformConcurrent,
	}
	for impl, open := range testStores {
		for name, test := range tests {
			t.Run(impl+"/"+name, func(t *testing.T) { test(t, open(t)) })
		}
	}
}

// conformGet checks that an empty value differs from an absent one.
func conformGet(t *testing.T, s mlscore.Store) {
	apply(t, s, put("a", "1"), put("empty", ""))
	for key, want := range map[string]string{"a": "1", "empty": ""} {
		v, ok, err := s.Get([]byte(key))
		if err != nil || !ok || v == nil || string(v) != want {
			t.Errorf("get %q: %q, %v, %v; want %q", key, v, ok, err, want)
		}
	}
	for _, key := range []string{"b", "", "a\x00", "empt"} {
		if v, ok, err := s.Get([]byte(key)); ok || v != nil || err != nil {
			t.Errorf("get %q: %q, %v, %v; it was never put", key, v, ok, err)
		}
	}
	apply(t, s, del("empty"), del("never"))
	if _, ok, err := s.Get([]byte("empty")); ok || err != nil {
		t.Errorf("deleted, and still there: %v, %v", ok, err)
	}
}

// conformOrder checks that the writes of one batch take effect in their order.
func conformOrder(t *testing.T, s mlscore.Store) {
	apply(t, s, put("k", "1"), del("k"), put("k", "2"), put("k", "3"))
	expect(t, s, "", "k=3")
	apply(t, s, put("k", "4"), del("k"))
	expect(t, s, "")
	apply(t, s, put("p1", "a"), delAll("p"), put("p2", "b"))
	expect(t, s, "", "p2=b")
	apply(t, s, put("p3", "c"), put("q", "d"), delAll("p"))
	expect(t, s, "", "q=d")
	apply(t, s, delAll("q"), put("q", "e"), put("q1", "f"), del("q"))
	expect(t, s, "", "q1=f")
	apply(t, s)
	expect(t, s, "", "q1=f")
}

// conformPrefix checks that a prefix deletion deletes exactly the keys that begin with the prefix, the prefix itself
// included.
func conformPrefix(t *testing.T, s mlscore.Store) {
	keys := []string{"a", "ab", "ab\x00", "ab\x00x", "ab\xff", "ab\xff\xff", "abc", "ac", "b", "\xff", "\xff\xff", "\xff\xff\x01"}
	fill := func() {
		for _, k := range keys {
			apply(t, s, put(k, "v"))
		}
	}
	slices.Sort(keys)
	for _, prefix := range []string{"ab", "ab\xff", "\xff", "\xff\xff", "zz", "a", ""} {
		fill()
		apply(t, s, delAll(prefix))
		var want []string
		for _, k := range keys {
			if !strings.HasPrefix(k, prefix) {
				want = append(want, k+"=v")
			}
		}
		expect(t, s, "", want...)
	}
}

// conformScan checks that a scan visits the records in the order of the bytes of their keys, and only those with the
// prefix.
func conformScan(t *testing.T, s mlscore.Store) {
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(300) {
		apply(t, s, put(fmt.Sprintf("n%03d", i), fmt.Sprint(i)), put(fmt.Sprintf("m%03d", i), "m"))
	}
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprintf("n%03d=%d", i, i))
	}
	expect(t, s, "n", want...)
	expect(t, s, "n00", want[:10]...)
	expect(t, s, "n299", want[299])
	expect(t, s, "n2990")
	expect(t, s, "o")
	if n := len(content(t, s, "")); n != 600 {
		t.Errorf("%d records in all, 600 were put", n)
	}
}

// conformScanChange checks that the visit function may read and write the store, and that the scan visits the records
// of the store when the scan began.
func conformScanChange(t *testing.T, s mlscore.Store) {
	for i := range 20 {
		apply(t, s, put(fmt.Sprintf("k%02d", i), "old"))
	}
	seen := 0
	err := s.Scan([]byte("k"), func(key, value []byte) error {
		if string(value) != "old" {
			t.Errorf("%q has %q, which was put after the scan began", key, value)
		}
		seen++
		apply(t, s, put(string(key), "new"), put(string(key)+"x", "new"), del("k19"))
		if v, _, err := s.Get(key); err != nil || string(v) != "new" && string(key) != "k19" {
			t.Errorf("%q has %q, %v", key, v, err)
		}
		return nil
	})
	if err != nil || seen != 20 {
		t.Errorf("%d visited, 20 were there: %v", seen, err)
	}
	if n := len(content(t, s, "k")); n != 20+19 {
		t.Errorf("%d records afterwards", n)
	}
}

func conformScanStop(t *testing.T, s mlscore.Store) {
	apply(t, s, put("a", "1"), put("b", "2"), put("c", "3"))
	stop := errors.New("stop")
	n := 0
	err := s.Scan(nil, func([]byte, []byte) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if err != stop || n != 2 {
		t.Errorf("%v after %d records", err, n)
	}
	apply(t, s, put("d", "4")) // the store keeps no lock after the scan
}

// conformMemory checks that the store does not share memory with the caller in either direction.
func conformMemory(t *testing.T, s mlscore.Store) {
	key, value := []byte("key"), []byte("value")
	apply(t, s, mlscore.Write{Key: key, Value: value})
	clear(key)
	clear(value)
	expect(t, s, "", "key=value")
	v, _, err := s.Get([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	clear(v)
	_ = s.Scan(nil, func(k, v []byte) error {
		clear(k)
		clear(v)
		return nil
	})
	expect(t, s, "", "key=value")
}

// conformRandom compares a store with a map over many random batches.
func conformRandom(t *testing.T, s mlscore.Store) {
	random := rand.New(rand.NewPCG(3, 4))
	model := map[string]string{}
	for range 200 {
		var b mlscore.Batch
		for range random.IntN(8) {
			b.Writes = append(b.Writes, randomWrite(random))
		}
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		follow(model, b.Writes)
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			want = append(want, k+"="+model[k])
		}
		if got := content(t, s, ""); !slices.Equal(got, want) {
			t.Fatalf("after %+v: %q, want %q", b.Writes, got, want)
		}
	}
}

func randomWrite(random *rand.Rand) mlscore.Write {
	key := make([]byte, 1+random.IntN(3))
	for i := range key {
		key[i] = "ab\xff"[random.IntN(3)]
	}
	switch random.IntN(6) {
	case 0:
		return del(string(key))
	case 1:
		return delAll(string(key))
	}
	return put(string(key), strings.Repeat("v", random.IntN(3000)))
}

// follow applies a batch's writes to a map.
func follow(model map[string]string, writes []mlscore.Write) {
	for _, w := range writes {
		switch {
		case w.Prefix:
			for k := range model {
				if strings.HasPrefix(k, string(w.Key)) {
					delete(model, k)
				}
			}
		case w.Value == nil:
			delete(model, string(w.Key))
		default:
			model[string(w.Key)] = string(w.Value)
		}
	}
}

// conformConcurrent checks that readers see only whole batches: consecutive calls of Get, and one Scan.
func conformConcurrent(t *testing.T, s mlscore.Store) {
	const writers, batches, width = 3, 25, 4
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first := map[byte]string{}
				err := s.Scan([]byte("w"), func(key, value []byte) error {
					if have, ok := first[key[1]]; ok && have != string(value) {
						return fmt.Errorf("half a batch: %q has %q, its fellow %q", key, value, have)
					}
					first[key[1]] = string(value)
					return nil
				})
				if err == nil {
					_, _, err = s.Get([]byte("w00"))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for n := range batches {
				var b mlscore.Batch
				b.Writes = append(b.Writes, delAll(fmt.Sprintf("w%d", w)))
				for i := range width {
					b.Writes = append(b.Writes, put(fmt.Sprintf("w%d%d", w, i), fmt.Sprint(n)))
				}
				if err := s.Apply(b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	for w := range writers {
		for i := range width {
			key := fmt.Sprintf("w%d%d", w, i)
			expect(t, s, key, fmt.Sprintf("%s=%d", key, batches-1))
		}
	}
}

// long returns the value for MLSFED_LONG: unset, short or full.
func long(unset, short, full int) int {
	switch os.Getenv("MLSFED_LONG") {
	case "":
		return unset
	case "short":
		return short
	}
	return full
}

func batchOf(writes ...mlscore.Write) mlscore.Batch { return mlscore.Batch{Writes: writes} }
