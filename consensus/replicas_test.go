package consensus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

const nodeD wire.NodeID = "n1.d.example"

func nodesOf(org wire.Domain, n int) []wire.NodeID {
	var list []wire.NodeID
	for i := range n {
		list = append(list, wire.NodeID(fmt.Sprintf("n%d.%s", i+1, org)))
	}
	return list
}

func TestPlacement(t *testing.T) {
	for _, test := range []struct {
		name             string
		orgs             string
		nodes            int
		witness          wire.Domain
		max              int
		voters, learners int
	}{
		{"one node", "a", 1, "", 5, 1, 0},
		{"one organization, three nodes", "a", 3, "", 5, 3, 0},
		{"one organization, two nodes", "a", 2, "", 5, 1, 0},
		{"two organizations", "a b", 1, "", 5, 1, 1},
		{"two and a witness", "a b", 1, "w", 5, 3, 0},
		{"two with two nodes", "a b", 2, "", 5, 3, 0},
		{"three", "a b c", 1, "", 5, 3, 0},
		{"four", "a b c d", 1, "", 5, 3, 1},
		{"three do not need their witness", "a b c", 1, "w", 5, 3, 0},
		{"seven", "a b c d e f g", 1, "", 5, 5, 2},
		{"seven, at most three", "a b c d e f g", 3, "", 3, 3, 4},
		{"five with three nodes", "a b c d e", 3, "", 9, 9, 0},
	} {
		p := placing{id: conv, witness: test.witness, voters: test.max, nodesOf: func(org wire.Domain) []wire.NodeID { return nodesOf(org, test.nodes) }}
		for org := range strings.FieldsSeq(test.orgs) {
			p.orgs = append(p.orgs, wire.Domain(org))
		}
		voters, learners := place(p)
		if len(voters) != test.voters || len(learners) != test.learners {
			t.Errorf("%s: voters %v, learners %v; wanted %d and %d", test.name, voters, learners, test.voters, test.learners)
		}
	}
}

// TestPlacementRules checks the promises of place for any mixture of organizations and nodes.
func TestPlacementRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := placing{id: wire.ConversationID(rapid.StringN(8, 20, -1).Draw(t, "id")), voters: rapid.SampledFrom([]int{1, 3, 5, 7, 9}).Draw(t, "max"),
			current: map[wire.NodeID]bool{}}
		sizes := map[wire.Domain]int{}
		total := 0
		for i := range rapid.IntRange(1, 9).Draw(t, "orgs") {
			org := wire.Domain(fmt.Sprintf("o%d.example", i))
			p.orgs = append(p.orgs, org)
			sizes[org] = rapid.IntRange(1, 4).Draw(t, "nodes")
			total += sizes[org]
		}
		p.nodesOf = func(org wire.Domain) []wire.NodeID { return nodesOf(org, sizes[org]) }
		home := wire.NodeID(fmt.Sprintf("n%d.", rapid.IntRange(1, 4).Draw(t, "home")))
		p.ordersOnly = func(n wire.NodeID) bool { return !strings.HasPrefix(string(n), string(home)) }
		voters, learners := place(p)
		if len(voters)%2 == 0 || len(voters) > p.voters || len(voters) > total {
			t.Fatalf("%d voters of %d nodes, at most %d", len(voters), total, p.voters)
		}
		if len(voters) < p.voters && len(voters)+1 < total {
			t.Fatalf("%d voters where %d nodes are", len(voters), total)
		}
		all := append(slices.Clone(voters), learners...)
		count := map[wire.Domain]int{}
		for _, n := range voters {
			count[n.Organization()]++
		}
		for _, org := range p.orgs {
			if !slices.ContainsFunc(all, func(n wire.NodeID) bool { return n.Organization() == org }) {
				t.Fatalf("%s has members and no replica", org)
			}
			if devices := home + wire.NodeID(org); slices.Contains(p.nodesOf(org), devices) && !slices.Contains(all, devices) {
				t.Fatalf("%s holds no replica, and its devices would get nothing: %v", devices, all)
			}
			for _, other := range p.orgs {
				if count[org] > count[other]+1 && count[other] < sizes[other] {
					t.Fatalf("%s has %d voters and %s %d", org, count[org], other, count[other])
				}
			}
		}
		// Chosen replicas stay chosen.
		for _, n := range learners {
			p.current[n] = false
		}
		for _, n := range voters {
			p.current[n] = true
		}
		if again, more := place(p); !slices.Equal(again, voters) || !slices.Equal(more, learners) {
			t.Fatalf("chose %v and %v, then %v and %v", voters, learners, again, more)
		}
	})
}

