package consensus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// The leader keeps its conversation's replicas as placement wants them. First an entry says so in the
// log, for all to see; then Raft's configuration follows it, one change at a time: invite, add as a
// learner, wait until it has caught up, make it a voter. Those that are to vote are invited before all others;
// only when the new ones are in, the old ones are let go. A voter that cannot be reached is never added: a majority could depend on it at once.

// reconcile takes the next step. It returns true while there is something to do that can be done.
func (l *live) reconcile(ctx context.Context) bool {
	r := l.r.Load()
	var created bool
	var now *wire.Replicas
	l.fsm.read(func(m *machine.Machine) { created = m.Created(); now, _ = m.Replicas() })
	if !created {
		return false
	}
	if !l.caughtUpAsLeader(r) {
		return true
	}
	if pending := l.m.recoveryOf(l.c.id); pending != nil {
		return l.recordRecovery(ctx, r, pending)
	}
	want := l.wanted(r)
	if want == nil {
		return false
	}
	if now == nil || !slices.Equal(now.Voters, want.Voters) || !slices.Equal(now.Learners, want.Learners) {
		return l.orderReplicas(ctx, r)
	}
	return l.follow(ctx, r, want) || l.raiseRules(ctx, r)
}

// caughtUpAsLeader reports whether a leader has applied an entry of its own term. Before, it may lag behind what is
// committed, and would order what others have to refuse.
func (l *live) caughtUpAsLeader(r *raft.Raft) bool {
	at := r.AppliedIndex()
	term, known := l.store.termAt(at)
	return known && term == r.CurrentTerm() && l.appliedTo(at)
}

// appliedTo reports whether the state machine has applied the log up to an entry. Raft counts entries as applied that
// it has handed to the state machine's goroutine: a replica that has just been opened may be anywhere before that.
func (l *live) appliedTo(at uint64) bool {
	l.fsm.mu.RLock()
	applied := l.fsm.index
	l.fsm.mu.RUnlock()
	for ; at > applied; at-- {
		var e raft.Log
		if err := l.store.GetLog(at, &e); err != nil || e.Type == raft.LogCommand || e.Type == raft.LogConfiguration {
			return false
		}
	}
	return true // entries of Raft's own alone are behind it
}

// orderReplicas writes a change of replicas into the log. It is chosen when all that was handed to Raft before is
// applied, and nothing comes between: others judge it by the state that the log makes of what is before it.
func (l *live) orderReplicas(ctx context.Context, r *raft.Raft) bool {
	g, err := l.giveReplicas(r)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, l.m.cfg.Timers.Call)
		defer cancel()
		_, err = l.commit(ctx, r, g)
	}
	if err != nil {
		l.m.log.Info("change of replicas not ordered", "conversation", l.c.id, "error", err)
	}
	return err == nil
}

func (l *live) giveReplicas(r *raft.Raft) (given, error) {
	settled, release := l.settle(r)
	defer release()
	if !settled {
		return given{}, fmt.Errorf("what came before is not applied yet: %w", errAgain)
	}
	want := l.wanted(r)
	if want == nil {
		return given{}, errors.New("the roster names nobody any more")
	}
	e := &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(l.m.cfg.Now()), Proposer: l.m.cfg.Node, Replicas: want}
	var err error
	l.fsm.read(func(s *machine.Machine) {
		if _, _, err = s.JudgeVerified(e, wire.SubmissionKey{}); err == nil {
			err = l.judgeReplicas(s, want)
		}
	})
	if err != nil {
		return given{}, err
	}
	return l.hand(r, e, wire.SubmissionKey{})
}

// orderOwn orders an entry of this node's own, and reports whether it was accepted.
func (l *live) orderOwn(ctx context.Context, what string, e *wire.Entry) bool {
	e.Version, e.Time, e.Proposer = wire.EntryVersion, wire.TimeOf(l.m.cfg.Now()), l.m.cfg.Node
	ctx, cancel := context.WithTimeout(ctx, l.m.cfg.Timers.Call)
	defer cancel()
	if _, err := l.order(ctx, e, wire.SubmissionKey{}); err != nil {
		l.m.log.Debug(what+" not ordered", "conversation", l.c.id, "error", err)
		return false
	}
	return true
}

