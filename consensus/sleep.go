package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Sleep and wake.
//
// A leader whose conversation has been idle for Timers.Sleep, and whose replicas all hold the same last
// entry, shuts its replica down and then tells the others, which do the same. Heartbeats, entries and
// pre-votes do not wake: only a submission does, or a member's wake frame, or the election that belongs
// to it.
//
// A wake is: tell the other replicas to open, open, campaign at once. It is done by the last leader,
// to which submissions are forwarded, so that two nodes do not campaign against each other.

// position is where a replica's log ends.
type position struct {
	_    struct{} `cbor:",toarray"`
	Term uint64
	Last uint64
}

func (p position) newer(than position) bool {
	return p.Term > than.Term || p.Term == than.Term && p.Last > than.Last
}

// end is the position of the last entry.
func (l *live) end() position {
	r := l.r.Load()
	if r == nil {
		return position{}
	}
	p := position{Last: r.LastIndex()}
	var last raft.Log
	if err := l.store.GroupLog.GetLog(p.Last, &last); err == nil {
		p.Term = last.Term
	} else if list, err := l.m.snaps.store(l.c.group).List(); err == nil && len(list) > 0 && list[0].Index == p.Last {
		p.Term = list[0].Term
	}
	return p
}

func (l *live) idle(now time.Time) time.Duration { return now.Sub(time.Unix(0, l.used.Load())) }

// reconcileFirst is how soon the leader looks again after a step in changing the replicas; it doubles
// with each step up to Timers.Repair. A new conversation must not wait for its copies.
const reconcileFirst = 5 * time.Millisecond

// run looks after an awake replica: it lets it sleep, and as a leader keeps its replicas in order.
func (l *live) run() {
	tick := time.NewTicker(min(l.m.cfg.Timers.Sleep/2, l.m.cfg.Timers.Repair))
	defer tick.Stop()
	soon := time.NewTimer(reconcileFirst) // while the replicas are being changed, step by step
	defer soon.Stop()
	wait := reconcileFirst
	for {
		kicked := false
		select {
		case <-l.ctx.Done():
			return
		case <-l.kick:
			kicked = true
		case <-soon.C:
			kicked = true
		case <-tick.C:
		}
		if l.leads() {
			l.alone.Store(false)
			made := l.steps.Load()
			if l.reconcile(l.ctx) {
				if l.steps.Load() > made {
					wait = reconcileFirst
				}
				soon.Reset(wait) // a step was taken, or somebody catches up: no sleep
				wait = min(2*wait, l.m.cfg.Timers.Repair)
				continue
			}
			wait = reconcileFirst
		}
		if !kicked && l.idle(time.Now()) >= l.m.cfg.Timers.Sleep && l.inflight.Load() == 0 && l.rest() {
			return
		}
	}
}

// rest tries to put the conversation, or this replica of it, to sleep.
func (l *live) rest() bool {
	r := l.r.Load()
	switch {
	case r.State() == raft.Leader:
		return l.restAsLeader(r)
	case l.leader() != "":
		return false // the leader decides
	case l.askWhetherGone():
		return true
	}
	// Nobody tells a learner that the others sleep: it has no reason to address them.
	return (l.alone.Load() || !l.votes()) && l.restAlone()
}

// restAsLeader shuts down first and then tells the others: so that none of them hears of a leader that
// still lives and loses it. A replica that cannot be reached does not keep the rest awake for ever.
func (l *live) restAsLeader(r *raft.Raft) bool {
	end, term := l.end(), r.CurrentTerm()
	if r.CommitIndex() != end.Last || r.AppliedIndex() != end.Last {
		return false
	}
	voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
	quorum, level := len(voters)/2+1, 0
	patient := l.idle(time.Now()) < 3*l.m.cfg.Timers.Sleep
	for _, n := range append(voters, learners...) {
		have, ok := l.trans.acks.get(n, term)
		same := n == l.m.cfg.Node || ok && have.index == end.Last
		if !same && (patient || l.m.mesh.reachable(n)) {
			return false
		}
		if same && contains(voters, n) {
			level++
		}
	}
	if level < quorum || !l.close(end.Last, func() bool { return l.inflight.Load() > 0 || r.LastIndex() != end.Last }) {
		return false
	}
	l.m.stats.sleeps.Add(1)
	payload, err := wire.Encode(end)
	if err != nil {
		return true
	}
	for _, n := range append(voters, learners...) {
		if n != l.m.cfg.Node {
			l.m.tell(n, l.trans.frame(kindSleep, payload))
		}
	}
	return true
}

// tell sends a frame that nobody answers.
func (m *Manager) tell(to wire.NodeID, f *frame) {
	if err := m.mesh.send(to, f); err != nil {
		m.log.Debug("frame not sent", "peer", to, "kind", f.kind, "error", err)
	}
}

