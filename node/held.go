package node

import (
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// held keeps the blobs by which devices of this organization join: the Welcome and the tree of an entry that added one of
// them. A conversation names a blob as long as its log keeps the entry, which in a large group is a few commits; a device
// that is away needs it for as long as its mailbox has the entry.
//
// Each such blob is pinned in the blob store under the conversation and the entry, before the entry is in the mailbox, and
// released when every reader has acknowledged it, or it has expired.
type held struct {
	blobs *blob.Store
	mail  *mailbox.Mailbox
	fetch func(context.Context, wire.ConversationID, wire.BlobRef) error // brings a blob here from another replica
	log   *slog.Logger
	wake  chan struct{} // of size 1: something was pinned

	mu     sync.Mutex      // guards coming, and is held while pins change
	coming map[string]bool // pins of this run whose entries are not in the mailbox yet
}

func newHeld(blobs *blob.Store, mail *mailbox.Mailbox, log *slog.Logger, fetch func(context.Context, wire.ConversationID, wire.BlobRef) error) *held {
	return &held{blobs: blobs, mail: mail, fetch: fetch, log: log, wake: make(chan struct{}, 1), coming: make(map[string]bool)}
}

// heldEvery is how often blobs are released that nobody waits for, and fetched that could not be.
const heldEvery = 10 * time.Minute

// holdName is the name of a pin: the conversation and the entry.
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

// hold pins what an entry that adds a device names.
func (h *held) hold(id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry) error {
	if e.Envelope == nil || e.Envelope.Commit == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range []*wire.Payload{e.Envelope.Commit.Welcome, e.Envelope.Commit.Tree} {
		if p == nil || p.Blob == nil {
			continue
		}
		name := holdName(id, seq)
		h.coming[name] = true
		if err := h.blobs.Pin(name, blob.Ref{Hash: p.Blob.Hash, Size: p.Blob.Size}); err != nil {
			return err
		}
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// has reports whether a blob is held for devices that are to join a conversation.
func (h *held) has(id wire.ConversationID, ref wire.BlobRef) bool {
	for _, name := range h.blobs.PinnedBy(blob.Ref{Hash: ref.Hash, Size: ref.Size}) {
		if len(name) == len(id)+8 && strings.HasPrefix(name, string(id)) {
			return true
		}
	}
	return false
}

// run fetches what is held and not here, and releases what nobody waits for, until ctx ends.
func (h *held) run(ctx context.Context) error {
	tick := time.NewTicker(heldEvery)
	defer tick.Stop()
	for {
		h.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-tick.C:
		}
	}
}

func (h *held) sweep(ctx context.Context) {
	for _, name := range h.blobs.Conversations() {
		if ctx.Err() != nil {
			return
		}
		id, seq, ok := parseHoldName(name)
		if !ok {
			continue
		}
		wanted, err := h.release(ctx, name, id, seq)
		if err != nil {
			h.log.Warn("it is not known whether a device still has to join: its Welcome is kept", "conversation", id, "entry", seq, "error", err)
		}
		if !wanted || err != nil {
			continue
		}
		for _, ref := range h.blobs.Pins(name) {
			if h.blobs.Has(ref) {
				continue
			}
			if err := h.fetch(ctx, id, wire.BlobRef{Hash: ref.Hash, Size: ref.Size}); err != nil && ctx.Err() == nil {
				h.log.Warn("a Welcome is not here yet, and a device waits for it", "conversation", id, "entry", seq, "error", err)
			}
		}
	}
}

// release takes the pins of an entry back that no reader waits for, and reports whether one does.
func (h *held) release(ctx context.Context, name string, id wire.ConversationID, seq wire.SequenceNumber) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	stream := mailbox.Conversation(id)
	at, err := h.mail.Position(ctx, stream)
	if err != nil {
		return false, err
	}
	if at < uint64(seq) && h.coming[name] {
		return true, nil
	}
	delete(h.coming, name)
	first, any, err := h.mail.Wanted(ctx, stream)
	if err != nil {
		return false, err
	}
	if any && first <= uint64(seq) {
		return true, nil
	}
	return false, h.blobs.UnpinAll(name)
}
