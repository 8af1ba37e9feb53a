package client

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// costOf counts the requests that f makes, of all devices together; upkeep and receipts are left out.
func costOf(t *testing.T, w *world, name string, f func() error) map[wire.Method]cost {
	t.Helper()
	w.mu.Lock()
	w.costs = make(map[wire.Method]cost)
	w.mu.Unlock()
	check(t, f())
	w.mu.Lock()
	defer w.mu.Unlock()
	costs := w.costs
	w.costs = nil
	for _, m := range []wire.Method{wire.MethodOrganizations, wire.MethodRenew, wire.MethodCount, wire.MethodUpload, wire.MethodDevices, wire.MethodRevocations} {
		delete(costs, m)
	}
	for _, m := range slices.Sorted(maps.Keys(costs)) {
		c := costs[m]
		t.Logf("%-28s %-14s %3d requests, %7d bytes sent, %7d answered", name, m, c.requests, c.sent, c.answered)
	}
	return costs
}

// counted waits until requests that have been answered are counted: what they did can be known to the device
// before, by a push.
func (w *world) counted(t *testing.T, want map[wire.Method]int) {
	t.Helper()
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for m, n := range want {
			if w.costs[m].requests < n {
				return fmt.Errorf("%d requests of %s, wanted %d", w.costs[m].requests, m, n)
			}
		}
		return nil
	})
}

// Adding a user with three devices is one claim and one commit; the rest is in docs/client.md.
func TestCostsOfOperations(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Receipts = -1
	a := w.peer(alicePhone).ready()
	var bobs []*peer
	for i := range 3 {
		bobs = append(bobs, w.peer(fmt.Sprintf("mimi://b.example/d/bob/d%d", i)).ready())
	}
	var id wire.ConversationID
	var err error
	ctx := t.Context()
	wanted := func(name string, want map[wire.Method]int, f func() error) {
		t.Helper()
		got := make(map[wire.Method]int)
		for m, c := range costOf(t, w, name, func() error {
			err := f()
			w.counted(t, want)
			return err
		}) {
			got[m] = c.requests
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, wanted %v", name, got, want)
		}
	}
	wanted("create", map[wire.Method]int{wire.MethodAddress: 1, wire.MethodUpdate: 1}, func() error {
		id, err = a.Create(ctx, CreateOptions{})
		return err
	})
	wanted("add a user of three devices", map[wire.Method]int{wire.MethodKeyMaterial: 1, wire.MethodUpdate: 1}, func() error {
		return a.Add(ctx, id, bob)
	})
	agree(t, id, a, bobs...)
	wanted("new keys, four members", map[wire.Method]int{wire.MethodUpdate: 1}, func() error { return a.UpdateKeys(ctx, id) })
	wanted("rename", map[wire.Method]int{wire.MethodUpdate: 1}, func() error { return a.Rename(ctx, id, "Lunch") })
	accepted := func(n int) {
		eventually(t, func() error {
			if len(a.events(EventAccepted)) < n {
				return fmt.Errorf("not accepted")
			}
			return nil
		})
	}
	wanted("text of 10 bytes", map[wire.Method]int{wire.MethodSubmit: 1}, func() error {
		_, err := a.SendText(ctx, id, "0123456789")
		accepted(1)
		return err
	})
	wanted("file of 1 MiB", map[wire.Method]int{wire.MethodPutBlob: 7, wire.MethodSubmit: 1}, func() error {
		_, err := a.SendFile(ctx, id, "a", bytes.NewReader(make([]byte, 1<<20)), 1<<20, "")
		accepted(2)
		return err
	})
	wanted("remove a user of three devices", map[wire.Method]int{wire.MethodUpdate: 1}, func() error { return a.Remove(ctx, id, bob) })
}
