// Package lanestore has the types between an outbox and the store that keeps its items. A lane is the queue of the
// items of one conversation for one organization.
package lanestore

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Item is an item for an organization.
type Item struct {
	Organization wire.Domain
	Conversation wire.ConversationID
	ID           wire.SubmissionID // unique within its lane: an item with a known id is not queued again
	Payload      []byte
	Sender       wire.UserID // the user whose item it is, for a share of the quota; "" for none. It is not stored
}

// Stored is an item as the store keeps it in its lane.
type Stored struct {
	ID      wire.SubmissionID
	Time    wire.Time // when the item was queued
	Payload []byte
}

// Queued describes an item that is on disk, or about to be, to an outbox.
type Queued struct {
	Organization wire.Domain
	Conversation wire.ConversationID
	Sequence     uint64 // rises with each item of the store
	Bytes        int64  // of payload
	Stored       Stored // without its payload if the outbox must read it from the store
	Sender       wire.UserID
}

// Waiting is an item as Read finds it.
type Waiting struct {
	Stored
	Sequence uint64
	Damage   error // not nil: the record cannot be read, and the payload is the rest of it
}

// Store keeps items until they are removed. It is safe for concurrent use.
//
// An item that Append accepted is on disk. The store knows its organization, conversation and id for Outbox.Window at
// least. A crash may undo the last removals: the outbox then sends these items again, and the receiver knows their
// ids.
type Store interface {
	// Open sets the outbox of the lanes. It reports all items that wait from before to Outbox.Restore, each lane in its
	// order, and returns when that is done. Until then Append waits. It is called once.
	Open(o Outbox) error
	// Append queues items and returns when all accepted items are on disk, or none if the machine fails before. An item
	// that is known is skipped. full has the organizations that had no room for one of their items; such items are not
	// queued. After an error nothing is known about any item: repeat the call.
	Append(ctx context.Context, items ...Item) (full map[wire.Domain]bool, err error)
	// Read calls do with the items of a lane between two sequences, both included, in order, until do returns false.
	// The payload belongs to the store, and is valid until do returns.
	Read(ctx context.Context, d wire.Domain, c wire.ConversationID, from, to uint64, do func(Waiting) bool) error
	// Remove removes items at the front of a lane, in rising order. It does not wait for the disk.
	Remove(ctx context.Context, d wire.Domain, c wire.ConversationID, sequences []uint64) error
}

// Outbox is the user of a store. The store calls Reserve and Show, each on one goroutine, in the order of the items;
// they must not block.
type Outbox interface {
	// Check refuses items that are not well formed or too large, and all items when the outbox has stopped.
	Check(items []Item) error
	// Now returns the time at which an item is queued, and Window how long an id is known at least.
	Now() wire.Time
	Window() time.Duration
	// Restore adds items that wait from before, even if they exceed the quota of their organization.
	Restore(list []Queued)
	// Reserve makes room for an item in the quota of its organization, or reports that there is none.
	Reserve(q Queued) bool
	// Show adds items that are on disk now to their lanes. The store runs each function that Show returns on a separate
	// goroutine, after it has answered the callers of Append.
	Show(list []Queued) (begun []func())
}