// receiveSleep follows the leader, if this replica ends where the leader's did. All up to there is
// committed: the leader said so, and the logs are the same.
func (m *Manager) receiveSleep(_ context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var end position
	if err := wire.Decode(f.payload, 64, &end); err != nil {
		return nil, err
	}
	l, err := m.admit(from, f.conversation, f.generation, leastRoles[kindSleep])
	if err != nil || l.r.Load() == nil {
		return nil, err
	}
	if l.end() != end || l.leader() != from {
		return nil, nil // it will learn from the others what it lacks
	}
	if l.close(end.Last, func() bool { return l.inflight.Load() > 0 }) {
		m.stats.sleeps.Add(1)
	}
	return nil, nil
}

// refusedBy hears that a peer did not take a frame of Raft's.
func (c *conversation) refusedBy(from wire.NodeID, e *wire.Error) {
	l := c.awake()
	if l == nil {
		return
	}
	switch e.Code {
	case codeAsleep:
		// A leader, or one that has a submission to place, wakes it; others find out whether to sleep too.
		if l.leads() || l.inflight.Load() > 0 {
			l.rouse(from)
		} else if l.leader() == "" {
			l.alone.Store(true)
		}
	case wire.UnknownConversation:
		l.wiped(from)
	case wire.NotReplica:
		l.disowned(from)
		l.m.log.Debug("frame refused", "conversation", c.id, "peer", from, "error", e)
	case codeSuperseded:
		l.m.log.Debug("frame refused", "conversation", c.id, "peer", from, "error", e)
	}
}

// rouse sends a wake frame, but not more often than a heartbeat.
func (l *live) rouse(n wire.NodeID) {
	now := time.Now()
	if last, ok := l.sleepers.Load(n); ok && now.Sub(last.(time.Time)) < l.m.cfg.Timers.Heartbeat/4 {
		return
	}
	l.sleepers.Store(n, now)
	payload, err := wire.Encode(l.end())
	if err != nil {
		return
	}
	l.m.tell(n, l.trans.frame(kindWake, payload))
}

// wakeUp opens a sleeping conversation and begins an election, if this node may lead. The others open
// meanwhile.
func (m *Manager) wakeUp(ctx context.Context, c *conversation) (*live, error) {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil, err
	}
	payload, err := wire.Encode(position{Term: rec.LastTerm, Last: rec.Last})
	if err != nil {
		return nil, err
	}
	for _, n := range rec.members() {
		if n != m.cfg.Node {
			m.tell(n, &frame{kind: kindWake, generation: c.generation(), conversation: c.id, payload: payload})
		}
	}
	l, opened, err := m.wake(ctx, c)
	if err != nil {
		return nil, err
	}
	if opened && contains(rec.Voters, m.cfg.Node) {
		m.stand(l)
	}
	return l, nil
}

// stand begins an election at once, without a pre-vote, where this replica can win it: where a majority of the
// voters is reached, and none of them ends later. A replica that comes back to a conversation which went on
// without it would depose its leader otherwise, and not be elected; it waits to be found by that leader. Where
// nobody stands, Raft's timers remain.
func (m *Manager) stand(l *live) {
	m.serve(l.c, "stand", func(ctx context.Context) {
		for until := time.Now().Add(m.cfg.Timers.Heartbeat); l.leader() == "" && time.Now().Before(until); {
			switch may, known := m.electable(ctx, l); {
			case may:
				m.stats.elections.Add(1)
				l.trans.campaign()
				return
			case known:
				return
			}
			if !pause(l.ctx, m.cfg.Timers.Silence/8) {
				return
			}
		}
	})
}

// electable says whether this replica ends as late as a majority of the voters do, itself among them, or that
// one ends later; nothing is known where too few answer.
func (m *Manager) electable(ctx context.Context, l *live) (may, known bool) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timers.Silence/4)
	defer cancel()
	mine, voters := l.end(), m.voters(l.c)
	if len(voters) == 1 {
		return true, true
	}
	answers := make(chan standing, len(voters))
	for _, n := range voters {
		if n == m.cfg.Node {
			continue
		}
		if !m.serve(l.c, "stand", func(context.Context) {
			if s, err := m.askStanding(ctx, n, l.c); err == nil {
				answers <- s
			}
		}) {
			return false, false
		}
	}
	for level := 1; level <= len(voters)/2; level++ {
		select {
		case s := <-answers:
			if s.End.newer(mine) {
				return false, true
			}
		case <-ctx.Done():
			return false, false
		}
	}
	return true, true
}

