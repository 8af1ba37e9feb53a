// Package lanestest checks implementations of lanestore.Store against their contract, which is in the documentation of
// package lanestore.
package lanestest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// Place is where an implementation keeps lanes over restarts.
type Place interface {
	// Open opens and runs the store on what the place holds, until stop is called. stop can be called twice.
	Open(t testing.TB) (s lanestore.Store, stop func())
	// Crash returns the place in the state after a failure of the machine at this moment, with the durable data only.
	Crash(t testing.TB) Place
}

// Run runs the suite. fresh returns an empty place.
func Run(t *testing.T, fresh func(t testing.TB) Place) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{name: "Order", run: testOrder},
		{name: "Known", run: testKnown},
		{name: "Full", run: testFull},
		{name: "Refused", run: testRefused},
		{name: "Restart", run: testRestart},
		{name: "Concurrent", run: testConcurrent},
		{name: "Crash", run: testCrash},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
}

const (
	bee  = wire.Domain("b.example")
	sea  = wire.Domain("c.example")
	talk = wire.ConversationID("conversation one")
)

// outbox implements lanestore.Outbox: it records what the store reports.
type outbox struct {
	mu       sync.Mutex // guards what follows
	now      wire.Time
	most     int // items of one organization
	has      map[wire.Domain]int
	restored []lanestore.Queued
	shown    []lanestore.Queued
	refuse   error
}

func newOutbox(most int) *outbox {
	return &outbox{now: 1_000_000, most: most, has: make(map[wire.Domain]int)}
}

const window = time.Hour

// Check implements lanestore.Outbox.
func (o *outbox) Check([]lanestore.Item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refuse
}

// Now implements lanestore.Outbox.
func (o *outbox) Now() wire.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// Window implements lanestore.Outbox.
func (o *outbox) Window() time.Duration { return window }

// Restore implements lanestore.Outbox.
func (o *outbox) Restore(list []lanestore.Queued) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.restored = append(o.restored, list...)
}

// Reserve implements lanestore.Outbox.
func (o *outbox) Reserve(q lanestore.Queued) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.has[q.Organization] == o.most {
		return false
	}
	o.has[q.Organization]++
	return true
}

// Show implements lanestore.Outbox.
func (o *outbox) Show(list []lanestore.Queued) []func() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shown = append(o.shown, list...)
	return nil
}

func open(t testing.TB, p Place, o *outbox) (lanestore.Store, func()) {
	t.Helper()
	s, stop := p.Open(t)
	t.Cleanup(stop)
	if err := s.Open(o); err != nil {
		t.Fatal(err)
	}
	return s, stop
}

func item(d wire.Domain, n int) lanestore.Item {
	return lanestore.Item{Organization: d, Conversation: talk, ID: wire.SubmissionID{byte(n), byte(n >> 8), 1}, Payload: fmt.Appendf(nil, "payload %d", n)}
}

