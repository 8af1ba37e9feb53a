package client

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// newRestWorld is a world in which commits of more than a kilobyte travel as blobs.
func newRestWorld(t *testing.T) *world {
	w := newWorld(t, "a.example", "b.example", "c.example")
	w.features = wire.NewFeatures(wire.FeatureRules3)
	w.limits.Inline, w.limits.Receipts = 1000, -1
	return w
}

// knowsServers waits until a device knows whether its node accepts such commits.
func knowsServers(t *testing.T, list ...*peer) {
	t.Helper()
	for _, p := range list {
		if _, err := p.supports(t.Context(), wire.FeatureRules3); err != nil {
			t.Fatal(err)
		}
	}
}

func restTrio(t *testing.T, w *world) (id wire.ConversationID, a, b, c *peer) {
	t.Helper()
	a, b, c = w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	knowsServers(t, a, b, c)
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	return id, a, b, c
}

// addBlob returns the blobs of the commits of a conversation that travelled as blobs, and the number of other commits.
func (w *world) blobCommits(id wire.ConversationID) (refs []wire.BlobRef, inline int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.convs[id].log {
		e, err := w.convs[id].log[i].Open()
		if err != nil {
			w.t.Fatal(err)
		}
		switch {
		case e.Envelope.Commit == nil:
		case e.Envelope.Commit.Rest != nil:
			refs = append(refs, *e.Envelope.Commit.Rest)
		default:
			inline++
		}
	}
	return refs, inline
}

// TestCommitsAsBlobs checks that large commits travel as blobs, for every committer, over restarts, and with messages
// between them.
func TestCommitsAsBlobs(t *testing.T) {
	w := newRestWorld(t)
	id, a, b, c := restTrio(t, w)
	var want []string
	for i, p := range []*peer{a, b, c, a, b, c} {
		check(t, p.UpdateKeys(t.Context(), id))
		text := fmt.Sprint("text ", i)
		_, err := p.SendText(t.Context(), id, text)
		check(t, err)
		want = append(want, p.id.User().Name()+": "+text)
		for _, q := range []*peer{a, b, c} {
			hasTexts(t, q, id, want...)
		}
		if i == 3 {
			b.restart()
			knowsServers(t, b)
		}
	}
	agree(t, id, a, b, c)
	if refs, inline := w.blobCommits(id); len(refs) != 7 || inline > 0 {
		t.Errorf("%d commits were blobs, %d were in their entries", len(refs), inline)
	}
	for _, p := range []*peer{a, b, c} {
		p.rests.mu.Lock()
		if n := len(p.rests.content); n > 0 || p.rests.size != 0 {
			t.Errorf("%s keeps %d contents of %d bytes", p.id, n, p.rests.size)
		}
		p.rests.mu.Unlock()
	}
}

// TestAwayForCommitsAsBlobs checks that a device that was away for more commits in blobs than the log keeps follows
// with its mailbox.
func TestAwayForCommitsAsBlobs(t *testing.T) {
	w := newRestWorld(t)
	w.keep = 4
	id, a, b, c := restTrio(t, w)
	b.stop()
	texts := goOn(t, a, id, 40)
	b.restart()
	whole(t, b, id, texts)
	agree(t, id, a, b, c)
}

// TestCommitWithheld checks that items after a commit wait for it, that the device reports the wait, and that nothing
// is lost when the commit comes.
func TestCommitWithheld(t *testing.T) {
	w := newRestWorld(t)
	w.keep = 4
	w.limits.Held = 16 // 128 while a commit is fetched
	id, a, b, c := restTrio(t, w)
	w.refuse(wire.MethodDownload, wire.Unavailable)
	texts := goOn(t, a, id, 40)
	eventually(t, func() error {
		for _, e := range b.events(EventDelayed) {
			if e.Conversation == id && strings.Contains(e.Err.Error(), "cannot be fetched yet") {
				return nil
			}
		}
		return fmt.Errorf("%d delays reported to bob", len(b.events(EventDelayed)))
	})
	b.restart()
	texts = append(texts, goOn(t, a, id, 5)...)
	w.refuse(wire.MethodDownload, "")
	whole(t, b, id, texts)
	whole(t, c, id, texts)
	agree(t, id, a, b, c)
}

