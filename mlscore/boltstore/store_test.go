package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/mlsfed/mlsfed/mlscore"
)

// cheap is a cost of a passphrase for tests.
var cheap = Cost{Time: 1, MemoryKiB: 64, Threads: 1}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReopen checks that a store that is opened again has the records that were written.
func TestReopen(t *testing.T) {
	path := newPath(t)
	for n := range 5 {
		s := openTest(t, path, Options{})
		for i := range n {
			expect(t, s, fmt.Sprintf("k%d", i), fmt.Sprintf("k%d=v%d", i, i))
		}
		apply(t, s, put(fmt.Sprintf("k%d", n), fmt.Sprintf("v%d", n)))
		mustClose(t, s)
	}
}

func TestFileMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	path := newPath(t)
	openTest(t, path, Options{})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%d files in the folder, want the store alone: %v, %v", len(left), left, err)
	}
}

// TestOpenErrors checks that each way in which a file cannot be opened has its own error, which names the file.
func TestOpenErrors(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{})
	apply(t, s, put("k", "v"))
	if _, err := Open(path, testKey(1), Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := Open(path, testKey(2), Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice, with another key: %v", err)
	}
	mustClose(t, s)

	write := func(name string, content []byte) string {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := filepath.Join(t.TempDir(), "other")
	db, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path string
		key        mlscore.Secret
		want       error
	}{
		{"another key", path, testKey(2), ErrWrongKey},
		{"empty file", write("empty", nil), testKey(1), ErrDamaged},
		{"text", write("text", bytes.Repeat([]byte("text "), 10000)), testKey(1), ErrDamaged},
		{"cut to half", write("half", whole[:len(whole)/2]), testKey(1), ErrDamaged},
		{"another bbolt file", other, testKey(1), ErrDamaged},
		{"a folder", t.TempDir(), testKey(1), nil},
		{"in no folder", filepath.Join(t.TempDir(), "none", "store"), testKey(1), fs.ErrNotExist},
		{"short key", path, mlscore.NewSecret([]byte("short")), nil},
		{"no key", path, mlscore.Secret{}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(c.path, c.key, Options{})
			if err == nil {
				mustClose(t, s)
				t.Fatal("no error")
			}
			if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%v, want %v and the path", err, c.want)
			}
			if strings.Count(err.Error(), c.path+" ")+strings.Count(err.Error(), c.path+":") > 2 {
				t.Errorf("%v: the path more than twice", err)
			}
		})
	}
	// The failed attempts have not changed the file.
	expect(t, openTest(t, path, Options{}), "", "k=v")
}

// TestOpenWaits checks that the second opener gets the file once the first has closed it.
func TestOpenWaits(t *testing.T) {
	path := newPath(t)
	first := openTest(t, path, Options{})
	apply(t, first, put("k", "v"))
	second := make(chan error)
	go func() {
		s, err := Open(path, testKey(1), Options{Wait: time.Minute})
		if err == nil {
			err = s.Close()
		}
		second <- err
	}()
	apply(t, first, put("k", "w"))
	mustClose(t, first)
	if err := <-second; err != nil {
		t.Error(err)
	}
}

// TestOpenTogether checks that of many goroutines that create one file at once, one opens it, and the others get
// ErrInUse.
func TestOpenTogether(t *testing.T) {
	path := newPath(t)
	const n = 4
	results := make(chan error, n)
	release := make(chan struct{})
	for range n {
		go func() {
			s, err := Open(path, testKey(1), Options{})
			results <- err
			if err == nil {
				<-release
				_ = s.Close()
			}
		}()
	}
	opened := 0
	for range n {
		switch err := <-results; {
		case err == nil:
			opened++
		case !errors.Is(err, ErrInUse):
			t.Error(err)
		}
	}
	close(release)
	if opened != 1 {
		t.Errorf("%d have it open", opened)
	}
}

