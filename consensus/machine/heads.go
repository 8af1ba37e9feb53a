package machine

import (
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// head is an epoch that can be committed to. What it holds does not change while it is a head, but for
// used, proposals and, with public handshakes, the group state.
type head struct {
	seq       wire.SequenceNumber // the entry that opened it
	epoch     wire.Epoch
	key       wire.SubmissionKey
	delivery  []wire.Address
	change    wire.DeliveryChange // what its commit changed, to find the parent's list again
	public    PublicGroup
	info      *wire.Payload
	tree      *wire.Payload
	parent    *point // nil for epoch 0
	used      wire.Time
	proposals int

	// From level 2 of the rules on:
	trail  []ancestor // that can be contested, oldest first; the last one is parent
	branch            // how it differs from other heads
	closed bool       // it takes no submission any more
}

// point is an epoch that has ended, and whose children are heads: it can be contested.
type point struct {
	seq    wire.SequenceNumber
	epoch  wire.Epoch
	key    wire.SubmissionKey
	public PublicGroup
	winner wire.SequenceNumber // its first child
}

// headAt is the head that entry seq opened, or nil.
func (m *Machine) headAt(seq wire.SequenceNumber) *head {
	for _, h := range m.heads {
		if h.seq == seq {
			return h
		}
	}
	return nil
}

// childOf is a head whose parent entry seq opened, or nil.
func (m *Machine) childOf(seq wire.SequenceNumber) *head {
	for _, h := range m.heads {
		if h.parent != nil && h.parent.seq == seq {
			return h
		}
	}
	return nil
}

// replaceHead puts next into the place of old, so that heads[0] is always the branch of first children.
func (m *Machine) replaceHead(old, next *head) {
	m.heads[slices.Index(m.heads, old)] = next
}

// expireHeads drops heads that nobody used for HeadLife, but never the one used last.
func (m *Machine) expireHeads() bool {
	if len(m.heads) < 2 {
		return false
	}
	last := m.heads[0]
	for _, h := range m.heads[1:] {
		if h.used > last.used {
			last = h
		}
	}
	before := len(m.heads)
	m.heads = slices.DeleteFunc(m.heads, func(h *head) bool {
		return h != last && m.now-h.used > HeadLife
	})
	return len(m.heads) != before
}

// stale is the answer to a submission for an epoch that has ended. The winner's bundle is handed out
// only where p is known, whose key the submission has been verified with.
func (m *Machine) stale(e *wire.Envelope, p *point) *wire.Error {
	now := m.heads[0]
	if p != nil {
		if child := m.childOf(p.seq); child != nil {
			now = child
		} else if h, _ := m.ancestorAt(p.seq); h != nil {
			now = h
		}
	}
	err := wire.Errorf(wire.StaleEpoch, "submit", "epoch %d, opened by entry %d, has ended", e.Epoch, e.Parent)
	err.Stale = &wire.Stale{Epoch: now.epoch, Head: now.seq}
	if p == nil {
		return err
	}
	if c, ok := m.entryAt(p.winner); ok {
		err.Stale.Winner = &c
		if won, openErr := c.Open(); openErr == nil && won.Envelope != nil {
			err.Stale.OwnPast = won.Envelope.Submission == e.Submission
		}
	}
	return err
}
