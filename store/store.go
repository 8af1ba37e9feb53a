// Package store is the seam between a node and what it keeps: what its devices have yet to read, what other
// organizations are to get, and what the node knows of its users. It has operations, not keys.
//
//	node ── router, delivery ──▶ Store.Write ─┬─ Puts ────▶ mailbox.Box        streams, cursors, wake-ups
//	                                          ├─ Queue ───▶ lanestore.Store    what waits for other organizations
//	                                          └─ Readers ─▶ Readers            which device reads what
//	     ── feed, router, held ──▶ Store.Mailbox ──▶ mailbox.Box
//	     ── outbox.Outbox ───────▶ Store.Lanes ─▶ lanestore.Store ──▶ lanestore.Outbox (the outbox itself)
//	     ── directory.Directory ─▶ Store.Records ▶ recordstore.Store
//	     ── streams, files, pastKeys, removals, founded, clock ──▶ Readers, Bindings, Epochs, Removals, Founders, Clock
//
// # What holds
//
//   - A Write is on disk together or not at all, when it returns. It costs one fsync, which it shares with what others
//     write at the same moment.
//   - A change that does not wait for the disk, as an acknowledgement, may be lost in a crash. It is there after a crash if
//     a later change is there that did wait.
//   - Nothing is shown to a reader, and nothing is handed to another organization, before it is on disk.
//
// Package pebblestore implements a Store in an embedded Pebble database, package postgres in a PostgreSQL database for one
// node. Several nodes over one database need more: sessions and leases belong to the seam then.
package store

