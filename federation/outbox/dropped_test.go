package outbox

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestOutboxReportsDroppedItems checks that every item that is given up is reported with its reason, for every kind of
// loss, and that no item is removed before it was reported.
func TestOutboxReportsDroppedItems(t *testing.T) {
	refuse := func(_ context.Context, _ wire.Domain, _ wire.ConversationID, payloads [][]byte) ([]error, error) {
		results := make([]error, len(payloads))
		for i := range results {
			results[i] = wire.Errorf(wire.Forged, "notify", "not taken")
		}
		return results, nil
	}
	unreachable := func(context.Context, wire.Domain, wire.ConversationID, [][]byte) ([]error, error) {
		return nil, errors.New("connection refused")
	}
	for name, c := range map[string]struct {
		send   linkFunc
		reason string
		after  func(*Outbox, *federationtest.Clock)
	}{
		"refused one by one": {refuse, DropRefused, nil},
		"refused as a whole": {func(ctx context.Context, d wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error) {
			return nil, wire.Errorf(wire.Denied, "notify", "not admitted")
		}, DropRefused, nil},
		"expired":   {unreachable, DropExpired, func(_ *Outbox, clock *federationtest.Clock) { clock.Advance(2 * time.Hour) }},
		"forgotten": {unreachable, DropForgotten, func(o *Outbox, _ *federationtest.Clock) { o.Forget(orgB) }},
	} {
		t.Run(name, func(t *testing.T) {
			clock := federationtest.NewClock()
			disk := pebbletest.Memory()
			var mu sync.Mutex
			reported, failures := map[wire.SubmissionID]string{}, 3
			o := startOutbox(t, disk, func(cfg *Config, _ *receiver) {
				cfg.Clock, cfg.Expire, cfg.Link = clock, time.Hour, c.send
				cfg.Dropped = func(_ context.Context, org wire.Domain, id wire.ConversationID, items []Dropped) error {
					mu.Lock()
					defer mu.Unlock()
					if org != orgB || id != conv {
						t.Errorf("reported %s in %v", org, id)
					}
					if failures > 0 {
						failures--
						return errors.New("the mailbox is not there yet")
					}
					for _, it := range items {
						reported[it.ID] = it.Reason
					}
					return nil
				}
			})
			for n := range 3 {
				if err := o.Put(t.Context(), numbered(orgB, conv, n)); err != nil {
					t.Fatal(err)
				}
			}
			if c.after != nil {
				federationtest.Eventually(t, "they wait", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].LastError != "" })
				c.after(o.Outbox, clock)
			}
			federationtest.Eventually(t, "all are reported", func() bool {
				clock.Advance(time.Minute) // past the pauses
				mu.Lock()
				defer mu.Unlock()
				return len(reported) == 3 && failures == 0
			})
			federationtest.Eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 })
			for n := range 3 {
				if got := reported[subID(n)]; got != c.reason {
					t.Errorf("item %d: %q, wanted %q", n, got, c.reason)
				}
			}
		})
	}
}
