package test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAbsentDeviceStopsNobody fills the share of an organization with items that one device has not read. It checks
// that another device of the same organization gets all messages, and can send. The sender's messages are accepted,
// and the sender sees which device has confirmed none. The operator sees what has expired. An absent device, both a
// member and one that was added meanwhile, returns with a gap.
func TestAbsentDeviceStopsNobody(t *testing.T) {
	const room, round, rounds = 20, 10, 4
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Mailbox.Items = room }}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	carol, dora := device(t, c, "b.example", "carol", "phone"), device(t, c, "b.example", "dora", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{})
	must(err)
	must(alice.Add(ctx, id, "mimi://b.example/u/bob", "mimi://b.example/u/carol"))
	inConversation(ctx, t, id, 3, bob, carol)
	must(c.StopDevice(bob))
	must(c.StopDevice(dora))

	confirmed, alarms := make(map[wire.DeviceID]int), make(chan client.Event, 16)
	done := make(chan struct{})
	events := alice.Subscribe(ctx)
	go func() {
		defer close(done)
		for e := range events {
			switch e.Type {
			case client.EventDelivered:
				if confirmed[e.Device]++; confirmed[e.Device] == round*rounds {
					return
				}
			case client.EventUndelivered, client.EventFailed, client.EventGap:
				alarms <- e
			}
		}
	}()
	for r := range rounds {
		if r == rounds/2 { // an Add into the full stream
			must(alice.Add(ctx, id, "mimi://b.example/u/dora"))
		}
		last := ""
		for n := range round {
			last = fmt.Sprintf("round %d, %d", r, n)
			_, err := alice.SendText(ctx, id, last)
			must(err)
		}
		reads(ctx, t, carol, id, last)
		answer := fmt.Sprint("answer ", r)
		_, err := carol.SendText(ctx, id, answer)
		must(err)
		reads(ctx, t, alice, id, answer)
	}
	select {
	case <-done:
	case e := <-alarms:
		t.Fatalf("alice gets the notice %v: %v", e.Type, e.Err)
	case <-ctx.Done():
		t.Fatalf("carol has not confirmed all of %d", round*rounds)
	}
	if len(confirmed) != 1 || confirmed["mimi://b.example/d/carol/phone"] != round*rounds {
		t.Errorf("alice sees confirmations of %v", confirmed)
	}
	page, err := carol.History(ctx, id, client.Query{Limit: client.MaxPage})
	must(err)
	if len(page.Messages) != (round+1)*rounds {
		t.Errorf("carol has %d messages, wanted %d", len(page.Messages), (round+1)*rounds)
	}
	status, err := c.Status(ctx, "b.example")
	must(err)
	if status.Expired == 0 {
		t.Error("the operator sees nothing expired")
	}
	if status, err := c.Status(ctx, "a.example"); err != nil || status.Expired != 0 {
		t.Errorf("at the sender's %d items expired (%v)", status.Expired, err)
	}

	last := fmt.Sprintf("round %d, %d", rounds-1, round-1)
	for _, user := range []string{"bob", "dora"} {
		v, err := c.Resume("b.example", user, "phone")
		must(err)
		gap := make(chan error, 16)
		events := v.Subscribe(ctx)
		go func() {
			for e := range events {
				if e.Type == client.EventGap {
					gap <- e.Err
				}
			}
		}()
		must(cluster.Await(ctx, v, func() (bool, error) {
			_, err := v.Conversation(ctx, id)
			return err == nil, ignore(err, wire.UnknownConversation)
		}))
		reads(ctx, t, v, id, last)
		inConversation(ctx, t, id, 4, v)
		select {
		case <-gap:
		case <-ctx.Done():
			t.Fatalf("%s learns of no gap", user)
		}
		_, err = v.SendText(ctx, id, "back: "+user)
		must(err)
		reads(ctx, t, alice, id, "back: "+user)
	}
}