import (
	"context"

	"github.com/mlsfed/mlsfed/directory/recordstore"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// Store is what a node keeps. It is safe for concurrent use.
type Store interface {
	// Write makes one change of streams, lanes and readers. The error concerns the change as a whole, and then nothing
	// is known of it: repeat it with the same ids. Until the mailbox runs and Lanes has an outbox, a Write that needs
	// them waits.
	Write(ctx context.Context, w Write) (Written, error)

	Mailbox() mailbox.Box
	Lanes() lanestore.Store
	Records() recordstore.Store
	Readers() Readers
	Bindings() Bindings
	Epochs() Epochs
	Removals() Removals
	Founders() Founders
	Clock() Clock

	// Checkpoint copies what is on disk at one moment into a folder that is not there yet. A store on another machine
	// refuses it.
	Checkpoint(dir string) error
	// Run does the work of the store and of its mailbox until ctx ends or the disk fails. It can be called once.
	Run(ctx context.Context) error
	// Close closes what is open, after Run has ended.
	Close() error
}

// Write is one change.
type Write struct {
	Puts    []mailbox.Put    // items for streams, with the readers who join and leave
	Queue   []lanestore.Item // items for other organizations; queued even where a Put is refused
	Readers []Joined         // which device reads what; noted even where a Put is refused
}

// Written is what became of a Write.
type Written struct {
	Results []mailbox.Result     // of the Puts
	Full    map[wire.Domain]bool // organizations that had no room for an item of the Queue
}

// Reader is one address of a device in one conversation.
type Reader struct {
	Conversation wire.ConversationID
	Token        wire.Token
}

// Joined is a reader that a device has, and since when.
type Joined struct {
	Device wire.DeviceID
	Reader
	Since wire.Time
}

// Readers knows which conversations a device reads, and under which address: a mailbox knows readers by their tokens
// alone.
type Readers interface {
	// Of lists what a device reads.
	Of(ctx context.Context, d wire.DeviceID) ([]Reader, error)
	// In lists the addresses at which a device reads a conversation.
	In(ctx context.Context, d wire.DeviceID, id wire.ConversationID) ([]Reader, error)
	// Since returns when a device got a reader; ok is false if it has not.
	Since(ctx context.Context, d wire.DeviceID, r Reader) (since wire.Time, ok bool, err error)
	// Drop forgets a reader. It does not wait for the disk.
	Drop(ctx context.Context, d wire.DeviceID, r Reader) error
}

// Bindings knows for which conversations a file was uploaded.
type Bindings interface {
	// Add binds a file to a conversation, durably.
	Add(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) error
	// Allows reports whether a file is one of a conversation, or has no binding at all.
	Allows(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) (bool, error)
	// Sweep forgets the bindings of files that stored does not report. No binding may be added meanwhile.
	Sweep(ctx context.Context, stored func(wire.BlobRef) bool) error
}

// Epochs keeps the submission keys of past epochs. No operation waits for the disk.
type Epochs interface {
	// Note keeps the key that an entry brings for the epoch that it opens. It forgets the oldest key of the epoch
	// beyond branches, and keys of epochs before the one given, a few at a time. The key of epoch 0 notes Searched too.
	Note(ctx context.Context, id wire.ConversationID, k EpochKey, branches int, before wire.Epoch) error
	// Keys returns the keys of one epoch, the oldest first.
	Keys(ctx context.Context, id wire.ConversationID, e wire.Epoch) ([]wire.SubmissionKey, error)
	// Searched reports whether SetSearched was called for a conversation.
	Searched(ctx context.Context, id wire.ConversationID) (bool, error)
	SetSearched(ctx context.Context, id wire.ConversationID) error
	// Forget drops all that is kept of a conversation, and Sweep of those that held does not report.
	Forget(ctx context.Context, id wire.ConversationID) error
	Sweep(ctx context.Context, held func(wire.ConversationID) bool) error
}

// EpochKey is the key of an epoch, by the entry that opened it.
type EpochKey struct {
	Epoch    wire.Epoch
	Sequence wire.SequenceNumber
	Key      wire.SubmissionKey
}

// Removals knows since which epoch an address reads a conversation, and which entries have ended that. No operation
// waits for the disk, but none is lost if a later Write is there after a crash.
type Removals interface {
	// Since returns the epoch since which an address reads a conversation, 0 if that is not known.
	Since(ctx context.Context, t wire.Token, id wire.ConversationID) (wire.Epoch, error)
	// Note keeps what one entry changes: the addresses in join read since the epoch; the members of the removal, nil
	// for none, do not read any longer.
	Note(ctx context.Context, id wire.ConversationID, since wire.Epoch, join []wire.Token, r *Removal) error
	// Between returns the removals that ended an epoch from first to last, in order of epoch and entry.
	Between(ctx context.Context, id wire.ConversationID, first, last wire.Epoch) ([]Removal, error)
	// Set replaces a removal.
	Set(ctx context.Context, id wire.ConversationID, r *Removal) error
	// Sweep forgets the removals that were noted at a time or before.
	Sweep(ctx context.Context, until wire.Time) error
}

// Removal is what one entry has ended.
type Removal struct {
	Sequence wire.SequenceNumber `cbor:"-"`          // of the entry
	Epoch    wire.Epoch          `cbor:"1,keyasint"` // the last one of those who were removed
	Time     wire.Time           `cbor:"2,keyasint"`
	Until    uint64              `cbor:"3,keyasint,omitempty"` // the item of the stream that is the entry; 0 if that is not known
	Members  []Removed           `cbor:"4,keyasint"`
	Keys     []RemovalKey        `cbor:"5,keyasint,omitempty"`
	Notices  uint32              `cbor:"6,keyasint,omitempty"` // of messages, to the members
}

// Removed is an address that was removed, its device, and the epoch since which it read.
type Removed struct {
	_      struct{} `cbor:",toarray"`
	Token  wire.Token
	Device wire.DeviceID
	Since  wire.Epoch
}

// RemovalKey is the submission key of an epoch before a removal.
type RemovalKey struct {
	_     struct{} `cbor:",toarray"`
	Epoch wire.Epoch
	Key   wire.SubmissionKey
}

// Founders knows which user founded which conversation. No operation waits for the disk.
type Founders interface {
	// Load calls do with each founder.
	Load(ctx context.Context, do func(wire.ConversationID, Founding) error) error
	Set(ctx context.Context, id wire.ConversationID, f Founding) error
	Delete(ctx context.Context, ids ...wire.ConversationID) error
}

// Founding is who founded a conversation, and when.
type Founding struct {
	User wire.UserID
	At   wire.Time
}

// Clock keeps the state of a node's clock over a restart.
type Clock interface {
	// Load returns the state, nil for none.
	Load(ctx context.Context) ([]byte, error)
	// Save keeps it, durably.
	Save(ctx context.Context, state []byte) error
}