func TestOrganizationComesAndGoes(t *testing.T) {
	simulate(t, nil, append(three, nodeD), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		if c.nodes[nodeD].m.Counts().Held != 0 {
			t.Fatal("d holds a replica before it has a member")
		}
		p = c.commit(nodeB, p, wire.DeliveryChange{Add: author.Addresses(1, "d.example")})
		added := p.Parent
		c.settled(conv, 3, 1)
		p = c.commit(nodeC, p, wire.DeliveryChange{})
		c.level(conv, nodeA, nodeB, nodeC, nodeD)
		c.eventually("d's consumer has the last commit", func() bool { return slices.Contains(c.nodes[nodeD].consumer.sequences(conv), p.Parent) })
		if got := c.nodes[nodeD].consumer.sequences(conv); got[0] != added {
			t.Fatalf("d was delivered %v, wanted to begin with entry %d, which added it", got, added)
		}
		if d := c.nodes[nodeD].consumer.got[conv][0]; d.Missed != 0 {
			t.Fatalf("d gets a report of %d missed entries", d.Missed)
		}
		p = c.commit(nodeD, p, wire.DeliveryChange{Remove: author.Addresses(1, "d.example")})
		removed := p.Parent
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.eventually("d has deleted its replica", func() bool { return c.nodes[nodeD].m.Counts().Held == 0 })
		got := c.nodes[nodeD].consumer.sequences(conv)
		if got[len(got)-1] != removed {
			t.Fatalf("d was delivered %v, wanted to end with entry %d, which removed it", got, removed)
		}
		if groups, err := c.nodes[nodeD].log.Groups(); err != nil || len(groups) != 0 {
			t.Fatalf("d keeps groups %v (%v)", groups, err)
		}
		if _, err := c.nodes[nodeD].m.Order(c.context(time.Second), p.Commit(c.id(), 8, wire.DeliveryChange{})); wire.CodeOf(err) != wire.UnknownConversation {
			t.Fatalf("d still takes submissions: %v", err)
		}
		// An organization can come back.
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(2, "d.example")})
		c.settled(conv, 3, 1)
		p = c.commit(nodeD, p, wire.DeliveryChange{})
		c.level(conv, nodeA, nodeB, nodeC, nodeD)
	})
}

// TestChangesOfReplicasUnderWay has an organization that leaves come back while the leader orders the removal of its
// replica. It checks that nobody refuses the order: the leader considers all entries before its order.
func TestChangesOfReplicasUnderWay(t *testing.T) {
	edit := func(cfg *Config) {
		cfg.Suspect = func(_ wire.ConversationID, why Refusal, peer wire.NodeID, err error) {
			t.Errorf("%s: %v: %v", peer, why, err)
		}
	}
	simulate(t, edit, append(three, nodeD), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		add := author.Addresses(1, "d.example")
		gone := add
		for i := range 100 {
			p = c.commit(nodeA, p, wire.DeliveryChange{Add: add})
			time.Sleep(time.Duration(i%7) * 5 * time.Millisecond)
			p = c.commit(nodeB, p, wire.DeliveryChange{Remove: gone})
			p = c.commit(nodeA, p, wire.DeliveryChange{}) // another organization confirms: the replica may be removed
		}
		c.settled(conv, 3, 0)
		for n, node := range c.nodes {
			if node.m != nil && node.m.Refusals()[RefusedConfiguration] > 0 {
				t.Errorf("%s refused %v", n, node.m.Refusals())
			}
		}
	})
}

