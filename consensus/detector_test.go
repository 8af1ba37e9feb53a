package consensus

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// patientRaft makes Raft's own timers longer than a test, so that Raft's timers do not cause the observed events.
func patientRaft(cfg *Config) {
	cfg.Timers.Heartbeat, cfg.Timers.Election, cfg.Timers.Sleep = time.Hour, time.Hour, time.Hour
	cfg.Timers.LeaderTimeout = time.Second
}

// ofThree creates a conversation of three voters and returns its leader and the others.
func ofThree(c *cluster) (p author.Place, lead *testNode, rest []*testNode) {
	c.t.Helper()
	p = c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
	c.settled(conv, 3, 0)
	p = c.commit(nodeB, p, wire.DeliveryChange{})
	c.level(conv, three...)
	lead = c.leader(conv)
	for _, n := range three {
		if n != lead.id {
			rest = append(rest, c.nodes[n])
		}
	}
	return p, lead, rest
}

// TestUnresponsiveLeader checks that a leader which is cut off, with connections that stay open and lose all data, is
// replaced shortly after Timers.LeaderTimeout, and a leader whose connections break shortly after half of it. Time is
// virtual.
func TestUnresponsiveLeader(t *testing.T) {
	for _, test := range []struct {
		name string
		fall func(*cluster, *testNode, []*testNode)
		most time.Duration
	}{
		{"swallowed", func(c *cluster, lead *testNode, rest []*testNode) {
			for _, n := range rest {
				c.f.setCut(lead.id, n.id, true)
			}
		}, 2 * time.Second},
		{"broken", func(c *cluster, lead *testNode, _ []*testNode) { c.crash(lead, true) }, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, patientRaft, three, func(c *cluster) {
				p, lead, rest := ofThree(c)
				test.fall(c, lead, rest)
				start := time.Now()
				p = c.commit(rest[0].id, p, wire.DeliveryChange{})
				if took := time.Since(start); took < 400*time.Millisecond || took > test.most {
					t.Errorf("commits go on after %v, wanted %v at most", took, test.most)
				}
				c.commit(rest[1].id, p, wire.DeliveryChange{})
				if lead.m == nil {
					c.start(lead)
				}
				for _, n := range rest {
					c.f.setCut(lead.id, n.id, false)
				}
				c.level(conv, three...)
			})
		})
	}
}

// TestReturningNodeDeposesNobody checks that a voter that was away while the others continued, and that has a
// submission as soon as it is back, joins them without an election.
func TestReturningNodeDeposesNobody(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p, lead, rest := ofThree(c)
		for range 3 {
			c.stop(rest[0])
			for range 5 {
				p = c.commit(rest[1].id, p, wire.DeliveryChange{})
			}
			began := elections(c)
			c.start(rest[0])
			start := time.Now()
			done := make(chan struct{})
			go func() { // the submissions of its devices
				defer close(done)
				if err := rest[0].m.Wake(c.context(20*time.Second), conv); err != nil {
					t.Error(err)
				}
			}()
			for range 5 {
				p = c.commit(rest[1].id, p, wire.DeliveryChange{})
			}
			<-done
			p = c.commit(rest[0].id, p, wire.DeliveryChange{})
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %v", took)
			}
			if n := elections(c); n > began || c.leader(conv) != lead {
				t.Errorf("%d elections, and %v leads", n-began, c.leader(conv).id)
			}
		}
	})
}

// TestForwardedToUnresponsiveLeader checks that a submission which was on its way to the leader when the leader fell
// silent is brought to the next leader, without waiting for an answer of the first.
func TestForwardedToUnresponsiveLeader(t *testing.T) {
	simulate(t, patientRaft, three, func(c *cluster) {
		p, lead, rest := ofThree(c)
		c.f.setFaults(0, 1, 0) // the submission is lost, and everything else
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := rest[0].m.Order(c.context(20*time.Second), p.Commit(c.id(), 64, wire.DeliveryChange{}))
			done <- err
		}()
		time.Sleep(10 * time.Millisecond)
		for _, n := range rest {
			c.f.setCut(lead.id, n.id, true)
		}
		c.f.setFaults(0, 0, 0)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestOneBrokenPath checks that a leader which only one of two voters cannot reach stays.
func TestOneBrokenPath(t *testing.T) {
	simulate(t, patientRaft, three, func(c *cluster) {
		p, lead, rest := ofThree(c)
		c.f.setCut(lead.id, rest[0].id, true)
		began := elections(c)
		for range 20 {
			p = c.commit(rest[1].id, p, wire.DeliveryChange{})
			time.Sleep(time.Second)
		}
		if n := elections(c); n != began || c.leader(conv) != lead {
			t.Errorf("%d elections, and %v leads", n-began, c.leader(conv).id)
		}
	})
}

// TestMinorityDeposesNobody checks that a voter without contact to others begins no election, and does not disturb
// the others when it is back.
func TestMinorityDeposesNobody(t *testing.T) {
	simulate(t, patientRaft, three, func(c *cluster) {
		p, lead, rest := ofThree(c)
		c.f.setCut(rest[0].id, lead.id, true)
		c.f.setCut(rest[0].id, rest[1].id, true)
		began := elections(c)
		for range 10 {
			p = c.commit(rest[1].id, p, wire.DeliveryChange{})
			time.Sleep(time.Second)
		}
		c.f.setCut(rest[0].id, lead.id, false)
		c.f.setCut(rest[0].id, rest[1].id, false)
		c.commit(rest[0].id, p, wire.DeliveryChange{})
		c.level(conv, three...)
		if n := elections(c); n != began || c.leader(conv) != lead {
			t.Errorf("%d elections, and %v leads", n-began, c.leader(conv).id)
		}
	})
}

// elections returns the number of elections that all nodes have begun.
func elections(c *cluster) (n int64) {
	for _, node := range c.nodes {
		if node.m == nil {
			continue // the node is stopped
		}
		n += node.m.Counts().Elections
	}
	return n
}

// TestUnresponsiveIsAskedByMembersOnly checks that strangers get no answer, and that nobody gets an answer about
// strangers.
func TestUnresponsiveIsAskedByMembersOnly(t *testing.T) {
	simulate(t, patientRaft, []wire.NodeID{nodeA, nodeB, nodeC, nodeD}, func(c *cluster) {
		_, lead, rest := ofThree(c)
		ask := func(from *testNode, about wire.NodeID) ([]byte, error) {
			return from.m.mesh.ask(c.context(5*time.Second), rest[0].id, &frame{kind: kindUnresponsive, conversation: conv, payload: []byte(about)})
		}
		if b, err := ask(lead, rest[1].id); err != nil || len(b) != 1 || b[0] != 0 {
			t.Errorf("about a node that is there: %x, %v", b, err)
		}
		if b, err := ask(lead, nodeD); err != nil || len(b) != 1 || b[0] != 0 {
			t.Errorf("about a stranger: %x, %v", b, err)
		}
		if _, err := ask(c.nodes[nodeD], lead.id); wire.CodeOf(err) != wire.NotReplica {
			t.Errorf("a stranger's question: %v", err)
		}
		if _, err := ask(lead, "no node"); wire.CodeOf(err) != wire.Malformed {
			t.Errorf("about no node: %v", err)
		}
		c.f.setCut(rest[0].id, rest[1].id, true)
		time.Sleep(2 * time.Second)
		if b, err := ask(lead, rest[1].id); err != nil || len(b) != 1 || b[0] != 1 {
			t.Errorf("about a node that was cut off: %x, %v", b, err)
		}
	})
}