// raiseRules orders the next level of the rules when every replica, and every node that is to have one, has announced
// it. It reports whether it did. A conversation of one organization keeps its level: what a level adds is about others,
// and a node of another organization that is added later may be of an earlier release.
func (l *live) raiseRules(ctx context.Context, r *raft.Raft) bool {
	var level uint8
	var now *wire.Replicas
	orgs := 0
	l.fsm.read(func(m *machine.Machine) {
		level = m.Level()
		if !m.Closed() {
			now, _ = m.Replicas()
		}
		for _, s := range m.Spans() {
			if s.Until == 0 {
				orgs++
			}
		}
	})
	if level >= wire.LastLevel || now == nil || orgs < 2 {
		return false
	}
	next := level + 1
	ready := true
	voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
	nodes := append(voters, learners...)
	if want := l.wanted(r); want != nil {
		nodes = slices.Concat(nodes, want.Voters, want.Learners)
	}
	slices.Sort(nodes)
	for _, n := range slices.Compact(nodes) {
		if !l.m.cfg.Roster.Announced(n, wire.LevelFeature(next)) {
			ready = false // the others are asked all the same: Announced asks in the background
		}
	}
	return ready && l.orderOwn(ctx, "change of rules", &wire.Entry{Replicas: wire.RaiseLevel(now, next)})
}

// wanted is what placement says; nil without a roster.
func (l *live) wanted(r *raft.Raft) *wire.Replicas {
	if l.m.cfg.Roster == nil {
		return nil
	}
	p := placing{id: l.c.id, voters: DefaultVoters, current: make(map[wire.NodeID]bool), nodesOf: l.m.cfg.Roster.Nodes, ordersOnly: l.m.cfg.Roster.OrdersOnly}
	voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
	for _, n := range learners {
		p.current[n] = false
	}
	for _, n := range voters {
		p.current[n] = true
	}
	var generation uint64
	l.fsm.read(func(m *machine.Machine) {
		for _, s := range m.Spans() {
			if s.Until == 0 {
				p.orgs = append(p.orgs, s.Organization)
			}
		}
		p.orgs = append(p.orgs, m.Holders()...)
		policy := m.Policy()
		p.witness, generation = policy.Witness, m.Generation()
		if policy.Voters > 0 {
			p.voters = int(policy.Voters)
		}
	})
	want := &wire.Replicas{Generation: generation}
	if want.Voters, want.Learners = place(p); len(want.Voters) == 0 {
		return nil
	}
	return want
}

// follow brings Raft's configuration one step closer to want.
func (l *live) follow(ctx context.Context, r *raft.Raft, want *wire.Replicas) bool {
	voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
	// A new conversation has one voter, without which it stops: votes come before further learners.
	if up := l.promotable(r, want, voters, learners); len(up) > 0 {
		return l.change("make a voter", up[0], r, want, func(index uint64) raft.IndexFuture {
			return r.AddVoter(raft.ServerID(up[0]), raft.ServerAddress(up[0]), index, l.m.cfg.Timers.Call)
		})
	}
	have := append(slices.Clone(voters), learners...)
	catching := l.awaitsVotes(r, want, voters)
	if catching && len(want.Learners) > 0 {
		voting := &wire.Replicas{Voters: want.Voters}
		l.admitNew(ctx, r, voting, have)
		return true
	}
	if l.admitNew(ctx, r, want, have) {
		return true
	}
	// Time may have passed while nodes were invited: nobody is let go by what was wanted before.
	if now := l.wanted(r); now == nil || !slices.Equal(now.Voters, want.Voters) || !slices.Equal(now.Learners, want.Learners) {
		return true
	}
	if !l.enough(want, voters) {
		return l.waits(r, want, voters)
	}
	for _, n := range voters {
		if contains(want.Learners, n) && n != l.m.cfg.Node && l.carries(r, without(voters, n)) {
			return l.change("demote", n, r, want, func(index uint64) raft.IndexFuture {
				return r.DemoteVoter(raft.ServerID(n), index, l.m.cfg.Timers.Call)
			})
		}
	}
	// With two votes of three, one node's loss stops the conversation: the third one is not left for later.
	return l.dismiss(r, want, voters, learners) || catching
}

