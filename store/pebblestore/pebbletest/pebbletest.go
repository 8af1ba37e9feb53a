// Package pebbletest opens Pebble stores for tests.
package pebbletest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store/pebblestore"
)

// Disk is where a store is, over its restarts.
type Disk struct {
	dir    string
	fs     vfs.FS
	memory *vfs.MemFS // nil for a folder
	syncs  *atomic.Int64
}

// Memory is a disk in memory.
func Memory() *Disk {
	memory := vfs.NewCrashableMem()
	d := on("db", memory)
	d.memory = memory
	return d
}

// Folder is a folder on the machine's disk.
func Folder(dir string) *Disk { return on(dir, vfs.Default) }

func on(dir string, fs vfs.FS) *Disk {
	syncs := new(atomic.Int64)
	return &Disk{dir: dir, syncs: syncs, fs: errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && strings.HasSuffix(op.Path, ".log") {
			syncs.Add(1)
		}
		return nil
	}))}
}

// Open opens the store. Its user closes it.
func (d *Disk) Open(t testing.TB) *pebblestore.Store {
	t.Helper()
	return d.open(t, mailbox.Config{})
}

func (d *Disk) open(t testing.TB, cfg mailbox.Config) *pebblestore.Store {
	t.Helper()
	db, err := pebblestore.Open(d.dir, pebblestore.Options{FS: d.fs})
	if err != nil {
		t.Fatal(err)
	}
	return db.Store(cfg)
}

// Crash returns a disk in memory as it is after a power failure at this moment: with what was synced, and nothing else.
func (d *Disk) Crash() *Disk {
	memory := d.memory.CrashClone(vfs.CrashCloneCfg{})
	after := on(d.dir, memory)
	after.memory = memory
	return after
}

// Syncs is how often the log of writes was synced.
func (d *Disk) Syncs() int64 { return d.syncs.Load() }

// Change changes the records of a closed store: each becomes what change returns. A record for which change returns nil
// is deleted.
func (d *Disk) Change(t testing.TB, change func(key, value []byte) []byte) {
	t.Helper()
	db, err := pebble.Open(d.dir, &pebble.Options{FS: d.fs})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for it.First(); it.Valid(); it.Next() {
		value := change(it.Key(), append([]byte{}, it.Value()...))
		if value == nil {
			err = errors.Join(err, db.Delete(it.Key(), pebble.Sync))
			continue
		}
		err = errors.Join(err, db.Set(it.Key(), value, pebble.Sync))
	}
	if err := errors.Join(err, it.Error(), it.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// Start runs a store. stop stops and closes it, and is done at the end of the test at the latest.
func Start(t testing.TB, s *pebblestore.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("run the store: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Running opens and runs a store with a mailbox.
func (d *Disk) Running(t testing.TB, cfg mailbox.Config) (s *pebblestore.Store, stop func()) {
	t.Helper()
	s = d.open(t, cfg)
	return s, Start(t, s)
}
