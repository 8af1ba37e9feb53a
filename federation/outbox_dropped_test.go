package federation

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// TestOutboxTellsOfTheDropped holds that whatever is given up is told of with its reason, for every kind of
// loss, and that nothing is removed before it could be told.
func TestOutboxTellsOfTheDropped(t *testing.T) {
	refuse := func(_ context.Context, _ wire.Domain, _ wire.ConversationID, items []Item) ([]error, error) {
		results := make([]error, len(items))
		for i := range results {
			results[i] = wire.Errorf(wire.Forged, "notify", "not taken")
		}
		return results, nil
	}
	unreachable := func(context.Context, wire.Domain, wire.ConversationID, []Item) ([]error, error) {
		return nil, errors.New("connection refused")
	}
	for name, c := range map[string]struct {
		send   SendFunc
		reason string
		after  func(*Outbox, *testClock)
	}{
		"refused one by one": {refuse, DropRefused, nil},
		"refused as a whole": {func(ctx context.Context, d wire.Domain, c wire.ConversationID, items []Item) ([]error, error) {
			return nil, wire.Errorf(wire.Denied, "notify", "not admitted")
		}, DropRefused, nil},
		"expired":   {unreachable, DropExpired, func(_ *Outbox, clock *testClock) { clock.advance(2 * time.Hour) }},
		"forgotten": {unreachable, DropForgotten, func(o *Outbox, _ *testClock) { o.Forget(orgB) }},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			db := openDB(t, "", vfs.NewMem())
			t.Cleanup(func() { db.Close() })
			var mu sync.Mutex
			told, failures := map[wire.SubmissionID]string{}, 3
			o := startOutbox(t, db, func(cfg *OutboxConfig, _ *receiver) {
				cfg.Clock, cfg.Expire, cfg.Send = clock, time.Hour, c.send
				cfg.Dropped = func(_ context.Context, org wire.Domain, id wire.ConversationID, items []Dropped) error {
					mu.Lock()
					defer mu.Unlock()
					if org != orgB || id != conv {
						t.Errorf("told of %s in %v", org, id)
					}
					if failures > 0 {
						failures--
						return errors.New("the mailbox is not there yet")
					}
					for _, it := range items {
						told[it.ID] = it.Reason
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
				eventually(t, "they wait", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].LastError != "" })
				c.after(o.Outbox, clock)
			}
			eventually(t, "all are told of", func() bool {
				clock.advance(time.Minute) // past the pauses
				mu.Lock()
				defer mu.Unlock()
				return len(told) == 3 && failures == 0
			})
			eventually(t, "the lane is empty", func() bool { return len(o.Lanes()) == 0 })
			for n := range 3 {
				if got := told[subID(n)]; got != c.reason {
					t.Errorf("item %d: %q, wanted %q", n, got, c.reason)
				}
			}
		})
	}
}
