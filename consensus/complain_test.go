package consensus

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// deaf leaves the submissions of one organization without an answer, while it is switched on.
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

// TestSilentLeaderOfOneOrganization: a leader that sends heartbeats, orders what the others bring, and nothing of one
// organization's, is replaced when that organization's node has shown its submission to the others. It is ordered within
// the patience of its caller, whether that organization has a vote or not.
func TestSilentLeaderOfOneOrganization(t *testing.T) {
	for _, who := range []string{"learner", "voter"} {
		t.Run(who, func(t *testing.T) {
			deafScene(t, func(s *scene, deafen func(wire.NodeID, wire.Domain)) wire.NodeID {
				victim := map[string]wire.NodeID{"learner": s.learner, "voter": s.voters[0]}[who]
				evil := s.leader
				deafen(evil, victim.Organization())
				s.goesOn(without(s.everybody(), victim)...) // for the others all is well
				began := time.Now()
				s.goesOn(victim)
				t.Logf("ordered after %v", time.Since(began))
				s.eventually("another leader", func() bool { l := s.cluster.leader(conv); return l != nil && l.id != evil })
				counted := 0
				for _, n := range s.honest(evil) {
					if s.refused(n, RefusedSilence) > 0 {
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

// TestComplaintsAreJudged: a complaint with a submission that is forged, has been ordered, or is of another conversation
// deposes nobody. A genuine one about what was never handed in costs one election, once in muteLife.
func TestComplaintsAreJudged(t *testing.T) {
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
		if _, err := s.nodes[leader].m.Submit(s.context(10*time.Second), ordered); err != nil {
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
			if s.refused(n, RefusedSilence) != 0 {
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

// TestNoMajorityIsMuted: a node that already does not follow as many voters as can be missed follows no complaint about
// another one.
func TestNoMajorityIsMuted(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		node := s.nodes[s.voters[0]]
		cv, err := node.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		cv.denyVote(s.voters[1])
		if err := node.m.disobey(s.context(time.Second), cv, s.leader, s.learner); wire.CodeOf(err) != wire.Busy || cv.getsNoVote(s.leader) {
			t.Errorf("two of three are not followed: %v", err)
		}
		if err := node.m.disobey(s.context(time.Second), cv, s.learner, s.leader); wire.CodeOf(err) != wire.Busy || cv.getsNoVote(s.learner) {
			t.Errorf("one without a vote: %v", err)
		}
		s.goesOn(s.everybody()...)
		return ""
	})
}
