package consensus

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// scene is a conversation of four organizations with three voters and a learner, and the content of its log.
type scene struct {
	*cluster
	p       author.Place
	leader  wire.NodeID
	voters  []wire.NodeID // all voters except the leader
	learner wire.NodeID
	before  map[wire.SequenceNumber]wire.Hash
}

// withScene runs an attack in virtual time. It then checks that no honest node's applied entries have changed, and
// that honest nodes continue.
func withScene(t *testing.T, edit func(*Config), attack func(*scene) (hostile wire.NodeID)) {
	t.Helper()
	simulate(t, func(cfg *Config) {
		cfg.Limits.SnapshotAfter = 1000
		if edit != nil {
			edit(cfg)
		}
	}, append([]wire.NodeID{nodeM}, three...), func(c *cluster) {
		s := &scene{cluster: c}
		s.p = c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example", "mallory.example")
		c.settled(conv, 3, 1)
		for range 3 {
			s.p = c.commit(nodeA, s.p, wire.DeliveryChange{})
		}
		c.level(conv, s.everybody()...)
		s.look()
		s.before = s.orders(s.leader)
		hostile := attack(s)
		for _, n := range s.everybody() {
			if n == hostile {
				continue
			}
			for seq, order := range s.before {
				if now := s.orders(n)[seq]; now != order {
					t.Errorf("%s: order hash after entry %d is %v, it was %v", n, seq, now, order)
				}
			}
		}
	})
}

func (s *scene) everybody() []wire.NodeID { return append([]wire.NodeID{nodeM}, three...) }

// viewAny determines the part of each node.
func (s *scene) look() {
	s.t.Helper()
	s.eventually("leader", func() bool { return s.cluster.leader(conv) != nil })
	s.leader = s.cluster.leader(conv).id
	st, err := s.nodes[s.leader].m.Status(conv)
	if err != nil || len(st.Learners) != 1 {
		s.t.Fatalf("%+v, %v", st, err)
	}
	s.voters, s.learner = without(st.Voters, s.leader), st.Learners[0]
}

// orders returns the order hashes of the entries that a node keeps, in quarantine or not.
func (s *scene) orders(n wire.NodeID) map[wire.SequenceNumber]wire.Hash {
	s.t.Helper()
	m := make(map[wire.SequenceNumber]wire.Hash)
	c, err := s.nodes[n].m.held(conv)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.nodes[n].m.viewAny(c, func(st *machine.Machine) {
		for seq := range st.Sequence() {
			if order, ok := st.OrderAt(seq + 1); ok {
				m[seq+1] = order
			}
		}
	}); err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *scene) live(n wire.NodeID) *live {
	s.t.Helper()
	c, err := s.nodes[n].m.held(conv)
	if err != nil || c.awake() == nil || c.awake().r.Load() == nil {
		s.t.Fatalf("%s does not hold an awake replica (%v)", n, err)
	}
	return c.awake()
}

// goesOn checks that a commit is accepted and reaches nodes.
func (s *scene) goesOn(nodes ...wire.NodeID) {
	s.t.Helper()
	s.p = s.commit(nodes[0], s.p, wire.DeliveryChange{})
	s.level(conv, nodes...)
}

func (s *scene) refused(n wire.NodeID, why Refusal) int64 { return s.nodes[n].m.Refusals()[why] }

func (s *scene) honest(hostile wire.NodeID) []wire.NodeID { return without(s.everybody(), hostile) }

// rewriting returns a request that replaces the last accepted commit by another one.
func (s *scene) rewriting(victim wire.NodeID) *raft.AppendEntriesRequest {
	s.t.Helper()
	l := s.live(victim)
	last := l.r.Load().LastIndex()
	var prev raft.Log
	if err := l.store.GroupLog.GetLog(last-1, &prev); err != nil {
		s.t.Fatal(err)
	}
	e, err := wire.Encode(&wire.Entry{Version: 1, Time: wire.TimeOf(time.Now()), Proposer: s.leader, Envelope: s.p.Commit(s.id(), 9, wire.DeliveryChange{})})
	if err != nil {
		s.t.Fatal(err)
	}
	term := l.r.Load().CurrentTerm() + 5
	return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: last - 1, PrevLogTerm: prev.Term, LeaderCommitIndex: last,
		Entries: []*raft.Log{{Index: last, Term: term, Type: raft.LogCommand, Data: e}}}
}

