package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mlsfed/mlsfed/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runChild())
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string, limits Limits) *Store {
	t.Helper()
	s, err := Open(dir, limits)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// content returns the same bytes for the same seed.
func content(seed uint64, size int) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func refOf(b []byte) Ref { return Ref{sha256.Sum256(b), uint64(len(b))} }

func put(t testing.TB, s *Store, b []byte) Ref {
	t.Helper()
	ref, err := s.Put(context.Background(), bytes.NewReader(b))
	must(t, err)
	if ref != refOf(b) {
		t.Fatalf("stored as %v, is %v", ref, refOf(b))
	}
	return ref
}

func wantBlob(t testing.TB, s *Store, b []byte) {
	t.Helper()
	r, err := s.Get(refOf(b))
	must(t, err)
	got, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	if !bytes.Equal(got, b) {
		t.Fatalf("%d bytes read, not the %d stored", len(got), len(b))
	}
}

// wantClean checks that no file is left over and that the figures are correct.
func wantClean(t testing.TB, s *Store) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(s.dir, tmpFolder))
	must(t, err)
	if len(left) != 0 {
		t.Fatalf("%d temporary files are left", len(left))
	}
	var sum int64
	for _, ref := range s.List() {
		sum += int64(ref.Size)
	}
	if st := s.Stats(); st.Bytes != sum {
		t.Fatalf("%d bytes counted, %d stored", st.Bytes, sum)
	}
}

func TestPutGet(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{})
	var all [][]byte
	for i, size := range []int{0, 1, 4095, 4096, copyBuffer - 1, copyBuffer, copyBuffer + 1, 3<<20 + 7} {
		all = append(all, content(uint64(i), size))
		put(t, s, all[i])
		put(t, s, all[i]) // a second Put changes nothing
	}
	check := func(s *Store) {
		for _, b := range all {
			if !s.Has(refOf(b)) {
				t.Fatalf("%d bytes are not there", len(b))
			}
			wantBlob(t, s, b)
			must(t, s.Verify(refOf(b)))
			if len(b) < copyBuffer { // iotest.TestReader reads byte by byte, and more than once
				r, err := s.Get(refOf(b))
				must(t, err)
				must(t, errors.Join(iotest.TestReader(r, b), r.Close()))
			}
		}
		if st := s.Stats(); st.Blobs != len(all) {
			t.Fatalf("%+v", st)
		}
		wantClean(t, s)
	}
	check(s)
	must(t, s.Close())
	s = open(t, dir, Limits{})
	check(s)
	if _, err := s.Get(refOf([]byte("other"))); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	must(t, s.Delete(refOf(all[3])))
	must(t, s.Delete(refOf(all[3])))
	if s.Has(refOf(all[3])) {
		t.Fatal("deleted and there")
	}
	if _, err := s.Get(refOf(all[3])); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	wantClean(t, s)
}

