package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Raft accepts any term that another node names, writes it down, and can be led only in that term or a later one: a
// term near 2^64 would end a conversation. Here a term grows by a bounded jump. A larger jump may be genuine if this
// replica was away for long; then other voters have the term too, and are asked. No term exceeds maxTerm. A learner
// asks for each new term, since it takes part in no election.

// maxTerm is a term that no genuine conversation reaches: one election per millisecond for thirty years.
const maxTerm = 1 << 40

// maxIndex limits the log index that a snapshot may name.
const maxIndex = 1 << 48

// term returns the current term of this replica.
func (l *live) term() uint64 {
	if r := l.r.Load(); r != nil {
		return r.CurrentTerm()
	}
	term, err := l.store.GetUint64([]byte(currentTerm))
	if err != nil {
		return 0 // no term is written yet
	}
	return term
}

// termOf returns the current term of a replica, awake or not.
func (m *Manager) termOf(c *conversation) uint64 {
	if l := c.awake(); l != nil && l.r.Load() != nil {
		return l.term()
	}
	if term, err := m.cfg.Log.Group(c.group).GetUint64([]byte(currentTerm)); err == nil {
		return term
	}
	return 0
}

// checkTerm refuses a term that is too far ahead and that no other voters confirm.
func (l *live) checkTerm(from wire.NodeID, term uint64) error {
	m, c, own := l.m, l.c, l.term()
	if term <= own || !m.holds(ruleTerms) {
		return nil
	}
	jump, learner := m.cfg.Limits.TermJump, own > 0 && l.r.Load() != nil && !l.isVoter() && !l.fresh()
	if learner {
		jump = 0
	}
	if term <= maxTerm && (term-own <= jump || term <= c.confirmed.Load()) {
		return nil
	}
	if term <= maxTerm {
		m.confirmTerm(c, from, term, learner)
	}
	err := wire.Errorf(wire.Unavailable, "raft",
		"term %d of %v is more than %d ahead of term %d here, and not confirmed by other voters", term, c.id, jump, own)
	if learner && term-own <= m.cfg.Limits.TermJump {
		return err // usual after an election: the leader sends again
	}
	return m.refuse(from, c.id, RefusedTerm, err)
}

// confirmTerm asks the other voters for their terms, at a limited rate. If there are no other voters, the two nodes
// have nobody to ask: then only maxTerm limits the term. A recovery resets it.
//
// A learner asks in each new term. It accepts no later term than one that a majority, counting the sender, has
// reached: a voter that names later terms to a learner alone would separate the learner from the leader.
func (m *Manager) confirmTerm(c *conversation, from wire.NodeID, term uint64, learner bool) {
	now := time.Now().UnixNano()
	last := c.confirming.Load()
	if now-last < int64(askPause) || !c.confirming.CompareAndSwap(last, now) {
		return
	}
	asked := m.othersToAsk(c, from)
	if len(asked) == 0 && learner {
		c.confirm(term)
		return
	}
	if len(asked) == 0 {
		m.log.Warn("term is far ahead, and there are no other voters to ask: taken", "conversation", c.id, "peer", from, "term", term)
		c.confirm(term)
		return
	}
	m.serve(c, "confirm a term", func(ctx context.Context) {
		answers := m.askAll(asked, func(n wire.NodeID) witness { return m.askTerm(ctx, n, c) })
		var terms []uint64
		for _, a := range answers {
			if a.err == nil {
				terms = append(terms, a.Term)
			}
		}
		need, more := len(asked)/2+1, m.cfg.Limits.TermJump
		if learner {
			need, more, terms = (len(asked)+1)/2+1, 0, append(terms, term)
		}
		if len(terms) < need {
			return
		}
		slices.Sort(terms)
		if bound := terms[len(terms)-need]; bound <= maxTerm { // a majority is in this term or a later one
			c.confirm(min(bound+more, maxTerm))
		}
	})
}

// confirm records that terms up to bound are genuine.
func (c *conversation) confirm(bound uint64) {
	for {
		have := c.confirmed.Load()
		if bound <= have || c.confirmed.CompareAndSwap(have, bound) {
			return
		}
	}
}

// askTerm asks a node for its term; a node of the previous build answers with the term of its last entry.
func (m *Manager) askTerm(ctx context.Context, n wire.NodeID, c *conversation) witness {
	if m.announced(n) {
		t, err := m.askTestimony(ctx, n, c, question{})
		return witness{testimony: t, err: err}
	}
	s, err := m.askLogStatus(ctx, n, c)
	return witness{testimony: testimony{Term: s.End.Term}, err: err}
}

// Limits of the leader step-downs that a learner's answers may cause: one after each change of its part, and one more
// each unrestRefill.
const (
	unrestBurst  = 1
	unrestRefill = 10 * time.Minute
)

// checkAnswer validates the term in an answer to a request of this replica; sent is the term of the request. In Raft, a
// leader steps down when it sees a later term, and a candidate adopts that term.
//
// A learner does not create terms itself. Its answer may name a later term if the learner was demoted while it was
// cut off; one election then brings both to the same term. More elections would let it keep the conversation without
// a leader.
func (t *transport) checkAnswer(from wire.NodeID, sent, term uint64) error {
	l := t.conv.awake()
	if term <= sent || l == nil || l.trans != t {
		return nil
	}
	if err := l.checkTerm(from, term); err != nil {
		return err
	}
	got, err := t.m.roleOf(from, t.conv)
	if err == nil && got == roleVoter {
		return l.mayRaise(from, term)
	}
	if err != nil || !t.m.holds(ruleRoles) {
		return err
	}
	if t.m.meter.take(meterKey{from, t.conv.id, meterUnrest}, unrestBurst, unrestRefill) {
		return nil
	}
	return t.m.refuse(from, t.conv.id, RefusedTerm, wire.Errorf(wire.Unavailable, "raft",
		"node %s has no vote in %v and answers with term %d, not %d", from, t.conv.id, term, sent))
}