// TestLearnerRewritesNothing checks that entries from a node without a vote are refused, and that nobody is harmed by
// them.
func TestLearnerRewritesNothing(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		for _, n := range s.honest(s.learner) {
			if _, err := appendAs(t, s.cluster, s.learner, n, conv, s.rewriting(n)); wire.CodeOf(err) != wire.NotReplica {
				t.Errorf("%s: %v", n, err)
			}
			if s.refused(n, RefusedRole) == 0 {
				t.Errorf("%s counted nothing", n)
			}
		}
		s.goesOn(s.honest(s.learner)...)
		return s.learner
	})
}

// TestVoterRewritesNothing checks that entries from a voter which would replace applied ones are refused, with an
// alarm, and that the others continue without its lead.
func TestVoterRewritesNothing(t *testing.T) {
	heard := make(chan Refusal, 64)
	withScene(t, func(cfg *Config) {
		cfg.Suspect = func(_ wire.ConversationID, why Refusal, _ wire.NodeID, _ error) { heard <- why }
	}, func(s *scene) wire.NodeID {
		evil := s.voters[0]
		for _, victim := range s.honest(evil) {
			if _, err := appendAs(t, s.cluster, evil, victim, conv, s.rewriting(victim)); wire.CodeOf(err) != wire.Invalid {
				t.Errorf("%s: taken: %v", victim, err)
			}
			if why := <-heard; why != RefusedRewrite || s.refused(victim, RefusedRewrite) != 1 {
				t.Errorf("%s: alarm %v, %v", victim, why, s.nodes[victim].m.Refusals())
			}
			cv, err := s.nodes[victim].m.find(conv)
			if err != nil {
				t.Fatal(err)
			}
			s.eventually("it leads no more", func() bool { return cv.isMuted(evil) })
		}
		s.goesOn(s.honest(evil)...)
		return evil
	})
}

// TestContradictedAlone checks that a replica which nobody confirms goes into quarantine: with one other
// organization, nobody else can be asked.
func TestContradictedAlone(t *testing.T) {
	alarms := make(chan Reason, 16)
	simulate(t, func(cfg *Config) { cfg.Alarm = func(_ wire.ConversationID, q Quarantine) { alarms <- q.Reason } }, []wire.NodeID{nodeA, nodeM}, func(c *cluster) {
		s := &scene{cluster: c}
		s.p = c.found(nodeM, conv, wire.Policy{}, "a.example", "mallory.example")
		c.settled(conv, 1, 1)
		s.p = c.commit(nodeM, s.p, wire.DeliveryChange{})
		c.level(conv, nodeA, nodeM)
		evil := c.leader(conv).id
		victim := map[wire.NodeID]wire.NodeID{nodeA: nodeM, nodeM: nodeA}[evil]
		if _, err := appendAs(t, c, evil, victim, conv, s.rewriting(victim)); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("taken: %v", err)
		}
		if r := <-alarms; r != ReasonRewritten {
			t.Errorf("alarm %v", r)
		}
	})
}

// TestPreviousEntryContradicts checks that a request without entries, whose previous entry differs from the one
// applied here, is not accepted as harmless.
func TestPreviousEntryContradicts(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil, victim := s.voters[0], s.voters[1]
		a := s.rewriting(victim)
		a.PrevLogTerm, a.Entries = a.PrevLogTerm+1, nil
		if _, err := appendAs(t, s.cluster, evil, victim, conv, a); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("taken: %v", err)
		}
		return evil
	})
}

