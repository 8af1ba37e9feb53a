package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func passphrase(s string) mlscore.Secret { return mlscore.NewSecret([]byte(s)) }

// TestChangeKey checks that the old key does not open the file any more, and the new key opens it.
func TestChangeKey(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{})
	var want []string
	for i := range 300 {
		apply(t, s, put(fmt.Sprintf("k%03d", i), fmt.Sprint(i)))
		want = append(want, fmt.Sprintf("k%03d=%d", i, i))
	}
	if err := s.ChangeKey(testKey(2)); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "", want...)
	apply(t, s, put("after", "x"), del("k000"))
	mustClose(t, s)
	if _, err := Open(path, testKey(1), Options{}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("the old key: %v", err)
	}
	s, err := Open(path, testKey(2), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	expect(t, s, "", append([]string{"after=x"}, want[1:]...)...)
}

// TestChangeKeyDuringScan checks that a scan that began under the old key continues.
func TestChangeKeyDuringScan(t *testing.T) {
	s := openTest(t, newPath(t), Options{})
	apply(t, s, put("a", "1"), put("b", "2"), put("c", "3"))
	var seen []string
	err := s.Scan(nil, func(key, value []byte) error {
		seen = append(seen, string(key)+string(value))
		return s.ChangeKey(testKey(byte(2 + len(seen))))
	})
	if err != nil || fmt.Sprint(seen) != "[a1 b2 c3]" {
		t.Errorf("%v, %v", seen, err)
	}
	expect(t, s, "", "a=1", "b=2", "c=3")
}

// TestChangeKeyFails checks that after a failed change the store still works with the old key.
func TestChangeKeyFails(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{})
	apply(t, s, put("a", "1"), put("b", "2"))
	if err := s.ChangeKey(mlscore.NewSecret([]byte("short"))); err == nil {
		t.Error("a short key")
	}
	if err := s.ChangePassphrase(mlscore.Secret{}); err == nil {
		t.Error("an empty passphrase")
	}
	mustClose(t, s)
	s, err := Open(path, testKey(1), Options{Rand: bytes.NewReader(make([]byte, saltSize+24))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeKey(testKey(2)); err == nil { // enough randomness for one of two records
		t.Error("changed without a nonce")
	}
	expect(t, s, "", "a=1", "b=2")
	apply(t, s, del("a"))
	mustClose(t, s)
	expect(t, openTest(t, path, Options{}), "", "b=2")
}

func TestPassphrase(t *testing.T) {
	path := newPath(t)
	opts := Options{Cost: cheap}
	s, err := OpenWithPassphrase(path, passphrase("one"), opts)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, put("k", "v"))
	mustClose(t, s)
	for _, wrong := range []string{"two", "one ", "On"} {
		if _, err := OpenWithPassphrase(path, passphrase(wrong), opts); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := OpenWithPassphrase(path, mlscore.Secret{}, opts); err == nil {
		t.Error("an empty passphrase")
	}
	if _, err := Open(path, testKey(1), opts); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a key: %v", err)
	}
	// The file holds the cost; the options do not matter now.
	if s, err = OpenWithPassphrase(path, passphrase("one"), Options{}); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "", "k=v")
	if err := s.ChangeKey(testKey(5)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if _, err := OpenWithPassphrase(path, passphrase("one"), opts); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a passphrase for a file with a key: %v", err)
	}
	if s, err = Open(path, testKey(5), opts); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangePassphrase(passphrase("three")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if s, err = OpenWithPassphrase(path, passphrase("three"), opts); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "", "k=v")
	mustClose(t, s)
}

