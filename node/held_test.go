package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// heldWorld holds a mailbox, a blob store, and the held blobs.
type heldWorld struct {
	*held
	t       *testing.T
	dir     string
	fetched map[wire.BlobRef][]byte // what other replicas have
	n       byte
}

const heldTalk wire.ConversationID = "conversation-one"

func newHeldWorld(t *testing.T) *heldWorld {
	t.Helper()
	kept, _ := pebbletest.Memory().Running(t, mailbox.Config{})
	w := &heldWorld{t: t, dir: filepath.Join(t.TempDir(), "blobs"), fetched: make(map[wire.BlobRef][]byte)}
	w.open(kept.Mailbox())
	return w
}

// open opens the blob store and its pins, as a node does at its start.
func (w *heldWorld) open(box mailbox.Box) {
	w.t.Helper()
	blobs, err := blob.Open(w.dir, blob.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.held = newHeld(blobs, box, slog.New(slog.DiscardHandler))
}

// fetch is a fetchBlob.
func (w *heldWorld) fetch(_ context.Context, _ wire.ConversationID, ref wire.BlobRef) error {
	content, ok := w.fetched[ref]
	if !ok {
		return errors.New("no replica has it")
	}
	return blob.Wire{Store: w.blobs}.Put("", ref, bytes.NewReader(content))
}

// commit delivers an entry that adds readers with a Welcome in a blob.
func (w *heldWorld) commit(seq wire.SequenceNumber, welcome []byte, join ...wire.Token) wire.BlobRef {
	w.t.Helper()
	ref := refOf(welcome)
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(w.t.Context(), heldTalk, seq, e, true); err != nil {
		w.t.Fatal(err)
	}
	w.sweep(w.t.Context(), w.fetch) // the entry is not in the mailbox yet
	if !w.has(heldTalk, ref) {
		w.t.Fatal("released before its entry came")
	}
	w.n++
	results, err := w.mailbox.Put(w.t.Context(), mailbox.Put{
		Stream: mailbox.Conversation(heldTalk), ID: mailbox.ID{w.n}, Kind: mailbox.KindEntry, Payload: []byte("entry"), Position: uint64(seq), Join: join,
	})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return ref
}

func (w *heldWorld) acknowledge(r wire.Token, sequence uint64) {
	w.t.Helper()
	if err := w.mailbox.Acknowledge(w.t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: mailbox.Conversation(heldTalk), Token: r}, Sequence: sequence}); err != nil {
		w.t.Fatal(err)
	}
	w.sweep(w.t.Context(), w.fetch)
}

// TestHeldWelcome checks that a Welcome is fetched, outlives a sweep and a restart, and is removed when all readers
// who may join by it have acknowledged its entry. Another conversation cannot read it.
func TestHeldWelcome(t *testing.T) {
	w := newHeldWorld(t)
	content := []byte("a Welcome")
	one, two := wire.Token{1}, wire.Token{2}
	ref := w.commit(7, content, one, two)
	w.sweep(t.Context(), w.fetch) // no replica has the blob yet: a warning
	w.fetched[ref] = content
	w.sweep(t.Context(), w.fetch)
	later := w.commit(8, []byte("another"))
	if w.has("conversation-two", ref) {
		t.Error("another conversation has it")
	}
	gone := func() bool {
		t.Helper()
		if _, _, err := w.blobs.Sweep(func(blob.Ref) bool { return false }, 0); err != nil {
			t.Fatal(err)
		}
		return !w.blobs.Has(blob.Ref{Hash: ref.Hash, Size: ref.Size})
	}
	w.acknowledge(one, 1)
	if gone() || !w.has(heldTalk, ref) {
		t.Fatal("gone while a device has not acknowledged its entry")
	}
	box := w.mailbox
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(box)
	w.sweep(t.Context(), w.fetch)
	if gone() || !w.has(heldTalk, ref) {
		t.Fatal("gone after a restart")
	}
	w.acknowledge(two, 1)
	if !gone() || w.has(heldTalk, ref) {
		t.Error("still here when all have acknowledged its entry")
	}
	if !w.has(heldTalk, later) {
		t.Error("the Welcome of the next entry went with it")
	}
	w.acknowledge(one, 2)
	w.acknowledge(two, 2)
	if w.has(heldTalk, later) {
		t.Error("still here when all have acknowledged both entries")
	}
}

