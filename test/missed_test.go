package test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// parted makes one organization suspend another, or admit it again, and returns when its node has applied that.
func parted(ctx context.Context, t *testing.T, c *cluster.Cluster, here, there wire.Domain, apart bool) {
	t.Helper()
	peers, err := organization.PeersIn(filepath.Join(c.Config(here).Identity, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	want, set := organization.Admitted, peers.Resume
	if apart {
		want, set = organization.Suspended, peers.Suspend
	}
	if err := set(there); err != nil {
		t.Fatal(err)
	}
	if err := eventuallyWithin(ctx, func() bool {
		s, err := c.Status(ctx, here)
		return err == nil && slices.ContainsFunc(s.Peers.Peers, func(p federation.PeerStatus) bool { return p.Domain == there && p.State == want })
	}); err != nil {
		t.Fatal(err)
	}
}

// TestUnderWayAtTheRemoval checks messages for a member that a third organization had accepted and could not deliver
// before another organization removed the member. The member's device gets one notice for each message, and the
// messages that it read have no gap, both if other devices of its organization stay and if none does.
func TestUnderWayAtTheRemoval(t *testing.T) {
	for name, stays := range map[string]bool{"stays": true, "leaves": false} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, "a.example", "b.example", "c.example")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
			id, err := alice.Create(ctx, client.CreateOptions{})
			must(err)
			users, devices := []wire.UserID{"mimi://b.example/u/bob", "mimi://c.example/u/carol"}, []*client.Device{bob, carol}
			if stays {
				bea := device(t, c, "b.example", "bea", "phone")
				users, devices = append(users, "mimi://b.example/u/bea"), append(devices, bea)
			}
			must(alice.Add(ctx, id, users...))
			inConversation(ctx, t, id, len(users)+1, devices...)
			_, err = carol.SendText(ctx, id, "before")
			must(err)
			reads(ctx, t, bob, id, "before")
			must(c.StopDevice(bob))

			parted(ctx, t, c, "c.example", "b.example", true)
			for _, text := range []string{"under way", "and this"} {
				_, err = carol.SendText(ctx, id, text)
				must(err)
				reads(ctx, t, alice, id, text)
			}
			must(alice.Remove(ctx, id, "mimi://b.example/u/bob"))
			inConversation(ctx, t, id, len(users), alice, carol)
			parted(ctx, t, c, "c.example", "b.example", false)
			if stays {
				reads(ctx, t, devices[2], id, "and this")
			}

			bob, err = c.Resume("b.example", "bob", "phone")
			must(err)
			gaps := 0
			for e := range bob.Subscribe(ctx) {
				if e.Type != client.EventGap {
					continue
				}
				if e.Conversation != id || !strings.Contains(e.Err.Error(), "a message of c.example was on its way when this device was removed") {
					t.Fatalf("notices of %v in %v", e.Err, e.Conversation)
				}
				if gaps++; gaps == 2 {
					break
				}
			}
			if gaps != 2 {
				t.Fatalf("notices of %d messages, wanted 2", gaps)
			}
			must(cluster.Await(ctx, bob, func() (bool, error) {
				v, err := bob.Conversation(ctx, id)
				return err == nil && v.State == client.StateLeft, err
			}))
			page, err := bob.History(ctx, id, client.Query{})
			must(err)
			if len(page.Messages) != 1 || page.Messages[0].Content.Text != "before" {
				t.Errorf("bob read %d messages", len(page.Messages))
			}
			must(cluster.Await(ctx, carol, func() (bool, error) { // no item waits for the organization any longer
				p, err := carol.Progress(ctx, id, nil)
				return err == nil && len(p.Waiting) == 0, err
			}))
		})
	}
}
