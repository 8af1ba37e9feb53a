package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A received snapshot (intake.go) is compared with the entries that this replica has applied before Raft receives it.
// The state in the snapshot must continue the local one: its kept entries must include the last entry applied here,
// with the same order hash. If they do not reach that far back, replicas of other organizations are asked whether
// they have the same past.

var errDiverged = errors.New("does not continue what was applied here")

// incoming is a snapshot on its way into Raft.
type incoming struct {
	index, term uint64
	check       func() error // called on Raft's goroutine just before the snapshot takes effect
}

// installSnapshot gives a leader's snapshot to this replica.
func (m *Manager) installSnapshot(ctx context.Context, from wire.NodeID, req *snapshotRequest, conn io.Reader) ([]byte, error) {
	l, err := m.admit(from, req.Conversation, req.Generation, roleOfSnapshot)
	if err != nil {
		return nil, err
	}
	if req.Index == 0 || req.Index > maxIndex || req.IndexTerm == 0 || req.IndexTerm > req.Term || req.ConfigIndex > req.Index {
		return nil, m.refuse(from, l.c.id, RefusedSnapshot, wire.Errorf(wire.Malformed, "snapshot", "of entry %d in term %d, configuration of entry %d, sent in term %d",
			req.Index, req.IndexTerm, req.ConfigIndex, req.Term))
	}
	if err := l.checkTerm(from, req.Term); err != nil {
		return nil, err
	}
	if err := m.checkMemory(l.c); err != nil {
		return nil, err
	}
	if !l.c.installing.CompareAndSwap(false, true) {
		return nil, wire.Errorf(wire.Busy, "snapshot", "another snapshot of %v is being taken in", l.c.id)
	}
	defer l.c.installing.Store(false)
	// The sender is charged for the received data, and for the snapshot until it is installed.
	payer := m.payer(from.Organization())
	end, ok := m.intake.begin(from.Organization(), max(req.Size, 1), int64(m.cfg.Limits.Awake/4))
	if !ok {
		return nil, m.refuse(from, l.c.id, RefusedRate, wire.Errorf(wire.Busy, "snapshot", "%s sends too many snapshots at once: send it again later", from.Organization()))
	}
	defer end()
	if err := m.cfg.Account.Room(); err != nil {
		return nil, err
	}
	if err := m.cfg.Account.Charge(payer, StoredSnapshot, uint64(req.Size)); err != nil {
		return nil, err
	}
	defer m.cfg.Account.Release(payer, StoredSnapshot, uint64(req.Size))
	defer l.c.book.receiving(req.Index, req.IndexTerm, payer)()
	in := &spool{}
	if m.cfg.Dir != "" {
		in.dir = filepath.Join(m.cfg.Dir, "snapshots") // files that a crash leaves there are swept at the next start
	}
	defer in.drop()
	state, err := l.receiveState(in, req, conn)
	if err != nil {
		return nil, m.refuse(from, l.c.id, RefusedSnapshot, wire.Errorf(wire.Malformed, "snapshot", "%v", err))
	}
	if err := l.validateSnapshot(ctx, from, req, state); err != nil {
		return nil, err
	}
	if err := l.mayLead(from, req.Term); err != nil {
		return nil, err
	}
	// A snapshot that ends before the local log would take the state back. It agrees with the local state, so it
	// counts as installed.
	if req.Index <= l.floor() {
		return encodeVoteReply(max(req.Term, l.term()), req.Term >= l.term()), nil
	}
	content, err := in.content()
	if err != nil {
		return nil, err
	}
	return l.installInto(from, req, state, content)
}

// validateSnapshot compares an incoming state with the local one.
func (l *live) validateSnapshot(ctx context.Context, from wire.NodeID, req *snapshotRequest, state *machine.Machine) error {
	if req.Index > l.floor() {
		if err := l.validateSnapshotConfiguration(from, req, state); err != nil {
			return err
		}
	}
	if !l.m.holds(ruleApplied) {
		return nil
	}
	proven, err := l.continues(state, req.Index)
	if err != nil && !errors.Is(err, errDiverged) {
		return err
	}
	if err != nil {
		return l.m.handleContradiction(l.c, ReasonDiverged, RefusedDivergence, from, fmt.Errorf("snapshot from %s: %w", from, err))
	}
	if proven {
		return nil
	}
	return l.askForPast(ctx, from, state)
}

