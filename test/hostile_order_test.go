package test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"math"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// lunch is a conversation of four organizations. mallory.example has joined last: it holds a replica without a vote.
// Its node is replaced by a modified node, which knows what its member knew.
type lunch struct {
	*evil
	ctx               context.Context
	id                wire.ConversationID
	alice, bob, carol *client.Device
	key               wire.SubmissionKey // of the epoch
	bobs              []wire.Address     // the members' addresses at bob's organization
}

func hostileLunch(t *testing.T) *lunch {
	t.Helper()
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("runs real nodes: set MLSFED_LONG to short or full")
	}
	dir := t.TempDir()
	c := newClusterIn(t, dir, cluster.Options{}, "a.example", "b.example", "c.example", "mallory.example")
	l := &lunch{alice: device(t, c, "a.example", "alice", "phone"), bob: device(t, c, "b.example", "bob", "phone"), carol: device(t, c, "c.example", "carol", "phone")}
	dave := device(t, c, "mallory.example", "dave", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	var err error
	if l.id, err = l.alice.Create(ctx, client.CreateOptions{Name: "Lunch"}); err != nil {
		t.Fatal(err)
	}
	add(ctx, t, l.alice, l.id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	await(t, ctx, l.id, 3, l.alice, l.bob, l.carol)
	add(ctx, t, l.alice, l.id, "mimi://mallory.example/u/dave")
	await(t, ctx, l.id, 4, l.alice, l.bob, l.carol, dave)
	at, err := dave.Conversation(ctx, l.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StopDevice(dave); err != nil {
		t.Fatal(err)
	}
	knows := newRogue(ctx, t, c, copyFolder(t, folderOf(dir, "mallory.example", "dave", "phone")), at)
	l.key = wire.SubmissionKey(submissionKey(t, knows.group).Public().(ed25519.PublicKey))
	knows.group.Public().Members(func(m mlscore.Member) bool {
		token, ok := m.Extensions.Find(0xf0a2)
		if ok && bytes.Contains(m.Credential.Certificates[0], []byte("mimi://b.example/")) {
			l.bobs = append(l.bobs, wire.Address{Organization: "b.example", Token: wire.Token(token)})
		}
		return true
	})
	if len(l.bobs) != 1 {
		t.Fatalf("mallory knows %d addresses of bob's", len(l.bobs))
	}
	l.ctx, l.evil = ctx, newEvil(t, c, "mallory.example")
	return l
}

// everybodyReads checks that a text reaches devices.
func everybodyReads(ctx context.Context, t *testing.T, id wire.ConversationID, text string, list ...*client.Device) {
	t.Helper()
	for _, d := range list {
		if err := cluster.Await(ctx, d, func() (bool, error) { _, ok := texts(ctx, d, id)[text]; return ok, nil }); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

var honestNodes = []wire.NodeID{"n1.a.example", "n1.b.example", "n1.c.example"}

// TestLongInvitationDestroysNothing checks that an invitation to a new generation by an organization without a vote
// ends a conversation on no node: messages and changes continue.
func TestLongInvitationDestroysNothing(t *testing.T) {
	l := hostileLunch(t)
	ctx, id, alice, bob, carol := l.ctx, l.id, l.alice, l.bob, l.carol
	for _, n := range honestNodes {
		for _, generation := range []uint64{1, 2, math.MaxUint64} {
			if err := l.invite(n, id, generation, "n1.mallory.example"); err == nil {
				t.Errorf("%s follows generation %d", n, generation)
			}
		}
	}
	if _, err := alice.SendText(ctx, id, "hello?"); err != nil {
		t.Fatal(err)
	}
	everybodyReads(ctx, t, id, "hello?", bob, carol)
	if err := alice.Rename(ctx, id, "Dinner"); err != nil {
		t.Error(err)
	}
}

// TestLongPlantedStateStopsNobody checks that a state with the right key and only one organization's addresses,
// sent by an organization without a vote, changes nothing: bob's messages reach all members.
func TestLongPlantedStateStopsNobody(t *testing.T) {
	l := hostileLunch(t)
	ctx, id, alice, bob, carol := l.ctx, l.id, l.alice, l.bob, l.carol
	now, err := alice.Conversation(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, term := range []uint64{10, 1 << 20, math.MaxUint64} {
		err := l.plant("n1.b.example", id, term, 1<<10, honestNodes, []wire.NodeID{"n1.mallory.example"},
			xheader{ID: id, Created: true, Policy: wire.Policy{Handshakes: 1}, Sequence: now.Sequence, Order: now.Order, Spans: []xspan{{Organization: "b.example", Since: 1}}},
			xhead{Sequence: now.Sequence, Epoch: now.Epoch, Key: l.key, Delivery: l.bobs})
		if err == nil {
			t.Errorf("a state in term %d is taken", term)
		}
	}
	if _, err := bob.SendText(ctx, id, "from bob: the meeting is cancelled"); err != nil {
		t.Fatal(err)
	}
	everybodyReads(ctx, t, id, "from bob: the meeting is cancelled", alice, carol)
	if err := alice.Rename(ctx, id, "Dinner"); err != nil {
		t.Error(err)
	}
}