// TestKeyFromPassphrase checks that a key derived with the salt and cost in the header opens the file, too.
func TestKeyFromPassphrase(t *testing.T) {
	path := newPath(t)
	s, err := OpenWithPassphrase(path, passphrase("one"), Options{Cost: cheap})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	var h *header
	raw(t, path, func(_, file *bbolt.Bucket) (err error) {
		h, err = parseHeader(file.Get(recordHeader))
		return err
	})
	key, err := KeyFromPassphrase(passphrase("one"), h.pass[:], h.cost)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, key, Options{}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	for name, f := range map[string]func() (mlscore.Secret, error){
		"empty":      func() (mlscore.Secret, error) { return KeyFromPassphrase(mlscore.Secret{}, h.pass[:], cheap) },
		"short salt": func() (mlscore.Secret, error) { return KeyFromPassphrase(passphrase("p"), h.pass[1:], cheap) },
		"no cost":    func() (mlscore.Secret, error) { return KeyFromPassphrase(passphrase("p"), h.pass[:], Cost{}) },
		"all memory": func() (mlscore.Secret, error) {
			return KeyFromPassphrase(passphrase("p"), h.pass[:], Cost{1, 1<<20 + 1, 1})
		},
		"all time": func() (mlscore.Secret, error) { return KeyFromPassphrase(passphrase("p"), h.pass[:], Cost{65, 64, 1}) },
		"threads": func() (mlscore.Secret, error) {
			return KeyFromPassphrase(passphrase("p"), h.pass[:], Cost{1, 1024, 17})
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := DefaultCost().check(); err != nil {
		t.Error(err)
	}
}

// cipherOf returns the ciphertext in a box, cut to a length.
func cipherOf(box []byte) []byte {
	box = box[24 : len(box)-16]
	return box[:min(len(box), 64)]
}

// boxesOf returns the encrypted records of a closed store.
func boxesOf(t *testing.T, path string) map[string][]byte {
	boxes := map[string][]byte{}
	raw(t, path, func(r, _ *bbolt.Bucket) error {
		return r.ForEach(func(k, v []byte) error {
			boxes[string(k)] = bytes.Clone(v)
			return nil
		})
	})
	return boxes
}

// TestErasure checks that no page of the file contains a deleted or replaced value, not even encrypted, except with
// KeepFreed.
func TestErasure(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("KeepFreed=%v", keep), func(t *testing.T) {
			path := newPath(t)
			s := openTest(t, path, Options{KeepFreed: true})
			for i := range 50 {
				apply(t, s, put(fmt.Sprintf("k%02d", i), "secret"))
			}
			apply(t, s, put("large", string(bytes.Repeat([]byte("large"), 5000))))
			fold(t, s)
			mustClose(t, s)
			boxes := boxesOf(t, path)

			s = openTest(t, path, Options{KeepFreed: keep})
			apply(t, s, put("k00", "replaced"))
			apply(t, s, del("k01"), del("large"))
			apply(t, s, delAll("k1"))
			gone := []string{"k00", "k01", "k10", "k19", "large"}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, k := range gone {
				if bytes.Contains(file, cipherOf(boxes[k])) {
					found++
				}
			}
			if !bytes.Contains(file, boxes["k02"]) {
				t.Error("a record that was not replaced is not found: the test searches for the wrong bytes")
			}
			if !keep && found > 0 || keep && found == 0 {
				t.Errorf("%d of %d erased records are in the file", found, len(gone))
			}
			// After a change of key, no ciphertext under the old key is left.
			if err := s.ChangeKey(testKey(2)); err != nil {
				t.Fatal(err)
			}
			if file, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			if !keep && bytes.Contains(file, boxes["k02"]) {
				t.Error("a record under the old key is in the file")
			}
		})
	}
}

// TestErasureAfterCrash checks that opening a file erases the values that a crashed process did not erase.
func TestErasureAfterCrash(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{KeepFreed: true})
	apply(t, s, put("k", "secret"), put("twice", "first"))
	fold(t, s)
	apply(t, s, put("twice", "second"))
	second := cipherOf(s.journal.overlay[0].box)
	apply(t, s, put("twice", "third"))
	mustClose(t, s)
	boxes := boxesOf(t, path)
	s = openTest(t, path, Options{KeepFreed: true})
	apply(t, s, del("k"))
	mustClose(t, s)
	openTest(t, path, Options{})
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, box := range map[string][]byte{"a deleted record": cipherOf(boxes["k"]), "a folded record": cipherOf(boxes["twice"]), "a record of the journal": second} {
		if bytes.Contains(file, box) {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestErasureIsWhole checks that after any batch, also with concurrent writers, every unused page is zero.
func TestErasureIsWhole(t *testing.T) {
	s := openTest(t, newPath(t), Options{})
	check := func(when string) {
		t.Helper()
		meta, free, err := s.freePages()
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range free {
			if from := id * uint64(meta.pageSize); !allZero(file[from : from+uint64(meta.pageSize)]) {
				t.Fatalf("%s: free page %d of %d is not zero", when, id, meta.pages)
			}
		}
		if !allZero(file[meta.pages*uint64(meta.pageSize):]) {
			t.Fatalf("%s: behind the last page it is not zero", when)
		}
	}
	random := rand.New(rand.NewPCG(11, 12))
	for n := range 150 {
		var b mlscore.Batch
		for range 1 + random.IntN(5) {
			b.Writes = append(b.Writes, randomWrite(random))
		}
		if n%10 == 0 {
			b.Writes = append(b.Writes, put("large", strings.Repeat("x", random.IntN(200_000))))
		}
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("batch %d", n))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		random := rand.New(rand.NewPCG(13, uint64(w)))
		wg.Go(func() {
			for range 30 {
				if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{randomWrite(random), randomWrite(random)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	check("many writers")
	if err := s.ChangeKey(testKey(2)); err != nil {
		t.Fatal(err)
	}
	check("another key")
}
