package consensus

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRestoredNodeVotesForNothingItForgot checks that a node whose disk comes from a backup gives up its replicas, is
// removed from the configuration and is invited again. A conversation with this node as its only replica continues.
func TestRestoredNodeVotesForNothingItForgot(t *testing.T) {
	const alone wire.ConversationID = "conversation-alone"
	restored := false
	nodes, start := tcpCluster(t, raftlog.BackendBolt, func(cfg *Config) { cfg.Restored = restored && cfg.Node == nodeC }, three...)
	b := &tcpBench{t: t, nodes: nodes}
	p := b.found(conv, "a.example", "b.example", "c.example")
	threeVoters := func() bool {
		s, err := nodes[nodeA].m.Status(conv)
		return err == nil && len(s.Voters) == 3 && slices.Contains(s.Voters, nodeC)
	}
	b.wait("three voters", threeVoters)
	own := b.foundAt(nodeC, alone, "c.example")
	p = b.commit(nodeA, p, 200)
	dir := nodes[nodeC].m.cfg.Dir
	backup := filepath.Join(t.TempDir(), "backup")
	if err := nodes[nodeC].m.Copy(filepath.Join(backup, "log")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p = b.commit(nodeA, p, 200)
	}
	nodes[nodeC].stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	restored = true
	start(nodeC)
	if c, err := nodes[nodeC].m.find(conv); err != nil || !c.out.Load() && nodes[nodeC].m.Counts().Awake == 0 {
		t.Fatalf("the restored replica is still in service (%v)", err)
	}
	b.commit(nodeC, own, 100)
	p = b.commit(nodeB, p, 200)
	b.wait("it is a voter again, with everything", func() bool {
		s, err := nodes[nodeC].m.Status(conv)
		return threeVoters() && err == nil && s.Sequence >= p.Parent
	})
	want, err := nodes[nodeA].m.Status(conv)
	got, err2 := nodes[nodeC].m.Status(conv)
	if err != nil || err2 != nil || want.Order != got.Order && want.Sequence == got.Sequence {
		t.Fatalf("%v at %d here, %v at %d there (%v, %v)", got.Order, got.Sequence, want.Order, want.Sequence, err, err2)
	}
}

// TestRestoredSoleVoterWaitsForTheOperator checks that an only voter that comes from a backup, while a learner knows
// more, does not continue from its old log; when the learner is recovered, the voter follows it.
func TestRestoredSoleVoterWaitsForTheOperator(t *testing.T) {
	two := []wire.NodeID{nodeA, nodeB}
	restored := wire.NodeID("")
	nodes, start := tcpCluster(t, raftlog.BackendBolt, func(cfg *Config) { cfg.Restored = cfg.Node == restored }, two...)
	b := &tcpBench{t: t, nodes: nodes}
	p := b.found(conv, "a.example", "b.example")
	b.wait("a voter and a learner", func() bool {
		s, err := nodes[nodeA].m.Status(conv)
		return err == nil && len(s.Voters) == 1 && len(s.Learners) == 1
	})
	s, err := nodes[nodeA].m.Status(conv)
	if err != nil {
		t.Fatal(err)
	}
	voter, learner := s.Voters[0], s.Learners[0]
	dir := nodes[voter].m.cfg.Dir
	backup := filepath.Join(t.TempDir(), "backup")
	if err := nodes[voter].m.Copy(filepath.Join(backup, "log")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p = b.commit(voter, p, 200)
	}
	b.wait("the learner has it", func() bool {
		s, err := nodes[learner].m.Status(conv)
		return err == nil && s.Sequence >= p.Parent
	})
	nodes[voter].stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	restored = voter
	start(voter)
	if err := nodes[voter].m.Wake(t.Context(), conv); wire.CodeOf(err) != wire.Unavailable || !strings.Contains(err.Error(), string(learner)) {
		t.Fatalf("the restored voter goes on: %v", err)
	}
	needs := func(n wire.NodeID) bool {
		s, err := nodes[n].m.Status(conv)
		return err == nil && s.NeedsRecovery() && slices.Equal(s.Lost, []wire.NodeID{voter}) && slices.Equal(nodes[n].m.NeedRecovery(), []wire.ConversationID{conv})
	}
	b.wait("both nodes say that it needs to be recovered", func() bool { return needs(voter) && needs(learner) })
	b.wait("the learner has noticed, and is recovered", func() bool {
		return nodes[learner].m.Recover(t.Context(), conv, "the voter's disk was restored") == nil
	})
	p = b.commit(learner, p, 200)
	b.wait("the restored node follows", func() bool {
		s, err := nodes[voter].m.Status(conv)
		return err == nil && s.Sequence >= p.Parent
	})
	p = b.commit(voter, p, 200)
	b.wait("one order hash", func() bool {
		one, err := nodes[voter].m.Status(conv)
		two, err2 := nodes[learner].m.Status(conv)
		return err == nil && err2 == nil && one.Sequence >= p.Parent && one.Order == two.Order
	})
	for _, n := range two {
		if ids := nodes[n].m.NeedRecovery(); len(ids) > 0 {
			t.Errorf("%s still says that %v need to be recovered", n, ids)
		}
	}
}