// TestLiarIsAloneWithItsLie checks that one node with a false order hash raises an alarm that names it, and takes no
// conversation out of service.
func TestLiarIsAloneWithItsLie(t *testing.T) {
	heard := make(chan wire.NodeID, 64)
	withScene(t, func(cfg *Config) {
		cfg.Suspect = func(_ wire.ConversationID, why Refusal, peer wire.NodeID, _ error) { heard <- peer }
	}, func(s *scene) wire.NodeID {
		victim := s.nodes[s.leader]
		cv, err := victim.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		seq := s.live(s.leader).sequence()
		if _, err := s.nodes[s.learner].m.askTestimony(s.context(10*time.Second), s.leader, &conversation{id: cv.id, m: cv.m}, question{Sequence: seq, Order: wire.Hash{6, 6, 6}}); err != nil {
			t.Fatal(err)
		}
		if peer := <-heard; peer != s.learner {
			t.Errorf("the alarm names %s", peer)
		}
		s.goesOn(s.everybody()...)
		if n := victim.m.Counts().Quarantined; n != 0 {
			t.Error("one liar took the conversation out of service")
		}
		return s.learner
	})
}

// TestLogKeepsWhatIsCommitted checks that the log itself refuses, in case the commit index moves between the
// judgement of a request and its execution.
func TestLogKeepsWhatIsCommitted(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		l := s.live(s.voters[0])
		last := l.r.Load().LastIndex()
		if err := l.store.DeleteRange(last, last); err == nil {
			t.Error("a committed entry was deleted")
		}
		return s.voters[1]
	})
	withScene(t, nil, func(s *scene) wire.NodeID {
		l := s.live(s.voters[0])
		last := l.r.Load().LastIndex()
		if err := l.store.StoreLogs([]*raft.Log{{Index: last, Term: 99, Type: raft.LogCommand}}); err == nil {
			t.Error("a committed entry was replaced")
		}
		return s.voters[1]
	})
}

// forged is a state that gives the victim's organization a delivery list of its own and the attacker's key.
func (s *scene) forged(victim wire.NodeID, seq wire.SequenceNumber) []byte {
	return forgeState(s.t, xHeader{ID: conv, Created: true, Policy: wire.Policy{Handshakes: 1}, Sequence: seq, Spans: []machine.Span{{Organization: victim.Organization(), Since: 1}}},
		xHead{Sequence: s.p.Parent, Epoch: s.p.Epoch, Key: author.Public(author.Submission(666)), Delivery: author.Addresses(9, victim.Organization())})
}

// TestNobodyPlantsAState checks that neither a learner nor a voter can give another replica a state that does not
// continue its own, whatever term and index the state has.
func TestNobodyPlantsAState(t *testing.T) {
	for _, who := range []string{"learner", "voter"} {
		t.Run(who, func(t *testing.T) {
			withScene(t, nil, func(s *scene) wire.NodeID {
				evil, victim := s.voters[0], s.voters[1]
				if who == "learner" {
					evil = s.learner
				}
				l := s.live(victim)
				index, term := l.r.Load().LastIndex()+1, l.term()+1
				for _, at := range []struct{ term, index uint64 }{{1 << 40, index}, {term, index}, {term, math.MaxUint64}, {math.MaxUint64, index}} {
					err := plant(t, s.cluster, evil, victim, conv, 0, at.term, at.index, []wire.NodeID{evil, victim}, s.forged(victim, l.sequence()+1))
					if err == nil {
						t.Errorf("%+v: installed", at)
					}
				}
				return evil
			})
		})
	}
}

func (l *live) sequence() (seq wire.SequenceNumber) {
	l.fsm.read(func(m *machine.Machine) { seq = m.Sequence() })
	return seq
}

