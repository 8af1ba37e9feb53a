package consensus

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// organizations returns a number of organizations, and their nodes.
func organizations(n int) (orgs []wire.Domain, nodes []wire.NodeID) {
	for i := range n {
		d := wire.Domain(fmt.Sprintf("o%03d.example", i))
		orgs, nodes = append(orgs, d), append(nodes, wire.NodeID("n1."+d))
	}
	return orgs, nodes
}

// TestManyOrganizations checks that a conversation to which many organizations are added at once gets its voters
// before most of its learners, and all replicas without a pause between the steps.
func TestManyOrganizations(t *testing.T) {
	const n = 100
	orgs, nodes := organizations(n)
	simulate(t, nil, nodes, func(c *cluster) {
		p := c.found(nodes[0], conv, wire.Policy{}, orgs[0])
		begun := time.Now()
		p = c.commit(nodes[0], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[1:]...)})
		learners := -1 // number of learners when the fifth voter was added
		c.eventually("five voters, and a learner for each other organization", func() bool {
			leader := c.leader(conv)
			if leader == nil {
				return false
			}
			s, err := leader.m.Status(conv)
			if err != nil {
				return false
			}
			if learners < 0 && len(s.Voters) == DefaultVoters {
				learners = len(s.Learners)
			}
			return len(s.Voters) == DefaultVoters && len(s.Learners) == n-DefaultVoters
		})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v of virtual time", took)
		}
		for _, node := range nodes { // a copy for each of 100 changes is most of the cost of placement
			if copies := c.nodes[node].m.stats.copies.Load(); copies > 8 {
				t.Errorf("%s has copied its state %d times to judge changes", node, copies)
			}
		}
		if learners > 2*invitesAtOnce {
			t.Errorf("%d learners came before the fifth voter", learners)
		}
		c.commit(nodes[n-1], p, wire.DeliveryChange{})
		c.level(conv, nodes...)
	})
}

// TestUnreachableHoldUpNobody checks that organizations whose nodes do not answer delay the replicas of the others by
// at most one round of calls for each batch.
func TestUnreachableHoldUpNobody(t *testing.T) {
	orgs, nodes := organizations(30)
	simulate(t, nil, nodes, func(c *cluster) {
		for _, n := range nodes[1:20] {
			c.stop(c.nodes[n])
		}
		p := c.found(nodes[0], conv, wire.Policy{}, orgs[0])
		c.commit(nodes[0], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[1:]...)})
		c.eventually("a replica on each node that is up", func() bool {
			s, err := c.nodes[nodes[0]].m.Status(conv)
			return err == nil && len(s.Voters)+len(s.Learners) == 11
		})
		for _, n := range nodes[1:20] {
			c.start(c.nodes[n])
		}
		c.settled(conv, DefaultVoters, len(nodes)-DefaultVoters)
	})
}

// TestTooManyOrganizations checks Limits.Organizations at its edge: the commit that adds one more organization is
// refused before it is ordered, and the conversation continues.
func TestTooManyOrganizations(t *testing.T) {
	orgs, nodes := organizations(4)
	simulate(t, func(c *Config) { c.Limits.Organizations = 3 }, nodes, func(c *cluster) {
		p := c.found(nodes[0], conv, wire.Policy{}, orgs[:2]...)
		c.settled(conv, 1, 1)
		p = c.commit(nodes[1], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[2])})
		c.settled(conv, 3, 0)
		for _, at := range nodes[:3] { // the leader, and the nodes that forward to it
			_, err := c.nodes[at].m.Order(c.context(20*time.Second), p.Commit(c.id(), 64, wire.DeliveryChange{Add: author.Addresses(1, orgs[3])}))
			if wire.CodeOf(err) != wire.TooLarge {
				t.Fatalf("a fourth organization, submitted on %s: %v", at, err)
			}
		}
		c.commit(nodes[2], p, wire.DeliveryChange{Add: author.Addresses(2, orgs[2])})
		c.level(conv, nodes[:3]...)
		_, err := c.nodes[nodes[0]].m.Create(c.context(20*time.Second), author.Create(conv+"-more", c.id(), wire.Policy{}, author.Addresses(1, orgs...)))
		if wire.CodeOf(err) != wire.TooLarge {
			t.Fatalf("created with four organizations: %v", err)
		}
		if held := c.nodes[nodes[0]].m.Counts().Held; held != 1 {
			t.Errorf("%d conversations are held after the refusal, wanted 1", held)
		}
	})
}

