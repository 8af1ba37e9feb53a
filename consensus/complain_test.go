package consensus

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// deaf does not answer the submissions of one organization while it is switched on.
type deaf struct {
	of  wire.Domain
	on  *atomic.Bool
	end chan struct{}
}

func (d *deaf) Handshake(org wire.Domain, _ wire.ConversationID) error {
	if org == d.of && d.on.Load() {
		<-d.end
	}
	return nil
}

func (d *deaf) Replica(wire.Domain) error { return nil }

// unwilling refuses the submissions of one organization with an error, and accepts one of them from time to time if
// set.
type unwilling struct {
	mu    sync.Mutex // guards the fields below
	of    wire.Domain
	err   error
	every time.Duration // interval at which it accepts one; 0 for never
	took  time.Time
}

func (u *unwilling) Handshake(org wire.Domain, _ wire.ConversationID) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if org != u.of || u.err == nil || u.every > 0 && time.Since(u.took) >= u.every {
		u.took = time.Now()
		return nil
	}
	return u.err
}

func (u *unwilling) Replica(wire.Domain) error { return nil }

// unwillingScene is a scene in which the leader refuses the submissions of victim.
func unwillingScene(t *testing.T, err error, every time.Duration, run func(s *scene, victim wire.NodeID)) {
	t.Helper()
	nodes := make(map[wire.NodeID]*unwilling)
	edit := func(cfg *Config) {
		if nodes[cfg.Node] == nil {
			nodes[cfg.Node] = new(unwilling)
		}
		cfg.Admission = nodes[cfg.Node]
		cfg.Timers.Sleep = time.Hour // the leader is awake, as a hostile one keeps itself
	}
	withScene(t, edit, func(s *scene) wire.NodeID {
		evil, victim := s.leader, s.learner
		u := nodes[evil]
		u.mu.Lock()
		u.of, u.err, u.every, u.took = victim.Organization(), err, every, time.Now()
		u.mu.Unlock()
		run(s, victim)
		return evil
	})
}

// orderFor makes a node bring one submission after the other, as an eager client does, until one is ordered or the
// time is over. It returns the number of refusals.
func (s *scene) orderFor(n wire.NodeID, atMost time.Duration) (refused int, ordered bool) {
	for end := time.Now().Add(atMost); time.Now().Before(end); refused++ {
		e := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		if r, err := s.nodes[n].m.Order(s.context(20*time.Second), e); err == nil {
			s.p = author.After(e, r)
			return refused, true
		}
		time.Sleep(time.Second)
	}
	return refused, false
}

// TestRefusingLeaderOfOneOrganization checks that a leader which refuses all submissions of one organization, with a
// rate as reason or with an invalid reason, is replaced within refusalPatience and an election.
func TestRefusingLeaderOfOneOrganization(t *testing.T) {
	for name, err := range map[string]error{
		"busy":   wire.Errorf(wire.Busy, "submit", "too many"),
		"quota":  wire.Errorf(wire.Quota, "submit", "too much"),
		"denied": wire.Errorf(wire.Denied, "submit", "no"),
		"stale":  &wire.Error{Code: wire.StaleEpoch, Op: "submit", Stale: &wire.Stale{Epoch: 9, Head: 99}},
		"forged": wire.Errorf(wire.Forged, "submit", "no signature"),
	} {
		t.Run(name, func(t *testing.T) {
			unwillingScene(t, err, 0, func(s *scene, victim wire.NodeID) {
				evil := s.leader
				if _, ordered := s.orderFor(victim, refusalPatience-30*time.Second); ordered {
					t.Fatal("the leader ordered it")
				}
				if l := s.cluster.leader(conv); l == nil || l.id != evil {
					t.Fatal("the leader was deposed at once")
				}
				n, ordered := s.orderFor(victim, time.Minute)
				if !ordered {
					t.Fatalf("%d further submissions were refused", n)
				}
				s.level(conv, s.everybody()...)
				s.goesOn(s.everybody()...)
			})
		})
	}
}

