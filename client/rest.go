package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A commit of a large group has a secret for each member that has not committed yet. Above Limits.Inline bytes its
// ciphertext travels as a blob, and the entry names the blob (wire.CommitBundle.Rest). The blob is fetched before the
// entry is taken in, and later items wait meanwhile: in the window of pushes for restPatience, then in the store (see
// deferItem).

// extensionRest is listed in the capabilities of a leaf whose device accepts such commits. It is used nowhere else. A
// commit is made this way if all members, including those that it adds, list it.
const extensionRest mlscore.ExtensionType = 0xf0a5

const (
	// restPatience is how long receiving pushes waits for a blob.
	restPatience = 5 * time.Second
	// restRefused is how long commits stay in their entries after the servers have refused a commit in a blob.
	restRefused = 10 * time.Minute
)

// rests holds ciphertexts of commits that were fetched and not used yet, by their hashes. Limits.HeldBytes bounds
// their sum, but one is always kept. A dropped ciphertext is fetched again.
type rests struct {
	mu      sync.Mutex // guards the fields below
	content map[wire.Hash][]byte
	size    int
	missing map[wire.Hash]wire.Time        // since when no replica has the blob
	refused map[ConversationID]restRefusal // refused by the servers
	old     bool                           // the node's build does not accept such commits
}

type restRefusal struct {
	at  wire.Time
	why string
}

func (r *rests) get(h wire.Hash) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.content[h]
}

func (r *rests) keep(h wire.Hash, content []byte, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.content == nil || r.size+len(content) > most {
		r.content, r.size = make(map[wire.Hash][]byte), 0
	}
	if r.content[h] == nil {
		r.size += len(content)
	}
	r.content[h] = content
	delete(r.missing, h)
}

func (r *rests) drop(h wire.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size -= len(r.content[h])
	delete(r.content, h)
	delete(r.missing, h)
}

// maxMissing bounds the blobs that are remembered as missing.
const maxMissing = 1024

// miss records that no replica has a blob, and since when.
func (r *rests) miss(h wire.Hash, now wire.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing == nil || len(r.missing) >= maxMissing {
		r.missing = make(map[wire.Hash]wire.Time)
	}
	if r.missing[h] == 0 {
		r.missing[h] = now
	}
}

// gone reports whether no replica has had a blob for the time after.
func (r *rests) gone(h wire.Hash, now, after wire.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := r.missing[h]
	return since > 0 && now-since >= after
}

func (r *rests) refuse(id ConversationID, why string, now wire.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil || len(r.refused) >= maxMissing {
		r.refused = make(map[ConversationID]restRefusal)
	}
	r.refused[id] = restRefusal{now, why}
}

// refusal returns why the servers of a conversation refuse such commits, or "" if no refusal is known.
func (r *rests) refusal(id ConversationID, now wire.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.refused[id]; ok && now-v.at < wire.Time(restRefused.Milliseconds()) {
		return v.why
	}
	if r.old {
		return "the node is of an earlier build"
	}
	return ""
}

// learn records whether the connected node accepts such commits.
func (r *rests) learn(takes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old = !takes
}

// mayRest returns why a commit has to be inside its entry, or "" if it can travel in a blob. nextUser is the group that
// the commit makes, nil if there is none yet.
func (t *conversation) mayRest(after *mlscore.PublicState) string {
	switch {
	case t.public():
		return "handshakes here are public, and servers read them in their entries"
	case !t.group.Public().AllSupport(extensionRest), after != nil && !after.AllSupport(extensionRest):
		return "the app of a member is of an earlier build, which reads commits in their entries alone"
	}
	return t.d.rests.refusal(t.id, t.d.now())
}