// continues compares a state, at an index of the log, with the local one. proven is false if the state keeps too few
// entries to prove it.
func (l *live) continues(state *machine.Machine, index uint64) (proven bool, err error) {
	var differs error
	if err := l.m.view(l.c, func(own *machine.Machine) {
		proven, differs = continues(own, state)
		if differs != nil && own.Sequence() > state.Sequence() && index <= l.floor() && !contradicts(own, state) {
			proven, differs = true, nil // an older state with the same history: nothing is taken from it
		}
	}); err != nil {
		return false, err
	}
	if aside := l.c.probation.Load(); differs == nil && aside != nil && state.Sequence() >= aside.Sequence {
		return hasPast(state, aside.Sequence, aside.Order)
	}
	return proven, differs
}

// continues reports whether next has own's past, and whether the entries that next keeps prove it.
func continues(own, next *machine.Machine) (bool, error) {
	if own.Sequence() == 0 {
		return false, nil
	}
	return hasPast(next, own.Sequence(), own.Order())
}

// hasPast reports whether a state has the order hash after entry seq.
func hasPast(s *machine.Machine, seq wire.SequenceNumber, order wire.Hash) (bool, error) {
	at, got := orderAt(s, seq)
	switch {
	case at < seq:
		return false, fmt.Errorf("state ends with entry %d, here %d entries are applied: %w", at, seq, errDiverged)
	case differ(order, got):
		return false, fmt.Errorf("order hash after entry %d is %v, here it is %v: %w", seq, got, order, errDiverged)
	}
	return got == order, nil
}

// contradicts reports whether an older state has another past than own.
func contradicts(own, older *machine.Machine) bool {
	_, at := orderAt(own, older.Sequence())
	return older.Sequence() > 0 && differ(at, older.Order())
}

