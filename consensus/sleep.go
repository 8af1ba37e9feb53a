package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Sleep and wake (hibernation of idle Raft groups).
//
// A leader whose conversation has been idle for Timers.Sleep, and whose replicas all hold the same last entry, shuts
// its replica down and then notifies the others, which do the same. Heartbeats, entries and pre-votes do not wake a
// conversation: only a submission does, or a member's wake frame, or the election that belongs to the wake frame.
//
// A wake has three steps: send the other replicas a request to open, open the own replica, campaign at once. The last
// leader, to which submissions are forwarded, does it, so that two nodes do not campaign against each other.

// position is the end of a replica's log.
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

// reconcileFirst is the leader's first pause after a step in changing the replicas; the pause doubles with each step
// up to Timers.Repair. A new conversation must not wait long for its copies.
const reconcileFirst = 5 * time.Millisecond

// run maintains an awake replica: it puts the replica to sleep when idle, and as a leader reconciles the set of
// replicas.
func (l *live) run() {
	tick := time.NewTicker(min(l.m.cfg.Timers.Sleep/2, l.m.cfg.Timers.Repair))
	defer tick.Stop()
	soon := time.NewTimer(reconcileFirst) // short pauses while the replicas are being changed, step by step
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
				soon.Reset(wait) // a step was taken, or a replica is catching up: no sleep
				wait = min(2*wait, l.m.cfg.Timers.Repair)
				continue
			}
			wait = reconcileFirst
		}
		if !kicked && l.idle(time.Now()) >= l.m.cfg.Timers.Sleep && l.inflight.Load() == 0 && l.trySleep() {
			return
		}
	}
}

// trySleep tries to put the conversation, or this replica of it, to sleep.
func (l *live) trySleep() bool {
	r := l.r.Load()
	switch {
	case r.State() == raft.Leader:
		return l.sleepAsLeader(r)
	case l.leader() != "":
		return false // the decision is the leader's
	case l.askWhetherGone():
		return true
	}
	// The leader does not notify learners that the others sleep: it has no reason to address them.
	return (l.alone.Load() || !l.isVoter()) && l.sleepAlone()
}

// sleepAsLeader shuts down first and then notifies the others, so that none of them loses contact with a leader that
// still runs. An unreachable replica does not keep the others awake without limit.
func (l *live) sleepAsLeader(r *raft.Raft) bool {
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
			l.m.notify(n, l.trans.frame(kindSleep, payload))
		}
	}
	return true
}

// markSent sends a frame that has no reply.
func (m *Manager) notify(to wire.NodeID, f *frame) {
	if err := m.mesh.send(to, f); err != nil {
		m.log.Debug("frame not sent", "peer", to, "kind", f.kind, "error", err)
	}
}

// receiveSleep follows the leader into sleep, if this replica ends where the leader's did. All entries up to there
// are committed: the leader said so, and the logs are equal.
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
		return nil, nil // this replica will receive the missing entries from the others
	}
	if l.close(end.Last, func() bool { return l.inflight.Load() > 0 }) {
		m.stats.sleeps.Add(1)
	}
	return nil, nil
}

// refusedBy handles the error of a peer that did not accept a Raft frame.
func (c *conversation) refusedBy(from wire.NodeID, e *wire.Error) {
	l := c.awake()
	if l == nil {
		return
	}
	switch e.Code {
	case codeAsleep:
		// A leader, or a replica with a submission in progress, wakes the peer; other replicas check whether to sleep
		// too.
		if l.leads() || l.inflight.Load() > 0 {
			l.sendWake(from)
		} else if l.leader() == "" {
			l.alone.Store(true)
		}
	case wire.UnknownConversation:
		l.handleWiped(from)
	case wire.NotReplica:
		l.handleDisowned(from)
		l.m.log.Debug("frame refused", "conversation", c.id, "peer", from, "error", e)
	case codeSuperseded:
		l.m.log.Debug("frame refused", "conversation", c.id, "peer", from, "error", e)
	}
}

// sendWake sends a wake frame, at most once in a heartbeat interval.
func (l *live) sendWake(n wire.NodeID) {
	now := time.Now()
	if last, ok := l.sleepers.Load(n); ok && now.Sub(last.(time.Time)) < l.m.cfg.Timers.Heartbeat/4 {
		return
	}
	l.sleepers.Store(n, now)
	payload, err := wire.Encode(l.end())
	if err != nil {
		return
	}
	l.m.notify(n, l.trans.frame(kindWake, payload))
}

