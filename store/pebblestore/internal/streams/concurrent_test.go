package streams

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestDiskFails: when the disk refuses to sync, nothing is accepted any more and Run says why.
func TestDiskFails(t *testing.T) {
	var broken atomic.Bool
	failure := errors.New("disk full of holes")
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return failure
		}
		return nil
	}))
	db, err := pebble.Open("db", Tune(&pebble.Options{FS: fs, Logger: rapidTB{}}))
	if err != nil {
		t.Fatal(err)
	}
	m := New(db, []byte("m/"), Config{})
	ended := make(chan error, 1)
	go func() { ended <- m.Run(t.Context()) }()
	join(t, m, talk, token(1))
	put(t, m, message(1))
	broken.Store(true)
	for n := 2; n < 200; n++ { // more than may be under way at once
		if r, err := m.Put(t.Context(), message(n)); err == nil {
			t.Fatalf("accepted: %+v", r)
		}
	}
	if err := <-ended; !errors.Is(err, failure) {
		t.Fatalf("Run ended with %v", err)
	}
	if p := read(t, m, token(1), 0, Limit{}); len(p.Items) != 1 {
		t.Fatalf("%d items are shown", len(p.Items))
	}
	broken.Store(false)
	if err := db.Close(); err != nil {
		t.Log("close after the failure:", err)
	}
}

type rapidTB struct{}

func (rapidTB) Infof(string, ...any)              {}
func (rapidTB) Errorf(string, ...any)             {}
func (rapidTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