func without(list []wire.NodeID, n wire.NodeID) []wire.NodeID {
	return slices.DeleteFunc(slices.Clone(list), func(have wire.NodeID) bool { return have == n })
}

// carries reports whether a majority of these voters keeps up: a configuration without one would be the
// end of the conversation, so no change leads to it. Who is gone goes first.
func (l *live) carries(r *raft.Raft, voters []wire.NodeID) bool {
	up := 0
	for _, n := range voters {
		if n == l.m.cfg.Node || l.level(r, n) {
			up++
		}
	}
	return up > len(voters)/2
}

// invitesAtOnce bounds the invitations under way at once, and the changes of one step.
const invitesAtOnce = 16

// admitNew invites and adds nodes that lack a replica and can be reached: those that are to vote, and then
// the others. It returns true when it has added some, and for a while when it may soon: a node that was not
// asked before which rules it knows answers in the background.
func (l *live) admitNew(ctx context.Context, r *raft.Raft, want *wire.Replicas, have []wire.NodeID) (changed bool) {
	l.mu.Lock()
	before := l.missing
	l.mu.Unlock()
	var missing []wire.NodeID
	for _, list := range [][]wire.NodeID{want.Voters, want.Learners} {
		var fresh, failed []wire.NodeID
		for _, n := range list {
			switch {
			case contains(have, n):
			case contains(before, n): // nodes that did not answer must not hold up the others
				failed = append(failed, n)
			default:
				fresh = append(fresh, n)
			}
		}
		for chunk := range slices.Chunk(append(fresh, failed...), invitesAtOnce) {
			if changed { // the voters go on first
				missing = append(missing, intersect(chunk, before)...)
				continue
			}
			invited, refused := l.inviteAll(ctx, chunk, have)
			missing = append(missing, refused...)
			for _, n := range invited {
				if !l.change("add", n, r, want, func(index uint64) raft.IndexFuture {
					return r.AddNonvoter(raft.ServerID(n), raft.ServerAddress(n), index, l.m.cfg.Timers.Call)
				}) {
					break
				}
				changed = true
			}
		}
	}
	slices.Sort(missing)
	if changed || !slices.ContainsFunc(missing, func(n wire.NodeID) bool { return l.mayInvite(n) != nil }) {
		l.asking = time.Time{}
	} else if l.asking.IsZero() {
		l.asking = time.Now()
	}
	l.mu.Lock()
	differs := !slices.Equal(l.missing, missing)
	l.missing = missing
	l.mu.Unlock()
	if differs {
		l.m.dirty.mark(l.c.id)
	}
	return changed || !l.asking.IsZero() && time.Since(l.asking) < l.m.cfg.Timers.Call
}

func intersect(list, with []wire.NodeID) []wire.NodeID {
	return slices.DeleteFunc(slices.Clone(list), func(n wire.NodeID) bool { return !contains(with, n) })
}

// inviteAll invites nodes at once, and returns those that hold a replica now and the others.
func (l *live) inviteAll(ctx context.Context, nodes, have []wire.NodeID) (invited, refused []wire.NodeID) {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		if err := l.mayInvite(n); err != nil {
			l.m.log.Debug("node not invited yet", "conversation", l.c.id, "node", n, "error", err)
			errs[i] = err
			continue
		}
		all.Go(func() {
			if errs[i] = l.invite(ctx, n, have); errs[i] != nil {
				l.m.log.Info("node does not take a replica yet", "conversation", l.c.id, "node", n, "error", errs[i])
			}
		})
	}
	all.Wait()
	busy := false
	for i, n := range nodes {
		if errs[i] == nil {
			invited = append(invited, n)
		} else {
			refused = append(refused, n)
			busy = busy || wire.CodeOf(errs[i]) == wire.Busy
		}
	}
	if busy {
		l.m.inviteLater(l.c)
	} else {
		l.c.later.Store(0)
	}
	return invited, refused
}

