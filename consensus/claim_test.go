package consensus

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

const (
	nodeE  wire.NodeID = "n1.evil.example"
	nodeE2 wire.NodeID = "n2.evil.example"
)

// claimed runs a test in which c.example's only device has the address 7, and in which a replica without readers is
// given back late.
func claimed(t *testing.T, nodes []wire.NodeID, run func(c *cluster, welcome wire.DeliveryChange)) {
	t.Helper()
	o := &owners{of: make(map[wire.NodeID][]wire.Token)}
	o.set(nodeA, token("a.example", 1))
	o.set(nodeC, token("c.example", 7))
	simulate(t, func(cfg *Config) {
		o.edit(cfg)
		cfg.Timers.Unowned, cfg.Timers.Claim = 10*time.Hour, 20*time.Second
	}, nodes, func(c *cluster) {
		run(c, wire.DeliveryChange{Add: []wire.Address{author.Address("c.example", 7)}})
	})
}

// delivered waits until c.example has the entry that adds it, and takes part.
func (c *cluster) delivered(p author.Place, at ...wire.NodeID) {
	c.t.Helper()
	has := func() bool { return slices.Contains(c.nodes[nodeC].consumer.sequences(conv), p.Parent) }
	for range 20 { // minutes of virtual time
		if has() {
			break
		}
		time.Sleep(time.Minute)
	}
	c.eventually("c.example has its Welcome", has)
	p = c.commit(nodeC, p, wire.DeliveryChange{})
	defer func() {
		if c.t.Failed() {
		}
	}()
	c.level(conv, append(at, nodeC)...)
}

// TestIDTakenFirstByOne checks that no organization can keep another one out of a conversation by taking its id
// first, if one honest organization alone claims the id too. This holds whatever part the taker gives to the node,
// and whatever its log says.
func TestIDTakenFirstByOne(t *testing.T) {
	take := func(c *cluster, orgs ...wire.Domain) { c.found(nodeE, conv, wire.Policy{}, orgs...) }
	for name, test := range map[string]struct {
		nodes []wire.NodeID // of the organization that takes the id
		take  func(c *cluster)
		aside int // number of kept replicas
	}{
		"with nothing": {[]wire.NodeID{nodeE}, func(c *cluster) {
			if err := inviteAs(c.t, c, nodeE, nodeC, conv, 0, nodeE); err != nil {
				c.t.Fatal(err)
			}
		}, 0},
		"with a log": {[]wire.NodeID{nodeE}, func(c *cluster) {
			take(c, "c.example", "evil.example")
			c.eventually("c.example follows", func() bool { st, err := c.nodes[nodeC].m.Status(conv); return err == nil && st.Sequence > 0 })
		}, 0},
		"with a log that names the other organization": {[]wire.NodeID{nodeE}, func(c *cluster) {
			take(c, "a.example", "c.example", "evil.example")
			c.eventually("c.example follows", func() bool { st, err := c.nodes[nodeC].m.Status(conv); return err == nil && st.Sequence > 1 })
		}, 0},
		"with a vote for the node": {[]wire.NodeID{nodeE, nodeE2}, func(c *cluster) {
			take(c, "c.example", "evil.example")
			c.eventually("c.example votes", func() bool {
				st, err := c.nodes[nodeC].m.Status(conv)
				return err == nil && slices.Contains(st.Voters, nodeC) && len(st.Voters) == 3
			})
		}, 0},
		"with a vote of two": {[]wire.NodeID{nodeE, nodeE2}, func(c *cluster) {
			take(c, "c.example", "evil.example")
			c.eventually("c.example votes", func() bool {
				st, err := c.nodes[nodeC].m.Status(conv)
				return err == nil && slices.Contains(st.Voters, nodeC) && len(st.Voters) == 3
			})
			c.asleep(conv, nodeE, nodeE2, nodeC)
			cv, err := c.nodes[nodeC].m.find(conv)
			if err != nil {
				c.t.Fatal(err)
			}
			rec, err := c.nodes[nodeC].m.readRecord(conv)
			if err != nil {
				c.t.Fatal(err)
			}
			rec.Voters = []wire.NodeID{nodeC, nodeE} // the state while the votes are being given
			if err := c.nodes[nodeC].m.writeRecord(cv.id, rec); err != nil {
				c.t.Fatal(err)
			}
		}, 1},
		"in quarantine": {[]wire.NodeID{nodeE}, func(c *cluster) {
			take(c, "c.example", "evil.example")
			c.eventually("c.example follows", func() bool { st, err := c.nodes[nodeC].m.Status(conv); return err == nil && st.Sequence > 0 })
			cv, err := c.nodes[nodeC].m.find(conv)
			if err != nil {
				c.t.Fatal(err)
			}
			c.nodes[nodeC].m.quarantine(cv, ReasonRewritten, fmt.Errorf("a test"))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			claimed(t, append([]wire.NodeID{nodeA, nodeC}, test.nodes...), func(c *cluster, welcome wire.DeliveryChange) {
				p := c.found(nodeA, conv, wire.Policy{}, "a.example")
				test.take(c)
				for range 3 {
					p = c.commit(nodeA, p, wire.DeliveryChange{})
				}
				p = c.commit(nodeA, p, welcome)
				c.delivered(p, nodeA)
				if kept := c.nodes[nodeC].m.asidesOf(conv); len(kept) != test.aside {
					t.Errorf("kept: %+v", kept)
				}
				c.stop(c.nodes[nodeC])
				c.start(c.nodes[nodeC])
				if st, err := c.nodes[nodeC].m.Status(conv); err != nil || st.Quarantine != nil {
					t.Errorf("after a restart: %+v, %v", st, err)
				}
			})
		})
	}
}

