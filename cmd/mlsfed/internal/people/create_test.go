package people

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people/peopletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestInterruptedCreateLeavesNothing checks that no conversation is left if the people cannot be added, also if the
// command is interrupted before.
func TestInterruptedCreateLeavesNothing(t *testing.T) {
	ctx, alice, _, made := peopletest.Pair(t)
	p := &Person{Device: alice, DeviceID: "mimi://a.example/d/alice/phone", Options: &Options{Timeout: time.Minute}}
	interrupted, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		user wire.UserID
	}{{interrupted, "mimi://a.example/u/bob"}, {ctx, "mimi://a.example/u/nobody"}} {
		id, err := p.Create(ctx, client.CreateOptions{Name: "Dinner"})
		if err != nil {
			t.Fatal(err)
		}
		err = p.AddFirst(c.ctx, id, "Dinner", []wire.UserID{c.user}, false, "hint")
		if err == nil || !strings.Contains(err.Error(), "nothing was made; hint") {
			t.Errorf("%s: %v", c.user, err)
		}
		list, err := p.Conversations(ctx)
		if err != nil || len(list) != 1 || list[0].ID != made {
			t.Errorf("%s: %d conversations are left (%v)", c.user, len(list), err)
		}
	}
	id, err := p.Create(ctx, client.CreateOptions{Name: "Dinner"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AddFirst(interrupted, id, "Dinner", []wire.UserID{"mimi://a.example/u/bob"}, true, ""); err == nil || !strings.Contains(err.Error(), "was made") {
		t.Errorf("with --empty: %v", err)
	}
	if c, err := p.Conversation(ctx, id); err != nil || c.State != client.StateActive {
		t.Errorf("with --empty nothing is left (%v)", err)
	}
}

// TestConversationOfTwoHasTheOthersName checks that both users see the other one's name for a conversation without a
// name, and that commands find it by that name.
func TestConversationOfTwoHasTheOthersName(t *testing.T) {
	ctx, alice, bob, _ := peopletest.Pair(t)
	id, err := alice.Create(ctx, client.CreateOptions{})
	if err == nil {
		err = alice.Add(ctx, id, "mimi://a.example/u/bob")
	}
	if err == nil {
		err = bob.CatchUp(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for user, d := range map[string]*client.Device{"bob@a.example": alice, "alice@a.example": bob} {
		list, err := d.Conversations(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ChooseConversation(list, user)
		if err != nil || c.ID != id || Titled(c) != user || PlainNames(c) != user {
			t.Errorf("%s: found %v, %v", user, c, err)
		}
	}
}
