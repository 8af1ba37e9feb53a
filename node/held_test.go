package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// heldWorld is a mailbox and a blob store with what is held between them.
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
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	mail := mailbox.New(db, []byte("m"), mailbox.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := mail.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &heldWorld{t: t, dir: filepath.Join(t.TempDir(), "blobs"), fetched: make(map[wire.BlobRef][]byte)}
	w.open(mail)
	return w
}

// open opens the blob store, and what is held with it, as a node does at its start.
func (w *heldWorld) open(mail *mailbox.Mailbox) {
	w.t.Helper()
	blobs, err := blob.Open(w.dir, blob.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.held = newHeld(blobs, mail, slog.New(slog.DiscardHandler), func(_ context.Context, _ wire.ConversationID, ref wire.BlobRef) error {
		content, ok := w.fetched[ref]
		if !ok {
			return errors.New("no replica has it")
		}
		return blob.Wire{Store: blobs}.Put("", ref, bytes.NewReader(content))
	})
}

// commit takes an entry in that adds readers with a Welcome in a blob.
func (w *heldWorld) commit(seq wire.SequenceNumber, welcome []byte, join ...wire.Token) wire.BlobRef {
	w.t.Helper()
	ref := refOf(welcome)
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(heldTalk, seq, e); err != nil {
		w.t.Fatal(err)
	}
	w.sweep(w.t.Context()) // the entry is not in the mailbox yet
	if !w.has(heldTalk, ref) {
		w.t.Fatal("released before its entry came")
	}
	w.n++
	results, err := w.mail.Put(w.t.Context(), mailbox.Put{
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
	if err := w.mail.Acknowledge(w.t.Context(), mailbox.Conversation(heldTalk), r, sequence); err != nil {
		w.t.Fatal(err)
	}
	w.sweep(w.t.Context())
}

// TestHeldWelcome: a Welcome is brought here, outlives a sweep and a restart, and goes when all who may join by it have
// acknowledged its entry; another conversation has no claim on it.
func TestHeldWelcome(t *testing.T) {
	w := newHeldWorld(t)
	content := []byte("a Welcome")
	one, two := wire.Token{1}, wire.Token{2}
	ref := w.commit(7, content, one, two)
	w.sweep(t.Context()) // nobody has it yet: a warning
	w.fetched[ref] = content
	w.sweep(t.Context())
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
	mail := w.mail
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(mail)
	w.sweep(t.Context())
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

// TestHeldWithoutEntry: what was pinned for an entry that never came, since the node was stopped, goes after the start.
func TestHeldWithoutEntry(t *testing.T) {
	w := newHeldWorld(t)
	ref := refOf([]byte("a Welcome"))
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(heldTalk, 7, e); err != nil {
		t.Fatal(err)
	}
	mail := w.mail
	if err := w.blobs.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(mail)
	w.sweep(t.Context())
	if w.has(heldTalk, ref) {
		t.Error("still here, and nobody can join by it")
	}
}

// TestHeldRuns: what is pinned is fetched without waiting for the next round.
func TestHeldRuns(t *testing.T) {
	w := newHeldWorld(t)
	content := []byte("a Welcome")
	ref := refOf(content)
	w.fetched[ref] = content
	fetched := make(chan struct{})
	fetch := w.fetch
	w.fetch = func(ctx context.Context, id wire.ConversationID, ref wire.BlobRef) error {
		defer close(fetched)
		return fetch(ctx, id, ref)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.run(ctx) }()
	e := &wire.Entry{Envelope: &wire.Envelope{Commit: &wire.CommitBundle{Welcome: &wire.Payload{Blob: &ref}}}}
	if err := w.hold(heldTalk, 7, e); err != nil {
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
