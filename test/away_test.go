package test

import (
	"context"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAwayForMoreThanTheLogKeeps: a device that was added by a Welcome in a blob while it was away, and one that was a member,
// follow when the log has forgotten what they missed: their organization's mailbox has kept the entries, and the Welcome.
func TestAwayForMoreThanTheLogKeeps(t *testing.T) {
	const commits = 280 // the log keeps 256 entries
	o := cluster.Options{Client: func(o *client.Options) {
		o.Limits.Inline, o.Limits.Receipts = 512, -1
		o.Timing.RetryFirst = 20 * time.Millisecond
	}}
	o.Edit = func(c *config.Config) { c.Rates = config.Rates{} }
	c := newClusterIn(t, t.TempDir(), o, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
