package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore"
)

// damageSample returns the file of a closed store with pages of every kind, and its records.
func damageSample(t testing.TB) (file []byte, records map[string]string) {
	t.Helper()
	path := newPath(t)
	s, err := Open(path, testKey(1), Options{KeepFreed: true, journal: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	records = map[string]string{}
	for i := range 400 { // enough records for branch pages
		k, v := fmt.Sprintf("g%05d", i*7919%1000), strings.Repeat("v", i%90)
		records[k] = v
		if i%80 == 0 {
			records[k] = strings.Repeat("large", 1200)
		}
	}
	var writes []mlscore.Write
	for k, v := range records {
		writes = append(writes, put(k, v))
		if len(writes) == 40 {
			apply(t, s, writes...)
			apply(t, s, put("z", strings.Repeat("gone", 3000)))
			apply(t, s, del("z")) // leaves free pages
			writes = nil
		}
	}
	apply(t, s, writes...)
	fold(t, s)
	for i, k := range slices.Sorted(maps.Keys(records)) { // some records are in the journal, with an earlier version in the bucket of records
		if i%7 == 0 {
			records[k] = "newer " + strings.Repeat("n", i%50)
			apply(t, s, put(k, records[k]))
		}
	}
	mustClose(t, s)
	if file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return file, records
}

// checkDamaged opens a damaged file and reads all of it. With any damage, a record must have its value or give an
// error. checkDamaged returns the place where the damage was detected.
func checkDamaged(t testing.TB, file []byte, records map[string]string) string {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, testKey(1), Options{})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
			t.Errorf("open: %v, want ErrDamaged", err)
		}
		return "open"
	}
	defer func() { _ = s.Close() }()
	result := "nothing"
	seen := 0
	for k, want := range records {
		v, ok, err := s.Get([]byte(k))
		var d *DamagedError
		switch {
		case errors.As(err, &d) && string(d.Key) == k:
			result = "value"
		case err != nil || !ok || string(v) != want:
			t.Errorf("get %q: %d bytes, %v, %v; it has %d", k, len(v), ok, err, len(want))
		}
	}
	err = s.Scan(nil, func(k, v []byte) error {
		seen++
		if want, ok := records[string(k)]; !ok || want != string(v) {
			t.Errorf("scan: %q has %d bytes", k, len(v))
		}
		return nil
	})
	if err == nil && seen != len(records) || err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("scan: %d records of %d, %v", seen, len(records), err)
	}
	return result
}

// TestLongRandomDamage damages a file at random, a bit or more at a time.
func TestLongRandomDamage(t *testing.T) {
	file, records := damageSample(t)
	trials := long(200, 3000, 50_000)
	random := rand.New(rand.NewPCG(7, 8))
	result := map[string]int{}
	for trial := range trials {
		bad := bytes.Clone(file)
		at := random.IntN(len(bad))
		if trial%2 == 0 { // in the part with the structure
			at = at&^4095 + random.IntN(64)
		}
		switch trial % 5 {
		case 0, 1, 2:
			bad[at] ^= 1 << random.IntN(8)
		case 3:
			for i := range bad[at:min(at+1+random.IntN(200), len(bad))] {
				bad[at+i] = byte(random.Uint32())
			}
		case 4:
			from := random.IntN(len(bad)) &^ 4095
			copy(bad[at&^4095:], bytes.Clone(bad[from:min(from+4096, len(bad))])) // a page in the place of another
		}
		result[checkDamaged(t, bad, records)]++
		if t.Failed() {
			t.Fatalf("trial %d", trial)
		}
	}
	t.Logf("of %d damaged files, noticed: %v", trials, result)
	if result["open"] == 0 || result["value"] == 0 {
		t.Errorf("%v: this test does not reach what it is for", result)
	}
}

// TestTruncation checks that a file that was cut off at any place is refused, except if only free pages at its end
// are missing.
func TestTruncation(t *testing.T) {
	file, records := damageSample(t)
	for size := 0; size < len(file); size += 1 + len(file)/97 {
		checkDamaged(t, file[:size], records)
	}
}

