package test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// moved waits until all devices are in the successor of a conversation, and returns its id.
func moved(ctx context.Context, t *testing.T, id wire.ConversationID, suite mlscore.CipherSuite, list []*client.Device) wire.ConversationID {
	t.Helper()
	var next wire.ConversationID
	for i, d := range list {
		err := cluster.Await(ctx, d, func() (bool, error) {
			v, err := d.Conversation(ctx, id)
			if err != nil || v.Suite != suite || v.State != client.StateActive {
				return false, err
			}
			next = v.ID
			return true, nil
		})
		if err != nil {
			v, _ := d.Conversation(ctx, id)
			t.Fatalf("device %d is not in the successor: %v: %+v", i, err, v)
		}
	}
	return next
}

// orderedInEach reports whether numbers are ordered in the old conversation and in its successor: all up to
// one of them were sent in the first, and the two are not ordered between them.
func orderedInEach(list []int) bool {
	for first := range len(list) + 1 {
		var parts [2][]int
		for _, n := range list {
			if n < first {
				parts[0] = append(parts[0], n)
			} else {
				parts[1] = append(parts[1], n)
			}
		}
		if slices.IsSorted(parts[0]) && slices.IsSorted(parts[1]) {
			return true
		}
	}
	return false
}

// TestMigrateOverTheNetwork checks that a conversation of three organizations migrates to a hybrid suite and
// continues, without losing messages sent meanwhile.
func TestMigrateOverTheNetwork(t *testing.T) {
	domains := []wire.Domain{"a.example", "b.example", "c.example"}
	c := newCluster(t, domains...)
	id, list := gather(t, c, domains, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sent := make([]int, len(list))
	send := func(who int) {
		t.Helper()
		if _, err := list[who].SendText(ctx, id, numbered(who, sent[who])); err != nil {
			t.Fatal(err)
		}
		sent[who]++
	}
	for who := range list {
		send(who)
	}
	agree(t, id, list, sent)
	done := make(chan error, 1)
	go func() {
		_, err := list[0].Migrate(ctx, id, client.MigrateOptions{Suite: mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()})
		done <- err
	}()
	for range 10 {
		send(1)
		send(2)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	next := moved(ctx, t, id, mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier(), list)
	for who := range list {
		send(who)
	}
	agreeIf(t, next, list, sent, orderedInEach)
	for who, d := range list {
		if err := d.UpdateKeys(ctx, id); err != nil {
			t.Fatal(err)
		}
		send(who)
	}
	agreeIf(t, next, list, sent, orderedInEach)
}

// TestMigrateWhileTheFounderIsAway checks a migration whose device goes away as soon as the ReInit has reached
// another device. The other members continue in the successor, whose replicas existed before the ReInit.
func TestMigrateWhileTheFounderIsAway(t *testing.T) {
	domains := []wire.Domain{"a.example", "b.example", "c.example"}
	c := newClusterIn(t, t.TempDir(), cluster.Options{Client: func(o *client.Options) { o.Timing.Founding = time.Second }}, domains...)
	id, list := gather(t, c, domains, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	migrating, stop := context.WithCancel(ctx)
	closing := make(chan struct{})
	events := list[1].Subscribe(migrating)
	go func() {
		defer close(closing)
		for range events {
			v, err := list[1].Conversation(ctx, id)
			if err == nil && (v.State == client.StateMoving || v.ID != id) {
				return
			}
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = list[0].Migrate(migrating, id, client.MigrateOptions{Suite: mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()}) // it continues after the call
	}()
	select {
	case <-closing:
	case <-ctx.Done():
		t.Fatal("the ReInit did not come")
	}
	if err := c.StopDevice(list[0]); err != nil {
		t.Fatal(err)
	}
	stop()
	<-done
	next := moved(ctx, t, id, mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier(), list[1:])
	if _, err := list[1].SendText(ctx, id, "still there"); err != nil {
		t.Fatal(err)
	}
	back, err := c.Resume("a.example", "user0", "phone")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*client.Device{back, list[2]} {
		err := cluster.Await(ctx, d, func() (bool, error) {
			page, err := d.History(ctx, next, client.Query{})
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil
			}
			return err == nil && len(page.Messages) == 1, err
		})
		if err != nil {
			t.Fatal(fmt.Errorf("the message after the migration: %w", err))
		}
	}
}
