package machine

import (
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// PublicRules validates public handshakes: it makes the public state of a group from the data of its creator, and
// reads back the bytes that PublicGroup.MarshalBinary wrote. Both must be deterministic.
type PublicRules interface {
	New(groupInfo, tree []byte) (PublicGroup, error)
	Restore(data []byte) (PublicGroup, error)
}

// PublicGroup is the servers' knowledge of a group with public handshakes. It is immutable: Process returns the next
// state and does not change its receiver.
type PublicGroup interface {
	// Process validates a Proposal or a Commit in full and returns the state after it.
	Process(msg []byte) (PublicGroup, error)
	Epoch() uint64
	GroupID() []byte
	MarshalBinary() ([]byte, error)
}

// openPublic makes the public state for a create; it returns nil with private handshakes.
func (m *Machine) openPublic(c *wire.Create) (PublicGroup, *wire.Error) {
	if c.Policy.Handshakes != wire.HandshakesPublic {
		return nil, nil
	}
	if m.public == nil {
		return nil, wire.Errorf(wire.Invalid, "create", "this node does not validate public handshakes; use the private policy")
	}
	if h, err := mlscore.Peek(c.Info); err != nil || wire.ConversationID(h.GroupID) != m.id {
		return nil, wire.Errorf(wire.Invalid, "create", "GroupInfo is not one of group %v (%v)", m.id, err)
	}
	group, err := m.public.New(c.Info, c.Tree)
	if err != nil {
		return nil, wire.Errorf(wire.Forged, "create", "GroupInfo: %v", err)
	}
	if group.Epoch() != 0 {
		return nil, wire.Errorf(wire.Invalid, "create", "GroupInfo of epoch %d, a conversation begins with 0", group.Epoch())
	}
	return group, nil
}

// processPublic validates a handshake against group. A nil group means private handshakes, which a server cannot
// inspect.
func processPublic(group PublicGroup, msg []byte, want wire.Epoch) (PublicGroup, *wire.Error) {
	if group == nil {
		return nil, nil
	}
	next, err := group.Process(msg)
	if err != nil {
		return nil, wire.Errorf(wire.Forged, "handshake", "%v", err)
	}
	if wire.Epoch(next.Epoch()) != want {
		return nil, wire.Errorf(wire.Invalid, "handshake", "leads to epoch %d, wanted %d", next.Epoch(), want)
	}
	return next, nil
}
