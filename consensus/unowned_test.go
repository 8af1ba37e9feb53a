package consensus

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// owners lists the tokens that belong to devices of a node.
type owners struct {
	mu sync.Mutex // guards of
	of map[wire.NodeID][]wire.Token
}

func (o *owners) set(n wire.NodeID, tokens ...wire.Token) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[n] = tokens
}

func (o *owners) edit(cfg *Config) {
	n := cfg.Node
	cfg.Timers.Unowned = 20 * time.Second
	cfg.Owns = func(_ wire.ConversationID, t wire.Token) (bool, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.Contains(o.of[n], t), nil
	}
}

func token(org wire.Domain, n uint64) wire.Token { return author.Address(org, n).Token }

// TestUnownedIsGivenBack checks that a replica of a conversation in which no device of the node has an address is
// given back, whatever its part, that its place in the quota is freed, and that the others still order.
func TestUnownedIsGivenBack(t *testing.T) {
	for _, test := range []struct {
		name      string
		nodes     []wire.NodeID
		orgs      []wire.Domain
		voters    int // number before
		learners  int
		others    bool // other organizations remain
		witnesses wire.Domain
	}{
		{name: "learner", nodes: []wire.NodeID{nodeA, nodeB}, orgs: []wire.Domain{"a.example", "b.example"}, voters: 1, learners: 1, others: true},
		{name: "voter", nodes: three, orgs: []wire.Domain{"a.example", "b.example", "c.example"}, voters: 3, others: true},
		{name: "alone", nodes: []wire.NodeID{nodeA, nodeB}, orgs: []wire.Domain{"b.example"}, voters: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := &owners{of: make(map[wire.NodeID][]wire.Token)}
			o.set(nodeA, token("a.example", 1))
			o.set(nodeC, token("c.example", 1))
			simulate(t, o.edit, test.nodes, func(c *cluster) {
				p := c.found(nodeA, conv, wire.Policy{}, test.orgs...)
				b := c.nodes[nodeB]
				c.eventually("b holds a replica", func() bool { return len(b.m.Conversations()) == 1 })
				if test.others {
					c.settled(conv, test.voters, test.learners)
				}
				c.eventually("b gives it back", func() bool { return len(b.m.Conversations()) == 0 })
				if n := b.m.Counts().GivenBack; n != 1 {
					t.Fatalf("%d conversations are counted as given back", n)
				}
				if n := b.m.invited["a.example"]; n != 0 {
					t.Fatalf("%d conversations count for a.example", n)
				}
				if !test.others {
					return
				}
				p = c.commit(nodeA, p, wire.DeliveryChange{})
				// A member of b's organization joins: b is invited again when it accepts invitations again, and
				// stays.
				o.set(nodeB, token("b.example", 2))
				c.commit(nodeA, p, wire.DeliveryChange{Add: []wire.Address{author.Address("b.example", 2)}})
				time.Sleep(3 * 20 * time.Second) // virtual: until b accepts invitations again
				c.eventually("b holds a replica again", func() bool { return len(b.m.Conversations()) == 1 })
				c.settled(conv, test.voters, test.learners)
				looked := b.m.Counts().GivenBack
				c.level(conv, nodeA, nodeB)
				time.Sleep(3 * 20 * time.Second) // virtual
				if b.m.Counts().GivenBack != looked || len(b.m.Conversations()) != 1 {
					t.Fatal("a conversation with a device is given back")
				}
			})
		})
	}
}

// TestWitnessKeepsItsReplica checks that a witness, which has no address, keeps its replica.
func TestWitnessKeepsItsReplica(t *testing.T) {
	o := &owners{of: make(map[wire.NodeID][]wire.Token)}
	o.set(nodeA, token("a.example", 1))
	o.set(nodeB, token("b.example", 1))
	simulate(t, o.edit, three, func(c *cluster) {
		c.found(nodeA, conv, wire.Policy{Witness: "c.example"}, "a.example", "b.example")
		c.settled(conv, 3, 0)
		time.Sleep(3 * 20 * time.Second) // virtual
		if n := c.nodes[nodeC].m.Counts().GivenBack; n != 0 || len(c.nodes[nodeC].m.Conversations()) != 1 {
			t.Fatalf("%d conversations were given back", n)
		}
	})
}

