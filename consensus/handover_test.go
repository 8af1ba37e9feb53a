package consensus

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestHandOver: a node that stops in good order leads nothing any more, and commits go on at once.
func TestHandOver(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		lead := c.leader(conv)
		// Something is under way, so that it cannot go to sleep.
		l, release := lead.m.conversations[conv].use()
		if l == nil {
			t.Fatal("the leader sleeps")
		}
		lead.m.HandOver(c.context(5 * time.Second))
		release()
		if l.leads() {
			t.Fatalf("%s still leads", lead.id)
		}
		c.stop(lead)
		start := time.Now()
		for _, n := range three {
			if n != lead.id {
				c.commit(n, p, wire.DeliveryChange{})
				break
			}
		}
		if waited := time.Since(start); waited >= time.Second { // virtual time: an election takes two seconds
			t.Fatalf("the next commit took %v", waited)
		}
	})
}

// TestHandOverOfAnIdleConversation puts it to sleep.
func TestHandOverOfAnIdleConversation(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.commit(nodeA, p, wire.DeliveryChange{})
		c.level(conv, three...)
		c.eventually("it is handed over", func() bool {
			for _, n := range three {
				c.nodes[n].m.HandOver(c.context(time.Second))
			}
			for _, n := range three {
				if c.nodes[n].m.Counts().Awake > 0 {
					return false
				}
			}
			return true
		})
	})
}
