package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// These tests check the timers against hostile peers at their edges.

// TestWakeAtItsEdge checks that after Limits.Wakes wakes in a burst a peer without a vote may wake once more each
// Timers.Wake, and a voter sixteen times as often.
func TestWakeAtItsEdge(t *testing.T) {
	withScene(t, func(cfg *Config) { cfg.Limits.Wakes, cfg.Timers.Wake = 3, 16*time.Second }, func(s *scene) wire.NodeID {
		m := s.nodes[s.leader].m
		cv, err := m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		served := func(n wire.NodeID, most int) (got int) {
			for range most {
				if err := m.mayWake(n, cv); err == nil {
					got++
				} else if wire.CodeOf(err) != wire.Busy {
					t.Fatal(err)
				}
			}
			return got
		}
		for who, burst := range map[wire.NodeID]int{s.learner: 3, s.voters[0]: 3 * voterWakes} {
			refill := 16 * time.Second * 3 / time.Duration(burst)
			if got := served(who, burst+5); got != burst {
				t.Errorf("%s: %d at once, wanted %d", who, got, burst)
			}
			time.Sleep(refill - time.Nanosecond)
			if got := served(who, 1); got != 0 {
				t.Errorf("%s: served before %v", who, refill)
			}
			time.Sleep(time.Nanosecond)
			if got := served(who, 2); got != 1 {
				t.Errorf("%s: %d served after %v", who, got, refill)
			}
		}
		return ""
	})
}

// TestLostAtItsEdge checks that a node contradicts an unknown recovery by another node, if nothing was ordered since
// the node started, only after it has been up for Timers.Lost.
func TestLostAtItsEdge(t *testing.T) {
	withScene(t, func(cfg *Config) { cfg.Timers.Lost = 10 * time.Minute }, func(s *scene) wire.NodeID {
		s.asleep(conv, s.everybody()...)
		node := s.nodes[s.voters[0]]
		s.stop(node)
		time.Sleep(time.Second)
		s.start(node)
		m := node.m
		cv, err := m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		contradicts := func() bool { return m.contradicts(cv, "n1.x.example", 1) }
		time.Sleep(time.Until(m.began.Add(10*time.Minute - time.Nanosecond)))
		if contradicts() {
			t.Error("before its time")
		}
		time.Sleep(time.Nanosecond)
		if !contradicts() {
			t.Error("not in its time")
		}
		return ""
	})
}

// TestIdleAtItsEdge checks that the state for a node without a connection is dropped after Timers.Idle.
func TestIdleAtItsEdge(t *testing.T) {
	simulate(t, func(cfg *Config) { cfg.Timers.Idle = 5 * time.Minute }, []wire.NodeID{nodeA}, func(c *cluster) {
		a := c.nodes[nodeA].m
		c.roster.add("n1.gone.example")
		a.notify("n1.gone.example", &frame{kind: kindBeats})
		synctest.Wait()
		peers := func() int {
			a.mesh.mu.Lock()
			defer a.mesh.mu.Unlock()
			return len(a.mesh.peers)
		}
		time.Sleep(5*time.Minute - time.Second)
		synctest.Wait()
		if n := peers(); n != 1 {
			t.Errorf("%d peers before its time", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := peers(); n != 0 {
			t.Errorf("%d peers after its time", n)
		}
	})
}

// TestCompareAtItsEdge checks that a conversation with new entries is compared with another organization's replica
// after Timers.Compare, and again the fixed number of times.
func TestCompareAtItsEdge(t *testing.T) {
	simulate(t, func(cfg *Config) { cfg.Timers.Compare, cfg.Timers.Sleep = 30*time.Second, time.Hour }, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		cv, err := c.nodes[nodeA].m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		for cv.rounds.Load() > 0 { // comparisons from before
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second) // after a comparison
		c.commit(nodeA, p, wire.DeliveryChange{})
		c.level(conv, three...)
		for want := int64(compareRounds); want > 0; want-- {
			if got := int64(cv.rounds.Load()); got != want {
				t.Errorf("%d comparisons are due, wanted %d", got, want)
			}
			time.Sleep(30 * time.Second)
		}
	})
}

// TestDoubtComparesAtOnce checks that if an organization brings data that does not fit, its replicas are compared
// with before Timers.Compare has passed, and once within that time.
func TestDoubtComparesAtOnce(t *testing.T) {
	withScene(t, func(cfg *Config) { cfg.Timers.Compare = time.Hour }, func(s *scene) wire.NodeID {
		evil, victim := s.voters[0], s.voters[1]
		other := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		for _, n := range []wire.NodeID{s.leader, s.learner, evil} {
			s.f.setCut(victim, n, true)
		}
		s.p = s.commit(s.leader, s.p, wire.DeliveryChange{}) // the one future
		s.f.setCut(victim, evil, false)
		b, err := wire.Encode(&wire.Entry{Version: 1, Time: wire.TimeOf(time.Now()), Proposer: evil, Envelope: other})
		if err != nil {
			t.Fatal(err)
		}
		status := func() Status {
			st, err := s.nodes[victim].m.Status(conv)
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		seq := status().Sequence
		if err := s.asLeader(evil, victim, true, &raft.Log{Type: raft.LogCommand, Data: b}); err != nil {
			t.Fatal(err)
		}
		s.eventually("the victim has applied the other one", func() bool { return status().Sequence > seq })
		s.f.setCut(victim, evil, true)
		s.f.setCut(victim, s.learner, false) // the learner neither leads nor elects
		time.Sleep(time.Minute)
		if n := s.refused(victim, RefusedDivergence); n != 0 {
			t.Fatal("noticed without a comparison")
		}
		m := s.nodes[victim].m
		m.Doubt(conv, s.learner.Organization())
		s.eventually("it is noticed", func() bool { return s.refused(victim, RefusedDivergence) == 1 })
		if m.meter.take(meterKey{wire.NodeID(s.learner.Organization()), conv, meterDoubt}, 1, time.Hour) {
			t.Error("the organization may be doubted again at once")
		}
		s.f.setCut(victim, s.leader, false)
		return evil
	})
}

// TestInviteAtItsEdge checks that one organization can invite a node to one conversation Limits.Invites times in a
// burst, and then once each Timers.Invite; invitations to other conversations, and by others, are not affected.
func TestInviteAtItsEdge(t *testing.T) {
	simulate(t, func(cfg *Config) { cfg.Limits.Invites, cfg.Timers.Invite = 3, 5*time.Minute }, three, func(c *cluster) {
		m := c.nodes[nodeB].m
		taken := func(from wire.NodeID, id wire.ConversationID, most int) (n int) {
			for range most {
				if err := m.mayInvite(from, id); err == nil {
					n++
				} else if wire.CodeOf(err) != wire.Busy {
					t.Fatal(err)
				}
			}
			return n
		}
		if n := taken(nodeA, conv, 5); n != 3 {
			t.Errorf("%d at once, wanted 3", n)
		}
		time.Sleep(5*time.Minute - time.Nanosecond)
		if n := taken(nodeA, conv, 1); n != 0 {
			t.Error("one more before its time")
		}
		time.Sleep(time.Nanosecond)
		if n := taken(nodeA, conv, 2); n != 1 {
			t.Errorf("%d more in its time", n)
		}
		if n := taken(nodeA, "conversation-two", 5) + taken(nodeC, conv, 5); n != 6 {
			t.Errorf("%d to another conversation and by another organization, wanted 3 each", n)
		}
		if n := taken("n2.b.example", conv, 5); n != 5 {
			t.Errorf("%d of this organization's own, wanted 5", n)
		}
	})
}