// inviteLater has nodes invited again that were too busy, in a while: a conversation that sleeps would do so with the
// next greeting only. The pauses double, up to Timers.Greet.
func (m *Manager) inviteLater(c *conversation) {
	if c.waiting.Swap(true) {
		return
	}
	wait := min(max(2*time.Duration(c.later.Load()), m.cfg.Timers.Claim), m.cfg.Timers.Greet)
	c.later.Store(int64(wait))
	time.AfterFunc(wait, func() {
		c.waiting.Store(false)
		if held, err := m.find(c.id); err == nil && held == c {
			m.serve(c, "invite again", func(ctx context.Context) { m.repair(ctx, c) })
		}
	})
}

// doOrdered calls do, which begins a change of Raft's configuration, towards want if that is not nil, unless the log
// orders something else by then.
func (l *live) doOrdered(r *raft.Raft, want *wire.Replicas, do func()) bool {
	settled, release := l.settle(r)
	defer release()
	var now *wire.Replicas
	l.fsm.read(func(m *machine.Machine) { now, _ = m.Replicas() })
	if !settled || !l.caughtUpAsLeader(r) || want != nil && (now == nil || !slices.Equal(now.Voters, want.Voters) || !slices.Equal(now.Learners, want.Learners)) {
		return false
	}
	do()
	return true
}

// change makes one change of Raft's configuration towards want, on top of the one that this leader knows, and waits
// until it is applied. It does not wait for Raft's future, for the reason that commit gives.
func (l *live) change(what string, n wire.NodeID, r *raft.Raft, want *wire.Replicas, do func(index uint64) raft.IndexFuture) bool {
	term := r.CurrentTerm()
	var index uint64
	if !l.doOrdered(r, want, func() { index = l.configIndex(); do(index) }) {
		return false
	}
	for deadline := time.Now().Add(l.m.cfg.Timers.Call); l.configIndex() == index; {
		if r.State() != raft.Leader || r.CurrentTerm() != term || time.Now().After(deadline) || !pause(l.ctx, 2*time.Millisecond) {
			l.m.log.Debug("configuration not changed", "conversation", l.c.id, "change", what, "node", n)
			return false
		}
	}
	l.steps.Add(1)
	l.m.meter.forget(meterKey{n, l.c.id, meterUnrest}) // its term may be that of its former part
	l.m.log.Info("configuration changed", "conversation", l.c.id, "change", what, "node", n)
	l.m.dirty.mark(l.c.id)
	return true
}

func (l *live) configIndex() uint64 {
	l.fsm.mu.RLock()
	defer l.fsm.mu.RUnlock()
	return l.fsm.configIndex
}

// level reports whether n has all but the last few entries.
func (l *live) level(r *raft.Raft, n wire.NodeID) bool {
	have, ok := l.trans.acks.get(n, r.CurrentTerm())
	return ok && have.index+maxAppend >= r.LastIndex() && have.index >= r.CommitIndex()
}

// promotable are the learners that are to vote and have caught up, of which so many that the number of
// voters is odd when all are in.
func (l *live) promotable(r *raft.Raft, want *wire.Replicas, voters, learners []wire.NodeID) []wire.NodeID {
	var up []wire.NodeID
	staying := 0
	for _, n := range voters {
		if contains(want.Voters, n) {
			staying++
		}
	}
	for _, n := range learners {
		if contains(want.Voters, n) && l.level(r, n) {
			up = append(up, n)
		}
	}
	if (staying+len(up))%2 == 0 && len(up) > 0 && staying%2 == 1 {
		up = up[:len(up)-1] // an even number tolerates no more, and needs one more
	}
	return up
}

