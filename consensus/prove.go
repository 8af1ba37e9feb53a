package consensus

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// The right of a submission is proven before any work is done for it: before a blob is looked for, stored or
// copied, a connection is opened, a conversation is woken or a log is written. A node proves it by the state
// that it has, which is what all replicas had at one time. The first node that takes a submission does so, and
// the leader does so again: neither takes the word of the other. A first node whose state does not reach the
// submission asks one voter, and does nothing else for it.

// proof is what a node knows of a submission by its own state.
type proof struct {
	from    wire.NodeID        // that brought it; "" for this node
	key     wire.SubmissionKey // under which the signature has been verified, zero for none
	done    bool               // the judgement was in favour
	receipt *wire.Receipt      // the submission was accepted before: nothing is left to do
	err     error              // why it is refused
}

// judge is a judgement by one state. known is what was proven before.
func (m *Manager) judge(s *machine.Machine, e *wire.Envelope, known proof) proof {
	p := proof{from: known.from}
	p.receipt, p.key, p.err = s.JudgeVerified(m.entryOf(s, e, p.from), known.key)
	p.done = p.err == nil
	return p
}

// entryOf is the entry that a submission becomes. From level 2 of the rules on its proposer is the node that
// brought it, "" for this one.
func (m *Manager) entryOf(s *machine.Machine, e *wire.Envelope, from wire.NodeID) *wire.Entry {
	if from == "" || s.Level() < 2 {
		from = m.cfg.Node
	}
	return &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(m.cfg.Now()), Proposer: from, Envelope: e}
}

// proveNow judges a submission by this node's state. behind says that the state does not reach it: there is
// no state yet, or the entry that the submission follows is not in it.
func (m *Manager) proveNow(c *conversation, e *wire.Envelope, known proof) (p proof, behind bool, err error) {
	if known.done {
		return known, false, nil
	}
	err = m.view(c, func(s *machine.Machine) {
		p = m.judge(s, e, known)
		behind = p.err != nil && (!s.Created() || e.Parent > s.Sequence())
	})
	switch {
	case err != nil:
		return p, false, err
	case p.done:
		return p, false, nil
	case behind && !m.decides(c):
		return p, true, nil
	}
	m.unproven(p.err)
	return p, false, p.err
}

// prove is proveNow that waits for what the state does not reach. A conversation that sleeps is opened for it:
// its log may hold more than its snapshot shows. It returns wire.Unavailable when ctx ends before.
func (m *Manager) prove(ctx context.Context, c *conversation, e *wire.Envelope, known proof) (proof, error) {
	for wait, woken := time.Millisecond, false; ; wait = min(2*wait, 100*time.Millisecond) {
		p, behind, err := m.proveNow(c, e, known)
		if err != nil || !behind {
			return p, err
		}
		if !woken && c.awake() == nil {
			if _, err := m.wakeUp(ctx, c); err != nil {
				return p, err
			}
			woken = true
		}
		if !pause(ctx, wait) {
			return p, notArrived(m.cfg.Node, e)
		}
	}
}

func notArrived(n wire.NodeID, e *wire.Envelope) *wire.Error {
	return wire.Errorf(wire.Unavailable, "submit", "entry %d of %v has not arrived on node %s: try again", e.Parent, e.Conversation, n)
}

// decides reports whether this node's judgement is the conversation's: it leads, and has applied what was
// committed before.
func (m *Manager) decides(c *conversation) bool {
	l := c.awake()
	if l == nil || !l.leads() {
		return false
	}
	r := l.r.Load()
	return r != nil && l.ready.Load() == r.CurrentTerm()
}

// unproven counts a submission that was refused before any work was done for it.
func (m *Manager) unproven(err error) {
	if m.cfg.Refused != nil {
		m.cfg.Refused(wire.CodeOf(err))
	}
}

// Take is Submit for a submission that a node of another organization hands in, which holds no replica. It
// neither waits for what this node does not know yet nor wakes a conversation for it. The submission is ordered
// in the name of that node, and where this node leads alone: another leader would take it for one of a device
// here, which is evidence that a member of this organization has processed the epoch.
func (m *Manager) Take(ctx context.Context, from wire.NodeID, e *wire.Envelope) (_ wire.Receipt, err error) {
	defer m.caughtIn(e.Conversation, "submit", &err)
	if err := checkSize(e); err != nil {
		return wire.Receipt{}, err
	}
	c, err := m.find(e.Conversation)
	if err != nil {
		return wire.Receipt{}, err
	}
	p, behind, err := m.proveNow(c, e, proof{from: from})
	if behind {
		err = notArrived(m.cfg.Node, e)
	}
	if err != nil {
		return wire.Receipt{}, err
	}
	if p.receipt != nil {
		return *p.receipt, nil
	}
	return m.submitTo(ctx, c, e, p, nil)
}