// TestForgedRest checks that a device does not accept other content from a node under the hash, and later takes the
// right content.
func TestForgedRest(t *testing.T) {
	w := newRestWorld(t)
	id, a, b, c := restTrio(t, w)
	w.refuse(wire.MethodDownload, wire.Unavailable)
	check(t, a.UpdateKeys(t.Context(), id))
	refs, _ := w.blobCommits(id)
	last := refs[len(refs)-1]
	swap := func(change func([]byte) []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.blobs[last.Hash] = change(append([]byte{}, w.blobs[last.Hash]...))
	}
	for _, change := range []func([]byte) []byte{
		func(p []byte) []byte { p[7]++; return p },
		func(p []byte) []byte { p[7]--; return append(p, 1) }, // longer than announced
	} {
		swap(change)
		w.refuse(wire.MethodDownload, "")
		before := len(b.events(EventDelayed))
		eventually(t, func() error {
			if list := b.events(EventDelayed); len(list) < before+2 {
				return fmt.Errorf("%d delays", len(list))
			}
			return nil
		})
		if s, err := b.Conversation(t.Context(), id); err != nil || s.State != StateActive || len(b.events(EventPoison)) > 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		w.refuse(wire.MethodDownload, wire.Unavailable)
	}
	swap(func(p []byte) []byte { return p[:len(p)-1] })
	w.refuse(wire.MethodDownload, "")
	agree(t, id, a, b, c)
}

// TestPoisonRest checks that a commit whose content is invalid, too large, or unavailable counts as one that cannot
// be processed.
func TestPoisonRest(t *testing.T) {
	garbage := []byte(strings.Repeat("no ciphertext ", 100))
	ref := wire.BlobRef{Hash: sha256.Sum256(garbage), Size: uint64(len(garbage))}
	for name, c := range map[string]struct {
		size    int // size of the ciphertext that the entry announces
		ref     wire.BlobRef
		content []byte
	}{
		"no ciphertext":                  {len(garbage), ref, garbage},
		"nowhere":                        {len(garbage), ref, nil},
		"larger than the entry says":     {len(garbage) - 1, ref, garbage},
		"larger than the device's limit": {1 << 29, wire.BlobRef{Hash: ref.Hash, Size: wire.MaxBlob}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRestWorld(t)
			w.timing = func(q *Timing) { q.Rest = 50 * time.Millisecond }
			id, a, b, hostile := restTrio(t, w)
			hostile.forgeRest(id, c.size, c.ref, c.content)
			check(t, a.Rename(t.Context(), id, "after"))
			agree(t, id, a, b, hostile) // carol's device is honest again
			_, err := b.SendText(t.Context(), id, "on we go")
			check(t, err)
			hasTexts(t, a, id, "bob: on we go")
		})
	}
}

// forgeRest submits a commit with the content that a test chooses.
func (p *peer) forgeRest(id wire.ConversationID, size int, ref wire.BlobRef, content []byte) {
	p.t.Helper()
	p.w.mu.Lock()
	p.w.blobs[ref.Hash] = content
	p.w.anyBlob = true
	p.w.mu.Unlock()
	p.forge(id, func(e *wire.Envelope) {
		head, rest, err := mlscore.SplitPrivate(e.Commit.Commit)
		if err != nil {
			p.t.Fatal(err)
		}
		e.Commit.Commit = append(head[:len(head)-len(varint(len(rest)))], varint(size)...)
		e.Commit.Rest = &ref
	})
	if content == nil {
		p.w.mu.Lock()
		delete(p.w.blobs, ref.Hash)
		p.w.mu.Unlock()
	}
}