// TestReplicasAreChosenWhenAllIsApplied checks that the choice waits for entries handed to Raft before, and that
// later entries wait.
func TestReplicasAreChosenWhenAllIsApplied(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		cv, err := c.leader(conv).m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		l, release := cv.use()
		defer release()
		r, first := l.r.Load(), new(byte)
		l.waiters.Store(first, &waiter{answer: make(chan machine.Outcome, 1), term: r.CurrentTerm()})
		chosen := make(chan func(), 1)
		go func() {
			settled, end := l.settle(r)
			if !settled {
				t.Error("not settled")
			}
			chosen <- end
		}()
		time.Sleep(l.m.cfg.Timers.Call / 2)
		if len(chosen) > 0 {
			t.Fatal("an entry that was handed to Raft is not waited for")
		}
		done := make(chan struct{})
		go func() { c.commit(nodeA, p, wire.DeliveryChange{}); close(done) }()
		time.Sleep(l.m.cfg.Timers.Call / 4)
		l.waiters.Delete(first)
		end := <-chosen
		time.Sleep(l.m.cfg.Timers.Call)
		select {
		case <-done:
			t.Fatal("an entry came between")
		default:
		}
		end()
		<-done
	})
}

// TestLeadersOrganizationLeaves checks that the leader transfers its leadership and leaves when its organization
// does.
func TestLeadersOrganizationLeaves(t *testing.T) {
	simulate(t, nil, append(three, nodeD), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example", "d.example")
		c.settled(conv, 3, 1)
		lead := c.leader(conv)
		p = c.commit(nodeB, p, wire.DeliveryChange{Remove: author.Addresses(1, lead.id.Organization())})
		var rest []wire.NodeID
		for _, n := range append(three, nodeD) {
			if n != lead.id {
				rest = append(rest, n)
			}
		}
		for _, n := range rest { // from the second level of the rules on, two organizations confirm the removal
			p = c.commit(n, p, wire.DeliveryChange{})
		}
		c.eventually("the leader's replica is gone", func() bool { return lead.m.Counts().Held == 0 })
		c.settled(conv, 3, 0)
		c.level(conv, rest...)
		if got := lead.consumer.sequences(conv); len(got) == 0 {
			t.Fatal("the leader's organization was delivered nothing")
		}
	})
}

// TestUnreachableNodeIsNotMadeVoter checks that an unreachable node gets its replica only when it is back.
func TestUnreachableNodeIsNotMadeVoter(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		c.stop(c.nodes[nodeC])
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.settled(conv, 1, 1) // two voters would tolerate fewer failures than one
		c.eventually("a sleeps without c", func() bool { return c.nodes[nodeA].m.Counts().Awake == 0 })
		c.start(c.nodes[nodeC])
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.settled(conv, 3, 0)
		c.commit(nodeC, p, wire.DeliveryChange{})
		c.level(conv, three...)
	})
}

func TestMissedReplicaIsGivenWhenTheNodeComesUp(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		c.stop(c.nodes[nodeC])
		c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.eventually("the others sleep", func() bool { return c.nodes[nodeA].m.Counts().Awake == 0 && c.nodes[nodeB].m.Counts().Held == 1 })
		c.start(c.nodes[nodeC])
		// Any contact is enough: c shares no conversation with them, so nobody would call it for this one.
		if _, err := c.nodes[nodeC].m.mesh.ask(c.context(5*time.Second), nodeA, &frame{kind: kindGone, conversation: conv}); wire.CodeOf(err) == wire.Internal {
			t.Fatal(err)
		}
		c.settled(conv, 3, 0)
	})
}

// TestSleptThroughAChange checks that a node which was down while the others continued and fell asleep is brought to
// their state when it is back, without a submission.
func TestSleptThroughAChange(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.asleep(conv, three...)
		c.crash(c.nodes[nodeC], false)
		for range 30 { // more than the log keeps, so a snapshot will be needed
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.asleep(conv, nodeA, nodeB)
		c.start(c.nodes[nodeC])
		c.nodes[nodeC].m.mesh.peer(nodeA).send(&frame{kind: kindSummary, payload: []byte{0x81, 0x80}})
		c.level(conv, three...)
		c.asleep(conv, three...)
	})
}

// TestSnapshotOverItsOwnStream checks that a new replica gets entries that the log no longer holds.
func TestSnapshotOverItsOwnStream(t *testing.T) {
	edit := func(cfg *Config) { cfg.Timers.Snapshot = 200 * time.Millisecond }
	simulate(t, edit, append(three, nodeD), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		for range 60 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
			time.Sleep(20 * time.Millisecond)
		}
		first, err := c.leader(conv).log.Group(0).FirstIndex()
		if err != nil || first < 20 {
			t.Fatalf("the leader's log begins at %d (%v): no snapshot was taken", first, err)
		}
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(1, "d.example")})
		c.settled(conv, 3, 1)
		c.level(conv, nodeA, nodeB, nodeC, nodeD)
		c.stop(c.nodes[nodeD])
		c.start(c.nodes[nodeD])
		c.commit(nodeD, p, wire.DeliveryChange{})
		c.level(conv, nodeA, nodeB, nodeC, nodeD)
	})
}

