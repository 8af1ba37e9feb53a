package consensus

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestBackAtOnceAfterAnAbsence checks that a follower which was away for minutes, while its leader went on, receives
// the missed entries at once: by entries, and by a snapshot if the leader's log does not reach back to its absence.
// All times are virtual.
func TestBackAtOnceAfterAnAbsence(t *testing.T) {
	for name, short := range map[string]uint64{"entries": 0, "a snapshot": 8} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(cfg *Config) {
				if short > 0 {
					cfg.Limits.SnapshotAfter, cfg.Limits.Trailing = short, 2
					cfg.Timers.Snapshot = time.Second
				}
			}, three, func(c *cluster) {
				p, _, rest := ofThree(c)
				for i, away := range []time.Duration{20 * time.Second, time.Minute, 4 * time.Minute} {
					c.stop(rest[0])
					for end := time.Now().Add(away); time.Now().Before(end); time.Sleep(3 * time.Second) {
						p = c.commit(rest[1].id, p, wire.DeliveryChange{})
					}
					c.start(rest[0])
					start := time.Now()
					c.eventually(fmt.Sprintf("%v has it all after %v", rest[0].id, away), func() bool {
						s, err := rest[0].m.Status(conv)
						return err == nil && s.Sequence == p.Parent
					})
					if took := time.Since(start); took > 2500*time.Millisecond {
						t.Errorf("absence %d: what was missed came after %v", i, took)
					}
				}
			})
		})
	}
}