// TestTermsGrowByBoundedJumps checks the limit at its edge, and that a term beyond it stops nobody.
func TestTermsGrowByBoundedJumps(t *testing.T) {
	// The upsets that a voter may cause are limited elsewhere: see TestTermsOfAVoter. Here the victim may need some more.
	withScene(t, func(cfg *Config) { cfg.Limits.TermJump, cfg.Limits.Upsets = 10, 64 }, func(s *scene) wire.NodeID {
		evil, victim := s.voters[0], s.voters[1]
		own := s.live(victim).term()
		for _, term := range []uint64{math.MaxUint64, maxTerm + 1, maxTerm, own + 11} {
			for _, cmd := range []any{
				&raft.AppendEntriesRequest{Term: term},
				&raft.AppendEntriesRequest{Term: term, LeaderCommitIndex: 1},
				&raft.RequestVoteRequest{Term: term, LastLogIndex: 1 << 20, LastLogTerm: term, LeadershipTransfer: true},
				&raft.RequestPreVoteRequest{Term: term, LastLogIndex: 1 << 20, LastLogTerm: term},
			} {
				kind, payload := encodeRPC(cmd)
				_, err := s.nodes[evil].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kind, conversation: conv, payload: payload})
				if err == nil {
					t.Errorf("%T of term %d: taken", cmd, term)
				}
			}
			beats := encodeBeats([]*beat{{id: conv, term: term}})
			b, err := s.nodes[evil].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kindBeats, payload: beats})
			if r, err2 := decodeBeatReplies(b, 1); err != nil || err2 != nil || r[0].err == nil {
				t.Errorf("heartbeat of term %d: taken (%v, %v)", term, err, err2)
			}
			if now := s.live(victim).term(); now > own+10 {
				t.Fatalf("term %d has become %d", own, now)
			}
		}
		if s.refused(victim, RefusedTerm) == 0 {
			t.Error("counted nothing")
		}
		kind, payload := encodeRPC(&raft.RequestVoteRequest{Term: own + 10, LeadershipTransfer: true})
		if _, err := s.nodes[evil].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kind, conversation: conv, payload: payload}); err != nil {
			t.Errorf("a jump of 10, which is allowed: %v", err)
		}
		s.goesOn(s.honest(evil)...)
		return evil
	})
}

// TestLearnersAnswerStopsNobody checks that a learner which answers with a later term does not make leader after
// leader step down.
func TestLearnersAnswerStopsNobody(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		l := s.live(s.leader)
		sent := l.term()
		stepped := 0
		for range 20 {
			if l.trans.checkAnswer(s.learner, sent, sent+1) == nil {
				stepped++
			}
		}
		if stepped != unrestBurst || l.trans.checkAnswer(s.voters[0], sent, sent+1) != nil || l.trans.checkAnswer(s.voters[0], sent, math.MaxUint64) == nil {
			t.Errorf("%d answers of the learner were taken", stepped)
		}
		return s.learner
	})
}

// TestInvitationDeletesNothing checks that nobody can make a living conversation give way to a new generation, and
// that commits continue.
func TestInvitationDeletesNothing(t *testing.T) {
	for _, who := range []string{"learner", "voter", "leader"} {
		t.Run(who, func(t *testing.T) {
			withScene(t, nil, func(s *scene) wire.NodeID {
				evil := map[string]wire.NodeID{"learner": s.learner, "voter": s.voters[0], "leader": s.leader}[who]
				for _, state := range []string{"awake", "asleep"} {
					if state == "asleep" {
						s.asleep(conv, s.everybody()...)
					}
					for _, n := range s.honest(evil) {
						for _, generation := range []uint64{1, 2, math.MaxUint64} {
							if err := inviteAs(t, s.cluster, evil, n, conv, generation, evil); err == nil {
								t.Errorf("%s, %s follows generation %d", state, n, generation)
							}
						}
						if len(s.nodes[n].m.asidesOf(conv)) != 0 || s.refused(n, RefusedGeneration) == 0 {
							t.Errorf("%s, %s: %v", state, n, s.nodes[n].m.Refusals())
						}
					}
					s.goesOn(s.honest(evil)...)
				}
				return evil
			})
		})
	}
}

// TestForgedFarewell checks that a replica does not leave on the word of one node.
func TestForgedFarewell(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil := s.voters[0]
		for _, n := range s.honest(evil) {
			_, err := s.nodes[evil].m.mesh.ask(s.context(10*time.Second), n, &frame{kind: kindFarewell, conversation: conv})
			if err == nil || s.refused(n, RefusedFarewell) == 0 {
				t.Errorf("%s: %v", n, err)
			}
		}
		s.goesOn(s.honest(evil)...)
		return evil
	})
}