// receiveWake opens the conversation here. If this replica's log is newer than the waker's, the waker
// cannot be elected: this one campaigns.
func (m *Manager) receiveWake(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var theirs position
	if err := wire.Decode(f.payload, 64, &theirs); err != nil {
		return nil, err
	}
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	if err := m.mayWake(from, c); err != nil {
		return nil, err
	}
	if f.generation != c.generation() {
		return nil, wire.Errorf(codeSuperseded, "wake", "generation %d of %v, this node knows %d", f.generation, c.id, c.generation())
	}
	l, opened, err := m.wake(ctx, c)
	if err != nil {
		return nil, err
	}
	l.alone.Store(false)
	l.used.Store(time.Now().UnixNano())
	if opened && l.end().newer(theirs) && l.votes() {
		m.stand(l)
	}
	return nil, nil
}

func (l *live) votes() bool {
	r := l.r.Load()
	if r == nil {
		return false
	}
	voters, _ := splitServers(r.GetConfiguration().Configuration().Servers)
	return contains(voters, l.m.cfg.Node)
}

// wakeForVote opens the conversation for the election that a wake begins with, whose request may come
// before the wake frame has been served. It is the only one of Raft's messages that wakes.
func (m *Manager) wakeForVote(from wire.NodeID, f *frame) bool {
	v, err := decodeVote(f.payload)
	if err != nil || !v.LeadershipTransfer {
		return false
	}
	c, err := m.party(from, f.conversation, leastRoles[kindVote])
	if err != nil || m.mayWake(from, c) != nil {
		return false
	}
	return m.mesh.spawn(func(ctx context.Context) {
		defer m.caught(c, "wake", nil)
		l, _, err := m.wake(ctx, c)
		if err != nil {
			m.mesh.reply(from, f, nil, err)
			return
		}
		l.trans.receive(from, f)
	})
}

// restAlone is for a replica whose peers sleep. If one of them ends elsewhere, or none of those that end
// here knows all of it to be committed, all are woken and the difference is made up; otherwise this one
// sleeps too.
func (l *live) restAlone() bool {
	mine := l.end()
	if mine.Last == 0 { // it was invited, and has been sent nothing
		return l.close(0, func() bool { return l.inflight.Load() > 0 })
	}
	same, committed := 0, l.r.Load().CommitIndex()
	for _, n := range l.peers() {
		theirs, err := l.m.askStanding(l.ctx, n, l.c)
		if err != nil {
			continue
		}
		if theirs.End != mine {
			return l.callAll()
		}
		same, committed = same+1, max(committed, theirs.Committed)
	}
	switch {
	case same == 0 && l.idle(time.Now()) < 3*l.m.cfg.Timers.Sleep:
		return false
	case same == 0: // nobody answers: who comes wakes it
		return l.close(0, func() bool { return l.inflight.Load() > 0 })
	case committed < mine.Last:
		return l.callAll()
	}
	return l.close(mine.Last, func() bool { return l.inflight.Load() > 0 })
}

// callAll has the conversation repaired: no rest.
func (l *live) callAll() bool {
	l.m.serve(l.c, "repair", func(ctx context.Context) { l.m.repair(ctx, l.c) })
	return false
}

// peers are the other replicas in Raft's configuration.
func (l *live) peers() []wire.NodeID {
	r := l.r.Load()
	if r == nil {
		return nil
	}
	var list []wire.NodeID
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if n := wire.NodeID(s.ID); n != l.m.cfg.Node {
			list = append(list, n)
		}
	}
	return list
}

// repair wakes the whole conversation, so that Raft brings all replicas to one state.
func (m *Manager) repair(ctx context.Context, c *conversation) {
	if l := c.awake(); l != nil {
		for _, n := range l.peers() {
			l.rouse(n)
		}
		if l.votes() && l.leader() == "" {
			m.stand(l)
		}
		return
	}
	if _, err := m.wakeUp(ctx, c); err != nil && ctx.Err() == nil {
		m.log.Warn("conversation not repaired; the next contact tries again", "conversation", c.id, "error", err)
	}
}

// Sleep puts this node's replica of a conversation to sleep, if it leads and all replicas are level;
// otherwise it says why not. Idle conversations do so by themselves.
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
	if l.inflight.Load() > 0 || !l.restAsLeader(r) {
		return wire.Errorf(wire.Busy, "sleep", "%v has work under way, or its replicas are not level", id)
	}
	return nil
}

// Wake opens a conversation and waits until it has a leader.
func (m *Manager) Wake(ctx context.Context, id wire.ConversationID) error {
	c, err := m.find(id)
	if err != nil {
		return err
	}
	for {
		l := c.awake()
		if l == nil {
			if l, err = m.wakeUp(ctx, c); err != nil {
				return err
			}
		}
		switch {
		case l.awaitLeader(ctx, patience) != "":
			return nil
		case ctx.Err() != nil:
			return m.noQuorum("wake", c, ctx.Err())
		}
		c.settle() // it was closed under us
	}
}
