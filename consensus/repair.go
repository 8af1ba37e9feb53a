package consensus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// A replica with damaged records has lost entries that it may have acknowledged. It must not vote, and it must not
// serve requests. If its own snapshot covers the damage, the damaged part of the log is cut off. Otherwise its data
// is deleted, the other replicas remove it from the configuration, and the leader invites it again as a learner.

// repairDamage starts the repair of c, once.
func (m *Manager) repairDamage(c *conversation, cause error) {
	m.log.Error("replica is damaged", "conversation", c.id, "error", cause)
	m.serve(c, "repair", func(ctx context.Context) {
		if l := c.awake(); l != nil && l.r.Load() != nil {
			l.close(0, nil)
		}
		covered, err := false, error(nil)
		if m.snapshotDamage(c) == nil {
			covered, err = m.cutDamage(c)
		}
		if err == nil && !covered {
			err = m.giveUp(ctx, c)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Error("replica not repaired", "conversation", c.id, "error", err)
		}
	})
}

// snapshotDamage returns the damage in the content of the newest snapshot. It returns nil also if the disk could not
// be read at all.
func (m *Manager) snapshotDamage(c *conversation) (err error) {
	defer m.quarantineOnPanic(c, "read", &err)
	_, err = m.restoreLatest(c, m.newFSM(c.id))
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return nil
	}
	return err
}

// cutDamage removes the damaged entries if the newest snapshot covers them.
func (m *Manager) cutDamage(c *conversation) (bool, error) {
	log := m.cfg.Log.Group(c.group)
	var damage *raftlog.DamageError
	if err := log.Verify(); !errors.As(err, &damage) {
		return err == nil, err
	}
	last := damage.Indexes[len(damage.Indexes)-1]
	from, err := m.restoreLatest(c, m.newFSM(c.id))
	if err != nil || damage.Indexes[0] == 0 || last > from {
		return false, nil
	}
	first, err := log.FirstIndex()
	if err != nil {
		return false, nil
	}
	m.log.Info("damaged entries cut off: the snapshot covers them", "conversation", c.id, "entries", len(damage.Indexes))
	return true, log.DeleteRange(first, last)
}

// giveUp deletes the replica's data, but not its record, and asks the others for a new replica.
func (m *Manager) giveUp(ctx context.Context, c *conversation) error {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return err
	}
	others := rec.othersThan(m.cfg.Node)
	if len(others) == 0 {
		return fmt.Errorf("node %s is the only voter: restore the node's disk from a backup", m.cfg.Node)
	}
	if !rec.Rejoin {
		rec.Rejoin, rec.Applied, rec.Sequence = true, 0, 0
		if err := m.writeRecord(c.id, rec); err != nil { // first: no vote from here on
			return err
		}
		c.out.Store(true)
	}
	m.forgetAsleep(c.id)
	c.checked.reset()
	if err := errors.Join(m.cfg.Log.Drop(c.group), m.snaps.drop(c.group)); err != nil {
		return err
	}
	c.book.close()
	return m.askToRejoin(ctx, c, others)
}

// outOfService returns the error of a replica that must not answer for its conversation.
func (m *Manager) outOfService(op string, c *conversation) error {
	if rec, err := m.readRecord(c.id); err == nil && rec.Fenced {
		return wire.Errorf(wire.Unavailable, op, "node %s was restored from a backup and held the only vote of %v: recover it on the node that knows most of it, one of %v or this one",
			m.cfg.Node, c.id, rec.Learners)
	}
	return wire.Errorf(wire.Unavailable, op, "node %s lost its replica of %v and waits for a new invitation", m.cfg.Node, c.id)
}

