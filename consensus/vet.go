package consensus

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// What other nodes send for the log is looked into before Raft stores it. The state machine refuses alike
// on all replicas, whenever an entry is applied; what depends on this node's clock, or on who sent it, is
// refused here, before it is acknowledged: an entry that a majority refuses is never committed.

// vetEntries refuses entries that no genuine leader makes.
func (m *Manager) vetEntries(from wire.NodeID, id wire.ConversationID, a *raft.AppendEntriesRequest) error {
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
	}
	return nil
}

// latest is the latest time that this node believes.
func (m *Manager) latest() wire.Time { return wire.TimeOf(m.cfg.Now().Add(m.cfg.Timers.Ahead)) }

// vetState refuses a state from another node that no log makes today: submissions that nobody has signed,
// or a clock ahead of this node's.
func (m *Manager) vetState(s *machine.Machine) error {
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