// TestEmptyInvitationIsGivenBack checks that an invitation that is never followed by an entry does not occupy a place
// permanently.
func TestEmptyInvitationIsGivenBack(t *testing.T) {
	o := &owners{of: make(map[wire.NodeID][]wire.Token)}
	simulate(t, o.edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		payload, err := wire.Encode(&invitation{Members: []wire.NodeID{nodeA}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.nodes[nodeA].m.mesh.ask(c.context(5*time.Second), nodeB, &frame{kind: kindInvite, conversation: conv, payload: payload}); err != nil {
			t.Fatal(err)
		}
		b := c.nodes[nodeB].m
		if len(b.Conversations()) != 1 {
			t.Fatal("the invitation was not taken")
		}
		c.eventually("the place is given back", func() bool { return len(b.Conversations()) == 0 })
		_, err = c.nodes[nodeA].m.mesh.ask(c.context(5*time.Second), nodeB, &frame{kind: kindInvite, conversation: conv, payload: payload})
		if wire.CodeOf(err) != wire.NotFound {
			t.Fatalf("invited again at once: %v", err)
		}
	})
}

// TestPolicyOverTheLimitIsGivenBack checks that a node does not hold a conversation that keeps more than the node's
// configuration allows.
func TestPolicyOverTheLimitIsGivenBack(t *testing.T) {
	edit := func(cfg *Config) {
		if cfg.Node == nodeB {
			cfg.Limits.RecentBytes, cfg.Limits.RecentEntries = 4<<20, 1000
		}
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		b := c.nodes[nodeB].m
		c.found(nodeA, "conversation-1", wire.Policy{RecentBytes: 4 << 20, RecentCount: 1000}, "a.example", "b.example")
		c.settled("conversation-1", 1, 1)
		c.found(nodeA, "conversation-2", wire.Policy{RecentBytes: 4<<20 + 1}, "a.example", "b.example")
		c.found(nodeA, "conversation-3", wire.Policy{RecentCount: 1001}, "a.example", "b.example")
		c.eventually("two are given back", func() bool { return b.Counts().GivenBack == 2 && len(b.Conversations()) == 1 })
		if ids := b.Conversations(); ids[0] != "conversation-1" {
			t.Fatalf("left is %v", ids)
		}
		if n := b.Counts().RefusedPolicies; n < 2 {
			t.Fatalf("%d refusals are counted", n)
		}
	})
}

// admission refuses after a number of requests.
type admission struct{ handshakes, replicas atomic.Int64 }

func (a *admission) Handshake(org wire.Domain, _ wire.ConversationID) error {
	if a.handshakes.Add(-1) < 0 {
		return wire.Errorf(wire.Busy, "submit", "%s is too fast", org)
	}
	return nil
}

func (a *admission) Replica(org wire.Domain) error {
	if a.replicas.Add(-1) < 0 {
		return wire.Errorf(wire.Busy, "invite", "%s is too fast", org)
	}
	return nil
}

// TestAdmissionOfInvitations checks that an organization's invitations over its rate are refused and repeated, and
// that those of the node's own organization are not limited.
func TestAdmissionOfInvitations(t *testing.T) {
	a := new(admission)
	a.replicas.Store(2)
	edit := func(cfg *Config) {
		if cfg.Node == nodeB {
			cfg.Admission = a
		}
	}
	const second wire.NodeID = "n2.b.example"
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		b := c.nodes[nodeB].m
		for _, id := range []wire.ConversationID{"conversation-1", "conversation-2", "conversation-3"} {
			c.found(nodeA, id, wire.Policy{}, "a.example", "b.example")
		}
		c.eventually("an invitation is refused", func() bool { return a.replicas.Load() < 0 })
		if n := len(b.Conversations()); n != 2 {
			t.Fatalf("b holds %d replicas, the rate allows 2", n)
		}
		a.replicas.Store(10)
		c.eventually("it comes again", func() bool { return len(b.Conversations()) == 3 })
		a.replicas.Store(0)
		c.add(second)
		c.found(second, "conversation-4", wire.Policy{}, "a.example", "b.example")
		c.eventually("the own organization's is taken", func() bool { return len(b.Conversations()) == 4 })
	})
}

// TestAdmissionOfHandshakes checks that a leader limits the submissions of another organization's node, but not those
// of its own devices, and that a refused submission succeeds later.
func TestAdmissionOfHandshakes(t *testing.T) {
	a := new(admission)
	edit := func(cfg *Config) {
		if cfg.Node == nodeA {
			cfg.Admission = a
		}
	}
	simulate(t, edit, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		e := p.Commit(c.id(), 64, wire.DeliveryChange{})
		if _, err := c.nodes[nodeB].m.Order(c.context(2*time.Second), e); err == nil || a.handshakes.Load() >= 0 {
			t.Fatalf("over the rate: %v", err)
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{}) // from the leader's own organization
		a.handshakes.Store(1000)
		c.commit(nodeB, p, wire.DeliveryChange{})
	})
}
