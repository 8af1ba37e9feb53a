package test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// undelivered collects the notices of a device about its messages that others will not get: text and organization.
func undelivered(ctx context.Context, d *client.Device) func() map[string]string {
	var mu sync.Mutex
	reported := map[string]string{}
	events := d.Subscribe(ctx)
	go func() {
		for e := range events {
			if e.Type == client.EventUndelivered {
				mu.Lock()
				reported[e.Message.Content.Text] = e.Err.Error()
				mu.Unlock()
			}
		}
	}()
	return func() map[string]string {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]string{}
		for k, v := range reported {
			out[k] = v
		}
		return out
	}
}

// TestUndelivered checks that the sender of an accepted message learns that members of another organization will not
// get it, because that organization refuses the message or cannot be reached until the message expires. Other devices
// of the sender's organization get no notice.
func TestUndelivered(t *testing.T) {
	for name, expire := range map[string]time.Duration{"refused": time.Hour, "expired": time.Second} {
		t.Run(name, func(t *testing.T) {
			c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
				cfg.Federation.OutboxExpire = config.Duration(expire)
			}}, "a.example", "b.example", "mallory.example")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
			defer cancel()
			alice, amy := device(t, c, "a.example", "alice", "phone"), device(t, c, "a.example", "amy", "phone")
			bob, dave := device(t, c, "b.example", "bob", "phone"), device(t, c, "mallory.example", "dave", "phone")
			id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
			if err != nil {
				t.Fatal(err)
			}
			add(ctx, t, alice, id, "mimi://a.example/u/amy", "mimi://b.example/u/bob", "mimi://mallory.example/u/dave")
			await(t, ctx, id, 4, alice, amy, bob, dave)
			reported, others := undelivered(ctx, alice), undelivered(ctx, amy)
			if expire == time.Hour {
				newEvilWith(t, c, "mallory.example", map[wire.Method]federation.Handler{
					wire.CallNotify: func(_ context.Context, _ wire.NodeID, body []byte) (any, error) {
						q := new(wire.NotifyRequest)
						if err := wire.Decode(body, wire.MaxSessionFrame, q); err != nil {
							return nil, err
						}
						a := &wire.NotifyAnswer{Results: make([]*wire.Error, len(q.Messages))}
						for i := range a.Results {
							a.Results[i] = wire.Errorf(wire.Forged, "notify", "not wanted")
						}
						return a, nil
					},
				})
			} else if err := c.Stop("mallory.example"); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.SendText(ctx, id, "to all"); err != nil {
				t.Fatal(err)
			}
			if err := cluster.Await(ctx, bob, func() (bool, error) { return texts(ctx, bob, id)["to all"] == client.StatusReceived, nil }); err != nil {
				t.Fatal(err)
			}
			if err := cluster.Await(ctx, alice, func() (bool, error) {
				why := reported()["to all"]
				return strings.Contains(why, "mallory.example") && strings.Contains(why, name), nil
			}); err != nil {
				t.Fatalf("alice is shown %q: %v", reported(), err)
			}
			if got := texts(ctx, alice, id)["to all"]; got != client.StatusAccepted {
				t.Errorf("the message is %v to alice", got)
			}
			if _, err := alice.SendText(ctx, id, "second"); err != nil {
				t.Fatal(err)
			}
			if err := cluster.Await(ctx, amy, func() (bool, error) { return texts(ctx, amy, id)["second"] == client.StatusReceived, nil }); err != nil {
				t.Fatal(err)
			}
			if len(others()) != 0 {
				t.Errorf("amy is shown %q", others())
			}
		})
	}
}
