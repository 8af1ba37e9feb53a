package test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongTwoFuturesAlarmDevices checks a forked history: the node of c.example orders entries with a.example, its
// operator restores an older copy of its disk, and the node then orders other entries with b.example. At the first
// message between a.example and b.example, devices of both get an alarm.
func TestLongTwoFuturesAlarmDevices(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("runs real nodes: set MLSFED_LONG to short or full")
	}
	c := newCluster(t, "a.example", "b.example", "c.example")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	await(t, ctx, id, 3, alice, bob, carol)
	voters := []wire.NodeID{"n1.a.example", "n1.b.example", "n1.c.example"}
	for _, d := range []wire.Domain{"a.example", "b.example", "c.example"} {
		if err := cluster.Await(ctx, alice, func() (bool, error) {
			s, err := c.Status(ctx, d)
			return err == nil && slices.ContainsFunc(s.Conversations, func(v node.Conversation) bool {
				return v.ID == id.String() && slices.Equal(v.Voters, voters) && v.Level == wire.UsualLevel
			}), err
		}); err != nil {
			t.Fatal(err)
		}
	}
	rest := func(list ...*client.Device) {
		t.Helper()
		for _, d := range list {
			if err := c.StopDevice(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	resume := func(d wire.Domain, user string) *client.Device {
		t.Helper()
		v, err := c.Resume(d, user, "phone")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	rest(bob, carol)
	stop := func(list ...wire.Domain) {
		t.Helper()
		for _, d := range list {
			if err := c.Stop(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := func(list ...wire.Domain) {
		t.Helper()
		for _, d := range list {
			if err := c.Start(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	history := func(d *client.Device) *client.Conversation {
		t.Helper()
		v, err := d.Conversation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	data, saved := c.Config("c.example").Data, t.TempDir()
	move := func(from, to string) {
		t.Helper()
		for _, folder := range []string{"order", "mail"} {
			if err := os.RemoveAll(filepath.Join(to, folder)); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(to, folder), os.DirFS(filepath.Join(from, folder))); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop("b.example", "c.example")
	move(data, saved)
	start("c.example")
	if err := alice.UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	one := history(alice)
	rest(alice)
	stop("a.example", "c.example")
	move(saved, data)
	start("b.example", "c.example")
	notices := make(chan string, 64)
	watch := func(who string, d *client.Device) { // from its start: an alarm may be there before the message
		events := d.Subscribe(ctx)
		go func() {
			for e := range events {
				if e.Type == client.EventDivergence && e.Conversation == id {
					notices <- who
				}
			}
		}()
	}
	bob = resume("b.example", "bob")
	watch("bob", bob)
	if err := bob.UpdateKeys(ctx, id); err != nil {
		t.Fatal(err)
	}
	other := history(bob)
	if one.Order == other.Order || one.Epoch != other.Epoch {
		t.Fatalf("these are not two futures: %+v and %+v", one, other)
	}
	start("a.example")
	alice = resume("a.example", "alice")
	watch("alice", alice)
	if _, err := bob.SendText(ctx, id, "one message"); err != nil {
		t.Fatal(err)
	}
	for waiting := map[string]bool{"alice": true, "bob": true}; len(waiting) > 0; {
		select {
		case who := <-notices:
			delete(waiting, who)
		case <-ctx.Done():
			t.Fatalf("no alarm: %v", waiting)
		}
	}
	if v := history(alice); v.Order != one.Order {
		t.Errorf("alice's history has become another one: %+v, it was %+v", v, one)
	}
}