func TestPutRefused(t *testing.T) {
	const limit = 300_000
	s := open(t, t.TempDir(), Limits{MaxBlob: limit, Quota: 1_000_000})
	ctx := context.Background()
	put(t, s, content(1, limit))
	endless := &endlessReader{}
	cancelled, cancel := context.WithCancel(ctx)
	right := content(3, 1000)
	wrong := bytes.Clone(right)
	wrong[500]++
	cause := errors.New("link lost")
	cases := []struct {
		name string
		want error
		put  func() error
	}{
		{"one byte too many", ErrTooLarge, func() error { _, err := s.Put(ctx, bytes.NewReader(content(2, limit+1))); return err }},
		{"endless", ErrTooLarge, func() error { _, err := s.Put(ctx, endless); return err }},
		{"cancelled", context.Canceled, func() error { _, err := s.Put(cancelled, &cancelReader{cancel: cancel}); return err }},
		{"reader fails", cause, func() error {
			_, err := s.Put(ctx, io.MultiReader(bytes.NewReader(right), iotest.ErrReader(cause)))
			return err
		}},
		{"expected too large", ErrTooLarge, func() error { return s.PutExpected(ctx, Ref{Size: limit + 1}, endless) }},
		{"expected 2^64-1", ErrTooLarge, func() error { return s.PutExpected(ctx, Ref{Size: 1<<64 - 1}, endless) }},
		{"other content", ErrMismatch, func() error { return s.PutExpected(ctx, refOf(right), bytes.NewReader(wrong)) }},
		{"too short", ErrMismatch, func() error { return s.PutExpected(ctx, refOf(right), bytes.NewReader(right[:999])) }},
		{"too long", ErrMismatch, func() error { return s.PutExpected(ctx, refOf(right), bytes.NewReader(append(right, 0))) }},
		{"endless for expected", ErrMismatch, func() error { return s.PutExpected(ctx, refOf(right), endless) }},
		{"quota", ErrQuota, func() error {
			put(t, s, content(10, limit))
			put(t, s, content(11, limit))
			_, err := s.Put(ctx, bytes.NewReader(content(12, limit)))
			return err
		}},
		{"quota, expected", ErrQuota, func() error {
			return s.PutExpected(ctx, refOf(content(12, limit)), bytes.NewReader(content(12, limit)))
		}},
	}
	for _, c := range cases {
		if err := c.put(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		wantClean(t, s)
	}
	if endless.n > 4*copyBuffer+limit*2 {
		t.Errorf("%d bytes were read of what cannot be stored", endless.n)
	}
	must(t, s.Delete(refOf(content(10, limit))))
	must(t, s.PutExpected(ctx, refOf(content(12, limit)), bytes.NewReader(content(12, limit))))
	must(t, s.PutExpected(ctx, refOf(content(12, limit)), iotest.ErrReader(cause))) // the blob is there, so the reader is not read
	wantClean(t, s)
	if _, err := Open(t.TempDir(), Limits{Quota: -1}); err == nil {
		t.Error("negative quota")
	}
}

type endlessReader struct{ n int }

func (r *endlessReader) Read(p []byte) (int, error) {
	r.n += len(p)
	return len(p), nil
}

type cancelReader struct{ cancel func() }

func (r *cancelReader) Read(p []byte) (int, error) {
	r.cancel()
	return 1, nil
}

// A blob that was changed on disk in any way is reported, never read completely, and can be stored again.
func TestDamaged(t *testing.T) {
	b := content(1, 2*copyBuffer+100)
	changes := map[string]func(path string) error{
		"first byte":  func(p string) error { return flip(p, 0) },
		"middle":      func(p string) error { return flip(p, copyBuffer) },
		"last byte":   func(p string) error { return flip(p, int64(len(b))-1) },
		"cut":         func(p string) error { return os.Truncate(p, int64(len(b))-1) },
		"empty":       func(p string) error { return os.Truncate(p, 0) },
		"gone":        os.Remove,
		"longer":      func(p string) error { return os.WriteFile(p, append(bytes.Clone(b), 1), 0o600) },
		"other bytes": func(p string) error { return os.WriteFile(p, content(2, len(b)), 0o600) },
	}
	for name, change := range changes {
		for _, reopen := range []bool{false, true} {
			dir := t.TempDir()
			s := open(t, dir, Limits{})
			ref := put(t, s, b)
			must(t, s.Pin("conversation", ref))
			must(t, change(s.path(ref)))
			if reopen {
				must(t, s.Close())
				s = open(t, dir, Limits{})
			}
			var got []byte
			r, err := s.Get(ref)
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			switch {
			case name == "longer" && !reopen:
				// All bytes that the Ref names are there, and no more are read.
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			case reopen && errors.Is(err, ErrNotFound): // found at opening
			case !errors.Is(err, ErrCorrupt):
				t.Errorf("%s: %v", name, err)
			}
			if len(got) >= len(b) {
				t.Errorf("%s: all %d bytes were handed out", name, len(got))
			}
			if s.Has(ref) || s.Stats().Damaged == 0 && !(reopen && name == "gone") {
				t.Errorf("%s: still there, or not counted: %+v", name, s.Stats())
			}
			must(t, s.PutExpected(context.Background(), ref, bytes.NewReader(b)))
			wantBlob(t, s, b)
			if !slices.Equal(s.Pins("conversation"), []Ref{ref}) {
				t.Errorf("%s: the pin is lost", name)
			}
			wantClean(t, s)
		}
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err1 := f.ReadAt(b[:], at)
	b[0] ^= 0x20
	_, err2 := f.WriteAt(b[:], at)
	return errors.Join(err1, err2, f.Close())
}

// A reader that found damage in an old file does not remove the file that has been fetched since.
func TestDamageFoundLate(t *testing.T) {
	s := open(t, t.TempDir(), Limits{})
	b := content(1, 1000)
	ref := put(t, s, b)
	must(t, flip(s.path(ref), 10))
	r, err := s.Get(ref)
	must(t, err)
	must(t, s.Delete(ref))
	put(t, s, b)
	if _, err := io.ReadAll(r); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	must(t, r.Close())
	wantBlob(t, s, b)
}

func TestPins(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{})
	a, b := put(t, s, content(1, 100)), refOf(content(2, 100)) // b is not stored yet
	must(t, s.Pin("one", a))
	must(t, s.Pin("one", a))
	must(t, s.Pin("two", a))
	must(t, s.Pin("two", b))
	must(t, s.Pin("\x00/..", b)) // any bytes are a name
	check := func(s *Store) {
		if got := s.Conversations(); !slices.Equal(got, []string{"\x00/..", "one", "two"}) {
			t.Fatalf("conversations %q", got)
		}
		if len(s.Pins("two")) != 2 || len(s.Pins("one")) != 1 || len(s.Pins("three")) != 0 || s.Stats().Pinned != 2 {
			t.Fatalf("pins %v, %v", s.Pins("one"), s.Pins("two"))
		}
		if err := s.Delete(a); !errors.Is(err, ErrPinned) || !s.Has(a) {
			t.Fatalf("a pinned blob was deleted: %v", err)
		}
	}
	check(s)
	must(t, s.Close())
	s = open(t, dir, Limits{})
	check(s)
	must(t, s.UnpinAll("two"))
	must(t, s.Unpin("two", a))
	must(t, s.Unpin("nobody", a))
	must(t, s.UnpinAll("\x00/.."))
	must(t, s.Close())
	s = open(t, dir, Limits{})
	if got := s.Conversations(); !slices.Equal(got, []string{"one"}) {
		t.Fatalf("conversations %q", got)
	}
	must(t, s.Unpin("one", a))
	must(t, s.Delete(a))
	must(t, s.Close())
	s = open(t, dir, Limits{})
	if left, err := os.ReadDir(filepath.Join(dir, pinFolder)); err != nil || len(left) != 0 {
		t.Fatalf("%d folders of conversations without pins: %v", len(left), err)
	}
	for _, name := range []string{"", string(make([]byte, MaxConversation+1))} {
		if err := s.Pin(name, a); !errors.Is(err, ErrBadName) {
			t.Fatal(err)
		}
	}
	must(t, s.Pin(string(make([]byte, MaxConversation)), a))
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{})
	var refs []Ref
	for i := range uint64(6) {
		refs = append(refs, put(t, s, content(i, 1000)))
	}
	old := time.Now().Add(-time.Hour)
	must(t, s.Close())
	for _, ref := range refs[:5] { // the last blob is young
		must(t, os.Chtimes(s.path(ref), old, old))
	}
	s = open(t, dir, Limits{})
	must(t, s.Pin("c", refs[1]))
	put(t, s, content(2, 1000)) // stored again: young again
	must(t, s.PutExpected(context.Background(), refs[4], nil))
	var asked []Ref
	live := func(r Ref) bool {
		asked = append(asked, r)
		if r == refs[3] {
			must(t, s.Pin("meanwhile", r))
		}
		return false
	}
	n, size, err := s.Sweep(live, time.Minute)
	must(t, err)
	if n != 1 || size != 1000 || s.Has(refs[0]) || len(asked) != 2 {
		t.Fatalf("swept %d blobs of %d bytes, asked %d times", n, size, len(asked))
	}
	for _, ref := range refs[1:] {
		if !s.Has(ref) {
			t.Fatalf("%v was swept", ref)
		}
	}
	must(t, s.UnpinAll("meanwhile"))
	if n, _, err = s.Sweep(func(r Ref) bool { return r == refs[5] }, 0); err != nil || n != 3 || !s.Has(refs[5]) || !s.Has(refs[1]) {
		t.Fatalf("swept %d, %v", n, err)
	}
	wantClean(t, s)
}

