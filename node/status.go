package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/wire"
)

// Status describes a running node for an operator.
type Status struct {
	Node          wire.NodeID       `json:"node"`
	Version       string            `json:"version"`
	Started       time.Time         `json:"started"`
	ClockOff      int64             `json:"clock_off,omitempty"` // seconds that the machine's clock is ahead of the node's
	Gateway       string            `json:"gateway"`
	Federation    string            `json:"federation"`
	Sessions      int               `json:"sessions"`
	Conversations []Conversation    `json:"conversations"`
	Awake         int               `json:"awake"`
	Kept          []Kept            `json:"kept,omitempty"`
	Peers         federation.Status `json:"peers"`
	Storage       Storage           `json:"storage"`
	Expired       uint64            `json:"expired,omitempty"` // items that made room before a device that was away had read them, since the start
	Audit         string            `json:"audit,omitempty"`   // the mark of the last record of the audit log in this run
}

// Conversation describes a conversation of which the node holds a replica.
type Conversation struct {
	ID       string        `json:"id"`
	Role     string        `json:"role"` // asleep, leader, follower or candidate; learner without a vote; quarantine; lost
	Leader   wire.NodeID   `json:"leader,omitempty"`
	Voters   []wire.NodeID `json:"voters"`
	Learners []wire.NodeID `json:"learners,omitempty"`
	// Lost lists voters that have lost their logs. NeedsRecovery: no majority is left without them, and 'mlsfed
	// recover' forces the conversation on.
	Lost          []wire.NodeID `json:"lost,omitempty"`
	NeedsRecovery bool          `json:"needs_recovery,omitempty"`
	Epochs        []wire.Epoch  `json:"epochs"`
	Entries       uint64        `json:"entries"`
	Order         string        `json:"order"`
	Lag           uint64        `json:"lag"`    // entries that are in the log and not known to be committed
	Behind        uint64        `json:"behind"` // entries that are not in the organization's stream yet
	Closed        bool          `json:"closed,omitempty"`
	Level         uint8         `json:"level"` // of the rules in force
	Fault         string        `json:"fault,omitempty"`

	Quarantine *Quarantine `json:"quarantine,omitempty"`
}

// Quarantine describes why a conversation is not served, and since when.
type Quarantine struct {
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
	Since  time.Time `json:"since"`
}

// Kept is a replica that was replaced by another replica of its conversation and is kept. Number distinguishes it
// from others of the same conversation.
type Kept struct {
	Conversation string    `json:"conversation"`
	Number       uint32    `json:"number"`
	Generation   uint64    `json:"generation"`
	Entries      uint64    `json:"entries"`
	Bytes        uint64    `json:"bytes"`
	Why          string    `json:"why"`
	Since        time.Time `json:"since"`
	Ends         time.Time `json:"ends,omitzero"`   // when it is deleted automatically; zero: when an operator drops it
	Waits        bool      `json:"waits,omitempty"` // the replica in its place has not proved yet that it continues it
}

func (n *Node) kept() []Kept {
	var list []Kept
	for _, a := range n.orders.AllAsides() {
		list = append(list, Kept{Conversation: a.ID.String(), Number: a.Group, Generation: a.Generation, Entries: uint64(a.Sequence),
			Bytes: a.Bytes(), Why: a.Why, Since: a.Since.Std(), Ends: a.Ends(), Waits: a.Probation})
	}
	return list
}

func (n *Node) serveStatus(context.Context, *nothing) (*Status, error) { return n.Status(), nil }

// Status describes the node as it is now. Run must have started.
func (n *Node) Status() *Status {
	s := &Status{
		Node: n.cfg.Node, Version: n.version, Started: n.started, Gateway: n.GatewayAddress(), Federation: n.fed.Address(),
		Sessions: n.gateway.Sessions(), Awake: n.orders.Counts().Awake, Peers: n.fed.Status(), Conversations: []Conversation{}, Kept: n.kept(), Storage: n.storage(), Expired: n.expired.Load(),
	}
	if m := n.audit.head.Load(); m != nil {
		s.Audit = m.String()
	}
	off, _ := n.stores.clock.Off()
	s.ClockOff = int64(off / time.Second)
	for i := range s.Peers.Peers {
		for j := range s.Peers.Peers[i].Lanes {
			l := &s.Peers.Peers[i].Lanes[j]
			l.Oldest = n.stores.clock.Shown(l.Oldest)
		}
	}
	for _, id := range n.orders.Conversations() {
		s.Conversations = append(s.Conversations, n.conversation(id))
	}
	slices.SortFunc(s.Conversations, func(a, b Conversation) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

func (n *Node) conversation(id wire.ConversationID) Conversation {
	c := Conversation{ID: id.String()}
	st, err := n.orders.Status(id)
	if err != nil {
		c.Fault = err.Error()
		return c
	}
	if q := st.Quarantine; q != nil {
		c.Quarantine = &Quarantine{q.Reason.String(), q.Detail, q.Since.Std()}
	}
	c.Role, c.Leader, c.Voters, c.Learners = role(st.State, slices.Contains(st.Voters, n.cfg.Node)), st.Leader, st.Voters, st.Learners
	c.Lost, c.NeedsRecovery = st.Lost, st.NeedsRecovery()
	c.Epochs, c.Entries, c.Order, c.Closed, c.Level = st.Epochs, uint64(st.Sequence), st.Order.String(), st.Closed, st.Level
	if st.Last > st.Commit {
		c.Lag = st.Last - st.Commit
	}
	if at, err := n.delivery.Position(id); err == nil && !n.cfg.OrdersOnly && at > 0 && at < st.Sequence {
		c.Behind = uint64(st.Sequence - at)
	}
	return c
}

// Digest returns the digest of a conversation's whole state here. It is equal on nodes that have applied the same
// entries.
func (n *Node) Digest(id wire.ConversationID) (wire.Hash, error) { return n.orders.Digest(id) }

func role(state string, voter bool) string {
	switch {
	case state == "asleep", state == "quarantine", state == "lost":
		return state
	case !voter:
		return "learner"
	case state == "Leader":
		return "leader"
	case state == "Candidate":
		return "candidate"
	}
	return "follower"
}
