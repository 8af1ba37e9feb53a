package node

import (
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// held keeps the blobs that devices of this organization need: the Welcome and the tree of an entry that added one of
// them, and the part of a commit that travels outside its entry. A conversation names a blob as long as its log keeps
// the entry, which in a large group is a few commits. A device that is away needs the blob for as long as its mailbox
// has the entry.
//
// Each such blob is pinned in the blob store under the conversation and the entry, before the entry is in the
// mailbox. It is released when every reader has acknowledged the entry, or the entry has expired.
type held struct {
	blobs   *blob.Store
	mailbox mailbox.Box
	log     *slog.Logger
	wake    chan struct{} // of size 1: a pinned blob is missing here

	mu     sync.Mutex      // guards coming, and is held while pins change
	coming map[string]bool // pins of this run whose entries are not in the mailbox yet
	lacks  map[string]bool // pins of this run whose blobs are not here
}

// fetchBlob fetches a blob of a conversation from another replica.
type fetchBlob func(context.Context, wire.ConversationID, wire.BlobRef) error

func newHeld(blobs *blob.Store, box mailbox.Box, log *slog.Logger) *held {
	return &held{blobs: blobs, mailbox: box, log: log, wake: make(chan struct{}, 1), coming: make(map[string]bool), lacks: make(map[string]bool)}
}

// heldEvery is how often blobs without waiting readers are released, and missing blobs are fetched again.
const heldEvery = 10 * time.Minute

// holdName returns the name of a pin, made of the conversation and the entry.
func holdName(id wire.ConversationID, seq wire.SequenceNumber) string {
	return string(binary.BigEndian.AppendUint64([]byte(id), uint64(seq)))
}

func parseHoldName(name string) (id wire.ConversationID, seq wire.SequenceNumber, ok bool) {
	n := len(name) - 8
	if n < wire.MinConversationID {
		return "", 0, false
	}
	return wire.ConversationID(name[:n]), wire.SequenceNumber(binary.BigEndian.Uint64([]byte(name[n:]))), true
}

// hold pins what devices here need of an entry: the devices that it adds, and those that read the conversation before
// it.
func (h *held) hold(ctx context.Context, id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry, adds bool) error {
	if e.Envelope == nil || e.Envelope.Commit == nil {
		return nil
	}
	var refs []wire.BlobRef
	if adds {
		for _, p := range []*wire.Payload{e.Envelope.Commit.Welcome, e.Envelope.Commit.Tree} {
			if p != nil && p.Blob != nil {
				refs = append(refs, *p.Blob)
			}
		}
	}
	if rest := e.Envelope.Commit.Rest; rest != nil {
		n, err := h.mailbox.Readers(ctx, mailbox.Conversation(id))
		if err != nil {
			return err
		}
		if n > 0 {
			refs = append(refs, *rest)
		}
	}
	return h.pin(holdName(id, seq), refs)
}

func (h *held) pin(name string, refs []wire.BlobRef) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range refs {
		ref := blob.Ref{Hash: r.Hash, Size: r.Size}
		h.coming[name] = true
		if err := h.blobs.Pin(name, ref); err != nil {
			return err
		}
		if h.blobs.Has(ref) {
			continue
		}
		h.lacks[name] = true
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// has reports whether a blob is held for devices that will join a conversation.
func (h *held) has(id wire.ConversationID, ref wire.BlobRef) bool {
	for _, name := range h.blobs.PinnedBy(blob.Ref{Hash: ref.Hash, Size: ref.Size}) {
		if len(name) == len(id)+8 && strings.HasPrefix(name, string(id)) {
			return true
		}
	}
	return false
}

// run fetches held blobs that are missing here, and releases blobs that no reader waits for, until ctx ends. after is
// time.After.
func (h *held) run(ctx context.Context, fetch fetchBlob, after func(time.Duration) <-chan time.Time) error {
	next := after(heldEvery)
	h.sweep(ctx, fetch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
			h.look(ctx, fetch, h.lacking())
		case <-next:
			h.sweep(ctx, fetch)
			next = after(heldEvery)
		}
	}
}

// lacking returns the pins of this run whose blobs have to be fetched for the first time.
func (h *held) lacking() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := slices.Sorted(maps.Keys(h.lacks))
	clear(h.lacks)
	return names
}

// sweep looks at all pins. In a large group these are all commits of the time that a device is away.
func (h *held) sweep(ctx context.Context, fetch fetchBlob) {
	h.look(ctx, fetch, h.blobs.Conversations())
}

// look fetches the missing blobs of some pins, and releases the pins that no reader waits for.
func (h *held) look(ctx context.Context, fetch fetchBlob, names []string) {
	known := make(map[wire.ConversationID]*needs)
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		id, seq, ok := parseHoldName(name)
		if !ok {
			continue
		}
		n := known[id]
		if n == nil {
			n = h.needs(ctx, id)
			known[id] = n
		}
		wanted, err := h.release(n, name, seq)
		if err != nil {
			h.log.Warn("it is not known whether a device still needs what is held for an entry: it is kept", "conversation", id, "entry", seq, "error", err)
		}
		if !wanted || err != nil {
			continue
		}
		for _, ref := range h.blobs.Pins(name) {
			if h.blobs.Has(ref) {
				continue
			}
			if err := fetch(ctx, id, wire.BlobRef{Hash: ref.Hash, Size: ref.Size}); err != nil && ctx.Err() == nil {
				h.log.Warn("a blob that an entry names is not here yet, and a device waits for it", "conversation", id, "entry", seq, "error", err)
			}
		}
	}
}

// needs describes what the readers of a conversation have not acknowledged.
type needs struct {
	at    uint64 // the last entry in the mailbox
	first uint64 // the first entry that a reader has not acknowledged
	any   bool   // there is such an entry
	err   error
}

// needs looks at all present readers. Later readers need nothing of what is held now.
func (h *held) needs(ctx context.Context, id wire.ConversationID) *needs {
	n := new(needs)
	stream := mailbox.Conversation(id)
	if n.at, n.err = h.mailbox.Position(ctx, stream); n.err == nil {
		n.first, n.any, n.err = h.mailbox.Wanted(ctx, stream)
	}
	return n
}

// release removes the pins of an entry that no reader waits for, and reports whether a reader waits.
func (h *held) release(n *needs, name string, seq wire.SequenceNumber) (bool, error) {
	if n.err != nil {
		return false, n.err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.at < uint64(seq) && h.coming[name] {
		return true, nil
	}
	delete(h.coming, name)
	if n.any && n.first <= uint64(seq) {
		return true, nil
	}
	return false, h.blobs.UnpinAll(name)
}
