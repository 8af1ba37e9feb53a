package machine

import "github.com/mlsfed/mlsfed/wire"

// Methods that only tests need.

// ID returns the conversation's id.
func (m *Machine) ID() wire.ConversationID { return m.id }

// Delivers reports whether org is to receive entry seq.
func (m *Machine) Delivers(org wire.Domain, seq wire.SequenceNumber) bool {
	return Delivers(m.spans, org, seq)
}