// TestPlacementHasAtMostMaxReplicas checks that placement never names more nodes than an entry may: otherwise the
// change would not be readable, and no further change would be possible.
func TestPlacementHasAtMostMaxReplicas(t *testing.T) {
	for _, n := range []int{wire.MaxReplicas - 1, wire.MaxReplicas, wire.MaxReplicas + 1, 2 * wire.MaxReplicas} {
		orgs, nodes := organizations(n)
		p := placing{id: conv, orgs: orgs, voters: DefaultVoters, current: map[wire.NodeID]bool{}, nodesOf: func(d wire.Domain) []wire.NodeID { return nodesOf(d, 1) }}
		for _, there := range nodes[n-20:] {
			p.current[there] = false
		}
		voters, learners := place(p)
		if got, want := len(voters)+len(learners), min(n, wire.MaxReplicas); got != want {
			t.Errorf("%d organizations: %d replicas, wanted %d", n, got, want)
		}
		r := &wire.Replicas{Voters: voters, Learners: learners}
		if err := r.Check(); err != nil {
			t.Errorf("%d organizations: %v", n, err)
		}
		for _, there := range nodes[n-20:] {
			if !slices.Contains(voters, there) && !slices.Contains(learners, there) {
				t.Errorf("%d organizations: the replica of %s is dropped", n, there)
			}
		}
	}
}

// TestBytesOfACommit checks that the cost of a commit for each replica does not grow with their number: the leader
// sends it once to each replica, and they acknowledge it.
func TestBytesOfACommit(t *testing.T) {
	each := make(map[int]int)
	for _, n := range []int{10, 40} {
		orgs, nodes := organizations(n)
		simulate(t, nil, nodes, func(c *cluster) {
			var mu sync.Mutex
			sent := 0
			c.f.mangle = func(_, _ wire.NodeID, frame []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				sent += len(frame)
				return frame
			}
			p := c.found(nodes[0], conv, wire.Policy{}, orgs[0])
			p = c.commit(nodes[0], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[1:]...)})
			c.settled(conv, DefaultVoters, n-DefaultVoters)
			c.level(conv, nodes...)
			mu.Lock()
			before := sent
			mu.Unlock()
			const commits = 20
			for range commits {
				p = c.commit(nodes[0], p, wire.DeliveryChange{})
				c.level(conv, nodes...)
			}
			mu.Lock()
			defer mu.Unlock()
			each[n] = (sent - before) / commits / (n - 1)
		})
	}
	if each[40] > 2*each[10] {
		t.Errorf("a commit costs a replica %d bytes of 40, and %d of 10", each[40], each[10])
	}
}

// TestVotersAreAddedWhileOthersCatchUp checks that a voter which does not catch up does not delay the other voters,
// in a conversation that is to have learners too.
func TestVotersAreAddedWhileOthersCatchUp(t *testing.T) {
	orgs, nodes := organizations(DefaultVoters + 3)
	slow, late := nodes[1], nodes[2]
	simulate(t, nil, nodes, func(c *cluster) {
		c.f.mangle = func(_, to wire.NodeID, frame []byte) []byte {
			if to == slow && frameKind(frame[4]) == kindAppend {
				return nil
			}
			return frame
		}
		c.stop(c.nodes[late])
		p := c.found(nodes[0], conv, wire.Policy{}, orgs[0])
		c.commit(nodes[0], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[1:]...)})
		leader := c.nodes[nodes[0]].m
		replicas := func() []wire.NodeID {
			s, err := leader.Status(conv)
			if err != nil {
				return nil
			}
			return append(s.Voters, s.Learners...)
		}
		c.eventually("the nodes that are up were added", func() bool { return slices.Contains(replicas(), slow) })
		begun := time.Now()
		c.start(c.nodes[late])
		c.eventually("the voter that came later was added", func() bool { return slices.Contains(replicas(), late) })
		if took, call := time.Since(begun), leader.cfg.Timers.Call; took >= call {
			t.Errorf("it was added after %v of virtual time, the patience with the one that does not catch up is %v", took, call)
		}
		if got := replicas(); len(got) > DefaultVoters {
			t.Errorf("replicas are %v: learners came before the voters were waited for", got)
		}
	})
}

// TestExchangesShareTheirPasses checks that many nodes whose connections are established at once do not cost one pass
// over all conversations each.
func TestExchangesShareTheirPasses(t *testing.T) {
	const n = 30
	orgs, nodes := organizations(n)
	simulate(t, nil, nodes, func(c *cluster) {
		p := c.found(nodes[0], conv, wire.Policy{}, orgs[0])
		p = c.commit(nodes[0], p, wire.DeliveryChange{Add: author.Addresses(1, orgs[1:]...)})
		c.settled(conv, DefaultVoters, n-DefaultVoters)
		c.asleep(conv, nodes...)
		last := c.nodes[nodes[n-1]]
		c.stop(last)
		c.commit(nodes[0], p, wire.DeliveryChange{})
		c.asleep(conv, nodes[:n-1]...)
		c.start(last)
		c.level(conv, nodes...)
		g := &last.m.exchange
		c.eventually("all connections are up", func() bool {
			up := 0
			for _, other := range nodes[:n-1] {
				if last.m.mesh.reachable(other) {
					up++
				}
			}
			return up == n-1
		})
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.passes == 0 || g.passes > n/4 {
			t.Errorf("%d connections cost %d passes over all conversations", n-1, g.passes)
		}
	})
}