// askForPast asks replicas of other organizations than the sender's and this node's whether they have the past of a
// state that does not prove it. Organizations are counted, so one liar decides nothing. If no third organization has
// a replica that understands the question, the state is accepted: with only one other organization, nobody else can
// be asked.
func (l *live) askForPast(ctx context.Context, from wire.NodeID, state *machine.Machine) error {
	m, c := l.m, l.c
	known, err := m.committed(c)
	if err != nil {
		return err
	}
	all := append(append([]wire.NodeID{}, known.voters...), known.learners...)
	if r, _ := state.Replicas(); r != nil { // a new replica knows no other nodes yet
		all = append(append(all, r.Voters...), r.Learners...)
	}
	if l.fresh() {
		all = append(all, l.rec.Load().Voters...)
	}
	var asked []wire.NodeID
	for _, n := range all {
		org := n.Organization()
		if org != from.Organization() && org != m.cfg.Node.Organization() && !contains(asked, n) && m.announced(n) {
			asked = append(asked, n)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	answers := m.askAll(asked, func(n wire.NodeID) witness {
		t, err := m.askTestimony(ctx, n, c, question{Sequence: state.Sequence(), Order: state.Order()})
		return witness{testimony: t, err: err}
	})
	same, other := make(map[wire.Domain]bool), make(map[wire.Domain]bool)
	for _, a := range answers {
		if a.err != nil || a.Out || a.Sequence == 0 || a.Generation != c.generation() {
			continue
		}
		switch at, got := orderAt(state, a.Sequence); {
		case at == a.Sequence && differ(got, a.Order):
			other[a.node.Organization()] = true
		case at == a.Sequence && got == a.Order && got != (wire.Hash{}):
			same[a.node.Organization()] = true
		}
	}
	switch {
	case len(other) > len(same):
		err := fmt.Errorf("snapshot from %s: %d other organizations have another past than its state: %w", from, len(other), errDiverged)
		return m.refuse(from, c.id, RefusedDivergence, wire.Errorf(wire.Invalid, "snapshot", "%v", err))
	case len(same) == 0 && !l.fresh():
		return m.refuse(from, c.id, RefusedSnapshot, wire.Errorf(wire.Unavailable, "snapshot",
			"the state does not reach back to what is here, and none of %v confirms its past yet: it is tried again", asked))
	}
	return nil
}

// fresh reports whether this replica was invited and knows of no committed entry yet.
func (l *live) fresh() bool { return l.rec.Load().fresh() && l.floor() == 0 }

// installInto gives the content to Raft. Raft's goroutine checks once more whether the snapshot still continues the
// local log.
func (l *live) installInto(from wire.NodeID, req *snapshotRequest, state *machine.Machine, content io.Reader) ([]byte, error) {
	if l.m.holds(ruleApplied) {
		l.store.incoming.Store(&incoming{index: req.Index, term: req.IndexTerm, check: func() error { return l.stillContinues(req.Index, state) }})
		defer l.store.incoming.Store(nil)
	}
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{RespChan: answer, Reader: content,
		Command: &raft.InstallSnapshotRequest{RPCHeader: header(from), SnapshotVersion: raft.SnapshotVersionMax, Term: req.Term,
			Leader: []byte(from), LastLogIndex: req.Index, LastLogTerm: req.IndexTerm,
			Configuration: req.Configuration, ConfigurationIndex: req.ConfigIndex, Size: req.Size}}
	select {
	case l.trans.rpcs <- rpc:
	case <-l.trans.ctx.Done():
		return nil, wire.Errorf(wire.Unavailable, "snapshot", "replica is shutting down")
	}
	select {
	case r := <-answer:
		resp, ok := r.Response.(*raft.InstallSnapshotResponse)
		if r.Error == nil {
			r.Error = l.store.settle()
		}
		if r.Error != nil || !ok {
			return nil, wire.Errorf(wire.Unavailable, "snapshot", "%v", r.Error)
		}
		return encodeVoteReply(resp.Term, resp.Success), nil
	case <-l.trans.ctx.Done():
		return nil, wire.Errorf(wire.Unavailable, "snapshot", "replica is shutting down")
	}
}

// stillContinues runs on Raft's goroutine, which accepts no entries meanwhile. It waits for committed entries that
// are still being applied.
func (l *live) stillContinues(index uint64, state *machine.Machine) error {
	floor := l.floor()
	if index < floor {
		return fmt.Errorf("snapshot of entry %d, the log is committed up to %d by now", index, floor)
	}
	if r := l.r.Load(); r != nil && r.CommitIndex() <= l.rec.Load().Applied {
		return nil // nothing has been committed since the replica was opened, and earlier entries have been compared
	}
	last := l.lastApplicable(floor)
	for end := time.Now().Add(l.m.cfg.Timers.Call); ; {
		l.fsm.mu.RLock()
		at, own := l.fsm.index, l.fsm.m
		var err error
		if at >= last {
			_, err = continues(own, state)
		}
		l.fsm.mu.RUnlock()
		switch {
		case at >= last && err != nil:
			l.store.rewritten(err)
			return err
		case at >= last:
			return nil
		case time.Now().After(end) || !pause(l.ctx, time.Millisecond):
			return fmt.Errorf("entries up to %d are not applied yet", last)
		}
	}
}

// lastApplicable returns the index of the last entry at or before index that reaches the state machine: Raft does not
// pass on its own entries.
func (l *live) lastApplicable(index uint64) uint64 {
	l.fsm.mu.RLock()
	applied := l.fsm.index
	l.fsm.mu.RUnlock()
	for ; index > applied; index-- {
		var e raft.Log
		if err := l.store.GroupLog.GetLog(index, &e); err != nil {
			return applied // the snapshot has the entry
		}
		if e.Type == raft.LogCommand || e.Type == raft.LogConfiguration {
			return index
		}
	}
	return index
}