// wakeUp opens a sleeping conversation and begins an election, if this node may lead. The other replicas open in the
// meantime.
func (m *Manager) wakeUp(ctx context.Context, c *conversation) (*live, error) {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil, err
	}
	payload, err := wire.Encode(position{Term: rec.LastTerm, Last: rec.Last})
	if err != nil {
		return nil, err
	}
	release, err := m.admitWaker(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, n := range rec.members() {
		if n != m.cfg.Node {
			m.notify(n, &frame{kind: kindWake, generation: c.generation(), conversation: c.id, payload: payload})
		}
	}
	l, opened, err := m.wake(ctx, c)
	if err != nil {
		release()
		return nil, err
	}
	if !opened || !contains(rec.Voters, m.cfg.Node) {
		release()
		return l, nil
	}
	m.campaignIfElectable(l)
	if !m.serve(c, "wake", func(ctx context.Context) {
		defer release()
		l.awaitLeader(ctx, m.cfg.Timers.LeaderTimeout/4)
	}) {
		release()
	}
	return l, nil
}

// maxWaking is the number of conversations that this node wakes at the same time, from the first wake frame until
// they have a leader. If many were woken at once, each would take longer than its replicas wait for a leader, and
// their own elections would disturb the ones that the waker has begun.
const maxWaking = 32

// maxWakingOf is the part of maxWaking for the conversations to which one other organization invited this node. The
// nodes of that organization can make this node wake them at any rate, and elect no leader.
const maxWakingOf = maxWaking / 2

// admitWaker waits for a place among the conversations that are being woken. The caller calls release when the
// conversation has a leader, or takes too long.
func (m *Manager) admitWaker(ctx context.Context, c *conversation) (release func(), err error) {
	if c.awake() != nil {
		return func() {}, nil
	}
	places := []chan struct{}{m.waking}
	if org := c.book.payer; org != "" {
		own, _ := m.wakers.LoadOrStore(org, make(chan struct{}, maxWakingOf))
		places = []chan struct{}{own.(chan struct{}), m.waking} // a conversation that waits for its share takes no other place
	}
	for i, p := range places {
		select {
		case p <- struct{}{}:
		case <-ctx.Done():
			freePlaces(places[:i])
			return nil, fmt.Errorf("%d others are being woken: %w: %v", cap(p), errAgain, ctx.Err())
		}
	}
	return func() { freePlaces(places) }, nil
}

func freePlaces(places []chan struct{}) {
	for _, p := range places {
		<-p
	}
}

// campaignIfElectable begins an election at once, without a pre-vote, if this replica can win it: a majority of the
// voters is reachable, and none of them has a later last entry. Otherwise a replica that returns to a conversation
// which went on without it would depose the leader and not be elected; such a replica waits until that leader contacts
// it. If no replica campaigns, Raft's timers remain.
func (m *Manager) campaignIfElectable(l *live) {
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
			if !pause(l.ctx, m.cfg.Timers.LeaderTimeout/8) {
				return
			}
		}
	})
}

// electable reports whether this replica's log ends at least as late as the logs of a majority of the voters, itself
// included. may is false if one of them ends later; known is false if too few voters answer.
func (m *Manager) electable(ctx context.Context, l *live) (may, known bool) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timers.LeaderTimeout)
	defer cancel()
	mine, voters := l.end(), m.voters(l.c)
	if len(voters) == 1 {
		return true, true
	}
	type answer struct {
		logStatus
		err error
	}
	answers, asked := make(chan answer, len(voters)), 0
	for _, n := range voters {
		if n == m.cfg.Node {
			continue
		}
		asked++
		if !m.serve(l.c, "stand", func(context.Context) {
			s, err := m.askLogStatus(ctx, n, l.c)
			answers <- answer{s, err}
		}) {
			return false, false
		}
	}
	for level, left := 1, asked; level <= len(voters)/2; left-- {
		if left < len(voters)/2+1-level {
			return false, false // too many could not be asked
		}
		select {
		case s := <-answers:
			switch {
			case s.err != nil:
			case s.End.newer(mine):
				return false, true
			default:
				level++
			}
		case <-ctx.Done():
			return false, false
		}
	}
	return true, true
}

