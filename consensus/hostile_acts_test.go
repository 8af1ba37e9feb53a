package consensus

import (
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// sendComplaint complains about the leader that a node follows, with a genuine submission that was never handed in,
// or with one that is not genuine.
func (h *hostileHistory) sendComplaint(to wire.NodeID) {
	p, ok := h.place(nodeM)
	st, err := h.nodes[to].m.Status(conv)
	if !ok || err != nil || st.Leader == "" {
		return
	}
	e := p.Commit(h.id(), 16, wire.DeliveryChange{})
	h.note(e)
	if h.dice.IntN(4) == 0 {
		e.Signature = make([]byte, 64)
	}
	payload, err := wire.Encode(&complaint{st.Leader, e})
	if err != nil {
		h.fault("%v", err)
		return
	}
	_, _ = h.nodes[nodeM].m.mesh.ask(h.context(5*time.Second), to, &frame{kind: kindComplain, generation: st.Generation, conversation: conv, payload: payload})
}

// sendClaim invites a node to the conversation as if there were another one with the same id, in the name of nodes of
// its own organization and of others.
func (h *hostileHistory) sendClaim(to wire.NodeID) {
	from := nodeM
	if h.lies && h.dice.IntN(2) == 0 {
		from = accessory
	}
	if h.nodes[from].m == nil {
		return
	}
	members := []wire.NodeID{from}
	if h.dice.IntN(2) == 0 {
		members = append(members, "n1.nobody.example", "n1.none.example")
	}
	payload, err := wire.Encode(&invitation{Generation: uint64(h.dice.IntN(3)), Members: members})
	if err != nil {
		h.fault("%v", err)
		return
	}
	_, _ = h.nodes[from].m.mesh.ask(h.context(5*time.Second), to, &frame{kind: kindInvite, conversation: conv, payload: payload})
}