// TestDismissedByAMajorityIsKept checks that a replica's data stays if its own log does not contain its dismissal,
// over a restart too, until the operator drops it.
func TestDismissedByAMajorityIsKept(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		node := s.nodes[s.learner]
		cv, err := node.m.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		at := s.live(s.learner).sequence()
		if err := node.m.leave(s.context(10*time.Second), cv, dismissal{agreed: true}); err != nil {
			t.Fatal(err)
		}
		s.stop(node)
		s.start(node)
		kept := node.m.asidesOf(conv)
		if len(kept) != 1 || kept[0].Sequence < at {
			t.Fatalf("kept: %+v", kept)
		}
		s.eventually("it is invited again", func() bool { _, err := node.m.Status(conv); return err == nil })
		s.goesOn(s.everybody()...)
		if err := node.m.DropAside(conv, kept[0].Group); err != nil || len(node.m.asidesOf(conv)) != 0 {
			t.Error(err)
		}
		if groups, err := node.log.Groups(); err != nil || len(groups) != 1 {
			t.Errorf("groups %v (%v)", groups, err)
		}
		return ""
	})
}

// TestEveryKindHasALeastRole checks that no kind of frame is missing, and that messages for leaders only are refused
// from everybody without a vote: a learner, a node that was removed, and a node that was never a member.
func TestEveryKindHasALeastRole(t *testing.T) {
	for kind := frameKind(1); kind <= kindLast; kind++ {
		if _, ok := leastRoles[kind]; !ok {
			t.Errorf("kind %d has no least role", kind)
		}
	}
	names := append([]wire.NodeID{nodeD, "n1.x.example"}, three...)
	simulate(t, nil, names, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example", "d.example")
		c.settled(conv, 3, 1)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.level(conv, append([]wire.NodeID{nodeD}, three...)...)
		st, err := c.leader(conv).m.Status(conv)
		if err != nil {
			t.Fatal(err)
		}
		learner, voter := st.Learners[0], st.Voters[0]
		end, _ := wire.Encode(position{Term: 99, Last: 99})
		payloads := map[frameKind][]byte{kindAppend: encodeAppend(&raft.AppendEntriesRequest{Term: 2}), kindTimeoutNow: nil, kindSleep: end,
			kindVote: encodeVote(&raft.RequestVoteRequest{Term: 99, LastLogIndex: 99, LastLogTerm: 99, LeadershipTransfer: true}), kindPreVote: encodePreVote(&raft.RequestPreVoteRequest{Term: 99})}
		attempt := func(who string, from wire.NodeID) {
			for kind := range leastRoles {
				if leastRoles[kind] != roleVoter {
					continue
				}
				payload, ok := payloads[kind]
				if !ok {
					t.Fatalf("kind %d is not tried", kind)
				}
				if _, err := c.nodes[from].m.mesh.ask(c.context(10*time.Second), voter, &frame{kind: kind, conversation: conv, payload: payload}); wire.CodeOf(err) != wire.NotReplica {
					t.Errorf("%s, kind %d: %v", who, kind, err)
				}
			}
			b, err := c.nodes[from].m.mesh.ask(c.context(10*time.Second), voter, &frame{kind: kindBeats, payload: encodeBeats([]*beat{{id: conv, term: 99}})})
			if r, err2 := decodeBeatReplies(b, 1); err != nil || err2 != nil || wire.CodeOf(r[0].err) != wire.NotReplica {
				t.Errorf("%s, heartbeat: %v %v", who, err, err2)
			}
			if err := plant(t, c, from, voter, conv, 0, 99, 99, []wire.NodeID{from}, []byte("state")); wire.CodeOf(err) != wire.NotReplica {
				t.Errorf("%s, snapshot: %v", who, err)
			}
		}
		attempt("learner, awake", learner)
		attempt("stranger, awake", "n1.x.example")
		c.asleep(conv, append([]wire.NodeID{nodeD}, three...)...)
		attempt("learner, asleep", learner)
		attempt("stranger, asleep", "n1.x.example")
		if c.nodes[voter].m.Counts().Awake != 0 {
			t.Error("it was woken")
		}
		// While the replica is being opened, its disk is stalled.
		goOn := make(chan struct{})
		c.nodes[voter].stalled.Store(&goOn)
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			_, _, _ = c.nodes[voter].m.wake(c.context(10*time.Second), c.nodes[voter].m.conversations[conv])
		}()
		attempt("learner, opening", learner)
		c.nodes[voter].stalled.Store(nil)
		close(goOn)
		<-opened
		p = c.commit(voter, p, wire.DeliveryChange{Remove: author.Addresses(1, learner.Organization())})
		for _, n := range three { // the removal is final when another organization follows it
			if n != voter {
				p = c.commit(n, p, wire.DeliveryChange{})
			}
		}
		c.eventually("the learner is out", func() bool { return c.nodes[learner].m.Counts().Held == 0 })
		attempt("removed", learner)
		c.commit(voter, p, wire.DeliveryChange{})
	})
}

