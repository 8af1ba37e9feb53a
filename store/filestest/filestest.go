// Package filestest checks implementations of store.Files against their contract.
package filestest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// Account is charged for files, by owner.
type Account interface {
	Charge(owner string, n uint64) error
	Room(owner string, n uint64) error
	Adopt(owner string, n uint64)
	Release(owner string, n uint64)
}

// Limits are what the files of a place are opened with.
type Limits struct {
	MaxFile uint64
	Total   uint64 // 0: no limit
	Now     func() time.Time
	Account Account
}

// Place is where an implementation keeps files over restarts.
type Place interface {
	// Open opens the files of the place, until stop is called. stop can be called twice.
	Open(t testing.TB, l Limits) (f store.Files, stop func())
}

// Run runs the suite. fresh returns an empty place.
func Run(t *testing.T, fresh func(t testing.TB) Place) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{name: "PutAndRead", run: testPutAndRead},
		{name: "Missing", run: testMissing},
		{name: "Mismatch", run: testMismatch},
		{name: "Total", run: testTotal},
		{name: "Charges", run: testCharges},
		{name: "Sweep", run: testSweep},
		{name: "Restart", run: testRestart},
		{name: "PutsOfOneFile", run: testPutsOfOneFile},
		{name: "Cancelled", run: testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{place: fresh(t), now: time.UnixMilli(1_800_000_000_000), account: &account{of: make(map[string]uint64)}}
			c.run(t, w)
		})
	}
}

const (
	owner = wire.DeviceID("mimi://a.example/d/alice/phone")
	other = wire.DeviceID("mimi://a.example/d/bob/phone")
)

// world is a place with a clock and an account.
type world struct {
	place   Place
	mu      sync.Mutex
	now     time.Time
	account *account
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) open(t testing.TB, total uint64) (store.Files, func()) {
	t.Helper()
	f, stop := w.place.Open(t, Limits{MaxFile: 1 << 20, Total: total, Now: w.clock, Account: w.account})
	t.Cleanup(stop)
	return f, stop
}

// account implements Account. It refuses to let an owner have more than limit bytes, if limit is not 0.
type account struct {
	mu    sync.Mutex
	of    map[string]uint64
	limit uint64
}

var errCharge = errors.New("the owner has too much")

func (a *account) Charge(owner string, n uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limit > 0 && a.of[owner]+n > a.limit {
		return errCharge
	}
	a.of[owner] += n
	return nil
}

func (a *account) Room(string, uint64) error { return nil }

func (a *account) Adopt(owner string, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of[owner] += n
}

func (a *account) Release(owner string, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of[owner] -= n
}

func (a *account) charged(v wire.DeviceID) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of[string(v)]
}

// file makes the content of a file, and its name.
func file(size int, seed byte) ([]byte, wire.BlobRef) {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return content, wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(size)}
}