// TestEveryPageHeader changes every byte at the beginning of every page, where bbolt keeps its numbers.
func TestEveryPageHeader(t *testing.T) {
	file, records := damageSample(t)
	result := map[string]int{}
	for at := 0; at < len(file); at += 4096 {
		if allZero(file[at : at+16]) {
			continue
		}
		for _, i := range []int{0, 7, 8, 10, 11, 12, 15, 16, 20, 24, 28} {
			bad := bytes.Clone(file)
			bad[at+i] ^= 0xff
			result[checkDamaged(t, bad, records)]++
		}
		if t.Failed() {
			t.Fatalf("page %d", at/4096)
		}
	}
	t.Log(result)
}

// TestMetaDamage checks that a damaged meta page is refused, with which bbolt alone would silently go back to the
// previous transaction.
func TestMetaDamage(t *testing.T) {
	file, records := damageSample(t)
	newest, whole, err := readMetas(bytes.NewReader(file), int64(len(file)))
	if err != nil || !whole {
		t.Fatal(err, whole)
	}
	for _, which := range []int{0, 1} {
		bad := bytes.Clone(file)
		bad[which*4096+pageHeaderSize+50] ^= 1
		if got := checkDamaged(t, bad, records); got != "open" {
			t.Errorf("meta page %d: noticed by %s", which, got)
		}
		path := newPath(t)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, testKey(1), Options{Salvage: true})
		if int(newest.txid%2) != which { // the newest meta page is valid
			if err != nil {
				t.Fatalf("meta page %d: salvage: %v", which, err)
			}
			apply(t, s, put("new", "v"))
			mustClose(t, s)
			openTest(t, path, Options{}) // both meta pages are valid again
		} else if err == nil {
			mustClose(t, s)
		}
	}
}

// TestDamageWhileOpen checks that a file that changes while bbolt has it open gives errors and no crash.
func TestDamageWhileOpen(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{KeepFreed: true})
	for i := range 300 {
		apply(t, s, put(fmt.Sprintf("k%03d", i), strings.Repeat("v", 100)))
	}
	fold(t, s)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	size := fileSize(t, path)
	for at := int64(2 * 4096); at < size; at += 4096 {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], 1<<40)
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Get([]byte("k000")); !errors.Is(err, ErrDamaged) {
		t.Errorf("get: %v", err)
	}
	if err := s.Scan(nil, func([]byte, []byte) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("scan: %v", err)
	}
	w := put("k", "v")
	for range 2 {
		if err := s.Apply(batchOf(w)); !errors.Is(err, ErrDamaged) {
			t.Errorf("apply: %v", err)
		}
	}
}

// TestTruncatedWhileOpen checks that a fault in the mapping, because pages were cut off the file, gives an error and
// no crash.
func TestTruncatedWhileOpen(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{KeepFreed: true})
	apply(t, s, put("k", strings.Repeat("v", 100_000)))
	fold(t, s)
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get([]byte("k")); !errors.Is(err, ErrDamaged) {
		t.Errorf("get: %v", err)
	}
	if err := s.Apply(batchOf(put("k", "v"))); !errors.Is(err, ErrDamaged) {
		t.Errorf("apply: %v", err)
	}
}

// FuzzHeader checks that a decoded header encodes to the same bytes, and that no prefix decodes.
func FuzzHeader(f *testing.F) {
	random := rand.NewChaCha8([32]byte{1})
	for _, c := range []credential{{key: testKey(1)}, {passphrase: passphrase("p"), cost: cheap}} {
		h, _, err := c.begin(random)
		if err != nil {
			f.Fatal(err)
		}
		b := h.marshal()
		f.Add(b)
		for n := range b {
			if _, err := parseHeader(b[:n]); err == nil {
				f.Fatalf("the first %d bytes of %d decode", n, len(b))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err == nil && !bytes.Equal(h.marshal(), b) {
			t.Errorf("%x decodes, and encodes to %x", b, h.marshal())
		}
		fixed := fixSum(b)
		if h, err := parseHeader(fixed); err == nil {
			if !bytes.Equal(h.marshal(), fixed) {
				t.Errorf("%x decodes, and encodes to %x", fixed, h.marshal())
			}
			if _, err := h.unlock(testKey(9)); !errors.Is(err, ErrWrongKey) {
				t.Errorf("unlocked by a key of its own: %v", err)
			}
		}
	})
}

// fixSum writes the correct checksum into bytes of a header's length, so that mutations get past it.
func fixSum(b []byte) []byte {
	h := &header{}
	b = append(slices.Clone(b), make([]byte, headerSize)...)[:headerSize]
	h.source = b[1]
	h.cost = Cost{binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:]), b[10]}
	n := 2 + costSize
	n += copy(h.pass[:], b[n:])
	n += copy(h.salt[:], b[n:])
	copy(h.check[:], b[n:])
	return h.marshal()
}