// varint encodes a variable-size length of RFC 9420.
func varint(n int) []byte {
	switch {
	case n < 1<<6:
		return []byte{byte(n)}
	case n < 1<<14:
		return []byte{0x40 | byte(n>>8), byte(n)}
	}
	return []byte{0x80 | byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// TestCommitsInEntries checks that commits stay inside their entries if a member's app or the servers do not accept
// them as blobs, and that the error for a commit that is too large explains why.
func TestCommitsInEntries(t *testing.T) {
	old := []mlscore.ExtensionType{extensionRules, extensionAddress, extensionSuccession, extensionAccount}
	for name, c := range map[string]struct {
		change func(*world)
		say    string
	}{
		"an earlier app":         {func(w *world) { w.extensions = map[wire.DeviceID][]mlscore.ExtensionType{carolPhone: old} }, "app of a member"},
		"an earlier node":        {func(w *world) { w.features = nil }, "earlier build"},
		"servers that refuse it": {func(w *world) { w.noRest = true }, "rules of another level"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRestWorld(t)
			c.change(w)
			id, a, b, carol := restTrio(t, w)
			check(t, a.UpdateKeys(t.Context(), id))
			check(t, b.UpdateKeys(t.Context(), id))
			agree(t, id, a, b, carol)
			if refs, inline := w.blobCommits(id); len(refs) > 0 || inline != 3 {
				t.Errorf("%d commits were blobs, %d were in their entries", len(refs), inline)
			}
			err := a.turn(t.Context(), func(u *unit) error {
				t, err := a.usableConversation(u, id)
				if err != nil {
					return err
				}
				return t.moveRest(new(pendingRecord), &wire.CommitBundle{Commit: make([]byte, wire.MaxEntry)}, nil)
			})
			if wire.CodeOf(err) != wire.TooLarge || !strings.Contains(err.Error(), c.say) {
				t.Errorf("a commit of %d bytes: %v", wire.MaxEntry, err)
			}
		})
	}
}

// TestRestLimits checks that fetched and unused ciphertexts are bounded, and so is the memory of missing blobs.
func TestRestLimits(t *testing.T) {
	var r rests
	hash := func(n int) wire.Hash { return sha256.Sum256(fmt.Append(nil, n)) }
	for n := range 10 {
		r.keep(hash(n), make([]byte, 100), 250)
		if r.size > 250 || r.get(hash(n)) == nil {
			t.Fatalf("%d bytes after %d", r.size, n)
		}
	}
	r.keep(hash(100), make([]byte, 1000), 250) // one is kept, whatever its size
	if r.size != 1000 || r.get(hash(100)) == nil {
		t.Errorf("%d bytes", r.size)
	}
	for n := range 2 * maxMissing {
		r.miss(hash(n), 1)
		r.refuse(wire.ConversationID(fmt.Sprint(n)), "no", 1)
	}
	if len(r.missing) > maxMissing || len(r.refused) > maxMissing {
		t.Errorf("%d missing, %d refused", len(r.missing), len(r.refused))
	}
	if r.gone(hash(2*maxMissing-1), 5, 10) || !r.gone(hash(2*maxMissing-1), 11, 10) {
		t.Error("gone at the wrong time")
	}
}

// TestMigrateWithBlobs checks that a large founding travels as a blob too, and that all members follow.
func TestMigrateWithBlobs(t *testing.T) {
	w := newRestWorld(t)
	id, a, b, c := restTrio(t, w)
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	next, err := a.Migrate(t.Context(), id, MigrateOptions{Suite: hybrid})
	check(t, err)
	inSuite(t, id, hybrid, a, b, c)
	if refs, _ := w.blobCommits(next); len(refs) == 0 {
		t.Error("the founding is in its entry")
	}
	check(t, b.UpdateKeys(t.Context(), id))
	_, err = c.SendText(t.Context(), id, "on we go")
	check(t, err)
	hasTexts(t, a, id, "carol: on we go")
	agree(t, id, a, b, c)
}
