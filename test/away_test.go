package test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAwayForMoreThanTheLogKeeps checks a device that was added by a Welcome in a blob while it was away, and a
// device that was a member. Both follow after the log has forgotten the entries that they missed and their node was
// restarted: their organization's mailbox has kept the entries, and their node the Welcome and the commits, which
// travel outside their entries.
func TestAwayForMoreThanTheLogKeeps(t *testing.T) {
	const commits = 280 // the log keeps 256 entries
	o := cluster.Options{Client: func(o *client.Options) {
		o.Limits.Inline, o.Limits.Receipts = 512, -1
		o.Timing.RetryFirst = 20 * time.Millisecond
	}}
	o.Edit = func(c *config.Config) { c.Rates = config.Rates{} }
	c := newClusterIn(t, t.TempDir(), o, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // hundreds of commits take a minute on a busy machine
	defer cancel()
	alice := device(t, c, "a.example", "alice", "phone")
	bob := device(t, c, "b.example", "bob", "phone")
	carol := device(t, c, "b.example", "carol", "phone")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id, err := alice.Create(ctx, client.CreateOptions{})
	must(err)
	must(alice.Add(ctx, id, "mimi://b.example/u/carol"))
	inConversation(ctx, t, id, 2, carol)
	must(c.StopDevice(carol))
	must(c.StopDevice(bob))
	must(alice.Add(ctx, id, "mimi://b.example/u/bob"))
	for range commits {
		must(alice.UpdateKeys(ctx, id))
	}
	must(c.Stop("b.example"))
	held, err := filepath.Glob(filepath.Join(c.Config("b.example").Data, "blobs", "blobs", "*"))
	must(err)
	if len(held) < commits {
		t.Errorf("the node of those who are away holds %d blobs for %d commits", len(held), commits)
	}
	must(c.Start(ctx, "b.example"))
	last := "the last word"
	_, err = alice.SendText(ctx, id, last)
	must(err)
	for _, user := range []string{"carol", "bob"} {
		d, err := c.Resume("b.example", user, "phone")
		must(err)
		troubles := make(chan client.Event, 16)
		go func() {
			for e := range d.Subscribe(ctx) {
				if e.Type == client.EventGap || e.Type == client.EventBroken {
					select {
					case troubles <- e:
					default:
					}
				}
			}
		}()
		must(cluster.Await(ctx, d, func() (bool, error) {
			_, err := d.Conversation(ctx, id)
			return err == nil, ignore(err, wire.UnknownConversation)
		}))
		reads(ctx, t, d, id, last)
		inConversation(ctx, t, id, 3, d)
		select {
		case e := <-troubles:
			t.Errorf("%s: %v: %v", user, e.Type, e.Err)
		default:
		}
		v, err := d.Conversation(ctx, id)
		must(err)
		if want := wire.Epoch(commits); v.Epoch < want {
			t.Errorf("%s is in epoch %d, wanted %d or later", user, v.Epoch, want)
		}
	}
}

// TestRemovedWhileAway checks a device that was added by a Welcome in a blob and removed again while it was away, with
// commits that travel outside their entries in between. It reads the messages of its membership and then leaves, also
// if it has acknowledged nothing else than what waits for the Welcome.
func TestRemovedWhileAway(t *testing.T) {
	o := cluster.Options{Client: func(o *client.Options) { o.Limits.Inline, o.Limits.Receipts = 512, -1 }}
	o.Edit = func(c *config.Config) { c.Rates = config.Rates{} }
	c := newClusterIn(t, t.TempDir(), o, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	dora := device(t, c, "b.example", "dora", "phone")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id, err := alice.Create(ctx, client.CreateOptions{})
	must(err)
	must(alice.Add(ctx, id, "mimi://b.example/u/dora"))
	inConversation(ctx, t, id, 2, dora)
	must(c.StopDevice(bob))
	const rounds = 30
	for range 2 {
		must(alice.Add(ctx, id, "mimi://b.example/u/bob"))
		for n := range rounds {
			must(alice.UpdateKeys(ctx, id))
			_, err := alice.SendText(ctx, id, fmt.Sprint("text ", n))
			must(err)
		}
		reads(ctx, t, dora, id, fmt.Sprint("text ", rounds-1))
		must(alice.Remove(ctx, id, "mimi://b.example/u/bob"))
	}
	inConversation(ctx, t, id, 2, dora)

	l := newLife()
	bob, err = c.Resume("b.example", "bob", "phone", l.apply)
	must(err)
	troubles := make(chan client.Event, 16)
	events := bob.Subscribe(ctx)
	l.watch()
	go func() {
		for e := range events {
			if e.Type == client.EventGap || e.Type == client.EventBroken || e.Type == client.EventDelayed {
				select {
				case troubles <- e:
				default:
				}
			}
		}
	}()
	must(cluster.Await(ctx, bob, func() (bool, error) {
		v, err := bob.Conversation(ctx, id)
		return err == nil && v.State == client.StateLeft && v.Messages == 2*rounds, ignore(err, wire.UnknownConversation)
	}))
	select {
	case e := <-troubles:
		t.Errorf("%v: %v", e.Type, e.Err)
	default:
	}
}