// enough reports whether the voters that stay are a majority of those wanted: then others may go.
func (l *live) enough(want *wire.Replicas, voters []wire.NodeID) bool {
	staying := 0
	for _, n := range want.Voters {
		if contains(voters, n) {
			staying++
		}
	}
	return staying > len(want.Voters)/2
}

// awaitsVotes reports whether nodes that are to vote are catching up. Further learners wait for them:
// each change makes an entry that they have to catch up with, too. They are waited for until Timers.Call has
// passed since one more of them had a copy or a vote.
func (l *live) awaitsVotes(r *raft.Raft, want *wire.Replicas, voters []wire.NodeID) bool {
	if !l.waits(r, want, voters) {
		l.voting = time.Time{}
		return false
	}
	got := len(voters)
	for _, n := range want.Voters {
		if l.configured(n) {
			got++
		}
	}
	if now := time.Now(); l.voting.IsZero() || l.votingGot != got {
		l.voting, l.votingGot = now, got
	}
	return time.Since(l.voting) < l.m.cfg.Timers.Call
}

// waits reports whether a wanted voter that can be reached is still catching up.
func (l *live) waits(r *raft.Raft, want *wire.Replicas, voters []wire.NodeID) bool {
	return slices.ContainsFunc(want.Voters, func(n wire.NodeID) bool {
		return !contains(voters, n) && l.m.mesh.reachable(n) && !l.level(r, n)
	})
}

// dismiss removes the first replica that is not wanted any more: when it has all entries, so that it
// has the one that removes its organization, or when it has been waited for long enough.
func (l *live) dismiss(r *raft.Raft, want *wire.Replicas, voters, learners []wire.NodeID) bool {
	have := append(slices.Clone(voters), learners...)
	for _, n := range have {
		if contains(want.Voters, n) || contains(want.Learners, n) {
			continue
		}
		if n == l.m.cfg.Node {
			r.LeadershipTransfer()
			return true
		}
		if contains(voters, n) && !l.carries(r, without(voters, n)) {
			continue
		}
		l.mu.Lock()
		since, known := l.departed[n]
		if !known {
			since = time.Now()
			l.departed[n] = since
		}
		l.mu.Unlock()
		ack, ok := l.trans.acks.get(n, r.CurrentTerm())
		if arrived := ok && ack.told >= r.CommitIndex(); !arrived && time.Since(since) < l.m.cfg.Timers.Farewell {
			continue
		}
		if !l.change("remove", n, r, want, func(index uint64) raft.IndexFuture {
			return r.RemoveServer(raft.ServerID(n), index, l.m.cfg.Timers.Call)
		}) {
			return false
		}
		l.trans.acks.forget(n)
		l.mu.Lock()
		delete(l.departed, n)
		l.mu.Unlock()
		l.m.tell(n, l.trans.frame(kindFarewell, nil))
		return true
	}
	return l.leaving(have)
}

// leaving reports whether a replica is still waited for.
func (l *live) leaving(have []wire.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.departed, func(n wire.NodeID, _ time.Time) bool { return !contains(have, n) })
	return len(l.departed) > 0
}

// mayInvite refuses a node that has not announced the level of this conversation's rules: it could not
// read the state.
func (l *live) mayInvite(n wire.NodeID) error {
	var level uint8
	l.fsm.read(func(m *machine.Machine) { level = m.Level() })
	if level > wire.FirstLevel && !l.m.cfg.Roster.Announced(n, wire.LevelFeature(level)) {
		return wire.Errorf(wire.Unavailable, "invite", "%s has not announced %q: its build is older, or it has not answered yet", n, wire.LevelFeature(level))
	}
	return nil
}

// forget drops what is known of a node that is no longer a replica.
func (a *acks) forget(n wire.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, n)
}
