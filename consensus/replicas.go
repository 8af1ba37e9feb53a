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

// The leader makes its conversation's replicas match the placement. First an entry in the log says so, for all to
// see; then Raft's configuration follows it, one change at a time: invite, add as a learner, wait until it has caught
// up, make it a voter. Future voters are invited before all others, and old replicas are removed only after the new
// ones are in. A voter that cannot be reached is never added: a majority could depend on it at once.

// reconcile takes the next step. It returns true while there is a step that can be taken.
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

// caughtUpAsLeader reports whether a leader has applied an entry of its own term. Before that, it may lag behind the
// committed entries, and would order changes that others must refuse.
func (l *live) caughtUpAsLeader(r *raft.Raft) bool {
	at := r.AppliedIndex()
	term, known := l.store.termAt(at)
	return known && term == r.CurrentTerm() && l.appliedTo(at)
}

// appliedTo reports whether the state machine has applied the log up to an index. Raft counts entries as applied that
// it has handed to the state machine's goroutine: a replica that has just been opened may be at any index before
// that.
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
	return true // only entries of Raft's own follow
}

// orderReplicas writes a change of replicas into the log. The change is chosen when all entries handed to Raft before
// are applied, and no entry comes between: other replicas validate the change by the state of the log just before it.
func (l *live) orderReplicas(ctx context.Context, r *raft.Raft) bool {
	g, err := l.proposeReplicas(r)
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

func (l *live) proposeReplicas(r *raft.Raft) (proposedEntry, error) {
	settled, release := l.settle(r)
	defer release()
	if !settled {
		return proposedEntry{}, fmt.Errorf("what came before is not applied yet: %w", errAgain)
	}
	want := l.wanted(r)
	if want == nil {
		return proposedEntry{}, errors.New("the roster names nobody any more")
	}
	e := &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(l.m.cfg.Now()), Proposer: l.m.cfg.Node, Replicas: want}
	var err error
	l.fsm.read(func(s *machine.Machine) {
		if _, _, err = s.JudgeVerified(e, wire.SubmissionKey{}); err == nil {
			err = l.validateReplicas(s, want)
		}
	})
	if err != nil {
		return proposedEntry{}, err
	}
	return l.enqueueEntry(r, e, wire.SubmissionKey{})
}

// orderOwn orders an entry that this node creates, and reports whether it was accepted.
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

// wanted returns the replicas that placement chooses, or nil without a roster.
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
	// A new conversation has one voter, and stops without it: votes come before further learners.
	if up := l.promotable(r, want, voters, learners); len(up) > 0 {
		return l.change("make a voter", up[0], r, want, func(index uint64) raft.IndexFuture {
			return r.AddVoter(raft.ServerID(up[0]), raft.ServerAddress(up[0]), index, l.m.cfg.Timers.Call)
		})
	}
	have := append(slices.Clone(voters), learners...)
	catching := l.awaitsVotes(r, want, voters)
	if catching && len(want.Learners) > 0 {
		l.admitNew(ctx, r, want, have, want.Voters)
		return true
	}
	if l.admitNew(ctx, r, want, have, want.Voters, want.Learners) {
		return true
	}
	// Time may have passed while nodes were invited: no replica is removed because of an outdated placement.
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
	// With two of three votes, the loss of one node stops the conversation, so the third vote is not postponed.
	return l.dismiss(r, want, voters, learners) || catching
}

func without(list []wire.NodeID, n wire.NodeID) []wire.NodeID {
	return slices.DeleteFunc(slices.Clone(list), func(have wire.NodeID) bool { return have == n })
}

// carries reports whether a majority of these voters keeps up. A configuration without such a majority would end the
// conversation, so no change leads to it. Unreachable voters are removed first.
func (l *live) carries(r *raft.Raft, voters []wire.NodeID) bool {
	up := 0
	for _, n := range voters {
		if n == l.m.cfg.Node || l.level(r, n) {
			up++
		}
	}
	return up > len(voters)/2
}

// invitesAtOnce limits the concurrent invitations, and the changes of one step.
const invitesAtOnce = 16