func TestOpenClears(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{})
	put(t, s, content(1, 100))
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(dir, tmpFolder, "put-123"), content(2, 5000), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, blobFolder, "README"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, blobFolder, refOf(content(3, 100)).String()), content(3, 50), 0o600))
	s = open(t, dir, Limits{})
	wantClean(t, s)
	if st := s.Stats(); st.Blobs != 1 || st.Damaged != 1 {
		t.Fatalf("%+v", st)
	}
	if _, err := os.Stat(filepath.Join(dir, blobFolder, "README")); err != nil {
		t.Fatal("a file of somebody else was removed")
	}
	if _, err := Open(dir, Limits{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, t.TempDir(), Limits{})
	ref := put(t, s, content(1, 10))
	must(t, s.Close())
	must(t, s.Close())
	_, put := s.Put(context.Background(), bytes.NewReader(nil))
	_, get := s.Get(ref)
	_, _, sweep := s.Sweep(nil, 0)
	for i, err := range []error{put, get, sweep, s.PutExpected(context.Background(), ref, nil), s.Verify(ref),
		s.Delete(ref), s.Pin("c", ref), s.Unpin("c", ref)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if s.Has(ref) {
		t.Error("Has")
	}
}

// Many goroutines store, read, pin, delete and sweep the same few blobs.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Quota: 10 << 20})
	var all [8][]byte
	for i := range all {
		all[i] = content(uint64(i), 10_000*(i+1))
	}
	var wg sync.WaitGroup
	for w := range uint64(12) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(w, 1))
			me := fmt.Sprint("conversation ", w)
			for range 60 {
				b := all[r.IntN(len(all))]
				ref := refOf(b)
				var err error
				switch r.IntN(6) {
				case 0:
					// A pinned blob stays until it is unpinned.
					if err = s.Pin(me, ref); err == nil {
						if _, err = s.Put(context.Background(), bytes.NewReader(b)); err == nil {
							err = s.Verify(ref)
						}
					}
					err = errors.Join(err, s.Unpin(me, ref))
				case 1:
					err = s.PutExpected(context.Background(), ref, bytes.NewReader(b))
				case 2:
					if err = s.Delete(ref); errors.Is(err, ErrPinned) {
						err = nil
					}
				case 3:
					_, _, err = s.Sweep(func(Ref) bool { return false }, 0)
				default:
					if err = s.Verify(ref); errors.Is(err, ErrNotFound) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantClean(t, s)
	if st := s.Stats(); st.Damaged != 0 || st.Pinned != 0 {
		t.Fatalf("%+v", st)
	}
	before := s.Stats()
	must(t, s.Close())
	s = open(t, dir, Limits{})
	if st := s.Stats(); st != before {
		t.Fatalf("%+v before closing, %+v after opening", before, st)
	}
	for _, ref := range s.List() {
		must(t, s.Verify(ref))
	}
}

func TestWire(t *testing.T) {
	s := open(t, t.TempDir(), Limits{})
	w := Wire{s}
	b := content(1, 5000)
	ref := wire.BlobRef{Hash: refOf(b).Hash, Size: 5000}
	if err := w.Put("", ref, bytes.NewReader(b[1:])); !errors.Is(err, ErrMismatch) {
		t.Fatal(err)
	}
	must(t, w.Put("", ref, bytes.NewReader(b)))
	if ok, err := w.Has(ref); !ok || err != nil {
		t.Fatal(ok, err)
	}
	r, err := w.Get(ref)
	must(t, err)
	must(t, iotest.TestReader(r, b))
	must(t, r.Close())
	must(t, w.Sweep(time.Now().Add(-time.Minute), func(wire.BlobRef) bool { return false }))
	if !s.Has(refOf(b)) {
		t.Fatal("a young blob was swept")
	}
	must(t, w.Sweep(time.Now(), func(r wire.BlobRef) bool { return r == ref }))
	must(t, w.Sweep(time.Now().Add(time.Minute), func(r wire.BlobRef) bool { return r != ref }))
	if s.Has(refOf(b)) {
		t.Fatal("was not swept")
	}
	must(t, s.Close())
	if _, err := w.Has(ref); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// TestTimeOfTheFuture checks that the age of a file whose time is years ahead, as after a clock jump, begins at the
// next start.
func TestTimeOfTheFuture(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	open := func() *Store {
		s, err := Open(dir, Limits{Now: func() time.Time { return now }})
		must(t, err)
		return s
	}
	s := open()
	ref, err := s.Put(t.Context(), bytes.NewReader([]byte("x")))
	must(t, err)
	must(t, s.Close())
	far := now.Add(10 * 365 * 24 * time.Hour)
	must(t, os.Chtimes(s.path(ref), far, far))
	must(t, open().Close()) // its age begins here
	now = now.Add(time.Hour)
	s = open()
	defer s.Close()
	sweep := func(olderThan time.Duration) int {
		n, _, err := s.Sweep(func(Ref) bool { return false }, olderThan)
		must(t, err)
		return n
	}
	if n := sweep(2 * time.Hour); n != 0 {
		t.Errorf("%d went within two hours", n)
	}
	if n := sweep(time.Hour); n != 1 {
		t.Errorf("%d went after an hour", n)
	}
}