// TestClaimHasItsTime checks Timers.Claim at its edge, and that a replica which a device here reads gives way to
// nobody.
func TestClaimHasItsTime(t *testing.T) {
	claimed(t, []wire.NodeID{nodeA, nodeC, nodeE}, func(c *cluster, welcome wire.DeliveryChange) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		c.asleep(conv, nodeA) // a sleeping nodeA sends no invitations
		if err := inviteAs(t, c, nodeE, nodeC, conv, 0, nodeE); err != nil {
			t.Fatal(err)
		}
		claim := func() error { return inviteAs(t, c, nodeA, nodeC, conv, 0, nodeA) }
		if err := claim(); wire.CodeOf(err) != wire.Busy {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(20*time.Second - time.Nanosecond)
		if err := claim(); wire.CodeOf(err) != wire.Busy {
			t.Errorf("before its time: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := claim(); err != nil {
			t.Errorf("in time: %v", err)
		}
		p = c.commit(nodeA, p, welcome)
		c.delivered(p, nodeA)
		for range 5 {
			time.Sleep(time.Minute)
			if err := inviteAs(t, c, nodeE, nodeC, conv, 0, nodeE); wire.CodeOf(err) != wire.NotReplica {
				t.Errorf("what a device reads: %v", err)
			}
		}
		if n := c.nodes[nodeC].m.Refusals()[RefusedClaim]; n == 0 {
			t.Error("no refusal is counted")
		}
	})
}

// TestClaimsTakeTurns checks that organizations which claim an id without end do not deprive another one of its turn.
func TestClaimsTakeTurns(t *testing.T) {
	takers := []wire.NodeID{nodeE, "n1.evil2.example", "n1.evil3.example"}
	claimed(t, append([]wire.NodeID{nodeA, nodeC}, takers...), func(c *cluster, welcome wire.DeliveryChange) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		taken := make(map[wire.NodeID]int)
		storm := func(seconds int) {
			for range seconds {
				for _, n := range takers {
					if inviteAs(t, c, n, nodeC, conv, 0, n) == nil {
						taken[n]++
					}
				}
				time.Sleep(time.Second)
			}
		}
		storm(90)
		if len(taken) != len(takers) {
			t.Errorf("only %v had their turn", taken)
		}
		p = c.commit(nodeA, p, welcome)
		for n := 0; n < 10 && !slices.Contains(c.nodes[nodeC].consumer.sequences(conv), p.Parent); n++ {
			storm(20)
		}
		c.delivered(p, nodeA)
	})
}

