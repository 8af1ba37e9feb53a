package consensus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A leader can send heartbeats and yet order nothing of one organization. Raft does not notice this, and neither do
// the other replicas: a submission that the leader ignores never reaches them. So a node whose submission has no
// answer for as long as an election takes shows it to the other voters. Each of them proves from its own state that
// the submission is allowed, and then knows that there is something to order. The voter denies that leader its vote
// for muteLife, and one of the voters campaigns; the node that brought the submission tries it at the new leader.
//
// A leader can also refuse the submissions of one organization: because of a rate, or for a reason that the state
// does not support. Such refusals can be genuine: rates end, and another entry can have come first. So they count
// only if, for refusalPatience, the leader has ordered nothing of this node in the conversation and has refused
// something at least every half minute.
//
// An organization that shows a submission which it never handed in causes an election, which an honest leader loses.
// So complaints of one organization about one conversation are accepted once in muteLife, and voters are denied votes
// only as long as the others are still a quorum. If only one voter was shown something, it continues to follow that
// leader: otherwise it would be separated from the others.
//
// If nobody leads for some time, the denied node gets votes again (needsLeader): two voters that deny each other would
// otherwise stop a conversation whose third voter is away.
//
// Complaints go only to nodes that announced wire.FeatureComplain.

// complaint shows a submission that a leader does not order.
type complaint struct {
	Leader     wire.NodeID    `cbor:"1,keyasint"`
	Submission *wire.Envelope `cbor:"2,keyasint"`
}

// Check refuses a complaint without a leader or without a submission.
func (c *complaint) Check() error {
	if err := c.Leader.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "complain", "%v", err)
	}
	if c.Submission == nil {
		return wire.Errorf(wire.Malformed, "complain", "no submission is shown")
	}
	return nil
}

// maxComplaint limits the size of a complaint, in bytes.
const maxComplaint = wire.MaxEntry + 512

// complainAfter is the time that a submission waits for an answer before it is shown to the other voters.
func (t *Timers) complainAfter() time.Duration { return t.Heartbeat + t.Election + t.Call }

// refusalPatience is the time for which a leader may refuse all submissions of a node.
const refusalPatience = 2 * time.Minute

// submissionRefusals records the refusals, by one node, of this node's submissions in a conversation since that node
// last ordered one.
type submissionRefusals struct {
	mu          sync.Mutex // guards the fields below
	by          wire.NodeID
	since, last time.Time
}

// add records a refusal. A node that answers that it does not lead refuses nothing.
func (r *submissionRefusals) add(by wire.NodeID, code wire.Code, now time.Time) {
	switch code {
	case codeNotLeader, codeAsleep, codeSuperseded:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by != by || now.Sub(r.last) > patience {
		r.by, r.since = by, now
	}
	r.last = now
}

// indexTerm returns for how long a node has refused everything, without a long pause.
func (r *submissionRefusals) of(n wire.NodeID) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by != n {
		return 0
	}
	return r.last.Sub(r.since)
}

// end records that a submission was ordered.
func (r *submissionRefusals) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = ""
}

// mayComplain reports whether the leader is to blame that a submission is not ordered, and returns that leader. The
// leader is known, can be reached, and has either given no useful answer or refused everything for long. Only the time
// counts in which this leader had the submission: a new leader is not to blame for its predecessor.
func (s *submission) mayComplain(err error) (leader wire.NodeID, may bool) {
	l := s.c.awake()
	if err == nil || s.complained || s.known.from != "" || l == nil {
		return "", false
	}
	leader = l.leader()
	unanswered := retriable(err) && wire.CodeOf(err) != wire.Busy && leader == s.asked && time.Since(s.since) >= s.m.cfg.Timers.complainAfter()
	if !unanswered && (s.c.refusals.of(leader) < refusalPatience || !s.stillAcceptable()) {
		return "", false
	}
	return leader, leader != "" && leader != s.m.cfg.Node && s.m.mesh.reachable(leader)
}

// stillAcceptable reports whether this replica's state would accept the submission now.
func (s *submission) stillAcceptable() bool {
	p, behind, err := s.m.proveNow(s.c, s.e, proof{})
	return err == nil && !behind && p.receipt == nil
}

// complain shows a submission to all voters except the leader, this node included. It does not wait for their
// reactions.
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
			m.serve(c, "depose", func(ctx context.Context) { _ = m.opposeLeader(ctx, c, leader, n) })
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

// receiveComplaint receives a submission that the leader does not order. The answer is empty.
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
		return nil, nil // the submission has been ordered
	case !m.meter.take(meterKey{wire.NodeID(from.Organization()), c.id, meterComplain}, 1, muteLife):
		return nil, m.refuse(from, c.id, RefusedRate, wire.Errorf(wire.Busy, "complain", "a complaint of %s's about %v was followed less than %v ago", from.Organization(), c.id, muteLife))
	}
	return nil, m.opposeLeader(ctx, c, in.Leader, from)
}

// opposeLeader denies its vote to a leader that does not order the submission which by has shown, and campaigns when it
// is this node's turn.
func (m *Manager) opposeLeader(ctx context.Context, c *conversation, leader, by wire.NodeID) error {
	known, err := m.committed(c)
	if err != nil {
		return err
	}
	muted := slices.DeleteFunc(slices.Clone(known.voters), func(n wire.NodeID) bool { return n != leader && !c.voteDenied(n) })
	if !contains(muted, leader) || len(muted) > (len(known.voters)-1)/2 {
		return m.refuse(by, c.id, RefusedRate, wire.Errorf(wire.Busy, "complain", "%d of %d voters of %v would get no vote of node %s", len(muted), len(known.voters), c.id, m.cfg.Node))
	}
	c.denyVote(leader)
	_ = m.refuse(leader, c.id, RefusedUnordered, wire.Errorf(wire.Unavailable, "submit", "%s does not order what %s brings: it gets no vote here for %v", leader, by, muteLife))
	l := c.awake()
	if l == nil || !l.isVoter() {
		return nil
	}
	m.serve(c, "depose", func(ctx context.Context) {
		others := without(known.voters, leader)
		slices.Sort(others)
		if !pause(ctx, time.Duration(slices.Index(others, m.cfg.Node))*m.cfg.Timers.LeaderTimeout/8) {
			return
		}
		if now := l.leader(); l.ctx.Err() == nil && !l.leads() && (now == leader || now == "") {
			m.stats.elections.Add(1)
			l.trans.campaign()
		}
	})
	return nil
}
