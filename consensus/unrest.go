package consensus

import (
	"math"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// Raft trusts voters with terms: a message of a leader, of this term or a later one, ends the leadership of another
// voter, whether anybody has elected the sender or not. So does a candidacy with the mark of a leader transfer, and an
// answer with a later term. A voter with changed code could so keep a conversation without a leader.
//
// A replica therefore follows a new leader at once only if it has seen the leader's candidacy, or has heard from no
// leader and no candidate for twice Timers.LeaderTimeout. Limits.Upsets and Timers.Upset limit how often a
// voter can end leaderships and candidacies by candidacies and answers; while nobody leads, Limits.Terms and Timers.Term
// limit how often it can begin a term. A voter that gets no vote here (complain.go) neither leads nor begins a term,
// unless nobody has led for some time (needsLeader).
//
// An honest leader whose candidacy was lost or refused here loses little: others have elected it, so that the old
// leader is gone, or learns of the new term from them. This replica then hears from nobody else, and follows it.

// unrest holds the token buckets of one voter.
type unrest struct {
	upsets, starts tokenbucket.Bucket
}

// content returns the leader of this replica if there is no reason for another one: this replica leads, or hears from
// the leader and has seen no fault of it.
func (l *live) content() (leader wire.NodeID, ok bool) {
	r, n := l.r.Load(), l.leader()
	switch {
	case r == nil || n == "":
		return "", false
	case n == l.m.cfg.Node:
		return n, r.State() == raft.Leader
	case l.c.voteDenied(n) || time.Since(r.LastContact()) >= l.m.cfg.Timers.Heartbeat:
		return n, false
	}
	p := l.m.mesh.peer(n)
	return n, p != nil && p.sinceHeard(time.Now()) < l.m.responseTimeout(p)*3/4
}

// candidacies are the candidacies that this replica has given to Raft since it is awake.
type candidacies struct {
	mu   sync.Mutex // guards the fields below
	term map[wire.NodeID]uint64
	last time.Time
	by   wire.NodeID // the node of the last one
}

func (s *candidacies) note(n wire.NodeID, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term == nil || len(s.term) > wire.MaxReplicas {
		s.term = make(map[wire.NodeID]uint64)
	}
	s.term[n], s.last, s.by = term, time.Now(), n
}

// of returns the term for which a node was last a candidate, and the time since the candidacy of another node.
func (s *candidacies) of(n wire.NodeID) (term uint64, other time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	other = math.MaxInt64
	if s.by != "" && s.by != n {
		other = time.Since(s.last)
	}
	return s.term[n], other
}

// mayLead judges who sends a leader's message.
func (l *live) mayLead(from wire.NodeID, term uint64) error {
	r, own := l.r.Load(), l.term()
	if r == nil || !l.m.holds(ruleUnrest) || term < own || term == own && l.leader() == from {
		return nil
	}
	if !l.isVoter() {
		return nil // a learner sees no candidacies; a majority confirms each new term
	}
	candidate, other := l.courted.of(from)
	patience := min(l.m.cfg.Timers.Heartbeat, 2*l.m.cfg.Timers.LeaderTimeout)
	switch {
	case candidate == term:
		return nil
	case l.c.voteDenied(from) && !l.needsLeader(from):
	case r.State() != raft.Leader && other >= patience && time.Since(r.LastContact()) >= patience:
		return nil
	}
	return l.tooSoon(from, term)
}

// mayBeCandidate judges the candidacy of a voter for a later term than this replica's.
func (l *live) mayBeCandidate(from wire.NodeID, q *raft.RequestVoteRequest) error {
	_, content := l.content()
	switch {
	case q.Term <= l.term() || !l.m.holds(ruleUnrest):
	case content && !q.LeadershipTransfer:
		return nil // Raft refuses, and begins no term
	case !l.c.takeTerm(from, content, time.Now()):
		return l.tooSoon(from, q.Term)
	}
	l.courted.note(from, q.Term)
	return nil
}

// mayRaise judges an answer of a voter with a later term than this replica's. An answer ends not only a leadership, but
// also a candidacy: a voter that answers each request so would keep the others from electing a leader.
func (l *live) mayRaise(from wire.NodeID, term uint64) error {
	if term <= l.term() || !l.m.holds(ruleUnrest) || l.c.takeTerm(from, true, time.Now()) {
		return nil
	}
	return l.tooSoon(from, term)
}

func (l *live) tooSoon(from wire.NodeID, term uint64) error {
	return l.m.refuse(from, l.c.id, RefusedRate, wire.Errorf(wire.Busy, "raft", "node %s begins term %d of %v against %q, or too soon after others", from, term, l.c.id, l.leader()))
}

// takeTerm takes a token of a voter for a later term.
func (c *conversation) takeTerm(n wire.NodeID, upset bool, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unrest == nil || len(c.unrest) > wire.MaxReplicas {
		c.unrest = make(map[wire.NodeID]unrest)
	}
	have, limits, timers := c.unrest[n], &c.m.cfg.Limits, &c.m.cfg.Timers
	upsets := tokenbucket.Rate{Burst: limits.Upsets, Every: timers.Upset}
	starts := tokenbucket.Rate{Burst: limits.Terms, Every: timers.Term}
	if upset && !have.upsets.TryTake(upsets, now) || !have.starts.TryTake(starts, now) {
		return false
	}
	c.unrest[n] = have
	return true
}

// pardon fills the buckets of a voter that this leader itself has asked to campaign.
func (c *conversation) pardon(n wire.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unrest, n)
}
