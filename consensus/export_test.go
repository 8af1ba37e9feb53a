package consensus

import (
	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Methods that only tests need.

// Keys returns the submission keys under which an application message is accepted: those of the current epoch and of
// the previous one, for each head.
func (m *Manager) Keys(id wire.ConversationID) ([]wire.SubmissionKey, error) {
	heads, err := m.Heads(id)
	if err != nil {
		return nil, err
	}
	var keys []wire.SubmissionKey
	for _, h := range heads {
		keys = append(keys, h.Key)
		if !h.Previous.IsZero() {
			keys = append(keys, h.Previous)
		}
	}
	return keys, nil
}

// DeliveryList returns all addresses that the conversation is delivered to. The caller must not modify the list.
func (m *Manager) DeliveryList(id wire.ConversationID) (list []wire.Address, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	err = m.view(c, func(s *machine.Machine) { list = s.Delivery() })
	return list, err
}

// Sleep puts this node's replica of a conversation to sleep if it leads and all replicas are level; otherwise it
// returns the reason. Idle conversations fall asleep without this call.
func (m *Manager) Sleep(id wire.ConversationID) error {
	c, err := m.find(id)
	if err != nil {
		return err
	}
	l := c.awake()
	if l == nil {
		return nil
	}
	r := l.r.Load()
	if r == nil || r.State() != raft.Leader {
		return wire.Errorf(wire.Invalid, "sleep", "node %s does not lead %v, ask %s", m.cfg.Node, id, l.leader())
	}
	if l.inflight.Load() > 0 || !l.sleepAsLeader(r) {
		return wire.Errorf(wire.Busy, "sleep", "%v has work under way, or its replicas are not level", id)
	}
	return nil
}