// receiveWake opens the conversation here. If this replica's log is newer than the waker's, the waker cannot be
// elected, so this replica campaigns.
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
	if opened && l.end().newer(theirs) && l.isVoter() {
		m.campaignIfElectable(l)
	}
	return nil, nil
}

func (l *live) isVoter() bool {
	r := l.r.Load()
	if r == nil {
		return false
	}
	voters, _ := splitServers(r.GetConfiguration().Configuration().Servers)
	return contains(voters, l.m.cfg.Node)
}

// wakeForVote opens the conversation for the election that begins a wake: the vote request may arrive before the wake
// frame has been served. A vote request is the only Raft message that wakes a conversation.
func (m *Manager) wakeForVote(from wire.NodeID, f *frame) bool {
	v, err := decodeVote(f.payload)
	if err != nil || !v.LeadershipTransfer {
		return false
	}
	c, err := m.findWithRole(from, f.conversation, leastRoles[kindVote])
	if err != nil || m.mayWake(from, c) != nil {
		return false
	}
	return m.mesh.spawn(func(ctx context.Context) {
		defer m.quarantineOnPanic(c, "wake", nil)
		l, _, err := m.wake(ctx, c)
		if err != nil {
			m.mesh.reply(from, f, nil, err)
			return
		}
		l.trans.receive(from, f)
	})
}

// sleepAlone is for a replica whose peers sleep. If one of them ends at another entry, or it is not known that the
// whole log is committed, sleepAlone wakes all replicas to make up the difference. Otherwise this replica sleeps too.
func (l *live) sleepAlone() bool {
	mine := l.end()
	if mine.Last == 0 { // the replica was invited, and has received nothing
		return l.close(0, func() bool { return l.inflight.Load() > 0 })
	}
	answers := make(map[wire.NodeID]logStatus)
	for _, n := range l.peers() {
		theirs, err := l.m.askLogStatus(l.ctx, n, l.c)
		if err != nil {
			continue
		}
		if theirs.End != mine {
			return l.startRepair()
		}
		answers[n] = theirs
	}
	same, committed := len(answers), max(l.r.Load().CommitIndex(), committedUpTo(l.m.voters(l.c), l.m.cfg.Node, answers))
	switch {
	case same == 0 && l.idle(time.Now()) < 3*l.m.cfg.Timers.Sleep:
		return false
	case same == 0: // nobody answers: a node that comes back wakes this replica
		return l.close(0, func() bool { return l.inflight.Load() > 0 })
	case committed < mine.Last:
		return l.startRepair()
	}
	return l.close(mine.Last, func() bool { return l.inflight.Load() > 0 })
}

// committedUpTo returns the index up to which the voters whose log ends where self's does know the log to be
// committed, or 0 if those voters, self included, are no majority. The word of one node decides nothing: a replica
// applies what it considers committed, and never replaces it.
func committedUpTo(voters []wire.NodeID, self wire.NodeID, answers map[wire.NodeID]logStatus) (committed uint64) {
	level := 0
	for _, n := range voters {
		theirs, ok := answers[n]
		if ok || n == self {
			level++
		}
		committed = max(committed, min(theirs.Committed, theirs.End.Last))
	}
	if level <= len(voters)/2 {
		return 0
	}
	return committed
}

// startRepair starts the conversation's repair and reports that the replica cannot rest.
func (l *live) startRepair() bool {
	l.m.serve(l.c, "repair", func(ctx context.Context) { l.m.repair(ctx, l.c) })
	return false
}

// peers returns the other replicas in Raft's configuration.
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

// repair wakes the whole conversation, so that Raft brings all replicas to the same state.
func (m *Manager) repair(ctx context.Context, c *conversation) {
	if l := c.awake(); l != nil {
		for _, n := range l.peers() {
			l.sendWake(n)
		}
		if l.isVoter() && l.leader() == "" {
			m.campaignIfElectable(l)
		}
		return
	}
	if _, err := m.wakeUp(ctx, c); err != nil && ctx.Err() == nil {
		m.log.Warn("conversation not repaired; the next contact tries again", "conversation", c.id, "error", err)
	}
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
		c.settle() // another goroutine closed the replica
	}
}
