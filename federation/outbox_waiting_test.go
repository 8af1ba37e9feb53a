package federation

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// TestWaitingNamesWhatIsSentNext: the ids are in the order of the lane, and the code says why it waits.
func TestWaitingNamesWhatIsSentNext(t *testing.T) {
	for name, c := range map[string]struct {
		down error
		want wire.Code
	}{"out of reach": {errors.New("connection refused"), wire.Unavailable}, "not admitted": {wire.NotAdmitted, wire.NotAdmitted}} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, "", vfs.NewMem())
			t.Cleanup(func() { db.Close() })
			var up atomic.Bool
			o := startOutbox(t, db, func(_ *OutboxConfig, r *receiver) {
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
			eventually(t, "one organization waits", func() bool { l := waits(3); return len(l) == 1 && l[0].Code == c.want })
			l := waits(3)[0]
			if l.Organization != orgB || l.Items != 5 || l.Oldest == 0 || l.Last < l.Oldest || !slices.Equal(l.First, []wire.SubmissionID{subID(0), subID(1), subID(2)}) {
				t.Errorf("waits: %+v", l)
			}
			if all := waits(64)[0]; len(all.First) != 5 {
				t.Errorf("%d ids of 5", len(all.First))
			}
			up.Store(true)
			eventually(t, "nothing waits", func() bool { return len(waits(3)) == 0 })
		})
	}
}
