package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

func TestLimitOfOutgoing(t *testing.T) {
	w := newWorld(t, "a.example")
	w.limits.Outgoing = 3
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	a.stop()
	a.open()
	for i := range 4 {
		_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
		if want := map[bool]wire.Code{true: wire.Quota}[i == 3]; wire.CodeOf(err) != want {
			t.Errorf("message %d: %v, wanted %q", i, err, want)
		}
	}
	a.run()
	hasTexts(t, a, id, "alice: 0", "alice: 1", "alice: 2")
}

func TestLimitOfOperations(t *testing.T) {
	w := newWorld(t, "a.example")
	w.limits.Operations = 2
	a := w.peer(alicePhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	a.stop()
	a.open()
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Rename(ctx, id, fmt.Sprint(i)) }()
		eventually(t, func() error {
			a.waiters.mu.Lock()
			defer a.waiters.mu.Unlock()
			if len(a.waiters.byOp) == 0 && len(done) == 0 {
				return errors.New("the change does not wait")
			}
			return nil
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if err := a.Rename(t.Context(), id, "2"); wire.CodeOf(err) != wire.Quota {
		t.Errorf("change 2: %v", err)
	}
	a.run()
	eventually(t, func() error { // a change that was taken continues without its caller
		c, err := a.Conversation(t.Context(), id)
		if err == nil && c.Rules.Name != "1" {
			err = fmt.Errorf("named %q", c.Rules.Name)
		}
		return err
	})
}

func TestLimitOfHeldMessages(t *testing.T) {
	for name, l := range map[string]Limits{"count": {Held: 2, Receipts: -1}, "bytes": {HeldBytes: 700, Receipts: -1}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a.example", "b.example")
			w.limits = l
			a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
			id, err := a.Create(t.Context(), CreateOptions{})
			check(t, err)
			check(t, a.Add(t.Context(), id, bob))
			agree(t, id, a, b)
			w.mu.Lock()
			w.faults.lag["b.example"] = true
			w.faults.refuse = func(m wire.Method) *wire.Error {
				if m == wire.MethodEntries {
					return wire.Errorf(wire.Unavailable, "entries", "not now")
				}
				return nil
			}
			w.mu.Unlock()
			check(t, a.UpdateKeys(t.Context(), id))
			for i := range 4 {
				_, err := a.SendText(t.Context(), id, fmt.Sprint(i))
				check(t, err)
			}
			eventually(t, func() error {
				held := 0
				err := b.turn(context.Background(), func(u *unit) error {
					return u.Scan(recordKey(recordHeld, idPart(id)), func(_, _ []byte) error { held++; return nil })
				})
				n := len(b.events(EventUnreadable))
				if err == nil && (n == 0 || wire.CodeOf(b.events(EventUnreadable)[0].Err) != wire.Quota || held+n != 4) {
					err = fmt.Errorf("%d held, %d dropped", held, n)
				}
				return err
			})
			w.catchUp("b.example")
			eventually(t, func() error {
				if got := b.texts(id); len(got) == 0 || !slices.Equal(got, []string{"alice: 0", "alice: 1", "alice: 2"}[:len(got)]) {
					return fmt.Errorf("bob has %q", got)
				}
				return nil
			})
		})
	}
}

// TestLimitOfAttempts checks that a change is given up after Limits.Attempts lost commits, and that its caller gets
// an error, when another commit always wins.
func TestLimitOfAttempts(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Attempts = 2
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	// Whenever alice's commit is about to be ordered, bob's is faster.
	var races atomic.Int32
	w.mu.Lock()
	w.faults.before = func(by wire.DeviceID, m wire.Method) {
		if by == a.id && m == wire.MethodUpdate {
			races.Add(1)
			if err := b.UpdateKeys(context.Background(), id); err != nil {
				t.Errorf("bob: %v", err)
			}
		}
	}
	w.mu.Unlock()
	if err := a.Rename(t.Context(), id, "x"); wire.CodeOf(err) != wire.StaleEpoch {
		t.Errorf("%v, wanted stale epoch", err)
	}
	if n := races.Load(); n != 2 {
		t.Errorf("given up after %d attempts, wanted 2", n)
	}
	eventually(t, func() error { // events arrive at any time
		if n := len(a.events(EventLost)); n != 2 {
			return fmt.Errorf("%d lost commits reported, wanted 2", n)
		}
		return nil
	})
	w.mu.Lock()
	w.faults.before = nil
	w.mu.Unlock()
	check(t, a.Rename(t.Context(), id, "y")) // one fewer lost commit, and the change is made
	agree(t, id, a, b)
}

// TestLargeWelcomesTravelAsBlobs checks that a Welcome over Limits.Inline travels as a blob, and that the joining
// device fetches it.
func TestLargeWelcomesTravelAsBlobs(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.limits.Inline = 1000
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{Name: strings.Repeat("x", MaxName)})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	_, err = a.SendText(t.Context(), id, "while he joins")
	check(t, err)
	agree(t, id, a, b)
	hasTexts(t, b, id, "alice: while he joins")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.blobs) != 1 {
		t.Errorf("%d blobs", len(w.blobs))
	}
}

func TestSlowSubscriberGetsAGap(t *testing.T) {
	var h hub
	s := h.add()
	for range eventBuffer + 5 {
		h.publish(Event{Type: EventEpoch})
	}
	for range eventBuffer {
		<-s.events
	}
	h.publish(Event{Type: EventEpoch})
	if e := <-s.events; e.Type != EventMissed || e.Count != 5 {
		t.Errorf("%v of %d", e.Type, e.Count)
	}
	if e := <-s.events; e.Type != EventEpoch {
		t.Errorf("then %v", e.Type)
	}
}

// TestRestoreByTheLastResort checks that a device whose KeyPackages have run out is restored by its last resort,
// twice: its address stays the same.
func TestRestoreByTheLastResort(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	_ = c
	drain := func() {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		clear(b.w.orgs["b.example"].devices[b.id].packages)
	}
	for range 3 {
		drain()
		check(t, a.Restore(t.Context(), id, b.id))
		agree(t, id, a, b, c)
	}
}