// TestDamagedReplicaIsRepaired checks that a flipped bit is not served, and is repaired from the other replicas.
func TestDamagedReplicaIsRepaired(t *testing.T) {
	for _, state := range []string{"asleep", "restarted", "snapshot"} {
		t.Run(state, func(t *testing.T) {
			edit := func(cfg *Config) { cfg.Timers.Snapshot = 200 * time.Millisecond }
			simulate(t, edit, three, func(c *cluster) {
				p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
				c.settled(conv, 3, 0)
				for range map[string]int{"snapshot": 40}[state] + 6 {
					p = c.commit(nodeB, p, wire.DeliveryChange{})
					time.Sleep(20 * time.Millisecond)
				}
				c.level(conv, three...)
				c.asleep(conv, three...)
				node := c.nodes[nodeC]
				if state == "restarted" {
					c.stop(node)
				}
				last := uint64(0)
				if state == "snapshot" {
					content := node.snaps.by[0].content
					content[len(content)/2] ^= 1
					last = 1
				}
				for i := uint64(1); state != "snapshot" && node.disk.FlipBit(0, i); i++ {
					last = i
				}
				if last == 0 {
					t.Fatal("nothing to damage")
				}
				if state == "restarted" {
					c.start(node)
				}
				node.m.asleep.forget(conv) // the data read before the damage is correct, and in memory
				if _, _, err := node.m.Entries(conv, 0, 100, 1<<20); err == nil {
					t.Fatal("damaged entries were served")
				}
				p = c.commit(nodeA, p, wire.DeliveryChange{})
				c.eventually("c is whole again", func() bool {
					s, err := node.m.Status(conv)
					lead, err2 := c.nodes[nodeA].m.Status(conv)
					return err == nil && err2 == nil && s.Order == lead.Order && slices.Contains(lead.Voters, nodeC)
				})
				c.commit(nodeC, p, wire.DeliveryChange{})
				c.level(conv, three...)
			})
		})
	}
}

// TestDamageBehindASnapshotIsCutOff checks that damaged entries which the snapshot covers are removed without help
// from others.
func TestDamageBehindASnapshotIsCutOff(t *testing.T) {
	edit := func(cfg *Config) { cfg.Timers.Snapshot = 200 * time.Millisecond }
	simulate(t, edit, three[:1], func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example")
		for range 40 {
			p = c.commit(nodeA, p, wire.DeliveryChange{})
			time.Sleep(20 * time.Millisecond)
		}
		node := c.nodes[nodeA]
		first, err := node.log.Group(0).FirstIndex()
		if err != nil || first < 2 {
			t.Fatalf("the log begins at %d (%v): no snapshot was taken", first, err)
		}
		c.stop(node)
		if !node.disk.FlipBit(0, first) {
			t.Fatal("nothing to damage")
		}
		c.start(node)
		if m := node.m; m.Counts().Held == 1 {
			cv, err := m.find(conv)
			if err != nil {
				t.Fatal(err)
			}
			if cut, err := m.cutDamage(cv); err != nil || !cut {
				t.Fatalf("cut off: %v, %v", cut, err)
			}
		}
		c.commit(nodeA, p, wire.DeliveryChange{})
	})
}