// TestBusyLeaderStays checks that a leader which is overloaded, and orders a submission of an organization from time
// to time, stays the leader.
func TestBusyLeaderStays(t *testing.T) {
	unwillingScene(t, wire.Errorf(wire.Busy, "submit", "too many"), 90*time.Second, func(s *scene, victim wire.NodeID) {
		took := 0
		for range 4 {
			if _, ordered := s.orderFor(victim, 3*time.Minute); ordered {
				took++
			}
		}
		if l := s.cluster.leader(conv); took != 4 || l == nil || l.id != s.leader {
			t.Errorf("%d of 4 were ordered, the leader is %v", took, l)
		}
		for _, n := range s.everybody() {
			if s.refused(n, RefusedUnordered) != 0 {
				t.Errorf("%s counts a leader that orders nothing", n)
			}
		}
	})
}

// TestRefusalsAreCounted checks that the time of one node's refusals starts with the first one, and starts again
// after a long pause, after a refusal by another node, and after an ordered submission.
func TestRefusalsAreCounted(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	r := new(submissionRefusals)
	r.add(nodeA, wire.Busy, now)
	r.add(nodeA, wire.Quota, at(patience))
	if r.of(nodeA) != patience || r.of(nodeB) != 0 {
		t.Errorf("%v and %v", r.of(nodeA), r.of(nodeB))
	}
	r.add(nodeA, wire.Busy, at(2*patience+1))
	if r.of(nodeA) != 0 {
		t.Errorf("%v after a long pause", r.of(nodeA))
	}
	r.add(nodeA, wire.Busy, at(3*patience))
	r.add(nodeB, codeNotLeader, at(3*patience))
	if r.of(nodeA) == 0 {
		t.Error("a node that does not lead counts as one that refuses")
	}
	r.add(nodeB, wire.Busy, at(3*patience))
	if r.of(nodeA) != 0 {
		t.Error("another leader's refusals count")
	}
	r.add(nodeB, wire.Busy, at(4*patience))
	if r.end(); r.of(nodeB) != 0 {
		t.Error("something was ordered meanwhile")
	}
}

// deafScene is a scene in which nodes can be made deaf.
func deafScene(t *testing.T, attack func(s *scene, deafen func(n wire.NodeID, to wire.Domain)) wire.NodeID) {
	t.Helper()
	nodes := make(map[wire.NodeID]*deaf)
	edit := func(cfg *Config) {
		d := nodes[cfg.Node]
		if d == nil {
			d = &deaf{on: new(atomic.Bool), end: make(chan struct{})}
			nodes[cfg.Node] = d
		}
		cfg.Admission = d
	}
	withScene(t, edit, func(s *scene) wire.NodeID {
		defer func() {
			for _, d := range nodes {
				close(d.end)
			}
		}()
		return attack(s, func(n wire.NodeID, to wire.Domain) {
			nodes[n].of = to
			nodes[n].on.Store(true)
		})
	})
}

// TestUnresponsiveLeaderOfOneOrganization checks that a leader which sends heartbeats and orders the submissions of the
// others, but none of one organization, is replaced when that organization's node has shown its submission to the
// others. The submission is ordered within the patience of its caller, whether that organization has a vote or not.
func TestUnresponsiveLeaderOfOneOrganization(t *testing.T) {
	for _, who := range []string{"learner", "voter"} {
		t.Run(who, func(t *testing.T) {
			deafScene(t, func(s *scene, deafen func(wire.NodeID, wire.Domain)) wire.NodeID {
				victim := map[string]wire.NodeID{"learner": s.learner, "voter": s.voters[0]}[who]
				evil := s.leader
				deafen(evil, victim.Organization())
				s.goesOn(without(s.everybody(), victim)...) // the others notice nothing
				began := time.Now()
				s.goesOn(victim)
				t.Logf("ordered after %v", time.Since(began))
				s.eventually("another leader", func() bool { l := s.cluster.leader(conv); return l != nil && l.id != evil })
				counted := 0
				for _, n := range s.honest(evil) {
					if s.refused(n, RefusedUnordered) > 0 {
						counted++
					}
				}
				if counted == 0 {
					t.Error("nobody has counted it")
				}
				s.goesOn(s.everybody()...)
				return evil
			})
		})
	}
}

