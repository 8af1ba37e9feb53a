package consensus

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Entries from other nodes are examined before Raft stores them. The state machine refuses alike on all replicas,
// whenever an entry is applied. A refusal that depends on this node's clock, or on the sender, happens here, before
// the entry is acknowledged: an entry that a majority refuses is never committed.

// checkForeignEntries refuses entries that no genuine leader produces. It calls keep with each decoded entry.
func (m *Manager) checkForeignEntries(from wire.NodeID, id wire.ConversationID, a *raft.AppendEntriesRequest, keep func(*raft.Log, *wire.Entry)) error {
	latest := m.latest()
	for _, l := range a.Entries {
		if l.Type != raft.LogCommand {
			continue
		}
		e := new(wire.Entry)
		err := wire.Decode(l.Data, wire.MaxEntry, e)
		switch {
		case err != nil:
			err = wire.Errorf(wire.Malformed, "raft", "entry %d: %v", l.Index, err)
		case e.Envelope != nil && e.Envelope.Conversation != id:
			err = wire.Errorf(wire.Malformed, "raft", "entry %d is of conversation %v", l.Index, e.Envelope.Conversation)
		case e.Time > latest:
			return m.refuse(from, id, RefusedTime, wire.Errorf(wire.Invalid, "raft", "entry %d bears the time %v, more than %v ahead of node %s: compare their clocks",
				l.Index, e.Time.Std(), m.cfg.Timers.Ahead, m.cfg.Node))
		}
		if err != nil {
			return m.refuse(from, id, RefusedEntry, err)
		}
		keep(l, e)
	}
	return nil
}

// latest returns the latest time that this node accepts.
func (m *Manager) latest() wire.Time { return wire.TimeOf(m.cfg.Now().Add(m.cfg.Timers.Ahead)) }

// checkForeignState refuses a state from another node that no log produces today: unsigned submissions, or a clock
// ahead of this node's.
func (m *Manager) checkForeignState(s *machine.Machine) error {
	if now := s.Now(); now > m.latest() {
		return wire.Errorf(wire.Invalid, "snapshot", "the state is of %v, more than %v ahead of node %s: compare their clocks", now.Std().Format(time.RFC3339), m.cfg.Timers.Ahead, m.cfg.Node)
	}
	return s.Verify()
}

// knows reports whether an admitted organization has a node of this name.
func (m *Manager) knows(n wire.NodeID) bool {
	if contains(m.cfg.Roster.Nodes(n.Organization()), n) {
		return true
	}
	for i := range allRefusals {
		if allRefusals[i] == RefusedNode {
			m.refused.counts[i].Add(1)
		}
	}
	return false
}
