package consensus

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// stall makes no write to a node's disk end until the returned function is called.
func stall(n *testNode) (goOn func()) {
	gate := make(chan struct{})
	n.stalled.Store(&gate)
	return func() {
		n.stalled.Store(nil)
		close(gate)
	}
}

// deniesVotes lists the pairs of nodes of which the first one denies the second one its vote.
func deniesVotes(c *cluster, nodes ...wire.NodeID) (pairs [][2]wire.NodeID) {
	c.t.Helper()
	for _, n := range nodes {
		cv, err := c.nodes[n].m.find(conv)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, other := range nodes {
			if cv.voteDenied(other) {
				pairs = append(pairs, [2]wire.NodeID{n, other})
			}
		}
	}
	return pairs
}

// TestStalledDisk checks that a leader with a stalled disk makes another voter lead soon after Timers.Stall, without
// the wait for Raft's timers, and follows when the disk works again. Nothing is lost.
func TestStalledDisk(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p, lead, rest := ofThree(c)
		goOn := stall(lead)
		start := time.Now()
		p = c.commit(rest[0].id, p, wire.DeliveryChange{})
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("commits go on after %v", took)
		}
		p = c.commit(rest[1].id, p, wire.DeliveryChange{})
		goOn()
		c.level(conv, three...)
		c.commit(lead.id, p, wire.DeliveryChange{})
		c.level(conv, three...)
	})
}

// TestOldSubmissionsBlameNoNewLeader checks that submissions which waited for a leader with a stalled disk are not
// shown as ignored by its successor, which has had no time to order them: neither those of the followers nor those of
// the old leader.
func TestOldSubmissionsBlameNoNewLeader(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p, lead, _ := ofThree(c)
		goOn := stall(lead)
		done := make(chan error, 3)
		for _, n := range three {
			e := p.Commit(c.id(), 64, wire.DeliveryChange{})
			go func() {
				_, err := c.nodes[n].m.Order(c.context(time.Minute), e)
				done <- err
			}()
		}
		c.eventually("another leader", func() bool {
			l := c.leader(conv)
			return l != nil && l != lead
		})
		time.Sleep(10 * time.Second)
		goOn()
		accepted := 0
		for range three {
			if err := <-done; err == nil {
				accepted++
			} else if wire.CodeOf(err) != wire.StaleEpoch {
				t.Error(err)
			}
		}
		if accepted != 1 {
			t.Errorf("%d commits of one epoch were accepted", accepted)
		}
		c.level(conv, three...)
		for _, pair := range deniesVotes(c, three...) {
			if pair[1] != lead.id {
				t.Errorf("%s denies %s its vote", pair[0], pair[1])
			}
		}
		began, now := elections(c), c.leader(conv)
		time.Sleep(time.Minute)
		if n := elections(c); n != began || c.leader(conv) != nil && c.leader(conv) != now {
			t.Errorf("%d elections after the disk went on", n-began)
		}
	})
}
