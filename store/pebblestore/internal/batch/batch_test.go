package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// table is a part that sets keys under a name of its own, and notes what happens.
type table struct {
	name  string
	fault error // of Begin

	mu    sync.Mutex
	steps []string
}

type tableShare struct {
	t *table
	b *pebble.Batch
}

func (t *table) Begin(b *pebble.Batch) (Share, error) { return &tableShare{t, b}, t.fault }

func (s *tableShare) Seal() error { return s.b.Set([]byte(s.t.name+"/sealed"), nil, nil) }
func (s *tableShare) Settle()     { s.t.note("settled") }
func (s *tableShare) Announce()   { s.t.note("announced") }

func (t *table) note(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, what)
}

func (t *table) noted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprint(t.steps)
}

// set sets a key; ended counts its ends.
func (t *table) set(key string, sync bool, ended *int) Change {
	return Change{Part: t, Sync: sync, End: func() { *ended++ }, Stage: func(s Share) error {
		return s.(*tableShare).b.Set([]byte(t.name+"/"+key), []byte("x"), nil)
	}}
}

// start opens a database whose disk can be made to forget, and runs a writer on it.
func start(t *testing.T) (w *Writer, fs *vfs.MemFS, stop func() error) {
	t.Helper()
	fs = vfs.NewCrashableMem()
	db, err := pebble.Open("db", &pebble.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	w = NewWriter(db)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() { cancel(); err = errors.Join(<-ended, db.Close()) })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return w, fs, stop
}

func has(t *testing.T, db *pebble.DB, key string) bool {
	t.Helper()
	_, closer, err := db.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return closer.Close() == nil
}

// TestDoIsOnDisk: what Do has answered for survives a disk that forgets all that was not synced, for both
// parts, also where only one of them asked for it.
func TestDoIsOnDisk(t *testing.T) {
	w, fs, stop := start(t)
	a, b, ends := &table{name: "a"}, &table{name: "b"}, 0
	if err := w.Do(t.Context(), a.set("1", false, &ends), b.set("1", true, &ends)); err != nil {
		t.Fatal(err)
	}
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	db, err := pebble.Open("db", &pebble.Options{FS: after})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, key := range []string{"a/1", "a/sealed", "b/1", "b/sealed"} {
		if !has(t, db, key) {
			t.Errorf("%s is lost", key)
		}
	}
	if a.noted() != "[settled announced]" || b.noted() != "[settled announced]" || ends != 2 {
		t.Errorf("a %s, b %s, %d ends", a.noted(), b.noted(), ends)
	}
}

// TestDoMany: concurrent callers are all answered, each change ends once, and each batch is reported once.
func TestDoMany(t *testing.T) {
	w, _, stop := start(t)
	a, ends := &table{name: "a"}, make([]int, 500)
	var all sync.WaitGroup
	for i := range ends {
		all.Go(func() {
			if err := w.Do(t.Context(), a.set(fmt.Sprint(i), true, &ends[i])); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range ends {
		if !has(t, w.db, fmt.Sprintf("a/%d", i)) {
			t.Errorf("%d is not there", i)
		}
	}
	_ = stop() // ends come after answers
	for i, n := range ends {
		if n != 1 {
			t.Errorf("change %d has ended %d times", i, n)
		}
	}
}

// TestDoRefused: a context that has ended, and a writer that has stopped; the change ends, and is not made.
func TestDoRefused(t *testing.T) {
	w, _, stop := start(t)
	a, ends := &table{name: "a"}, 0
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Do(gone, a.set("1", true, &ends)); !errors.Is(err, context.Canceled) || ends != 1 {
		t.Errorf("%v, %d ends", err, ends)
	}
	if has(t, w.db, "a/1") {
		t.Error("it was made")
	}
	_ = stop()
	for range maxWaiting + 1 { // what the writer's queue takes in is refused too
		if err := w.Do(t.Context(), a.set("2", true, new(int))); wire.CodeOf(err) != wire.Unavailable {
			t.Fatal(err)
		}
	}
}

// TestFaultEndsTheWriter: after an error of the database nothing is answered as done.
func TestFaultEndsTheWriter(t *testing.T) {
	for _, in := range []string{"Begin", "Stage"} {
		t.Run(in, func(t *testing.T) {
			w, _, stop := start(t)
			fault := errors.New("bad disk")
			a := &table{name: "a"}
			c := a.set("1", true, new(int))
			if in == "Begin" {
				a.fault = fault
			} else {
				c.Stage = func(Share) error { return fault }
			}
			if err := w.Do(t.Context(), c); wire.CodeOf(err) != wire.Unavailable {
				t.Errorf("answered %v", err)
			}
			<-w.stopped
			if err := stop(); !errors.Is(err, fault) {
				t.Errorf("ended by %v", err)
			}
			if a.noted() != "[]" {
				t.Errorf("it was %s", a.noted())
			}
		})
	}
}