// TestLostMajorityNeedsRecovery checks that NeedsRecovery is reported if no majority has its log, and not if one has,
// nor by nodes that are no voters.
func TestLostMajorityNeedsRecovery(t *testing.T) {
	for _, c := range []struct {
		voters, lost []wire.NodeID
		leader       wire.NodeID
		want         bool
	}{
		{[]wire.NodeID{nodeA}, []wire.NodeID{nodeA}, "", true}, {[]wire.NodeID{nodeA}, []wire.NodeID{nodeA}, nodeA, true},
		{three, []wire.NodeID{nodeA}, "", false}, {three, []wire.NodeID{nodeA, nodeB}, "", true}, {three, []wire.NodeID{nodeA, nodeB}, nodeC, false},
		{[]wire.NodeID{nodeA, nodeB}, []wire.NodeID{nodeA}, "", true}, {three, nil, "", false},
	} {
		if got := (&Status{Voters: c.voters, Lost: c.lost, Leader: c.leader}).NeedsRecovery(); got != c.want {
			t.Errorf("voters %v, lost %v, leader %q: %v", c.voters, c.lost, c.leader, got)
		}
	}
	now := time.Now()
	m := &Manager{cfg: Config{Node: nodeB, Timers: Timers{Repair: time.Second}}}
	conversation := &conversation{id: conv, lost: map[wire.NodeID]time.Time{nodeA: now, nodeC: now.Add(-time.Hour), "n1.d.example": now}}
	if got := m.lostVoters(conversation, three); !slices.Equal(got, []wire.NodeID{nodeA}) || len(conversation.lost) != 2 {
		t.Errorf("lost are %v, of %v", got, conversation.lost)
	}
}

// TestWipedVoterIsInvitedAgain checks that a voter with an empty disk, which cannot ask for its removal, is removed
// and invited again by the leader after its answer that it holds nothing.
func TestWipedVoterIsInvitedAgain(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		node := c.nodes[nodeC]
		c.stop(node)
		node.disk, node.snaps, node.consumer = raftlog.NewDisk(), newMemSnapshots(), newMemConsumer()
		c.start(node)
		p = c.commit(nodeB, p, wire.DeliveryChange{})
		c.eventually("it holds everything again", func() bool {
			s, err := node.m.Status(conv)
			return err == nil && s.Sequence >= p.Parent
		})
		c.settled(conv, 3, 0)
		c.commit(nodeC, p, wire.DeliveryChange{})
		c.level(conv, three...)
	})
}

// TestWhoIsGoneGoesFirst checks that if a voter is lost and its organization leaves, no step leads to voters without
// a reachable majority.
func TestWhoIsGoneGoesFirst(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.crash(c.nodes[nodeC], false)
		p = c.commit(nodeA, p, wire.DeliveryChange{Remove: author.Addresses(1, "c.example")})
		for range 4 {
			time.Sleep(10 * time.Second)
			p = c.commit(nodeB, p, wire.DeliveryChange{})
			p = c.commit(nodeA, p, wire.DeliveryChange{})
		}
		c.eventually("one voter and a learner are left", func() bool {
			s, err := c.nodes[nodeA].m.Status(conv)
			return err == nil && len(s.Voters) == 1 && len(s.Learners) == 1
		})
		c.level(conv, nodeA, nodeB)
	})
}
