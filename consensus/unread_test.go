package consensus

import (
	"context"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// unread is a consumer that stores nothing, since no device reads its conversations.
type unread struct {
	mu    sync.Mutex // guards heard
	heard []wire.SequenceNumber
}

func (u *unread) Position(wire.ConversationID) (wire.SequenceNumber, error) { return 0, nil }

func (u *unread) Consume(_ context.Context, d Delivery) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.heard = append(u.heard, d.Committed.Sequence)
	return nil
}

// TestUnreadEntriesAreHandedOverOnce checks that a conversation without readers in the organization costs one call
// for each entry, also if it has more entries than a batch holds.
func TestUnreadEntriesAreHandedOverOnce(t *testing.T) {
	u := new(unread)
	edit := func(cfg *Config) {
		if cfg.Node == nodeB {
			cfg.Consumer = u
		}
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		for range pumpStep + 1 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.level(conv, nodeA, nodeB)
		want := c.nodes[nodeA].consumer.sequences(conv)
		heard := func() []wire.SequenceNumber {
			u.mu.Lock()
			defer u.mu.Unlock()
			return append([]wire.SequenceNumber{}, u.heard...)
		}
		c.eventually("everything is handed over", func() bool { return len(heard()) >= len(want) })
		got := heard()
		if len(got) != len(want) {
			t.Fatalf("%d calls for %d entries", len(got), len(want))
		}
		for i, seq := range got {
			if seq != want[i] {
				t.Fatalf("call %d is for entry %d, wanted %d", i, seq, want[i])
			}
		}
	})
}