// FuzzRecord checks that only an unchanged record decrypts.
func FuzzRecord(f *testing.F) {
	k, err := deriveKeys(testKey(1), make([]byte, saltSize))
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range []string{"", "v", strings.Repeat("long", 100)} {
		box, err := k.seal(rand.NewChaCha8([32]byte{2}), []byte("key"), []byte(v))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte("key"), box, []byte(v), uint16(0), byte(1))
	}
	f.Fuzz(func(t *testing.T, key, box, value []byte, at uint16, flip byte) {
		if got, err := k.open(key, box); err == nil && string(key) != "key" {
			t.Errorf("opened %x under %x: %x", box, key, got)
		}
		sealed, err := k.seal(rand.NewChaCha8([32]byte{3}), key, value)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.open(key, sealed); err != nil || !bytes.Equal(got, value) || got == nil {
			t.Errorf("sealed %x, opened %x, %v", value, got, err)
		}
		if _, err := k.open(append(slices.Clone(key), 0), sealed); err == nil {
			t.Error("opened under another key")
		}
		if _, err := k.open(key, sealed[:int(at)%len(sealed)]); err == nil {
			t.Error("opened a prefix")
		}
		if flip != 0 {
			sealed[int(at)%len(sealed)] ^= flip
			if _, err := k.open(key, sealed); err == nil {
				t.Error("opened what was changed")
			}
		}
	})
}

// FuzzFile changes a store's file in three places, opens it and reads all of it.
func FuzzFile(f *testing.F) {
	file, records := damageSample(f)
	f.Add(uint32(0), uint64(1), uint32(5000), uint64(0), uint32(9000), uint64(0))
	f.Add(uint32(4096*3+16), uint64(0xff), uint32(4096*3+10), uint64(1), uint32(4096+20), uint64(0))
	f.Fuzz(func(t *testing.T, a uint32, av uint64, b uint32, bv uint64, c uint32, cv uint64) {
		bad := bytes.Clone(file)
		changed := false
		for at, v := range map[uint32]uint64{a: av, b: bv, c: cv} {
			i := int(at) % (len(bad) - 8)
			binary.LittleEndian.PutUint64(bad[i:], binary.LittleEndian.Uint64(bad[i:])^v)
			changed = changed || v != 0
		}
		if got := checkDamaged(t, bad, records); !changed && got != "nothing" {
			t.Errorf("a whole file: noticed by %s", got)
		}
	})
}

// FuzzStructure reads arbitrary bytes as a file, unchanged and with correct checksums on the meta pages.
func FuzzStructure(f *testing.F) {
	path := newPath(f)
	mustClose(f, openTest(f, path, Options{}))
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = readStructure(bytes.NewReader(b), int64(len(b)))
		b = slices.Clone(b)
		for _, at := range []int{pageHeaderSize, 1024 + pageHeaderSize, 4096 + pageHeaderSize} {
			if len(b) >= at+metaSize {
				sum := fnv.New64a()
				sum.Write(b[at : at+metaSize-8])
				order.PutUint64(b[at+metaSize-8:], sum.Sum64())
			}
		}
		meta, _, err := readStructure(bytes.NewReader(b), int64(len(b)))
		if err == nil && meta.pages*uint64(meta.pageSize) > uint64(len(b)) {
			t.Errorf("%d pages of %d bytes in a file of %d", meta.pages, meta.pageSize, len(b))
		}
	})
}
