package machine

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRest checks that a commit may be separate from its entry from level 3 of the rules on, and that the entry is
// judged as far as its content is visible.
func TestRest(t *testing.T) {
	b, p := newBench(t, wire.Policy{RecentCount: 4}, "a.example", "b.example")
	withBlob := func(edit func(*wire.Envelope)) *wire.Envelope {
		e, _ := p.WithBlob(b.id(), 5000, wire.DeliveryChange{})
		edit(e)
		return author.Sign(e, p.Opener)
	}
	none := func(*wire.Envelope) {}
	now := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example", "n1.b.example"}}
	if out := b.m.Apply(b.raw(nil, now)); out.Err != nil {
		t.Fatal(out.Err)
	}
	for level := uint8(2); level <= restLevel; level++ {
		err := b.refuse(withBlob(none), wire.Version)
		if need, ok := NeedsLevel(err); !ok || need != restLevel {
			t.Fatalf("level %d: %v", level-1, err)
		}
		// A submission with another fault is refused for that fault: the proof that it is allowed comes first.
		forged := withBlob(none)
		forged.Signature[0]++
		b.refuse(forged, wire.Forged)
		if out := b.m.Apply(b.raw(nil, wire.RaiseLevel(now, level))); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	for name, edit := range map[string]func(*wire.Envelope){
		"a blob that is larger than the ciphertext":  func(e *wire.Envelope) { e.Commit.Rest.Size++ },
		"a blob that is smaller than the ciphertext": func(e *wire.Envelope) { e.Commit.Rest.Size-- },
		"a part of the ciphertext in the entry":      func(e *wire.Envelope) { e.Commit.Commit = append(e.Commit.Commit, 1) },
		"half a header":                              func(e *wire.Envelope) { e.Commit.Commit = e.Commit.Commit[:len(e.Commit.Commit)-5] },
		"another epoch": func(e *wire.Envelope) {
			other := author.Place{Conversation: testID, Epoch: p.Epoch + 1, Parent: p.Parent, Opener: p.Opener}
			o, _ := other.WithBlob(e.Submission, 5000, wire.DeliveryChange{})
			e.Commit.Commit = o.Commit.Commit
		},
		"a public message": func(e *wire.Envelope) {
			e.Commit.Commit = author.Message(author.FormatPublic, testID, p.Epoch, author.Committing, nil)
		},
	} {
		t.Run(name, func(t *testing.T) { b.refuse(withBlob(edit), wire.Invalid) })
	}
	for name, size := range map[string]uint64{"none needed": wire.MinRest - 1, "too large": wire.MaxBlob + 1, "empty": 0} {
		e := withBlob(none)
		e.Commit.Rest.Size = size
		if err := e.Check(); wire.CodeOf(err) != wire.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	before := p
	e := withBlob(none)
	p = author.After(e, b.accept(e))
	if !b.m.Names(*e.Commit.Rest) || len(b.m.Blobs()) != 1 {
		t.Error("a kept entry's blob is not named")
	}
	contest, _ := before.WithBlob(b.id(), 5000, wire.DeliveryChange{}) // which may be separate from its entry, too
	contest.Commit.Contest = true
	b.accept(author.Sign(contest, before.Opener))
	var image bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(testID, nil, bytes.NewReader(image.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if !again.Names(*e.Commit.Rest) {
		t.Error("a snapshot forgets which blob an entry names")
	}
	b.m.level = 2 // as in an invented snapshot
	image.Reset()
	if _, err := b.m.Snapshot().WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(testID, nil, &image); err == nil {
		t.Error("a state of level 2 has a commit that is separate from its entry")
	}
}