// TestWakesAreMetered checks the number of wakes that a learner may cause, at its edge, and that a flood of wakes
// does not keep a conversation awake.
func TestWakesAreMetered(t *testing.T) {
	withScene(t, func(cfg *Config) { cfg.Limits.Wakes = 3 }, func(s *scene) wire.NodeID {
		s.asleep(conv, s.everybody()...)
		end, err := wire.Encode(position{})
		if err != nil {
			t.Fatal(err)
		}
		victim := s.voters[0]
		served := 0
		for range 20 {
			if _, err := s.nodes[s.learner].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kindWake, conversation: conv, payload: end}); err == nil {
				served++
			} else if wire.CodeOf(err) != wire.Busy {
				t.Fatal(err)
			}
		}
		if served != 3 || s.refused(victim, RefusedRate) != 17 {
			t.Errorf("%d served, %d refused", served, s.refused(victim, RefusedRate))
		}
		// Lies about the learner's replicas cause no more wakes than that.
		lies, err := wire.Encode(&stateSummary{List: []replicaSummary{{ID: conv, End: position{Term: 9, Last: 999}}}})
		if err != nil {
			t.Fatal(err)
		}
		wakes := s.nodes[victim].m.Counts().Wakes
		for range 50 {
			_, _ = s.nodes[s.learner].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kindSummary, payload: lies})
		}
		if n := s.nodes[victim].m.Counts().Wakes; n > wakes+1 {
			t.Errorf("lies woke it %d times", n-wakes)
		}
		s.asleep(conv, s.everybody()...)
		s.goesOn(s.everybody()...)
		return ""
	})
}

// asLeader sends entries as a voter that claims to lead. The victim has seen its candidacy.
func (s *scene) asLeader(evil, victim wire.NodeID, committed bool, entries ...*raft.Log) error {
	s.t.Helper()
	l := s.live(victim)
	last := l.r.Load().LastIndex()
	term, _ := l.store.termAt(last)
	lead, commit := l.term()+1, last
	if committed {
		commit += uint64(len(entries))
	}
	for i, e := range entries {
		e.Index, e.Term = last+1+uint64(i), lead
	}
	kind, payload := encodeRPC(&raft.RequestVoteRequest{Term: lead, LeadershipTransfer: true})
	if _, err := s.nodes[evil].m.mesh.ask(s.context(10*time.Second), victim, &frame{kind: kind, conversation: conv, payload: payload}); err != nil {
		s.t.Fatal(err)
	}
	r, err := appendAs(s.t, s.cluster, evil, victim, conv, &raft.AppendEntriesRequest{Term: lead, PrevLogEntry: last, PrevLogTerm: term, LeaderCommitIndex: commit, Entries: entries})
	if err == nil && !r.Success {
		s.t.Fatalf("%s is not believed to lead: %+v", evil, r)
	}
	return err
}

func (s *scene) configuration(voters, learners []wire.NodeID) *raft.Log {
	var c raft.Configuration
	for _, n := range voters {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(n), Address: raft.ServerAddress(n)})
	}
	for _, n := range learners {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(n), Address: raft.ServerAddress(n)})
	}
	return &raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
}

func (s *scene) order(r *wire.Replicas) *raft.Log {
	s.t.Helper()
	b, err := wire.Encode(&wire.Entry{Version: 1, Time: wire.TimeOf(time.Now()), Proposer: s.leader, Replicas: r})
	if err != nil {
		s.t.Fatal(err)
	}
	if !namesReplicas(b) {
		s.t.Fatal("a change of replicas is not known as one")
	}
	return &raft.Log{Type: raft.LogCommand, Data: b}
}

