package streams

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/mailbox/mailboxtest"
)

func TestConformance(t *testing.T) {
	mailboxtest.Run(t, func(t testing.TB) mailboxtest.Place { return newPlace(t, vfs.NewCrashableMem()) })
}

// place implements mailboxtest.Place on a disk in memory.
type place struct {
	t  testing.TB
	fs *vfs.MemFS
	db *pebble.DB // nil before the first Open
}

func newPlace(t testing.TB, fs *vfs.MemFS) *place {
	p := &place{t: t, fs: fs}
	t.Cleanup(p.Close)
	return p
}

// Open implements mailboxtest.Place.
func (p *place) Open(t testing.TB, cfg mailbox.Config) (mailbox.Box, func()) {
	p.Close()
	p.db = openDB(t, "db", p.fs)
	return start(t, p.db, cfg)
}

// Close implements mailboxtest.Place.
func (p *place) Close() {
	if p.db == nil {
		return
	}
	if err := p.db.Close(); err != nil {
		p.t.Error(err)
	}
	p.db = nil
}

// Crash implements mailboxtest.Place.
func (p *place) Crash(t testing.TB) mailboxtest.Place {
	return newPlace(t, p.fs.CrashClone(vfs.CrashCloneCfg{}))
}

// Stored implements mailboxtest.Place.
func (p *place) Stored(t testing.TB, what mailboxtest.Record) int {
	kinds := map[mailboxtest.Record]byte{
		mailboxtest.Items: keyItem, mailboxtest.Cursors: keyCursor, mailboxtest.IDs: keyID, mailboxtest.Streams: keyHead,
		mailboxtest.Senders: keySent, mailboxtest.KeptEntries: keyKept,
	}
	return stored(t, New(p.db, []byte("m/"), Config{}), kinds[what])
}

// TestStoppedMailbox: Run is for one time, and a call that is cancelled before it does nothing.
func TestStoppedMailbox(t *testing.T) {
	db := openDB(t, "db", vfs.NewMem())
	defer db.Close()
	m, stop := start(t, db, Config{})
	stop()
	if err := m.Run(t.Context()); err == nil {
		t.Fatal("a second Run was allowed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(db, []byte("m/"), Config{}).Put(ctx, message(2)); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}