func put(t testing.TB, f store.Files, content []byte, ref wire.BlobRef) {
	t.Helper()
	if err := f.Put(t.Context(), owner, ref, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func has(t testing.TB, f store.Files, ref wire.BlobRef, want bool) {
	t.Helper()
	if got, err := f.Has(t.Context(), ref); got != want || err != nil {
		t.Errorf("stored: %v (%v), want %v", got, err, want)
	}
}

func testPutAndRead(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(100_000, 1)
	put(t, f, content, ref)
	has(t, f, ref, true)
	for _, c := range []struct {
		at    uint64
		limit int
		want  []byte
	}{
		{at: 0, limit: 10, want: content[:10]}, {at: 50_000, limit: 10, want: content[50_000:50_010]}, {at: 99_990, limit: 100, want: content[99_990:]},
		{at: 100_000, limit: 10}, {at: 0, limit: 200_000, want: content},
	} {
		if got, err := f.Get(t.Context(), ref, c.at, c.limit); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%d bytes at %d: got %d (%v)", c.limit, c.at, len(got), err)
		}
	}
	if _, err := f.Get(t.Context(), ref, 100_001, 1); !errors.Is(err, store.ErrFileRange) {
		t.Errorf("beyond the end: %v", err)
	}
	in, err := f.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(in)
	if err := errors.Join(err, in.Close()); err != nil || !bytes.Equal(whole, content) {
		t.Errorf("read %d bytes (%v)", len(whole), err)
	}
	if used, err := f.Used(t.Context()); used != ref.Size || err != nil {
		t.Errorf("%d bytes are used (%v)", used, err)
	}
}

func testMissing(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(10, 1)
	has(t, f, ref, false)
	if _, err := f.Get(t.Context(), ref, 0, 1); !errors.Is(err, store.ErrFileMissing) {
		t.Errorf("get: %v", err)
	}
	if _, err := f.Open(t.Context(), ref); !errors.Is(err, store.ErrFileMissing) {
		t.Errorf("open: %v", err)
	}
	if err := f.Delete(t.Context(), ref); err != nil {
		t.Errorf("delete: %v", err)
	}
	put(t, f, content, ref)
	if err := f.Delete(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	has(t, f, ref, false)
}

// testMismatch checks that content that is not the file is refused, and that nothing of it is stored or charged.
func testMismatch(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(1000, 1)
	for name, wrong := range map[string][]byte{"shorter": content[:999], "longer": append(bytes.Clone(content), 0), "other": append(bytes.Clone(content[:999]), content[999]^1), "none": nil} {
		if err := f.Put(t.Context(), owner, ref, bytes.NewReader(wrong)); !errors.Is(err, store.ErrFileMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		has(t, f, ref, false)
	}
	if used, err := f.Used(t.Context()); used != 0 || err != nil || w.account.charged(owner) != 0 {
		t.Errorf("%d bytes used, %d charged (%v)", used, w.account.charged(owner), err)
	}
}

// testTotal checks the limit of all files together.
func testTotal(t *testing.T, w *world) {
	f, _ := w.open(t, 1500)
	one, first := file(1000, 1)
	two, second := file(1000, 2)
	put(t, f, one, first)
	if err := f.Put(t.Context(), owner, second, bytes.NewReader(two)); !errors.Is(err, store.ErrFileQuota) {
		t.Errorf("over the limit: %v", err)
	}
	has(t, f, second, false)
	if err := f.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	put(t, f, two, second)
}

// testCharges checks that the owner of a file is charged once, and gets the bytes back.
func testCharges(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(1000, 1)
	put(t, f, content, ref)
	once := w.account.charged(owner)
	if once < ref.Size {
		t.Errorf("%d bytes are charged for %d", once, ref.Size)
	}
	put(t, f, nil, ref) // a stored file is not read again
	if err := f.Put(t.Context(), other, ref, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if a, b := w.account.charged(owner), w.account.charged(other); a != once || b != 0 {
		t.Errorf("%d and %d bytes are charged for one file, want %d and 0", a, b, once)
	}
	w.account.limit = once
	two, second := file(1000, 2)
	if err := f.Put(t.Context(), owner, second, bytes.NewReader(two)); !errors.Is(err, errCharge) {
		t.Errorf("an owner who has too much: %v", err)
	}
	has(t, f, second, false)
	if err := f.Delete(t.Context(), ref); err != nil || w.account.charged(owner) != 0 {
		t.Errorf("%d bytes are charged for no file (%v)", w.account.charged(owner), err)
	}
	put(t, f, two, second)
}

// testSweep checks which files are old: a file that is put again is young.
func testSweep(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	old, oldRef := file(10, 1)
	again, againRef := file(10, 2)
	put(t, f, old, oldRef)
	put(t, f, again, againRef)
	w.advance(time.Hour)
	put(t, f, again, againRef)
	if err := f.Sweep(t.Context(), wire.TimeOf(w.clock().Add(-2*time.Hour))); err != nil {
		t.Fatal(err)
	}
	has(t, f, oldRef, true)
	if err := f.Sweep(t.Context(), wire.TimeOf(w.clock().Add(-time.Minute))); err != nil {
		t.Fatal(err)
	}
	has(t, f, oldRef, false)
	has(t, f, againRef, true)
	if err := f.Sweep(t.Context(), wire.TimeOf(w.clock())); err != nil {
		t.Fatal(err)
	}
	has(t, f, againRef, false)
	if n := w.account.charged(owner); n != 0 {
		t.Errorf("%d bytes are charged for no file", n)
	}
}

// testRestart checks that a file outlives a restart with its age and its charge.
func testRestart(t *testing.T, w *world) {
	f, stop := w.open(t, 0)
	content, ref := file(1000, 1)
	put(t, f, content, ref)
	charged := w.account.charged(owner)
	stop()
	w.account.of = make(map[string]uint64)
	f, _ = w.open(t, 0)
	if got, err := f.Get(t.Context(), ref, 0, 2000); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after a restart: %d bytes (%v)", len(got), err)
	}
	if n := w.account.charged(owner); n != charged {
		t.Errorf("after a restart %d bytes are charged, %d before", n, charged)
	}
	if err := f.Sweep(t.Context(), wire.TimeOf(w.clock().Add(-time.Minute))); err != nil {
		t.Fatal(err)
	}
	has(t, f, ref, true)
	w.advance(time.Hour)
	if err := f.Sweep(t.Context(), wire.TimeOf(w.clock().Add(-time.Minute))); err != nil {
		t.Fatal(err)
	}
	has(t, f, ref, false)
}

// testPutsOfOneFile checks that many who put one file at the same time all succeed, and are charged for one file.
func testPutsOfOneFile(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(50_000, 1)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := f.Put(t.Context(), owner, ref, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, err := f.Get(t.Context(), ref, 0, 100_000); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes (%v)", len(got), err)
	}
	if used, err := f.Used(t.Context()); used != ref.Size || err != nil {
		t.Errorf("%d bytes used by one file (%v)", used, err)
	}
	if err := f.Delete(t.Context(), ref); err != nil || w.account.charged(owner) != 0 {
		t.Errorf("%d bytes are charged for no file (%v)", w.account.charged(owner), err)
	}
}

// testCancelled checks that an operation whose context has ended changes nothing and returns the context's error.
func testCancelled(t *testing.T, w *world) {
	f, _ := w.open(t, 0)
	content, ref := file(10, 1)
	put(t, f, content, ref)
	two, second := file(10, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, got := f.Get(ctx, ref, 0, 1)
	_, opened := f.Open(ctx, ref)
	_, known := f.Has(ctx, ref)
	_, used := f.Used(ctx)
	for name, err := range map[string]error{
		"Put": f.Put(ctx, owner, second, bytes.NewReader(two)), "Get": got, "Open": opened, "Has": known, "Used": used,
		"Delete": f.Delete(ctx, ref), "Sweep": f.Sweep(ctx, wire.TimeOf(w.clock().Add(time.Hour))),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	has(t, f, ref, true)
	has(t, f, second, false)
}
