package machine

import (
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// head is an epoch that can be committed to. Its content does not change while it is a head, except used, proposals
// and, with public handshakes, the group state.
type head struct {
	seq       wire.SequenceNumber // the entry that opened it
	epoch     wire.Epoch
	key       wire.SubmissionKey
	delivery  []wire.Address
	change    wire.DeliveryChange // change by its commit, to recover the parent's list
	public    PublicGroup
	info      *wire.Payload
	tree      *wire.Payload
	parent    *point // nil for epoch 0
	used      wire.Time
	proposals int

	// From level 2 of the rules on:
	trail  []ancestor // epochs that can be contested, oldest first; the last one is parent
	branch            // difference from other heads
	closed bool       // the head accepts no more submissions
}

// point is an epoch that has ended, and whose children are heads: it can be contested.
type point struct {
	seq    wire.SequenceNumber
	epoch  wire.Epoch
	key    wire.SubmissionKey
	public PublicGroup
	winner wire.SequenceNumber // its first child
}

// headAt returns the head that entry seq opened, or nil.
func (m *Machine) headAt(seq wire.SequenceNumber) *head {
	for _, h := range m.heads {
		if h.seq == seq {
			return h
		}
	}
	return nil
}

// childOf returns a head whose parent entry seq opened, or nil.
func (m *Machine) childOf(seq wire.SequenceNumber) *head {
	for _, h := range m.heads {
		if h.parent != nil && h.parent.seq == seq {
			return h
		}
	}
	return nil
}

// replaceHead puts next in the place of old, so that heads[0] is always the branch of first children.
func (m *Machine) replaceHead(old, next *head) {
	m.heads[slices.Index(m.heads, old)] = next
}

// expireHeads drops heads that have not been used for HeadLife, but never the head used last.
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

// stale returns the answer to a submission for an epoch that has ended. It contains the winner's bundle only if p is
// known, with whose key the submission has been verified.
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
	if k := m.keptAt(p.winner); k != nil {
		err.Stale.OwnPast = k.submission == e.Submission
		if c := k.Committed; c.Entry != nil { // do not read the disk here: a member that lost an epoch long ago asks for the entries
			err.Stale.Winner = &c
		}
	}
	return err
}
