package outbox

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestReachedEndsPauses: pauses are an hour here, so what arrives has been sent because the organization is back.
func TestReachedEndsPauses(t *testing.T) {
	disk := pebbletest.Memory()
	var up, refuses atomic.Bool
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.RetryMin, c.RetryMax = time.Hour, time.Hour
		r.down = func(wire.Domain, wire.ConversationID) error {
			if up.Load() {
				return nil
			}
			return errors.New("connection refused")
		}
		r.answer = func(_ wire.Domain, c wire.ConversationID, _ []byte) error {
			if refuses.Load() && c == "conversation-busy" {
				return wire.Errorf(wire.Busy, "notify", "full")
			}
			return nil
		}
	})
	put := func(id wire.ConversationID, n int) {
		t.Helper()
		if err := o.Put(t.Context(), numbered(orgB, id, n)); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func(n int) func() bool {
		return func() bool {
			l := o.Lanes()
			failed := 0
			for _, v := range l {
				if v.LastError != "" {
					failed++
				}
			}
			return len(l) == n && failed == n
		}
	}
	for n, id := range []wire.ConversationID{"conversation-one", "conversation-two", "conversation-three"} {
		put(id, n)
	}
	federationtest.Eventually(t, "three lanes wait", waiting(3))
	o.Reached("x.example") // of whom nothing is known
	o.Reached(orgB)        // it is gone again at once
	federationtest.Eventually(t, "three lanes wait again", waiting(3))
	up.Store(true)
	o.Reached(orgB)
	federationtest.Eventually(t, "nothing waits", func() bool { return len(o.Lanes()) == 0 })

	refuses.Store(true)
	put("conversation-busy", 10)
	federationtest.Eventually(t, "a full stream waits", waiting(1))
	calls := func() int { o.r.mu.Lock(); defer o.r.mu.Unlock(); return o.r.calls }
	before := calls()
	o.Reached(orgB)
	put("conversation-one", 11) // what is sent after it shows that the dispatcher has looked
	federationtest.Eventually(t, "another lane is served", func() bool { return o.r.count(orgB, "conversation-one") == 2 && len(o.Lanes()) == 1 })
	if calls() != before+1 {
		t.Errorf("a lane that does not wait for the way was served: %d calls, lanes %v", calls()-before, o.Lanes())
	}
}

// TestEarlyIsNoFailure: where the other side is not ready for an item, because what it builds on is under way, the
// pauses do not grow for a while, and then do.
func TestEarlyIsNoFailure(t *testing.T) {
	disk := pebbletest.Memory()
	var calls atomic.Int64
	o := startOutbox(t, disk, func(c *Config, r *receiver) {
		c.RetryMin, c.RetryMax = time.Millisecond, time.Hour
		r.answer = func(wire.Domain, wire.ConversationID, []byte) error {
			calls.Add(1)
			return wire.Errorf(wire.Unavailable, "notify", "the entry before it is not here yet")
		}
	})
	if err := o.Put(t.Context(), numbered(orgB, conv, 0)); err != nil {
		t.Fatal(err)
	}
	failures := func() (n, early int) {
		o.mu.Lock()
		defer o.mu.Unlock()
		l := o.destinations[orgB].lanes[conv]
		return l.failures, l.early
	}
	federationtest.Eventually(t, "pauses grow", func() bool { n, _ := failures(); return n > 2 })
	if n, early := failures(); early != earlyRetries || calls.Load() < earlyRetries+int64(n)-1 {
		t.Errorf("%d failures after %d early answers and %d calls", n, early, calls.Load())
	}
}
