package consensus

import (
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// rules returns the level of the rules at a node.
func (c *cluster) rules(n wire.NodeID) uint8 {
	c.t.Helper()
	s, err := c.nodes[n].m.Status(conv)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Level
}

// TestRulesRiseWithTheLastReplica checks that a conversation keeps the first level while one replica runs the first
// release, and has the next level on all replicas after that node was upgraded.
func TestRulesRiseWithTheLastReplica(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		c.roster.downgrade(nodeC, true)
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		for range 3 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.level(conv, three...)
		for _, n := range three {
			if l := c.rules(n); l != wire.FirstLevel {
				t.Fatalf("%s has level %d with a replica that does not know more", n, l)
			}
		}
		c.roster.downgrade(nodeC, false)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.eventually("the usual level everywhere", func() bool {
			for _, n := range three {
				if c.rules(n) != wire.UsualLevel {
					return false
				}
			}
			return true
		})
		c.commit(nodeC, p, wire.DeliveryChange{})
	})
}

// TestOldNodeIsNotInvited checks that a node which does not know the level of a conversation's rules gets no replica
// until it does.
func TestOldNodeIsNotInvited(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		c.eventually("a higher level", func() bool { return c.rules(nodeA) >= 2 })
		c.roster.downgrade(nodeC, true)
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(1, "c.example")})
		c.eventually("the leader waits for the missing replica", func() bool {
			l := c.nodes[nodeA].m.conversations[conv].awake()
			if l == nil {
				return false
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.missing) == 1 && l.missing[0] == nodeC
		})
		if _, err := c.nodes[nodeC].m.Status(conv); wire.CodeOf(err) != wire.UnknownConversation {
			t.Fatalf("the old node holds a replica: %v", err)
		}
		c.roster.downgrade(nodeC, false)
		c.commit(nodeA, p, wire.DeliveryChange{})
		c.settled(conv, 3, 0)
	})
}

// TestOldNodeIsInvitedIntoANewConversation has a node of this release found a conversation and add an organization
// whose node runs the first release. It checks that the rules stay at the level that both know, until that node is
// upgraded.
func TestOldNodeIsInvitedIntoANewConversation(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		c.roster.downgrade(nodeB, true)
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		for range 3 { // for a while, only one organization takes part
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(1, "b.example")})
		c.settled(conv, 1, 1)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.level(conv, nodeA, nodeB)
		if l := c.rules(nodeA); l != wire.FirstLevel {
			t.Fatalf("level %d with a replica that does not know more", l)
		}
		c.roster.downgrade(nodeB, false)
		c.commit(nodeA, p, wire.DeliveryChange{})
		c.eventually("the usual level", func() bool { return c.rules(nodeA) == wire.UsualLevel && c.rules(nodeB) == wire.UsualLevel })
	})
}
