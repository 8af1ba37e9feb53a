package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// TestAddedAgainTwiceWhileAway checks that a device reads the messages of each of its memberships, also if its node
// was restarted in between.
func TestAddedAgainTwiceWhileAway(t *testing.T) {
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example", "b.example")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	must(err)
	bob, err := c.Device(ctx, "b.example", "bob", "phone")
	must(err)
	carol, err := c.Device(ctx, "b.example", "carol", "phone") // she sees what has arrived at bob's organization
	must(err)
	id, err := alice.Create(ctx, client.CreateOptions{})
	must(err)
	var want []string
	sent := 0
	say := func(member bool) {
		t.Helper()
		text := ""
		for n := range 5 {
			sent++
			text = fmt.Sprint("text ", sent)
			_, err := alice.SendText(ctx, id, text)
			must(err)
			if n == 2 {
				must(alice.UpdateKeys(ctx, id))
			}
			if member {
				want = append(want, text)
			}
		}
		reads(ctx, t, carol, id, text)
	}
	must(alice.Add(ctx, id, "mimi://b.example/u/bob", "mimi://b.example/u/carol"))
	inConversation(ctx, t, id, 3, bob, carol)
	must(c.StopDevice(bob))
	say(true)
	for range 2 {
		must(alice.Remove(ctx, id, "mimi://b.example/u/bob"))
		say(false)
		must(alice.Add(ctx, id, "mimi://b.example/u/bob"))
		say(true)
	}
	bob, err = c.Resume("b.example", "bob", "phone")
	must(err)
	gaps := bob.Subscribe(ctx)
	reads(ctx, t, bob, id, want[len(want)-1])
	page, err := bob.History(ctx, id, client.Query{Limit: client.MaxPage})
	must(err)
	var got []string
	for i := range page.Messages {
		got = append(got, page.Messages[i].Content.Text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("bob read %q, wanted %q", got, want)
	}
	cancel()
	for e := range gaps {
		if e.Type == client.EventGap {
			t.Errorf("a gap: %v", e.Err)
		}
	}
}

// TestAcceptedBeforeTheRemovalIsRead checks that a message which an organization had accepted for a member before the
// member's removal reaches the member's stream before the removal, although the two take different paths.
func TestAcceptedBeforeTheRemovalIsRead(t *testing.T) {
	c := newCluster(t, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{})
	must(err)
	must(alice.Add(ctx, id, "mimi://b.example/u/bob"))
	inConversation(ctx, t, id, 2, bob)
	must(c.StopDevice(bob))
	var want []string
	long := strings.Repeat("long ", 4_000) // takes its time on the way
	for round := range 8 {
		for n := range 8 {
			text := fmt.Sprintf("round %d, %d %s", round, n, long)
			_, err := alice.SendText(ctx, id, text)
			must(err)
			want = append(want, text)
		}
		must(cluster.Await(ctx, alice, func() (bool, error) {
			v, err := alice.Conversation(ctx, id)
			return err == nil && v.Outgoing == 0, err
		}))
		must(alice.Remove(ctx, id, "mimi://b.example/u/bob"))
		must(alice.Add(ctx, id, "mimi://b.example/u/bob"))
	}
	_, err = alice.SendText(ctx, id, "last")
	must(err)
	bob, err = c.Resume("b.example", "bob", "phone")
	must(err)
	reads(ctx, t, bob, id, "last")
	page, err := bob.History(ctx, id, client.Query{Limit: client.MaxPage})
	must(err)
	var got []string
	for i := range page.Messages {
		got = append(got, page.Messages[i].Content.Text)
	}
	if want = append(want, "last"); !slices.Equal(got, want) {
		t.Errorf("bob read %d messages, wanted %d", len(got), len(want))
	}
}
