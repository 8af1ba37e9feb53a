package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// costOf counts the requests of all devices during f, and the pushes; it excludes upkeep and receipts.
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
	for _, m := range []wire.Method{wire.MethodOrganizations, wire.MethodOrganizationsPage, wire.MethodRevocationsPage, wire.MethodRenew, wire.MethodCount, wire.MethodUpload, wire.MethodDevices, wire.MethodRevocations, wire.MethodFeatures, wire.MethodConversations} {
		delete(costs, m)
	}
	for _, m := range slices.Sorted(maps.Keys(costs)) {
		c := costs[m]
		t.Logf("%-28s %-14s %3d requests, %7d bytes sent, %7d answered", name, m, c.requests, c.sent, c.answered)
	}
	return costs
}

// counted waits until answered requests are counted: a push can show their effects to the device earlier.
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

// TestCostsOfOperations checks that adding a user with three devices costs one claim and one commit;
// docs/spec/client.md has the rest.
func TestCostsOfOperations(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Receipts = -1
	w.timing = func(q *Timing) { q.Grace, q.Upkeep = time.Minute, time.Hour } // pushes come, even on a slow machine
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
			if m != pushed {
				got[m] = c.requests
			}
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
	wanted("roles", map[wire.Method]int{wire.MethodUpdate: 1}, func() error {
		return a.ChangeRules(ctx, id, RulesChange{Promote: []wire.UserID{bob}})
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
	wanted("text of 10 bytes, received by three", map[wire.Method]int{wire.MethodSubmit: 1}, func() error {
		_, err := a.SendText(ctx, id, "0123456789")
		accepted(2)
		for _, b := range bobs {
			hasTexts(t, b, id, "alice: 0123456789", "alice: 0123456789")
		}
		return err
	})
	wanted("file of 1 MiB", map[wire.Method]int{wire.MethodPutBlob: 7, wire.MethodSubmit: 1}, func() error {
		_, err := a.SendFile(ctx, id, "a", bytes.NewReader(make([]byte, 1<<20)), 1<<20, "")
		accepted(3)
		return err
	})
	var file *File
	eventually(t, func() error {
		page, err := bobs[0].History(ctx, id, Query{Limit: 1})
		if err != nil {
			return err
		}
		if file = page.Messages[0].Content.File; file == nil {
			return errors.New("the file has not come")
		}
		return nil
	})
	wanted("file of 1 MiB, fetched", map[wire.Method]int{wire.MethodDownload: 11}, func() error {
		return bobs[0].SaveFile(ctx, id, file, io.Discard, 0)
	})
	// One of three devices leaves: its own request, and the commit by another member. The other two are stopped:
	// otherwise several members could race for the commit.
	bobs[0].stop()
	bobs[1].stop()
	wanted("leave", map[wire.Method]int{wire.MethodUpdate: 2}, func() error {
		if err := bobs[2].Leave(ctx, id); err != nil {
			return err
		}
		inState(t, bobs[2], id, StateLeft)
		return nil
	})
	bobs[2].stop()
	eventually(t, func() error { // the device would send its commit again after the restart
		if len(a.events(EventRemoved)) == 0 {
			return errors.New("the commit that a made for the leave is not taken in")
		}
		return nil
	})
	var code string
	wanted("second device: code", map[wire.Method]int{wire.MethodInvite: 1}, func() error {
		code, _, err = a.InviteDevice(ctx, 0)
		return err
	})
	tablet := &peer{t: t, w: w, id: "mimi://a.example/d/alice/tablet", disk: &disk{MemoryStore: newMemory(), left: -1}}
	tablet.open()
	a.stop() // the device would hear of the other one before that has KeyPackages
	check(t, tablet.Enrol(ctx, Enrolment{Device: tablet.id, Code: code}))
	tablet.run()
	t.Cleanup(tablet.stop)
	wanted("second device: added to one conversation", map[wire.Method]int{wire.MethodKeyMaterial: 1, wire.MethodUpdate: 1}, func() error {
		a.restart()
		agree(t, id, a, tablet)
		return nil
	})
	wanted("remove a user of two devices", map[wire.Method]int{wire.MethodUpdate: 1}, func() error { return a.Remove(ctx, id, bob) })
}
