package consensus

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A node proves that a submission is allowed before it does any work for it: before it searches for, stores or copies
// a blob, opens a connection, wakes a conversation or writes to a log. The proof uses the node's own state, which all
// replicas had at one time. The first node that receives a submission proves it, and the leader proves it again:
// neither relies on the other. A first node whose state does not include the submission's predecessor asks one voter,
// and does nothing else for the submission.

// proof is the result of checking a submission against a node's own state.
type proof struct {
	from    wire.NodeID        // the node that brought the submission; "" for this node
	key     wire.SubmissionKey // the key with which the signature has been verified, zero for none
	done    bool               // the submission was judged to be allowed
	receipt *wire.Receipt      // the submission was accepted before: no work is left
	err     error              // the reason of a refusal
}

// judge judges a submission with one state. known holds earlier proofs.
func (m *Manager) judge(s *machine.Machine, e *wire.Envelope, known proof) proof {
	p := proof{from: known.from}
	p.receipt, p.key, p.err = s.JudgeVerified(m.entryOf(s, e, p.from), known.key)
	if _, needs := machine.NeedsLevel(p.err); needs {
		p.err = nil // the leader raises the rules; a member has signed the submission
	}
	if p.err == nil && p.receipt == nil {
		p.err = m.cfg.Limits.checkCommitSize(e)
	}
	p.done = p.err == nil
	return p
}

// checkCommitSize refuses a commit that is larger than this node accepts.
func (l *Limits) checkCommitSize(e *wire.Envelope) error {
	if e.Commit == nil || e.Commit.Rest == nil || e.Commit.Rest.Size <= uint64(l.Commit) {
		return nil
	}
	return wire.Errorf(wire.TooLarge, "submit", "a commit of %d bytes, at most %d (consensus.commit): each member that was added and has not committed yet makes every commit longer, until it changes its keys", e.Commit.Rest.Size, l.Commit)
}

// entryOf returns the entry of a submission. From level 2 of the rules on, its proposer is the node that brought it,
// "" for this one.
func (m *Manager) entryOf(s *machine.Machine, e *wire.Envelope, from wire.NodeID) *wire.Entry {
	if from == "" || s.Level() < 2 {
		from = m.cfg.Node
	}
	return &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(m.cfg.Now()), Proposer: from, Envelope: e}
}

// proveNow judges a submission with this node's state. behind reports that the state does not reach the submission:
// there is no state yet, or the state does not contain the entry that the submission follows.
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

// prove does the work of proveNow, and waits if the state does not reach the submission. It opens a sleeping
// conversation, whose log may hold more than its snapshot shows. It returns wire.Unavailable if ctx ends before the
// state reaches the submission.
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

// decides reports whether this node's judgement is final for the conversation: the node leads, and has applied the
// entries committed before.
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

// Take submits a submission from a node of another organization that holds no replica. It neither waits for entries
// that this node does not know yet nor wakes a conversation. The submission is ordered in the name of that node, and
// only if this node leads. Another leader would take it for a submission of a device here, which is evidence that a
// member of this organization has processed the epoch.
func (m *Manager) Take(ctx context.Context, from wire.NodeID, e *wire.Envelope) (_ wire.Receipt, err error) {
	defer m.quarantineOnPanicIn(e.Conversation, "submit", &err)
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
	return m.orderIn(ctx, c, e, p, Caller{})
}