// moveRest moves the ciphertext of a large commit out of its entry, if all readers of the entry can handle that.
func (t *conversation) moveRest(p *pendingRecord, b *wire.CommitBundle, after *mlscore.PublicState) error {
	if len(b.Commit) <= t.d.opts.Limits.Inline {
		return nil
	}
	if why := t.mayRest(after); why != "" {
		if len(b.Commit) > wire.MaxEntry-8192 {
			return wire.Errorf(wire.TooLarge, "commit", "a commit of %d bytes does not fit an entry of %d, and cannot be transferred separately from it: %s; each device that was added and has not committed yet makes every commit longer, until it changes its keys", len(b.Commit), wire.MaxEntry, why)
		}
		return nil
	}
	head, rest, err := mlscore.SplitPrivate(b.Commit)
	if err != nil || len(rest) < wire.MinRest {
		return err
	}
	if most := t.d.opts.Limits.Commit; len(rest) > most {
		return wire.Errorf(wire.TooLarge, "commit", "a commit of %d bytes, at most %d: each device that was added and has not committed yet makes every commit longer, until it changes its keys", len(rest), most)
	}
	ref := t.addBlob(p, rest)
	b.Commit, b.Rest = head, &ref
	return nil
}

// restRefusedBy makes a commit again after the servers have refused its blob. The new commit is inside its entry, if
// it fits.
func (t *conversation) restRefusedBy(err *Error) error {
	t.d.rests.refuse(t.id, err.Error(), t.d.now())
	t.kick(handshakes(t.id))
	return t.dropPending()
}

// peekCommit reads the header of the Commit in a bundle.
func peekCommit(b *wire.CommitBundle) (mlscore.Header, error) {
	if b.Rest == nil {
		return mlscore.Peek(b.Commit)
	}
	h, _, err := mlscore.PeekHead(b.Commit)
	return h, err
}

// restOf returns the blob that has to be here before an entry can be taken in. It returns nil for an entry without a
// blob, for one that follows another entry than the last commit, and if the blob is too large or no replica has it.
func (t *conversation) restOf(c *wire.Committed, e *wire.Entry) *wire.BlobRef {
	env := e.Envelope
	switch {
	case t.group == nil, env == nil, env.Commit == nil, env.Commit.Rest == nil, env.Conversation != t.id,
		c.Sequence <= t.rec.Position.Last, env.Parent != t.rec.Position.Parent,
		t.rec.State == StateMoving, t.rec.State == StateMoved:
		return nil
	}
	ref := env.Commit.Rest
	if ref.Size > uint64(t.d.opts.Limits.Commit) || t.d.rests.gone(ref.Hash, t.d.now(), wire.Time(t.d.opts.Timing.Rest.Milliseconds())) {
		return nil // the commit counts as one that cannot be processed
	}
	return ref
}

// lacksRest returns the blob of restOf if it is not here yet.
func (t *conversation) lacksRest(c *wire.Committed, e *wire.Entry) (*wire.BlobRef, error) {
	ref := t.restOf(c, e)
	if ref == nil {
		return nil, nil
	}
	content, err := t.restContent(*ref)
	if err != nil || content != nil {
		return nil, err
	}
	return ref, nil
}

// pushLacksRest is lacksRest for an item of the conversation's stream.
func (t *conversation) pushLacksRest(p *wire.Push) (*wire.BlobRef, error) {
	if p.Kind != wire.ItemEntry || p.GapFrom > 0 || t.group == nil || p.Token != t.rec.Token {
		return nil, nil
	}
	c := new(wire.Committed)
	if wire.Decode(p.Payload, wire.MaxSessionFrame, c) != nil {
		return nil, nil
	}
	e, err := c.Open()
	if err != nil {
		return nil, nil
	}
	return t.lacksRest(c, e)
}

// restContent returns the ciphertext of a commit, or nil if it is not here. The ciphertext of an own commit is in the
// store.
func (t *conversation) restContent(ref wire.BlobRef) ([]byte, error) {
	if content := t.d.rests.get(ref.Hash); content != nil {
		return content, nil
	}
	content, ok, err := t.u.Get(t.blobKey(ref))
	if err != nil || !ok {
		return nil, err
	}
	t.d.rests.keep(ref.Hash, content, t.d.opts.Limits.HeldBytes)
	return content, nil
}

