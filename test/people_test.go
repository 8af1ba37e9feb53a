package test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// inConversation waits until a device is in a conversation of so many members.
func inConversation(ctx context.Context, t *testing.T, id wire.ConversationID, members int, list ...*client.Device) {
	t.Helper()
	for _, d := range list {
		err := cluster.Await(ctx, d, func() (bool, error) {
			v, err := d.Conversation(ctx, id)
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil
			}
			return err == nil && v.State == client.StateActive && v.Members == members, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// reads waits until a device has a text.
func reads(ctx context.Context, t *testing.T, d *client.Device, id wire.ConversationID, text string) *client.Message {
	t.Helper()
	var found *client.Message
	err := cluster.Await(ctx, d, func() (bool, error) {
		page, err := d.History(ctx, id, client.Query{})
		for i := range page.Messages {
			if page.Messages[i].Content.Text == text {
				found = &page.Messages[i]
			}
		}
		return found != nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestOperatorsDeviceReadsNothing: the operator of an organization enrols a device for a user by the control
// socket. It is in no conversation of hers before she confirms it.
func TestOperatorsDeviceReadsNothing(t *testing.T) {
	c := newCluster(t, "a.example", "b.example")
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Private"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	inConversation(ctx, t, id, 2, alice, bob)
	asked := make(chan client.Event, 8)
	events := alice.Subscribe(ctx)
	go func() {
		for e := range events {
			if e.Type == client.EventDeviceWaiting {
				asked <- e
			}
		}
	}()
	ghost := device(t, c, "a.example", "alice", "tablet") // no act of alice's
	select {
	case e := <-asked:
		if e.Device != "mimi://a.example/d/alice/tablet" || e.Number == "" {
			t.Errorf("asked about %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("nobody was asked")
	}
	if _, err := bob.SendText(ctx, id, "a secret for alice alone"); err != nil {
		t.Fatal(err)
	}
	reads(ctx, t, alice, id, "a secret for alice alone")
	// The telephone has decided, and goes on deciding so: what it changes later adds nobody.
	if err := alice.UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	inConversation(ctx, t, id, 2, alice, bob)
	if list, err := ghost.Conversations(ctx); len(list) != 0 || err != nil {
		t.Errorf("the ghost is in %d conversations, %v", len(list), err)
	}
	if err := cluster.Confirm(ctx, alice, ghost); err != nil {
		t.Fatal(err)
	}
	inConversation(ctx, t, id, 3, alice, bob, ghost)
	page, err := ghost.History(ctx, id, client.Query{})
	if err != nil || slices.ContainsFunc(page.Messages, func(m client.Message) bool { return m.Content.Text != "" }) {
		t.Errorf("what was said before the confirmation is read: %v, %v", page.Messages, err)
	}
}
