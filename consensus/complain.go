package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A leader can send heartbeats and order nothing of one organization's. Raft notices nothing, and neither do the others:
// what the leader ignores never reaches them. So the node whose submission has found no answer for as long as an election
// takes shows it to the other voters. Each of them proves its right by its own state, and knows then that there is
// something to order. It gives that leader no vote for muteLife, and one of them campaigns; the submission is tried at the
// new leader by the node that brought it.
//
// An organization that shows what it has never handed in costs an election, which an honest leader loses. So complaints
// of one organization about one conversation are taken once in muteLife, and no more voters are denied votes than can be
// missed. A voter that alone was shown something goes on following that leader: else it would be parted from the others.
//
// Complaints go only to nodes that announced wire.FeatureComplain.

// complaint shows what a leader does not order.
type complaint struct {
	Leader     wire.NodeID    `cbor:"1,keyasint"`
	Submission *wire.Envelope `cbor:"2,keyasint"`
}

// Check refuses a complaint about nobody, or about nothing.
func (c *complaint) Check() error {
	if err := c.Leader.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "complain", "%v", err)
	}
	if c.Submission == nil {
		return wire.Errorf(wire.Malformed, "complain", "no submission is shown")
	}
	return nil
}

// maxComplaint bounds a complaint, in bytes.
const maxComplaint = wire.MaxEntry + 512

// complainAfter is for how long a submission goes without an answer before the other voters are shown it.
func (t *Timers) complainAfter() time.Duration { return t.Heartbeat + t.Election + t.Call }

// mayComplain reports whether the leader is to blame that a submission is not ordered, and who that is: it is known, can be
// reached, and has not said that there are too many.
func (s *submission) mayComplain(err error) (leader wire.NodeID, may bool) {
	l := s.c.awake()
	if s.complained || s.known.from != "" || l == nil || time.Since(s.began) < s.m.cfg.Timers.complainAfter() || wire.CodeOf(err) == wire.Busy {
		return "", false
	}
	leader = l.leader()
	return leader, leader != "" && leader != s.m.cfg.Node && s.m.mesh.reachable(leader)
}

// complain shows a submission to all voters but the leader, this node included, and does not wait for what they make of
// it.
func (s *submission) complain(leader wire.NodeID) {
	s.complained = true
	payload, err := wire.Encode(&complaint{leader, s.e})
	if err != nil {
		return
	}
	m, c := s.m, s.c
	m.log.Warn("the leader does not order a submission: the other voters are shown it", "conversation", c.id, "leader", leader)
	for _, n := range m.voters(c) {
		switch {
		case n == m.cfg.Node:
			m.serve(c, "depose", func(ctx context.Context) { _ = m.disobey(ctx, c, leader, n) })
		case n != leader && m.cfg.Roster != nil && m.cfg.Roster.Announced(n, wire.FeatureComplain):
			m.serve(c, "complain", func(ctx context.Context) {
				f := &frame{kind: kindComplain, generation: c.generation(), conversation: c.id, payload: payload}
				if _, err := m.mesh.ask(ctx, n, f); err != nil {
					m.log.Debug("complaint not taken", "conversation", c.id, "peer", n, "error", err)
				}
			})
		}
	}
}

// receiveComplaint is shown a submission that the leader does not order. Its answer is empty.
func (m *Manager) receiveComplaint(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	if org := m.payer(from.Organization()); org != "" {
		if err := m.cfg.Admission.Handshake(org, c.id); err != nil {
			return nil, err
		}
	}
	var in complaint
	if err := wire.Decode(f.payload, maxComplaint, &in); err != nil {
		return nil, err
	}
	l := c.awake()
	if l == nil || l.leader() != in.Leader || l.leads() || in.Leader == from {
		return nil, wire.Errorf(wire.Unavailable, "complain", "node %s does not follow %s in %v", m.cfg.Node, in.Leader, c.id)
	}
	e := in.Submission
	if e.Conversation != c.id {
		return nil, wire.Errorf(wire.Malformed, "complain", "frame for %v, envelope for %v", c.id, e.Conversation)
	}
	p, behind, err := m.proveNow(c, e, proof{from: from})
	switch {
	case behind:
		return nil, notArrived(m.cfg.Node, e)
	case err != nil:
		return nil, err
	case p.receipt != nil:
		return nil, nil // it has been ordered
	case !m.meter.take(meterKey{wire.NodeID(from.Organization()), c.id, meterComplain}, 1, muteLife):
		return nil, m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "complain", "a complaint of %s's about %v was followed less than %v ago", from.Organization(), c.id, muteLife))
	}
	return nil, m.disobey(ctx, c, in.Leader, from)
}

// disobey stops following a leader that does not order what by has shown, and campaigns when it is this node's turn.
func (m *Manager) disobey(ctx context.Context, c *conversation, leader, by wire.NodeID) error {
	known, err := m.committed(c)
	if err != nil {
		return err
	}
	muted := slices.DeleteFunc(slices.Clone(known.voters), func(n wire.NodeID) bool { return n != leader && !c.getsNoVote(n) })
	if !contains(muted, leader) || len(muted) > (len(known.voters)-1)/2 {
		return m.refuse(by, c.id, RefusedRate, wire.Errorf(wire.Busy, "complain", "%d of %d voters of %v would get no vote of node %s", len(muted), len(known.voters), c.id, m.cfg.Node))
	}
	c.denyVote(leader)
	_ = m.refuse(leader, c.id, RefusedSilence, wire.Errorf(wire.Unavailable, "submit", "%s does not order what %s brings: it gets no vote here for %v", leader, by, muteLife))
	l := c.awake()
	if l == nil || !l.votes() {
		return nil
	}
	m.serve(c, "depose", func(ctx context.Context) {
		others := without(known.voters, leader)
		slices.Sort(others)
		if !pause(ctx, time.Duration(slices.Index(others, m.cfg.Node))*m.cfg.Timers.Silence/8) {
			return
		}
		if now := l.leader(); l.ctx.Err() == nil && !l.leads() && (now == leader || now == "") {
			m.stats.elections.Add(1)
			l.trans.campaign()
		}
	})
	return nil
}
