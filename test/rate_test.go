package test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// TestDeviceKeepsWithinTheRate checks that a device with more to send than its node accepts at once spreads its
// requests, and is not cut off: the node has announced the rate that its operator has set.
func TestDeviceKeepsWithinTheRate(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) { cfg.Gateway.FramesPerSecond = 10 }}, "a.example") // 40 at once
	alice := device(t, c, "a.example", "alice", "phone")
	var cut atomic.Int64
	events := alice.Subscribe(ctx)
	go func() {
		for e := range events {
			if e.Type == client.EventOffline {
				cut.Add(1)
			}
		}
	}()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := alice.SendText(ctx, id, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	err = cluster.Await(ctx, alice, func() (bool, error) {
		v, err := alice.Conversation(ctx, id)
		return err == nil && v.Outgoing == 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := cut.Load(); n != 0 {
		t.Errorf("the device was cut off %d times", n)
	}
}
