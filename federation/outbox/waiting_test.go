package outbox

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestWaitingNamesWhatIsSentNext: the ids are in the order of the lane, and the code says why it waits.
func TestWaitingNamesWhatIsSentNext(t *testing.T) {
	for name, c := range map[string]struct {
		down error
		want wire.Code
	}{"out of reach": {errors.New("connection refused"), wire.Unavailable}, "not admitted": {wire.NotAdmitted, wire.NotAdmitted}} {
		t.Run(name, func(t *testing.T) {
			disk := pebbletest.Memory()
			var up atomic.Bool
			o := startOutbox(t, disk, func(_ *Config, r *receiver) {
				r.down = func(org wire.Domain, _ wire.ConversationID) error {
					if org == orgB && !up.Load() {
						return c.down
					}
					return nil
				}
			})
			for n := range 5 {
				if err := o.Put(t.Context(), numbered(orgB, conv, n), numbered(orgC, conv, n), numbered(orgB, "conversation-two", 10+n)); err != nil {
					t.Fatal(err)
				}
			}
			waits := func(most int) []wire.WaitingLane {
				list, err := o.Waiting(conv, most)
				if err != nil {
					t.Fatal(err)
				}
				if err := (&wire.WaitingAnswer{Lanes: list}).Check(); err != nil {
					t.Error(err)
				}
				return list
			}
			federationtest.Eventually(t, "one organization waits", func() bool { l := waits(3); return len(l) == 1 && l[0].Code == c.want })
			l := waits(3)[0]
			if l.Organization != orgB || l.Items != 5 || l.Oldest == 0 || l.Last < l.Oldest || !slices.Equal(l.First, []wire.SubmissionID{subID(0), subID(1), subID(2)}) {
				t.Errorf("waits: %+v", l)
			}
			if all := waits(64)[0]; len(all.First) != 5 {
				t.Errorf("%d ids of 5", len(all.First))
			}
			up.Store(true)
			federationtest.Eventually(t, "nothing waits", func() bool { return len(waits(3)) == 0 })
		})
	}
}

// TestFlushWaitsForWhatWasThere: not for what comes later, nor for an organization that cannot be reached.
func TestFlushWaitsForWhatWasThere(t *testing.T) {
	disk := pebbletest.Memory()
	begun, goOn := make(chan int, 16), make(chan struct{}, 16)
	o := startOutbox(t, disk, func(c *Config, _ *receiver) {
		c.BatchItems = 1
		c.Link = linkFunc(func(ctx context.Context, org wire.Domain, _ wire.ConversationID, payloads [][]byte) ([]error, error) {
			if org == orgC {
				return nil, errors.New("connection refused")
			}
			begun <- len(payloads)
			select {
			case <-goOn:
				return make([]error, len(payloads)), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	})
	put := func(org wire.Domain, n int) {
		t.Helper()
		if err := o.Put(t.Context(), numbered(org, conv, n)); err != nil {
			t.Fatal(err)
		}
	}
	flush := func(ctx context.Context, orgs ...wire.Domain) <-chan struct{} {
		done := make(chan struct{})
		go func() { o.Flush(ctx, conv, orgs); close(done) }()
		return done
	}
	<-flush(t.Context(), orgB, orgC) // nothing waits
	put(orgC, 1)
	federationtest.Eventually(t, "an attempt failed", func() bool { l := o.Lanes(); return len(l) == 1 && l[0].LastError != "" })
	<-flush(t.Context(), orgC)

	put(orgB, 1)
	put(orgB, 2)
	<-begun
	done := flush(t.Context(), orgB, orgC)
	select { // a wrong answer shows at once; a right one does not depend on how long this is
	case <-done:
		t.Fatal("flushed while two items wait")
	case <-time.After(10 * flushLook):
	}
	goOn <- struct{}{}
	<-begun
	put(orgB, 3) // comes later
	goOn <- struct{}{}
	<-done

	ctx, cancel := context.WithCancel(t.Context())
	done = flush(ctx, orgB)
	cancel()
	<-done
}