// askToRejoin repeats its request to the other replicas until the leader has received it.
func (m *Manager) askToRejoin(ctx context.Context, c *conversation, voters []wire.NodeID) error {
	for c.out.Load() {
		for _, n := range voters {
			_, err := m.mesh.askFor(ctx, n, &frame{kind: kindRejoin, generation: c.generation(), conversation: c.id}, 3*m.cfg.Timers.Call)
			if err == nil {
				return nil
			}
			m.log.Debug("not yet taken out", "conversation", c.id, "peer", n, "error", err)
		}
		if !pause(ctx, m.cfg.Timers.Repair) {
			return ctx.Err()
		}
	}
	return nil
}

// receiveRejoin removes a node that lost its log from the configuration. A nil error means that the removal is
// committed; placement invites the node again.
func (m *Manager) receiveRejoin(ctx context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	c, err := m.find(f.conversation)
	if err != nil {
		return nil, err
	}
	m.noteLost(c, from)
	if s, err := m.replicaStatus(c); err == nil && s.NeedsRecovery() {
		return nil, wire.Errorf(wire.NoQuorum, "rejoin", "no majority of the voters of %v has its log: an operator has to recover it", c.id)
	}
	var seen uint64
	if l := c.awake(); l != nil && l.r.Load() != nil {
		seen = l.configIndex()
	}
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.Timers.Call)
	defer cancel()
	if err := m.Wake(ctx, c.id); err != nil {
		return nil, err
	}
	l, release := c.use()
	if l == nil {
		return nil, errAsleep()
	}
	defer release()
	if !l.leads() {
		return nil, &wire.Error{Code: codeNotLeader, Op: "rejoin"}
	}
	if seen == 0 {
		seen = l.configIndex()
	}
	if l.expelling.CompareAndSwap(false, true) {
		defer l.expelling.Store(false)
	} else {
		seen = 0 // the removal is in progress
	}
	if !l.expel(from, seen) {
		return nil, wire.Errorf(wire.Busy, "rejoin", "%v's configuration could not be changed: try again", c.id)
	}
	c.mu.Lock()
	delete(c.lost, from)
	c.mu.Unlock()
	return nil, nil
}

// expel removes a node that lost its log from the configuration; placement invites it again. seen is the index of the
// configuration in which the node reported its loss: by the time of a later configuration the node may have a log
// again.
func (l *live) expel(n wire.NodeID, seen uint64) bool {
	r := l.r.Load()
	if l.configIndex() != seen {
		return false
	}
	if !l.change("remove, its log is lost", n, r, nil, func(index uint64) raft.IndexFuture {
		return r.RemoveServer(raft.ServerID(n), index, l.m.cfg.Timers.Call)
	}) {
		return false
	}
	l.trans.acks.forget(n)
	l.used.Store(time.Now().UnixNano())
	l.wakeLoop()
	return true
}

// handleWiped handles a member's answer that it holds no replica: its disk was lost together with the record of the
// replica. The member cannot ask for its removal, so the leader removes it.
func (l *live) handleWiped(n wire.NodeID) {
	r := l.r.Load()
	if r == nil || !l.leads() || !l.configured(n) || !l.expelling.CompareAndSwap(false, true) {
		return
	}
	seen := l.configIndex()
	started := l.m.serve(l.c, "expel", func(context.Context) {
		defer l.expelling.Store(false)
		l.m.log.Warn("member holds no replica any more: the member is removed and invited again", "conversation", l.c.id, "node", n)
		l.expel(n, seen)
	})
	if !started {
		l.expelling.Store(false)
	}
}

// resumeRejoins continues the rejoins that were in progress when the node stopped.
func (m *Manager) resumeRejoins() {
	for _, c := range m.served() {
		if c.out.Load() {
			m.serve(c, "rejoin", func(ctx context.Context) {
				if rec, err := m.readRecord(c.id); err == nil && rec.Fenced {
					m.log.Error("replica is out of service", "conversation", c.id, "error", m.outOfService("restore", c))
					m.reportLoss(ctx, c, rec.Learners)
					return
				}
				if err := m.giveUp(ctx, c); err != nil && ctx.Err() == nil {
					m.log.Error("replica not repaired", "conversation", c.id, "error", err)
				}
			})
		}
	}
}
