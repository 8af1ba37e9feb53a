package consensus

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestTransferLeadership checks that a node which stops in order leads nothing any more, and that commits continue at
// once.
func TestTransferLeadership(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		lead := c.leader(conv)
		// A submission is in progress, so that the conversation cannot go to sleep.
		l, release := lead.m.conversations[conv].use()
		if l == nil {
			t.Fatal("the leader sleeps")
		}
		lead.m.TransferLeadership(c.context(5 * time.Second))
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

// TestCommitAfterAnOrderlyStop checks that no commit waits for the stopped node, whether the conversation was put to
// sleep or its leadership was transferred.
func TestCommitAfterAnOrderlyStop(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(map[bool]string{false: "idle", true: "busy"}[busy], func(t *testing.T) {
			simulate(t, nil, three, func(c *cluster) {
				p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
				c.settled(conv, 3, 0)
				p = c.commit(nodeA, p, wire.DeliveryChange{})
				c.level(conv, three...)
				lead := c.leader(conv)
				if busy {
					p = c.commit(lead.id, p, wire.DeliveryChange{})
				}
				lead.m.TransferLeadership(c.context(5 * time.Second))
				c.stop(lead)
				start := time.Now()
				for _, n := range three {
					if n != lead.id {
						p = c.commit(n, p, wire.DeliveryChange{})
						t.Logf("%s: %v after the stop of %s", n, time.Since(start), lead.id)
					}
				}
				if waited := time.Since(start); waited >= time.Second {
					t.Fatalf("two commits took %v", waited)
				}
			})
		})
	}
}

// TestLearnerWakesASleepingVoter checks that a learner that is awake and has no contact with a leader brings its
// submission to the voter, which sleeps since its node was restarted.
func TestLearnerWakesASleepingVoter(t *testing.T) {
	two := []wire.NodeID{nodeA, nodeB}
	simulate(t, nil, two, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		voter, learner := c.nodes[nodeA], c.nodes[nodeB]
		if s, err := voter.m.Status(conv); err != nil || s.State != "Leader" {
			voter, learner = learner, voter
		}
		c.stop(voter)
		ctx := c.context(30 * time.Second)
		done := make(chan error, 1)
		go func() {
			_, err := learner.m.Order(ctx, p.Commit(c.id(), 8, wire.DeliveryChange{}))
			done <- err
		}()
		time.Sleep(5 * time.Second)
		c.start(voter)
		start := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Fatalf("the submission took %v after the voter was back", waited)
		}
	})
}
