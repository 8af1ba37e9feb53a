package postgres

import (
	"context"
	"errors"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
)

// Store implements store.Store.
type Store struct {
	*Database
	mailbox *Mailbox
}

var _ store.Store = (*Store)(nil)

// Store returns the store in the database, once. It starts nothing.
func (d *Database) Store(cfg mailbox.Config) *Store {
	m := newMailbox(d, cfg)
	d.group.box = m
	return &Store{Database: d, mailbox: m}
}

// Mailbox implements store.Store.
func (s *Store) Mailbox() mailbox.Box { return s.mailbox }

// Lanes implements store.Store.
func (d *Database) Lanes() lanestore.Store { return d.lanes }

// Records implements store.Store.
func (d *Database) Records() recordstore.Store { return newRecords(d) }

// Readers implements store.Store.
func (d *Database) Readers() store.Readers { return d.joined }

// Bindings implements store.Store.
func (d *Database) Bindings() store.Bindings { return bindings{d} }

// Epochs implements store.Store.
func (d *Database) Epochs() store.Epochs { return epochs{d} }

// Removals implements store.Store.
func (d *Database) Removals() store.Removals { return removals{d} }

// Founders implements store.Store.
func (d *Database) Founders() store.Founders { return founders{d} }

// Clock implements store.Store.
func (d *Database) Clock() store.Clock { return nodeClock{d} }

// Write implements store.Store.
func (s *Store) Write(ctx context.Context, w store.Write) (store.Written, error) {
	if len(w.Queue) > 0 {
		if err := s.lanes.check(ctx, w.Queue); err != nil {
			return store.Written{}, err
		}
	}
	r, err := s.mailbox.request(w.Puts)
	if err != nil {
		return store.Written{}, err
	}
	r.queue, r.readers = w.Queue, w.Readers
	if err := s.group.do(ctx, r); err != nil {
		return store.Written{}, err
	}
	out := store.Written{Results: r.results}
	if len(w.Queue) > 0 {
		out.Full = r.full
	}
	return out, nil
}

// ErrNoCheckpoint is the error of Checkpoint: a database is backed up by the tools of its server.
var ErrNoCheckpoint = errors.New("the database is no part of a node's backup: back it up with the tools of PostgreSQL")

// Checkpoint implements store.Store.
func (*Database) Checkpoint(string) error { return ErrNoCheckpoint }

// Run implements store.Store.
func (s *Store) Run(ctx context.Context) error {
	if err := s.mailbox.Run(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}