// wholeCommit returns the Commit of a bundle as an MLSMessage.
func (t *conversation) wholeCommit(b *wire.CommitBundle) ([]byte, error) {
	if b.Rest == nil {
		return b.Commit, nil
	}
	if most := t.d.opts.Limits.Commit; b.Rest.Size > uint64(most) {
		return nil, wire.Errorf(wire.TooLarge, "commit", "a commit of %d bytes, at most %d", b.Rest.Size, most)
	}
	_, size, err := mlscore.PeekHead(b.Commit)
	if err != nil {
		return nil, err
	}
	if uint64(size) != b.Rest.Size {
		return nil, wire.Errorf(wire.Invalid, "commit", "names a blob of %d bytes for a ciphertext of %d", b.Rest.Size, size)
	}
	rest, err := t.restContent(*b.Rest)
	if err != nil {
		return nil, err
	}
	if rest == nil {
		return nil, wire.Errorf(wire.BlobMissing, "commit", "no replica has had %v, the content of the commit, for %v", *b.Rest, t.d.opts.Timing.Rest)
	}
	return append(append(make([]byte, 0, len(b.Commit)+len(rest)), b.Commit...), rest...), nil
}

// bringRest fetches the ciphertext of a commit.
func (d *Device) bringRest(ctx context.Context, id ConversationID, ref wire.BlobRef) error {
	content, err := d.download(ctx, id, "", ref)
	if err == nil && uint64(len(content)) != ref.Size {
		err = wire.Errorf(wire.Forged, "download", "%d bytes of %v", len(content), ref)
	}
	if err == nil {
		d.rests.keep(ref.Hash, content, d.opts.Limits.HeldBytes)
		return nil
	}
	if wire.CodeOf(err) == wire.BlobMissing {
		d.rests.miss(ref.Hash, d.now())
	}
	return fmt.Errorf("a commit of %d bytes cannot be fetched yet: %w", ref.Size, err)
}

// bringRestOf fetches the blob that a push lacks before the push is taken in, and waits for it briefly.
func (d *Device) bringRestOf(ctx context.Context, p *wire.Push) error {
	if p.Conversation == nil || p.Kind != wire.ItemEntry {
		return nil
	}
	var ref *wire.BlobRef
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, *p.Conversation)
		if err != nil || t == nil {
			return err
		}
		if waits, err := d.waitsLater(u, t.id); err != nil || waits {
			return err // the queue fetches the first one
		}
		ref, err = t.pushLacksRest(p)
		return err
	})
	if err != nil || ref == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	if err := d.bringRest(ctx, *p.Conversation, *ref); err != nil {
		d.log.Info("what comes after a commit waits for it", "conversation", *p.Conversation, "error", err)
	}
	return nil
}

// namesRest reports whether a push is an entry whose commit travels in a blob.
func namesRest(p *wire.Push) bool {
	if p.Kind != wire.ItemEntry || p.Conversation == nil {
		return false
	}
	c := new(wire.Committed)
	if wire.Decode(p.Payload, wire.MaxSessionFrame, c) != nil {
		return false
	}
	e, err := c.Open()
	return err == nil && e.Envelope != nil && e.Envelope.Commit != nil && e.Envelope.Commit.Rest != nil
}

// bringRests fetches the blobs that the entries of an answer lack. It cuts the answer before the first entry whose
// blob is unavailable or exceeds the cache, and returns an error if that is the first entry of all.
func (d *Device) bringRests(ctx context.Context, id ConversationID, a *wire.EntriesAnswer) error {
	var lacks []*wire.BlobRef // by entry; nil for none
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.group == nil {
			return err
		}
		lacks = make([]*wire.BlobRef, len(a.Entries))
		real := t.rec
		trial := *real // a trial assumes that a commit can be processed
		t.rec = &trial
		defer func() { t.rec = real }()
		for i := range a.Entries {
			c := &a.Entries[i]
			e, err := c.Open()
			if err != nil {
				continue
			}
			if lacks[i], err = t.lacksRest(c, e); err != nil {
				return err
			}
			if env := e.Envelope; env != nil && env.Commit != nil && env.Parent == trial.Position.Parent && c.Sequence > trial.Position.Last {
				trial.Position.Parent = c.Sequence
			}
		}
		return nil
	})
	size := 0
	for i, ref := range lacks {
		if ref == nil {
			continue
		}
		if size += int(ref.Size); i > 0 && size > d.opts.Limits.HeldBytes {
			a.Entries = a.Entries[:i]
			return nil
		}
		if err := d.bringRest(ctx, id, *ref); err != nil {
			a.Entries = a.Entries[:i]
			if i == 0 {
				return err
			}
			return nil
		}
	}
	return err
}