// TestGivenBackToOneIsOpenToOthers checks that a conversation which was given back is declined only to the
// organization that had brought it.
func TestGivenBackToOneIsOpenToOthers(t *testing.T) {
	o := &owners{of: make(map[wire.NodeID][]wire.Token)}
	o.set(nodeA, token("a.example", 1))
	o.set(nodeC, token("c.example", 7))
	simulate(t, func(cfg *Config) {
		o.edit(cfg)
		cfg.Timers.Unowned, cfg.Timers.Claim = time.Minute, time.Hour
	}, []wire.NodeID{nodeA, nodeC, nodeE}, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		c.found(nodeE, conv, wire.Policy{}, "c.example", "evil.example")
		held := func() bool { return c.nodes[nodeC].m.Counts().Held == 1 }
		c.eventually("c.example holds the other one", held)
		time.Sleep(2 * time.Minute)
		c.eventually("it is given back", func() bool { return !held() })
		if list := c.nodes[nodeC].consumer.sequences(conv); len(list) != 0 {
			t.Errorf("entries %v are not forgotten", list)
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: []wire.Address{author.Address("c.example", 7)}})
		c.eventually("c.example has its Welcome", func() bool { return slices.Contains(c.nodes[nodeC].consumer.sequences(conv), p.Parent) })
		if err := inviteAs(t, c, nodeE, nodeC, "conversation-two", 0, nodeE); err != nil {
			t.Errorf("another conversation: %v", err)
		}
	})
}

// TestClaimsAreBounded checks the limits of the remembered claims, and the meter of the claims by one node.
func TestClaimsAreBounded(t *testing.T) {
	var q claims
	now := time.Unix(1000, 0)
	old := now.Add(-time.Minute)
	org := func(n int) wire.Domain { return wire.Domain(fmt.Sprintf("o%d.example", n)) }
	for n := range maxClaimants {
		if first := q.next(conv, org(n), now, old); first != (n == 0) {
			t.Errorf("claim %d: first %v", n, first)
		}
	}
	if q.next(conv, "late.example", now, old); len(q.waiting[conv]) != maxClaimants {
		t.Errorf("%d wait", len(q.waiting[conv]))
	}
	q.served(conv, org(0))
	if !q.next(conv, org(1), now, old) || q.next(conv, org(0), now, old) {
		t.Error("who was served is not last")
	}
	later := now.Add(2 * time.Minute)
	if !q.next(conv, org(5), later, later.Add(-time.Minute)) || len(q.waiting[conv]) != 1 {
		t.Errorf("those who do not repeat their claim wait still: %v", q.waiting[conv])
	}
	for n := range maxClaimed + 10 {
		q.next(wire.ConversationID(fmt.Sprintf("conversation %d", n)), org(1), later, later.Add(-time.Minute))
	}
	if len(q.waiting) != maxClaimed {
		t.Errorf("%d ids are remembered", len(q.waiting))
	}
	if last := later.Add(time.Hour); !q.next("one more", org(1), last, last.Add(-time.Minute)) || len(q.waiting) != 1 {
		t.Errorf("%d ids are remembered an hour later", len(q.waiting))
	}

	claimed(t, []wire.NodeID{nodeA, nodeC, nodeE}, func(c *cluster, _ wire.DeliveryChange) {
		if err := inviteAs(t, c, nodeE, nodeC, conv, 0, nodeE); err != nil {
			t.Fatal(err)
		}
		for range askBurst {
			if err := inviteAs(t, c, nodeA, nodeC, conv, 0, nodeA); wire.CodeOf(err) != wire.Busy {
				t.Fatal(err)
			}
		}
		before := c.nodes[nodeC].m.Refusals()[RefusedRate]
		if err := inviteAs(t, c, nodeA, nodeC, conv, 0, nodeA); wire.CodeOf(err) != wire.Busy || c.nodes[nodeC].m.Refusals()[RefusedRate] != before+1 {
			t.Errorf("claim %d: %v, %v", askBurst+1, err, c.nodes[nodeC].m.Refusals())
		}
	})
}

// TestLostTurnComesBack checks that an organization whose replica gave way, because none of its addresses belonged to
// a device, invites the node again when one does.
func TestLostTurnComesBack(t *testing.T) {
	claimed(t, []wire.NodeID{nodeA, nodeC, nodeE}, func(c *cluster, welcome wire.DeliveryChange) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "c.example") // with an invented address
		c.settled(conv, 1, 1)
		c.level(conv, nodeA, nodeC)
		claim := func() error { return inviteAs(t, c, nodeE, nodeC, conv, 0, nodeE) }
		if err := claim(); wire.CodeOf(err) != wire.Busy {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(20 * time.Second)
		if err := claim(); err != nil {
			t.Errorf("in time: %v", err)
		}
		p = c.commit(nodeA, p, welcome)
		c.delivered(p, nodeA)
	})
}
