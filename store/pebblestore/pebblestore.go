// Package pebblestore implements store.Store in one embedded Pebble database. Its parts have a prefix each, and one
// writer makes the batches of mailbox, lanes and readers: what waits at the same moment shares an fsync.
package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/lanes"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/records"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/streams"
)

// The prefixes of the database.
var (
	prefixMailbox   = []byte("m")
	prefixDirectory = []byte("d")
	prefixOutbox    = []byte("o")
	prefixReaders   = []byte("s")
	prefixBindings  = []byte("b")
	prefixEpochs    = []byte("k")
	prefixClock     = []byte("c")
	prefixFounders  = []byte("f")
	prefixRemovals  = []byte("r")
)

// ErrInUse is wrapped by the error of Open for a database that another process holds.
var ErrInUse = errors.New("the database is in use")

// Database is an open database. It has what a node reads before it knows how its mailbox is to work, as the state of
// its clock.
type Database struct {
	db      *pebble.DB
	writer  *batch.Writer
	lanes   *lanes.Lanes
	records *records.Records
	readers *readers
}

// Store implements store.Store.
type Store struct {
	*Database
	mailbox *streams.Mailbox
}

var _ store.Store = (*Store)(nil)

// Options are how a database is opened. The zero value is right for tests.
type Options struct {
	Full *FullDisk // what a write does that finds no room; nil: it fails, and ends the process
	FS   vfs.FS    // nil: the machine's files
}

func (o Options) pebble() *pebble.Options {
	fs, full := o.FS, o.Full
	if fs == nil {
		fs = vfs.Default
	}
	if full == nil {
		full = NewFullDisk(nil)
	}
	return streams.Tune(&pebble.Options{Logger: quiet{full}, FS: full.wrap(fs)})
}

// Open opens the database in a folder, and makes it if there is none. It starts nothing.
func Open(dir string, o Options) (*Database, error) {
	db, err := open(dir, o.pebble())
	if err != nil {
		return nil, err
	}
	s := &Database{db: db, writer: batch.NewWriter(db)}
	s.lanes = lanes.New(db, prefixOutbox, s.writer)
	s.records, s.readers = records.New(db, prefixDirectory), &readers{db: db, prefix: prefixReaders}
	return s, nil
}

func open(dir string, o *pebble.Options) (*pebble.DB, error) {
	db, err := pebble.Open(dir, o)
	if errors.Is(err, syscall.EAGAIN) { // the lock is held
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return db, err
}

// Verify opens the database in a folder without changing it.
func Verify(dir string) error {
	o := Options{}.pebble()
	o.ReadOnly, o.ErrorIfNotExists = true, true
	db, err := open(dir, o)
	if err != nil {
		return err
	}
	return db.Close()
}

// Store returns the store in the database, once. It starts nothing.
func (s *Database) Store(cfg mailbox.Config) *Store {
	return &Store{Database: s, mailbox: streams.NewShared(s.db, prefixMailbox, s.writer, cfg)}
}

// Mailbox implements store.Store.
func (s *Store) Mailbox() mailbox.Box { return s.mailbox }

// Lanes implements store.Store.
func (s *Database) Lanes() lanestore.Store { return s.lanes }

// Records implements store.Store.
func (s *Database) Records() recordstore.Store { return s.records }

// Readers implements store.Store.
func (s *Database) Readers() store.Readers { return s.readers }

// Bindings implements store.Store.
func (s *Database) Bindings() store.Bindings { return &bindings{s.db, prefixBindings} }

// Epochs implements store.Store.
func (s *Database) Epochs() store.Epochs { return &epochs{s.db, prefixEpochs} }

// Removals implements store.Store.
func (s *Database) Removals() store.Removals { return &removals{s.db, prefixRemovals} }

// Founders implements store.Store.
func (s *Database) Founders() store.Founders { return &founders{s.db, prefixFounders} }

// Clock implements store.Store.
func (s *Database) Clock() store.Clock { return &clock{s.db, prefixClock} }

// Write implements store.Store.
func (s *Store) Write(ctx context.Context, w store.Write) (out store.Written, err error) {
	var with []batch.Change
	if len(w.Queue) > 0 {
		c, full, err := s.lanes.Change(ctx, w.Queue...)
		if err != nil {
			return store.Written{}, err
		}
		out.Full, with = full, append(with, c)
	}
	if len(w.Readers) > 0 {
		with = append(with, s.readers.add(w.Readers))
	}
	if out.Results, err = s.mailbox.PutWith(ctx, with, w.Puts...); err != nil {
		return store.Written{}, err
	}
	return out, nil
}

// Checkpoint implements store.Store.
func (s *Database) Checkpoint(dir string) error { return s.db.Checkpoint(dir, pebble.WithFlushedWAL()) }

// Rebase moves every stream on by a number of places, in a database that comes from a backup and that does not run.
func (s *Database) Rebase(by uint64) error { return streams.Rebase(s.db, prefixMailbox, by) }

// Run implements store.Store.
func (s *Store) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	all.Go(func() { stop(s.writer.Run(ctx)) })
	all.Go(func() { stop(s.mailbox.Run(ctx)) })
	all.Wait()
	return context.Cause(ctx)
}

// Close implements store.Store.
func (s *Database) Close() error { return s.db.Close() }

// Folder is the name of the database's folder in a node's data.
func Folder(data string) string { return filepath.Join(data, "mail") }
