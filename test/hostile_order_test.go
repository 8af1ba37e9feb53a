package test

import (
	"context"
	"math"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// hostileLunch is a conversation of four organizations, with mallory.example as the last to come: it holds a
// replica without a vote. Its node is replaced by a modified one.
func hostileLunch(t *testing.T) (ctx context.Context, ev *evil, id wire.ConversationID, alice, bob, carol *client.Device) {
	t.Helper()
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("runs real nodes: set MLSFED_LONG to short or full")
	}
	c := newCluster(t, "a.example", "b.example", "c.example", "mallory.example")
	alice, bob, carol = device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	dave := device(t, c, "mallory.example", "dave", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	await(t, ctx, id, 3, alice, bob, carol)
	add(ctx, t, alice, id, "mimi://mallory.example/u/dave")
	await(t, ctx, id, 4, alice, bob, carol, dave)
	return ctx, newEvil(t, c, "mallory.example"), id, alice, bob, carol
}

// everybodyReads holds that a text reaches devices.
func everybodyReads(ctx context.Context, t *testing.T, id wire.ConversationID, text string, list ...*client.Device) {
	t.Helper()
	for _, d := range list {
		if err := cluster.Await(ctx, d, func() (bool, error) { _, ok := texts(ctx, d, id)[text]; return ok, nil }); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

var honestNodes = []wire.NodeID{"n1.a.example", "n1.b.example", "n1.c.example"}

// TestLongInvitationDestroysNothing holds that an invitation to a new generation by an organization without a vote
// ends a conversation nowhere: messages and changes go on.
func TestLongInvitationDestroysNothing(t *testing.T) {
	ctx, ev, id, alice, bob, carol := hostileLunch(t)
	for _, n := range honestNodes {
		for _, generation := range []uint64{1, 2, math.MaxUint64} {
			if err := ev.invite(n, id, generation, "n1.mallory.example"); err == nil {
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

// TestLongPlantedStateSilencesNobody holds that a state with the right key and one organization's addresses alone,
// sent by an organization without a vote, changes nothing: what bob sends reaches everybody.
func TestLongPlantedStateSilencesNobody(t *testing.T) {
	ctx, ev, id, alice, bob, carol := hostileLunch(t)
	now, err := alice.Conversation(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, term := range []uint64{10, 1 << 20, math.MaxUint64} {
		err := ev.plant("n1.b.example", id, term, 1<<10, honestNodes, []wire.NodeID{"n1.mallory.example"},
			xheader{ID: id, Created: true, Policy: wire.Policy{Handshakes: 1}, Sequence: now.Sequence, Order: now.Order, Spans: []xspan{{Organization: "b.example", Since: 1}}},
			xhead{Sequence: now.Sequence, Epoch: now.Epoch, Key: wire.SubmissionKey{1}, Delivery: []wire.Address{{Organization: "b.example", Token: wire.Token{1}}}})
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