// TestFollowersValidateChangesOfReplicas checks which changes a leader may not order, and that each attempt is refused,
// counted, reported, and followed by an election.
func TestFollowersValidateChangesOfReplicas(t *testing.T) {
	own := []wire.NodeID{"n1.mallory.example", "n2.mallory.example", "n3.mallory.example"}
	for name, change := range map[string]func(s *scene, evil wire.NodeID) []*raft.Log{
		"its own nodes at once": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.configuration(append(slices.Clone(own), append(s.voters, s.leader)...), nil)}
		},
		"a vote for a learner": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.configuration(append(s.voters, s.leader, s.learner), nil)}
		},
		"another node of its own": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.configuration(append(s.voters, s.leader), []wire.NodeID{s.learner, "n2.mallory.example"})}
		},
		"the victim is taken out": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.configuration([]wire.NodeID{s.leader, s.voters[0]}, []wire.NodeID{s.learner})}
		},
		"all votes ordered for itself": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.order(&wire.Replicas{Voters: []wire.NodeID{evil}, Learners: without(s.everybody(), evil)})}
		},
		"two votes more than others": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.order(&wire.Replicas{Voters: own, Learners: three})}
		},
		"an organization with members is left out": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.order(&wire.Replicas{Voters: append(without(s.voters, evil), evil, s.leader)[:3]})}
		},
		"a stranger": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.order(&wire.Replicas{Voters: append(slices.Clone(s.voters), s.leader), Learners: []wire.NodeID{s.learner, "n1.x.example"}})}
		},
		"a recovery that nobody made": func(s *scene, evil wire.NodeID) []*raft.Log {
			return []*raft.Log{s.order(&wire.Replicas{Generation: 1, Voters: []wire.NodeID{evil}, Recovery: &wire.Recovery{Note: "trust me"}})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan Refusal, 16)
			withScene(t, func(cfg *Config) {
				cfg.Suspect = func(_ wire.ConversationID, why Refusal, _ wire.NodeID, _ error) { heard <- why }
			}, func(s *scene) wire.NodeID {
				evil, victim := s.voters[0], s.voters[1]
				before := s.live(victim).committed()
				err := s.asLeader(evil, victim, false, change(s, evil)...)
				if err == nil || s.refused(victim, RefusedConfiguration) == 0 {
					t.Fatalf("taken: %v, %v", err, s.nodes[victim].m.Refusals())
				}
				if why := <-heard; why != RefusedConfiguration {
					t.Errorf("reported as %v", why)
				}
				s.goesOn(s.honest(evil)...)
				if now := s.live(victim).committed(); !slices.Equal(now.voters, before.voters) {
					t.Errorf("voters %v, they were %v", now.voters, before.voters)
				}
				return evil
			})
		})
	}
}

// TestOneMembersWordMakesNoLeader checks that a majority of the known voters has to vouch for a node, and for its
// vote instead of only its part.
func TestOneMembersWordMakesNoLeader(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		victim := s.nodes[s.voters[0]].m
		cv, err := victim.find(conv)
		if err != nil {
			t.Fatal(err)
		}
		if got := victim.vouch(s.context(10*time.Second), cv, s.learner, roleLearner); got == roleVoter {
			t.Error("the learner is vouched for as a voter")
		}
		if got := victim.vouch(s.context(10*time.Second), cv, "n1.x.example", roleNone); got != roleNone {
			t.Errorf("a stranger is vouched for: %v", got)
		}
		if got := victim.vouch(s.context(10*time.Second), cv, s.leader, roleNone); got != roleNone { // one of two others is asked: the node itself is not counted
			if got != roleVoter {
				t.Errorf("a voter is vouched for as %v", got)
			}
		}
		return ""
	})
}