// TestInUseByProcess checks that a file that another process has open gives ErrInUse.
func TestInUseByProcess(t *testing.T) {
	if path := os.Getenv("BOLTSTORE_TEST_HOLD"); path != "" {
		s, err := Open(path, testKey(1), Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("open")
		_, _ = io.ReadAll(os.Stdin)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	path := newPath(t)
	child := exec.Command(os.Args[0], "-test.run=^TestInUseByProcess$")
	child.Env = append(os.Environ(), "BOLTSTORE_TEST_HOLD="+path)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("open"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, testKey(1), Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened while another process has it: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(out)
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	openTest(t, path, Options{})
}

// TestClosed checks that a closed store returns ErrClosed, and that closing it again has no effect.
func TestClosed(t *testing.T) {
	s := openTest(t, newPath(t), Options{})
	mustClose(t, s)
	mustClose(t, s)
	if _, _, err := s.Get([]byte("k")); !errors.Is(err, ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if err := s.Scan(nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("scan: %v", err)
	}
	if err := s.Apply(mlscore.Batch{}); !errors.Is(err, ErrClosed) {
		t.Errorf("apply: %v", err)
	}
	if err := s.ChangeKey(testKey(2)); !errors.Is(err, ErrClosed) {
		t.Errorf("change key: %v", err)
	}
}

// TestRefusedWrite checks that a batch with an invalid write is refused as a whole.
func TestRefusedWrite(t *testing.T) {
	s := openTest(t, newPath(t), Options{})
	apply(t, s, put("k", "v"))
	for name, w := range map[string]mlscore.Write{"empty key": put("", "v"), "long key": put(strings.Repeat("k", 1<<16), "v")} {
		if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("k", "w"), delAll("k"), w}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	expect(t, s, "", "k=v")
	apply(t, s, put("k", "x"))
	expect(t, s, "", "k=x")
}

// TestRandomnessFails checks that without randomness nothing is written.
func TestRandomnessFails(t *testing.T) {
	path := newPath(t)
	if _, err := Open(path, testKey(1), Options{Rand: strings.NewReader("")}); err == nil {
		t.Error("created without a salt")
	}
	mustClose(t, openTest(t, path, Options{}))
	s := openTest(t, path, Options{Rand: strings.NewReader("x")})
	if err := s.Apply(mlscore.Batch{Writes: []mlscore.Write{put("k", "v")}}); err == nil {
		t.Error("written without a nonce")
	}
	expect(t, s, "")
}

// TestLargeValues writes, reads and replaces a value of 30 MB, and checks that freed pages are used again.
func TestLargeValues(t *testing.T) {
	path := newPath(t)
	s := openTest(t, path, Options{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 30<<16)
	apply(t, s, mlscore.Write{Key: []byte("tree"), Value: big}, put("other", "v"))
	mustClose(t, s)
	s = openTest(t, path, Options{})
	v, ok, err := s.Get([]byte("tree"))
	if err != nil || !ok || !bytes.Equal(v, big) {
		t.Fatalf("%d bytes of %d, %v, %v", len(v), len(big), ok, err)
	}
	apply(t, s, mlscore.Write{Key: []byte("tree"), Value: big[:100]})
	before := fileSize(t, path)
	apply(t, s, mlscore.Write{Key: []byte("tree"), Value: big})
	if after := fileSize(t, path); after > before {
		t.Errorf("the file grew from %d to %d although the pages were free", before, after)
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// raw changes a store's file directly with bbolt.
func raw(t testing.TB, path string, change func(records, file *bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return change(tx.Bucket(bucketRecords), tx.Bucket(bucketFile)) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestTampering checks that Open detects changes of the file that were made without the key, and names the record if
// one is affected; and that a salvaged file returns no wrong value.
func TestTampering(t *testing.T) {
	box := func(records *bbolt.Bucket, key string) []byte { return bytes.Clone(records.Get([]byte(key))) }
	var old []byte // an earlier version of the record c
	cases := []struct {
		name   string
		change func(records, file *bbolt.Bucket) error
		record string // the record that the error must name
		left   []string
	}{
		{"a record put to another key", func(r, _ *bbolt.Bucket) error { return r.Put([]byte("b"), box(r, "a")) }, "b", nil},
		{"two records exchanged", func(r, _ *bbolt.Bucket) error {
			a, b := box(r, "a"), box(r, "b")
			return errors.Join(r.Put([]byte("a"), b), r.Put([]byte("b"), a))
		}, "a", nil},
		{"a record copied to a new key", func(r, _ *bbolt.Bucket) error { return r.Put([]byte("d"), box(r, "a")) }, "d", nil},
		{"a record cut short", func(r, _ *bbolt.Bucket) error { return r.Put([]byte("a"), []byte("short")) }, "a", nil},
		{"an empty record", func(r, _ *bbolt.Bucket) error { return r.Put([]byte("a"), nil) }, "a", nil},
		{"a record deleted", func(r, _ *bbolt.Bucket) error { return r.Delete([]byte("a")) }, "", []string{"b=2", "c=new"}},
		{"an earlier version", func(r, _ *bbolt.Bucket) error { return r.Put([]byte("c"), old) }, "", []string{"a=1", "b=2", "c=old"}},
		{"another digest", func(_, f *bbolt.Bucket) error { return f.Put(recordDigest, make([]byte, 32)) }, "", []string{"a=1", "b=2", "c=new"}},
		{"no digest", func(_, f *bbolt.Bucket) error { return f.Delete(recordDigest) }, "", []string{"a=1", "b=2", "c=new"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := newPath(t)
			s := openTest(t, path, Options{})
			apply(t, s, put("a", "1"), put("b", "2"), put("c", "old"))
			fold(t, s)
			mustClose(t, s)
			raw(t, path, func(r, _ *bbolt.Bucket) error { old = box(r, "c"); return nil })
			s = openTest(t, path, Options{})
			apply(t, s, put("c", "new"))
			fold(t, s)
			mustClose(t, s)
			raw(t, path, c.change)
			_, err := Open(path, testKey(1), Options{})
			var d *DamagedError
			if !errors.As(err, &d) || string(d.Key) != c.record {
				t.Fatalf("%v, want a DamagedError for record %q", err, c.record)
			}
			before := must(os.ReadFile(path))
			s, err = Open(path, testKey(1), Options{Salvage: true})
			if err != nil {
				t.Fatal(err)
			}
			defer mustClose(t, s)
			if !bytes.Equal(before, must(os.ReadFile(path))) {
				t.Error("opening it to salvage what is left has changed the file")
			}
			if c.record == "" {
				expect(t, s, "", c.left...)
				return
			}
			if _, _, err := s.Get([]byte(c.record)); !errors.As(err, &d) || string(d.Key) != c.record {
				t.Errorf("get: %v", err)
			}
			if err := s.Scan(nil, func([]byte, []byte) error { return nil }); !errors.As(err, &d) || string(d.Key) != c.record {
				t.Errorf("scan: %v", err)
			}
			if err := s.ChangeKey(testKey(3)); !errors.As(err, &d) || string(d.Key) != c.record {
				t.Errorf("change key: %v", err)
			}
			apply(t, s, del(c.record))
		})
	}
}

// TestHeaderDamage checks that a damaged header is not reported as a wrong key.
func TestHeaderDamage(t *testing.T) {
	for at := range headerSize {
		path := newPath(t)
		mustClose(t, openTest(t, path, Options{}))
		raw(t, path, func(_, file *bbolt.Bucket) error {
			h := bytes.Clone(file.Get(recordHeader))
			h[at] ^= 0x10
			return file.Put(recordHeader, h)
		})
		want := ErrDamaged
		if at == 0 {
			want = ErrVersion
		}
		if _, err := Open(path, testKey(1), Options{}); !errors.Is(err, want) || errors.Is(err, ErrWrongKey) {
			t.Errorf("byte %d: %v, want %v", at, err, want)
		}
	}
}

// TestOtherFile checks that a record of another store with the same key does not decrypt.
func TestOtherFile(t *testing.T) {
	var boxes [2][]byte
	for i := range boxes {
		path := newPath(t)
		s := openTest(t, path, Options{})
		apply(t, s, put("k", "same"))
		fold(t, s)
		mustClose(t, s)
		raw(t, path, func(r, _ *bbolt.Bucket) error {
			boxes[i] = bytes.Clone(r.Get([]byte("k")))
			return r.Put([]byte("k"), boxes[0])
		})
		_, err := Open(path, testKey(1), Options{})
		if i == 1 && !errors.Is(err, ErrDamaged) {
			t.Errorf("a record of another store: %v", err)
		}
	}
}
