package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// A replica that gives way to a new generation follows the word of one node, if no node with better knowledge could
// be asked. A genuine recovery proves itself at once: its log contains the entries that the previous replica had
// applied. An invented recovery has no such proof. So while the new replica is on probation, voters that still live
// in the previous generation are counted: one that sends frames in it, and the others, which are then asked. Together
// with this node, if it had a vote, they may be a majority. In that case the previous generation has lost nothing,
// and this node returns to it.

// heardBefore records that a node sends frames in the generation of the replica that was set aside.
func (m *Manager) heardBefore(c *conversation, from wire.NodeID, generation uint64) {
	a := c.probation.Load()
	if a == nil || a.Generation != generation {
		return
	}
	rec, err := decodeRecord(a.Record)
	if err != nil || !contains(rec.Voters, from) || rec.Rejoin || rec.Fenced {
		return
	}
	if !contains(rec.Voters, m.cfg.Node) && !contains(rec.Learners, m.cfg.Node) {
		return
	}
	if m.livesBefore(c, a, rec, from) || !m.meter.take(meterKey{"", c.id, meterReturn}, 1, m.cfg.Timers.Call) {
		return
	}
	m.spawn(func(ctx context.Context) { // the other voters have no reason to send frames here, so they are asked
		defer m.quarantineOnPanic(c, "return", nil)
		others := without(without(rec.Voters, from), m.cfg.Node)
		for _, w := range m.askAll(others, func(n wire.NodeID) witness {
			if !m.announced(n) {
				return witness{err: errUnreachable}
			}
			t, err := m.askTestimony(ctx, n, c, question{})
			return witness{testimony: t, err: err}
		}) {
			if w.err == nil && !w.Out && w.Generation == generation {
				m.livesBefore(c, a, rec, w.node)
			}
		}
	})
}

// livesBefore counts a voter that lives in the previous generation, and returns to that generation if a majority
// does.
func (m *Manager) livesBefore(c *conversation, a *Aside, rec *record, voter wire.NodeID) (majority bool) {
	c.mu.Lock()
	if c.before == nil {
		c.before = make(map[wire.NodeID]bool)
	}
	c.before[voter] = true
	alive := len(c.before)
	c.mu.Unlock()
	if contains(rec.Voters, m.cfg.Node) {
		alive++
	}
	if alive <= len(rec.Voters)/2 {
		return false
	}
	if c.returning.CompareAndSwap(false, true) {
		if !m.spawn(func(ctx context.Context) {
			defer c.returning.Store(false)
			defer m.quarantineOnPanic(c, "return", nil)
			if err := m.returnTo(c, a, rec); err != nil {
				m.log.Warn("this node does not return to the generation before; it is tried again", "conversation", c.id, "error", err)
				pause(ctx, m.cfg.Timers.Call)
			}
		}) {
			c.returning.Store(false)
		}
	}
	return true
}

// returnTo replaces a replica that is on probation by the replica that was set aside for it.
func (m *Manager) returnTo(c *conversation, a *Aside, old *record) error {
	left, err := c.leave()
	if !left {
		return err
	}
	if c.probation.Load() != a {
		c.stay()
		return wire.Errorf(wire.Busy, "return", "the replica of %v has proven itself meanwhile", c.id)
	}
	var inviter wire.Domain
	if rec, err := m.readRecord(c.id); err == nil {
		inviter = rec.Inviter
	}
	err = m.cfg.Log.Meta().Apply(raftlog.MetaChange{Key: recordKey(c.id), Value: a.Record},
		raftlog.MetaChange{Key: asideKey(a.Group, a.ID), Delete: true}, raftlog.MetaChange{Key: sizeKey(c.id), Delete: true})
	if err != nil {
		c.stay()
		return fmt.Errorf("return to generation %d of %v: %w", a.Generation, c.id, err)
	}
	m.log.Warn("this node returns to the generation before: a majority of its voters lives in it, and the new one has proven nothing",
		"conversation", c.id, "generation", a.Generation, "left", c.generation())
	m.forgetAsleep(c.id)
	if err := errors.Join(m.cfg.Log.Drop(c.group), m.snaps.drop(c.group)); err != nil {
		m.log.Warn("what the replica on probation held is not deleted; the next start deletes it", "conversation", c.id, "error", err)
	}
	c.book.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asides[a.ID] = slices.DeleteFunc(m.asides[a.ID], func(b *Aside) bool { return b == a })
	if len(m.asides[a.ID]) == 0 {
		delete(m.asides, a.ID)
	}
	m.unlistLocked(c, inviter, true)
	back := m.add(a.ID, old)
	back.book.log.Store(a.Log)
	back.book.snapshot.Store(a.snapshot)
	m.pump.mark(a.ID)
	return nil
}

// stay undoes leave.
func (c *conversation) stay() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = false
}