// TestDivergenceIsNoticed checks that replicas which were shown two futures notice when they compare.
func TestDivergenceIsNoticed(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil, victim := s.voters[0], s.voters[1]
		other := s.p.Commit(s.id(), 9, wire.DeliveryChange{})
		for _, n := range []wire.NodeID{s.leader, s.learner} {
			s.f.setCut(victim, n, true)
		}
		s.f.setCut(victim, evil, true)
		s.p = s.commit(s.leader, s.p, wire.DeliveryChange{}) // the one future
		s.f.setCut(victim, evil, false)
		b, err := wire.Encode(&wire.Entry{Version: 1, Time: wire.TimeOf(time.Now()), Proposer: evil, Envelope: other})
		if err != nil {
			t.Fatal(err)
		}
		seq := s.live(victim).sequence()
		if err := s.asLeader(evil, victim, true, &raft.Log{Type: raft.LogCommand, Data: b}); err != nil {
			t.Fatal(err)
		}
		s.eventually("the victim has applied the other one", func() bool { st, err := s.nodes[victim].m.Status(conv); return err == nil && st.Sequence > seq })
		for _, n := range []wire.NodeID{s.leader, s.learner} {
			s.f.setCut(victim, n, false)
		}
		s.eventually("quarantine, by an alarm", func() bool { st, err := s.nodes[victim].m.Status(conv); return err == nil && st.State == "quarantine" })
		s.p = s.commit(s.leader, s.p, wire.DeliveryChange{})
		s.level(conv, s.leader, s.learner)
		return evil
	})
}

// TestRecoverMendsATerm checks that a term which an earlier build accepted from an attacker does not survive a
// recovery.
func TestRecoverMendsATerm(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.level(conv, three...)
		c.asleep(conv, three...)
		for _, n := range three {
			node := c.nodes[n]
			group := node.log.Group(node.m.conversations[conv].group)
			value := binary.BigEndian.AppendUint64(nil, math.MaxUint64)
			if err := group.Set([]byte(currentTerm), value); err != nil {
				t.Fatal(err)
			}
		}
		c.stop(c.nodes[nodeB])
		c.stop(c.nodes[nodeC])
		a := c.nodes[nodeA].m
		if err := a.Recover(c.context(30*time.Second), conv, "the term was inflated"); err != nil {
			t.Fatal(err)
		}
		c.start(c.nodes[nodeB])
		c.start(c.nodes[nodeC])
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		c.settled(conv, 3, 0)
		c.commit(nodeB, p, wire.DeliveryChange{})
		c.level(conv, three...)
	})
}

// TestIDTakenFirst checks that a replica which only one stranger's invitation supports gives way to the conversation
// that several organizations confirm.
func TestIDTakenFirst(t *testing.T) {
	simulate(t, nil, append([]wire.NodeID{nodeM}, three...), func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "mallory.example")
		c.settled(conv, 3, 0)
		if err := inviteAs(t, c, nodeM, nodeC, conv, 0, nodeM); err != nil {
			t.Fatal(err)
		}
		c.f.setCut(nodeM, nodeC, true)
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(1, "c.example")})
		c.eventually("c.example gets what is for it", func() bool { return slices.Contains(c.nodes[nodeC].consumer.sequences(conv), p.Parent) })
		if kept := c.nodes[nodeC].m.asidesOf(conv); len(kept) != 1 {
			t.Errorf("kept: %+v", kept)
		}
		c.commit(nodeC, p, wire.DeliveryChange{})
	})
}

// TestQuestionsRoundTrip checks the encoding of questions and answers between replicas.
func TestQuestionsRoundTrip(t *testing.T) {
	q := question{About: nodeB, Claim: 3, Sequence: 9, Order: wire.Hash{1}}
	b, err := wire.Encode(&q)
	if err != nil {
		t.Fatal(err)
	}
	var back question
	if err := wire.Decode(b, maxTestimony, &back); err != nil || back != q {
		t.Fatalf("%+v, %v", back, err)
	}
	a := testimony{Role: roleVoter, Generation: 1, Term: 2, Contradicts: true, Out: true, Sequence: 9, Order: wire.Hash{2}}
	if b, err = wire.Encode(&a); err != nil {
		t.Fatal(err)
	}
	var got testimony
	if err := wire.Decode(b, maxTestimony, &got); err != nil || got != a {
		t.Fatalf("%+v, %v", got, err)
	}
	a.Role = 7
	if b, err = wire.Encode(&a); err == nil && wire.Decode(b, maxTestimony, &got) == nil {
		t.Error("role 7 is taken")
	}
	for n := range b {
		if wire.Decode(bytes.Clone(b[:n]), maxTestimony, new(testimony)) == nil {
			t.Errorf("a prefix of %d bytes is taken", n)
		}
	}
}