// TestComplaintsAreChecked checks that a complaint with a submission that is forged, has been ordered, or is from
// another conversation deposes nobody. A genuine complaint about a submission that was never handed in causes one
// election, once in muteLife.
func TestComplaintsAreChecked(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil, leader := s.learner, s.leader
		complain := func(e *wire.Envelope, to wire.NodeID) error {
			payload, err := wire.Encode(&complaint{leader, e})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.nodes[evil].m.mesh.ask(s.context(10*time.Second), to, &frame{kind: kindComplain, conversation: conv, payload: payload})
			return err
		}
		forged := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		forged.Signature = make([]byte, 64)
		old := s.p
		ordered := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		if _, err := s.nodes[leader].m.Order(s.context(10*time.Second), ordered); err != nil {
			t.Fatal(err)
		}
		s.level(conv, s.everybody()...)
		elsewhere := old.Commit(s.id(), 9, wire.DeliveryChange{})
		elsewhere.Conversation = "conversation-two"
		for _, n := range s.voters {
			for what, c := range map[string]struct {
				e    *wire.Envelope
				want wire.Code
			}{
				"forged": {forged, wire.Forged}, "ordered": {ordered, ""}, "of another conversation": {elsewhere, wire.Malformed},
				"stale": {old.Commit(s.id(), 9, wire.DeliveryChange{}), wire.StaleEpoch},
			} {
				if err := complain(c.e, n); wire.CodeOf(err) != c.want {
					t.Errorf("%s: %v, wanted %q", what, err, c.want)
				}
			}
			if s.refused(n, RefusedUnordered) != 0 {
				t.Errorf("%s believes it", n)
			}
		}
		if err := complain(ordered, leader); wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("to the leader itself: %v", err)
		}
		if l := s.cluster.leader(conv); l == nil || l.id != leader {
			t.Fatal("the leader was deposed")
		}
		s.look()
		entries, _, err := s.nodes[leader].m.Entries(conv, 0, 1000, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		s.p = old
		s.p.Epoch, s.p.Parent = old.Epoch+1, entries[len(entries)-1].Sequence
		s.p.Opener = ordered.Submission
		genuine := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		if err := complain(genuine, s.voters[0]); err != nil {
			t.Fatal(err)
		}
		s.eventually("one election", func() bool { l := s.cluster.leader(conv); return l != nil && l.id == s.voters[0] })
		s.goesOn(s.everybody()...)
		about := meterKey{wire.NodeID(evil.Organization()), conv, meterComplain}
		m := s.nodes[s.voters[0]].m
		if m.meter.take(about, 1, muteLife) {
			t.Error("a second complaint would be followed at once")
		}
		time.Sleep(muteLife)
		if !m.meter.take(about, 1, muteLife) {
			t.Error("a complaint would not be followed after a while")
		}
		return evil
	})
}

// TestNoMajorityIsMuted checks that a node which already denies its vote to as many voters as possible follows no
// complaint about another one.
func TestNoMajorityIsMuted(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		node := s.nodes[s.voters[0]]
		cv, err := node.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		cv.denyVote(s.voters[1])
		if err := node.m.opposeLeader(s.context(time.Second), cv, s.leader, s.learner); wire.CodeOf(err) != wire.Busy || cv.voteDenied(s.leader) {
			t.Errorf("two of three are not followed: %v", err)
		}
		if err := node.m.opposeLeader(s.context(time.Second), cv, s.learner, s.leader); wire.CodeOf(err) != wire.Busy || cv.voteDenied(s.learner) {
			t.Errorf("one without a vote: %v", err)
		}
		s.goesOn(s.everybody()...)
		return ""
	})
}

// TestDenialYieldsToNoLeader checks that two voters which deny each other their votes elect a leader when the third
// voter is away: the one that the others denied a vote is better than none.
func TestDenialYieldsToNoLeader(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		for i, n := range s.voters {
			cv, err := s.nodes[n].m.find(conv)
			if err != nil {
				t.Fatal(err)
			}
			cv.denyVote(s.voters[1-i])
		}
		s.crash(s.nodes[s.leader], true)
		s.goesOn(s.voters[0], s.voters[1])
		return s.leader
	})
}