func appendAll(t testing.TB, s lanestore.Store, items ...lanestore.Item) map[wire.Domain]bool {
	t.Helper()
	full, err := s.Append(t.Context(), items...)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// lane reads a whole lane.
func lane(t testing.TB, s lanestore.Store, d wire.Domain) (list []lanestore.Waiting) {
	t.Helper()
	err := s.Read(t.Context(), d, talk, 0, 1<<62, func(w lanestore.Waiting) bool {
		w.Payload = slices.Clone(w.Payload)
		list = append(list, w)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// has checks that a lane has the items with some numbers, in order, with rising sequences.
func has(t testing.TB, s lanestore.Store, d wire.Domain, numbers ...int) []lanestore.Waiting {
	t.Helper()
	list := lane(t, s, d)
	if len(list) != len(numbers) {
		t.Fatalf("the lane of %s has %d items, want %d", d, len(list), len(numbers))
	}
	for i, n := range numbers {
		want := item(d, n)
		if w := list[i]; w.Damage != nil || w.ID != want.ID || string(w.Payload) != string(want.Payload) || i > 0 && w.Sequence <= list[i-1].Sequence {
			t.Fatalf("item %d of %s is %+v, want number %d", i, d, w, n)
		}
	}
	return list
}

// testOrder checks the order of a lane, the bounds of a read, and removals at the front.
func testOrder(t *testing.T, p Place) {
	o := newOutbox(100)
	s, _ := open(t, p, o)
	appendAll(t, s, item(bee, 1), item(sea, 9), item(bee, 2))
	appendAll(t, s, item(bee, 3))
	list := has(t, s, bee, 1, 2, 3)
	has(t, s, sea, 9)
	if len(o.shown) != 4 || o.shown[3].Sequence != list[2].Sequence || o.shown[3].Stored.Time != o.now || o.shown[3].Bytes != int64(len(list[2].Payload)) {
		t.Fatalf("shown %+v", o.shown)
	}
	n := 0
	if err := s.Read(t.Context(), bee, talk, list[1].Sequence, list[1].Sequence, func(w lanestore.Waiting) bool {
		n++
		return w.ID == item(bee, 2).ID && w.Time == o.now
	}); err != nil || n != 1 {
		t.Fatalf("%d items, %v", n, err)
	}
	n = 0
	if err := s.Read(t.Context(), bee, talk, 0, 1<<62, func(lanestore.Waiting) bool { n++; return false }); err != nil || n != 1 {
		t.Fatalf("%d items after the first has ended the read, %v", n, err)
	}
	if err := s.Remove(t.Context(), bee, talk, []uint64{list[0].Sequence, list[1].Sequence}); err != nil {
		t.Fatal(err)
	}
	has(t, s, bee, 3)
	has(t, s, sea, 9)
	if err := s.Remove(t.Context(), bee, talk, nil); err != nil {
		t.Fatal(err)
	}
}

// testKnown checks that an id is known within the window, also after its item was removed, and per lane.
func testKnown(t *testing.T, p Place) {
	o := newOutbox(100)
	s, _ := open(t, p, o)
	appendAll(t, s, item(bee, 1), item(bee, 1), item(sea, 1))
	list := has(t, s, bee, 1)
	has(t, s, sea, 1)
	if err := s.Remove(t.Context(), bee, talk, []uint64{list[0].Sequence}); err != nil {
		t.Fatal(err)
	}
	appendAll(t, s, item(bee, 1))
	has(t, s, bee)
	o.mu.Lock()
	o.now += wire.Time(2*window.Milliseconds()) + 1
	o.mu.Unlock()
	appendAll(t, s, item(bee, 1))
	has(t, s, bee, 1)
	if len(o.shown) != 3 {
		t.Fatalf("%d items were shown, want 3", len(o.shown))
	}
}

// testFull checks that an organization without room stops nobody else, and that its items are not queued.
func testFull(t *testing.T, p Place) {
	o := newOutbox(2)
	s, _ := open(t, p, o)
	full := appendAll(t, s, item(bee, 1), item(bee, 2), item(bee, 3), item(sea, 1))
	if len(full) != 1 || !full[bee] {
		t.Fatalf("full %v", full)
	}
	has(t, s, bee, 1, 2)
	has(t, s, sea, 1)
	o.mu.Lock()
	o.has[bee] = 0
	o.mu.Unlock()
	if full := appendAll(t, s, item(bee, 3)); len(full) != 0 { // not known: it was not queued
		t.Fatalf("full %v", full)
	}
	has(t, s, bee, 1, 2, 3)
}

// testRefused checks that nothing is queued of what the outbox refuses, or after the end of the context.
func testRefused(t *testing.T, p Place) {
	o := newOutbox(9)
	s, stop := open(t, p, o)
	o.refuse = errors.New("refused")
	if _, err := s.Append(t.Context(), item(bee, 1)); !errors.Is(err, o.refuse) {
		t.Fatalf("refused: %v", err)
	}
	o.refuse = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(ctx, item(bee, 1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	has(t, s, bee)
	if err := s.Open(o); err == nil {
		t.Error("a second outbox was taken")
	}
	stop()
	if _, err := s.Append(t.Context(), item(bee, 1)); !errors.Is(err, wire.Unavailable) {
		t.Errorf("stopped: %v", err)
	}
}

// testRestart checks that a new outbox gets what waits, each lane in its order, and that ids and sequences continue.
func testRestart(t *testing.T, p Place) {
	s, stop := open(t, p, newOutbox(9))
	appendAll(t, s, item(bee, 1), item(sea, 1), item(bee, 2))
	before := has(t, s, bee, 1, 2)
	stop()
	o := newOutbox(9)
	s, _ = open(t, p, o)
	var of []uint64
	for _, q := range o.restored {
		if q.Organization == bee {
			of = append(of, q.Sequence)
		}
		if q.Conversation != talk || q.Bytes != int64(len("payload 1")) || q.Stored.Time != o.now {
			t.Errorf("restored %+v", q)
		}
	}
	if len(o.restored) != 3 || !slices.Equal(of, []uint64{before[0].Sequence, before[1].Sequence}) {
		t.Fatalf("restored %+v", o.restored)
	}
	appendAll(t, s, item(bee, 2), item(bee, 3))
	has(t, s, bee, 1, 2, 3)
}

// testConcurrent checks that of many who append at the same time each keeps its order, and each item is shown once.
func testConcurrent(t *testing.T, p Place) {
	const writers, each = 8, 30
	o := newOutbox(writers * each)
	s, _ := open(t, p, o)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				if _, err := s.Append(t.Context(), item(bee, w*each+n), item(bee, w*each+n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	list := lane(t, s, bee)
	next := make(map[int]int)
	for _, v := range list {
		n := int(v.ID[0]) + int(v.ID[1])<<8
		if n%each != next[n/each] {
			t.Fatalf("item %d of writer %d comes after %d", n%each, n/each, next[n/each]-1)
		}
		next[n/each]++
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(list) != writers*each || len(o.shown) != len(list) {
		t.Fatalf("%d items, %d shown, want %d", len(list), len(o.shown), writers*each)
	}
	for i, q := range o.shown {
		if q.Sequence != list[i].Sequence {
			t.Fatalf("item %d was shown as number %d", list[i].Sequence, q.Sequence)
		}
	}
}

// testCrash checks that a crash loses no item that Append has accepted.
func testCrash(t *testing.T, p Place) {
	s, _ := open(t, p, newOutbox(99))
	appendAll(t, s, item(bee, 1), item(bee, 2))
	appendAll(t, s, item(bee, 3))
	after, _ := open(t, p.Crash(t), newOutbox(99))
	has(t, after, bee, 1, 2, 3)
	appendAll(t, after, item(bee, 3), item(bee, 4))
	has(t, after, bee, 1, 2, 3, 4)
}