// admitNew invites and adds nodes of the lists that lack a replica and can be reached, list by list; the lists are
// parts of want. It returns true if it has added nodes, and for a limited time if it may soon add some: a node whose
// supported rules are not known yet answers in the background.
func (l *live) admitNew(ctx context.Context, r *raft.Raft, want *wire.Replicas, have []wire.NodeID, lists ...[]wire.NodeID) (changed bool) {
	l.mu.Lock()
	before := l.missing
	l.mu.Unlock()
	var missing []wire.NodeID
	for _, list := range lists {
		var fresh, failed []wire.NodeID
		for _, n := range list {
			switch {
			case contains(have, n):
			case contains(before, n): // nodes that did not answer must not delay the others
				failed = append(failed, n)
			default:
				fresh = append(fresh, n)
			}
		}
		for chunk := range slices.Chunk(append(fresh, failed...), invitesAtOnce) {
			if changed { // the voters go first
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

// inviteAll invites nodes concurrently. It returns the nodes that now hold a replica, and the others.
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

// inviteLater schedules another invitation of nodes that were too busy: a sleeping conversation would otherwise
// invite them only with the next exchange of state. The pauses double, up to Timers.Exchange.
func (m *Manager) inviteLater(c *conversation) {
	if c.waiting.Swap(true) {
		return
	}
	wait := min(max(2*time.Duration(c.later.Load()), m.cfg.Timers.Claim), m.cfg.Timers.Exchange)
	c.later.Store(int64(wait))
	time.AfterFunc(wait, func() {
		c.waiting.Store(false)
		if held, err := m.find(c.id); err == nil && held == c {
			m.serve(c, "invite again", func(ctx context.Context) { m.repair(ctx, c) })
		}
	})
}

// doOrdered calls do, which begins a change of Raft's configuration towards want if want is not nil. It does not call
// do if the log orders something else by then.
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

// change makes one change of Raft's configuration towards want, based on the one that this leader knows, and waits
// until the change is applied. It does not wait for Raft's future; commit gives the reason.
func (l *live) change(what string, n wire.NodeID, r *raft.Raft, want *wire.Replicas, do func(index uint64) raft.IndexFuture) bool {
	term := r.CurrentTerm()
	var index uint64
	if !l.doOrdered(r, want, func() { index = l.configIndex(); do(index) }) {
		return false
	}
	// Raft counts an entry as applied a moment after the state machine has applied it: the next change needs both.
	for deadline := time.Now().Add(l.m.cfg.Timers.Call); l.configIndex() == index || !l.caughtUpAsLeader(r); {
		if r.State() != raft.Leader || r.CurrentTerm() != term || time.Now().After(deadline) || !pause(l.ctx, 2*time.Millisecond) {
			l.m.log.Debug("configuration not changed", "conversation", l.c.id, "change", what, "node", n)
			return false
		}
	}
	l.steps.Add(1)
	l.m.meter.forget(meterKey{n, l.c.id, meterUnrest}) // the node's term may come from its former part
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

// promotable returns learners that are to vote and have caught up. Their number is such that the number of voters is
// odd when all are in.
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
		up = up[:len(up)-1] // an even number of voters tolerates no more failures, and needs one more vote
	}
	return up
}

// enough reports whether the remaining voters are a majority of the wanted ones: then others may be removed.
func (l *live) enough(want *wire.Replicas, voters []wire.NodeID) bool {
	staying := 0
	for _, n := range want.Voters {
		if contains(voters, n) {
			staying++
		}
	}
	return staying > len(want.Voters)/2
}

// awaitsVotes reports whether nodes that are to vote are catching up. Further learners wait for them, because each
// change makes an entry that the catching-up nodes need too. The wait ends if for Timers.Call none of them has
// received a copy or a vote.
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

// dismiss removes the first replica that is no longer wanted, after it has received all entries, including the one
// that removes its organization, or after a time limit.
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
		if arrived := ok && ack.sentCommit >= r.CommitIndex(); !arrived && time.Since(since) < l.m.cfg.Timers.Farewell {
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
		l.m.notify(n, l.trans.frame(kindFarewell, nil))
		return true
	}
	return l.leaving(have)
}

// leaving reports whether the leader still waits for a removed replica.
func (l *live) leaving(have []wire.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.departed, func(n wire.NodeID, _ time.Time) bool { return !contains(have, n) })
	return len(l.departed) > 0
}

// mayInvite refuses a node that has not announced the level of this conversation's rules: the node could not read the
// state.
func (l *live) mayInvite(n wire.NodeID) error {
	var level uint8
	l.fsm.read(func(m *machine.Machine) { level = m.Level() })
	if level > wire.FirstLevel && !l.m.cfg.Roster.Announced(n, wire.LevelFeature(level)) {
		return wire.Errorf(wire.Unavailable, "invite", "%s has not announced %q: its build is older, or it has not answered yet", n, wire.LevelFeature(level))
	}
	return nil
}

// forget drops the state of a node that is no longer a replica.
func (a *acks) forget(n wire.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, n)
}