// TestHeldWithoutEntry checks that a blob pinned for an entry that never came, because the node was stopped, is
// removed after the start.
func TestHeldWithoutEntry(t *testing.T) {
	w := newHeldWorld(t)
	ref := refOf([]byte("a Welcome"))
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(t.Context(), heldTalk, 7, e, true); err != nil {
		t.Fatal(err)
	}
	box := w.mailbox
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(box)
	w.sweep(t.Context(), w.fetch)
	if w.has(heldTalk, ref) {
		t.Error("still here, and nobody can join by it")
	}
}

// TestHeldRuns checks that a pinned blob is fetched without waiting for the next round.
func TestHeldRuns(t *testing.T) {
	w := newHeldWorld(t)
	content := []byte("a Welcome")
	ref := refOf(content)
	w.fetched[ref] = content
	fetched := make(chan struct{})
	fetch := func(ctx context.Context, id wire.ConversationID, ref wire.BlobRef) error {
		defer close(fetched)
		return w.fetch(ctx, id, ref)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.run(ctx, fetch, time.After) }()
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(t.Context(), heldTalk, 7, e, true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-fetched:
	case <-ctx.Done():
		t.Error("not fetched")
	}
	cancel()
	<-ended
}

// TestHeldCommit checks that the part of a commit outside its entry is held for the devices that read the
// conversation before the entry, and for no other device.
func TestHeldCommit(t *testing.T) {
	w := newHeldWorld(t)
	one := wire.Token{1}
	welcome := w.commit(7, []byte("a Welcome"), one)
	rest := func(seq wire.SequenceNumber, content string) wire.BlobRef {
		t.Helper()
		ref := refOf([]byte(content))
		w.fetched[ref] = []byte(content)
		e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Rest: &ref}}}
		if err := w.hold(t.Context(), heldTalk, seq, e, false); err != nil {
			t.Fatal(err)
		}
		w.look(t.Context(), w.fetch, w.lacking())
		w.n++
		if _, err := w.mailbox.Put(t.Context(), mailbox.Put{Stream: mailbox.Conversation(heldTalk), ID: mailbox.ID{w.n}, Kind: mailbox.KindEntry, Payload: []byte("entry"), Position: uint64(seq)}); err != nil {
			t.Fatal(err)
		}
		return ref
	}
	var refs []wire.BlobRef
	for seq := range wire.SequenceNumber(20) {
		ref := rest(8+seq, string(rune('a'+seq)))
		if !w.blobs.Has(blob.Ref{Hash: ref.Hash, Size: ref.Size}) {
			t.Fatalf("commit %d was not brought here", seq)
		}
		refs = append(refs, ref)
	}
	w.acknowledge(one, 11) // the Welcome's entry, and ten more
	for i, ref := range refs {
		if w.has(heldTalk, ref) != (i >= 10) {
			t.Errorf("commit %d is held: %v", i, i < 10)
		}
	}
	if w.has(heldTalk, welcome) {
		t.Error("the Welcome is held")
	}
	w.acknowledge(one, 21)
	if err := w.mailbox.Change(t.Context(), mailbox.Conversation(heldTalk), nil, []wire.Token{one}); err != nil {
		t.Fatal(err)
	}
	w.sweep(t.Context(), w.fetch)
	if last := rest(30, "nobody reads it"); w.has(heldTalk, last) || w.has(heldTalk, refs[15]) {
		t.Error("held for nobody")
	}
}