// TestRecover checks an operator's recovery on the surviving node, which all can see in the log.
func TestRecover(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.level(conv, three...)
		if err := c.nodes[nodeA].m.Recover(c.context(10*time.Second), conv, "because"); wire.CodeOf(err) != wire.Invalid {
			t.Fatalf("recovered although a leader is alive: %v", err)
		}
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		a := c.nodes[nodeA].m
		if _, err := a.Order(c.context(8*time.Second), p.Commit(c.id(), 8, wire.DeliveryChange{})); wire.CodeOf(err) != wire.NoQuorum {
			t.Fatalf("before: %v", err)
		}
		if err := a.Recover(c.context(20*time.Second), conv, ""); wire.CodeOf(err) != wire.Malformed {
			t.Fatalf("without a note: %v", err)
		}
		if err := a.Recover(c.context(20*time.Second), conv, "both disks burnt"); err != nil {
			t.Fatal(err)
		}
		next := p.Commit(c.id(), 8, wire.DeliveryChange{})
		r, err := a.Order(c.context(20*time.Second), next)
		if wire.CodeOf(err) == wire.StaleEpoch {
			t.Log("the submission from before came through: it was in the survivor's log")
			heads, err := a.Heads(conv)
			if err != nil {
				t.Fatal(err)
			}
			p = author.Place{Conversation: conv, Epoch: heads[0].Epoch, Parent: heads[0].Sequence, Opener: author.Submission(c.subs - 1)}
			next = p.Commit(c.id(), 8, wire.DeliveryChange{})
			if r, err = a.Order(c.context(20*time.Second), next); err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		p = author.After(next, r)
		found := false
		entries, _, err := a.Entries(conv, 0, 100, 1<<20)
		for i := range entries {
			if e, err := entries[i].Open(); err == nil && e.Replicas != nil && e.Replicas.Recovery != nil {
				found = e.Replicas.Generation == 1 && e.Replicas.Recovery.Note == "both disks burnt" && len(e.Replicas.Recovery.Lost) == 2
			}
		}
		if err != nil || !found {
			t.Fatalf("the act is not in the log (%v)", err)
		}
		// The other nodes come back with their old data: they have no say, and are invited again.
		c.start(c.nodes[nodeB])
		c.start(c.nodes[nodeC])
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.settled(conv, 3, 0)
		c.commit(nodeB, p, wire.DeliveryChange{})
		c.level(conv, three...)
		for _, n := range three {
			if s, err := c.nodes[n].m.Status(conv); err != nil || s.Generation != 1 {
				t.Fatalf("%s is in generation %d (%v)", n, s.Generation, err)
			}
		}
	})
}

// TestConsumerHearsEveryEntryOnce checks that the consumer gets every entry once, whatever crashes.
func TestConsumerHearsEveryEntryOnce(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.nodes[nodeB].consumer.fail = 3
		for i := range 12 {
			p = c.commit(three[i%3], p, wire.DeliveryChange{})
			if i%4 == 3 {
				c.crash(c.nodes[nodeB], i%8 == 3)
				p = c.commit(nodeA, p, wire.DeliveryChange{})
				c.start(c.nodes[nodeB])
			}
		}
		c.eventually("all have everything", func() bool {
			for _, n := range three {
				got := c.nodes[n].consumer.sequences(conv)
				if len(got) == 0 || got[len(got)-1] < p.Parent {
					return false
				}
			}
			return true
		})
		for _, n := range three {
			for i, seq := range c.nodes[n].consumer.sequences(conv) {
				if seq != wire.SequenceNumber(i+1) {
					t.Fatalf("%s was delivered %v", n, c.nodes[n].consumer.sequences(conv))
				}
			}
		}
	})
}

// TestFullDiskEndsNoNode checks that a replica whose term cannot be written stops, and that the node continues, and
// the replica too when there is space.
func TestFullDiskEndsNoNode(t *testing.T) {
	full := make(chan bool, 1)
	full <- false
	isFull := func() bool { v := <-full; full <- v; return v }
	simulate(t, nil, three, func(c *cluster) {
		node := c.nodes[nodeC]
		c.stop(node)
		node.disk.Sync = func(int) error {
			if isFull() {
				return fmt.Errorf("write: %w", raftlog.ErrNoSpace)
			}
			return nil
		}
		c.start(node)
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		<-full
		full <- true
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		lead := c.leader(conv)
		if lead != node { // force an election, so that a term has to be written
			c.crash(lead, false)
			ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
			_, _ = c.nodes[nodeC].m.Order(ctx, p.Commit(c.id(), 8, wire.DeliveryChange{}))
			cancel()
			c.start(lead)
		}
		<-full
		full <- false
		c.eventually("commits go on", func() bool {
			heads, err := c.nodes[nodeA].m.Heads(conv)
			if err != nil || len(heads) == 0 {
				return false
			}
			_, err = c.nodes[nodeC].m.Order(c.context(10*time.Second), p.Propose(c.id(), 8))
			return err == nil || heads[0].Epoch > p.Epoch
		})
		c.level(conv, three...)
	})
}
