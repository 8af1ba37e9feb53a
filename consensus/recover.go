package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Recovery is for a conversation that has lost its quorum permanently. An operator starts it on one surviving node:
// this node's log becomes the conversation's log, and entries that only the lost nodes held are lost. The
// configuration enters a new generation with this node as its only voter. An entry in the log records the recovery
// for all to see. Nodes of the previous generation no longer take part; they are invited again.
//
// Recovery must not be done while a quorum lives elsewhere: two conversations would continue.

const recoveryPrefix = "recovery/"

func recoveryKey(id wire.ConversationID) []byte { return []byte(recoveryPrefix + string(id)) }

// recovery is a forced recovery that is not in the log yet: it is completed after a crash.
type recovery struct {
	Generation uint64        `cbor:"1,keyasint"` // the new generation
	Act        wire.Recovery `cbor:"2,keyasint"`
}

func (m *Manager) recoveryOf(id wire.ConversationID) *recovery {
	b, err := m.cfg.Log.Meta().Get(recoveryKey(id))
	if errors.Is(err, raftlog.ErrNotFound) {
		return nil
	}
	p := new(recovery)
	if err == nil {
		err = wire.Decode(b, maxRecordSize, p)
	}
	if err != nil {
		m.log.Error("recovery not read", "conversation", id, "error", err)
		return nil
	}
	return p
}

func (m *Manager) recovering(id wire.ConversationID) bool { return m.recoveryOf(id) != nil }

// Recover makes this node's log the conversation's log, with the operator's note as an entry. Recover is refused
// while a leader is known.
func (m *Manager) Recover(ctx context.Context, id wire.ConversationID, note string) error {
	if len(note) == 0 || len(note) > wire.MaxNote {
		return wire.Errorf(wire.Malformed, "recover", "note of %d bytes, wanted 1 to %d: the log keeps the note", len(note), wire.MaxNote)
	}
	c, err := m.find(id)
	if err != nil {
		return err
	}
	if l := c.awake(); l != nil && l.r.Load() != nil {
		if leader := l.leader(); leader != "" {
			return wire.Errorf(wire.Invalid, "recover", "%v has a leader, %s: nothing is lost", id, leader)
		}
		l.close(0, nil)
	}
	rec, err := m.readRecord(id)
	if err != nil {
		return err
	}
	if rec.Fenced {
		rec.Fenced = false // the operator has decided that this log is the conversation's
		if err := m.writeRecord(id, rec); err != nil {
			return err
		}
		c.out.Store(false)
	}
	if rec.Rejoin {
		return wire.Errorf(wire.Invalid, "recover", "node %s lost its own replica of %v: recover on another one", m.cfg.Node, id)
	}
	lost := rec.othersThan(m.cfg.Node)
	p := &recovery{Generation: rec.Generation + 1, Act: wire.Recovery{Lost: lost, Note: note}}
	b, err := wire.Encode(p)
	if err != nil {
		return err
	}
	if err := m.cfg.Log.Meta().Set(recoveryKey(id), b); err != nil {
		return fmt.Errorf("recover %v: %w", id, err)
	}
	m.log.Warn("conversation is recovered by force", "conversation", id, "generation", p.Generation, "lost", lost, "note", note)
	if _, err := m.wakeUp(ctx, c); err != nil {
		return err
	}
	for m.recovering(id) {
		if !pause(ctx, 5*time.Millisecond) {
			return wire.Errorf(wire.Unavailable, "recover", "%v: the act is not in the log yet (%v); it will be, when the node has elected itself", id, ctx.Err())
		}
	}
	return nil
}

// applyRecovery gives this replica its new configuration before Raft starts on it. It can be repeated.
func (l *live) applyRecovery() error {
	p := l.m.recoveryOf(l.c.id)
	if p == nil || l.rec.Load().Generation >= p.Generation {
		return nil
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(l.m.cfg.Node), Address: raft.ServerAddress(l.m.cfg.Node)}
	snaps := l.m.snaps.store(l.c.group)
	err := raft.RecoverCluster(l.m.raftConfig(l.c.id), l.m.newFSM(l.c.id), l.store, l.store, mendedSnapshots{snaps, p.Generation}, l.trans,
		raft.Configuration{Servers: []raft.Server{self}})
	if err == nil {
		err = l.mendTerm(snaps)
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	rec := *l.rec.Load()
	rec.Generation, rec.Voters, rec.Learners, rec.Leader, rec.ConfigIndex = p.Generation, []wire.NodeID{l.m.cfg.Node}, nil, l.m.cfg.Node, 1
	if list, err := l.m.snaps.store(l.c.group).List(); err == nil && len(list) > 0 {
		rec.Applied = list[0].Index // the whole log counts as committed from now on
	}
	if err := l.m.writeRecord(l.c.id, &rec); err != nil {
		return err
	}
	l.rec.Store(&rec)
	l.c.gen.Store(p.Generation)
	l.c.beginGeneration()
	l.m.forgetAsleep(l.c.id)
	return nil
}

// mendedSnapshots gives a genuine term to the snapshot with which a recovery begins. No other node has a part in the
// new generation, so this node may choose where its terms begin. An attack on an earlier build may have left a term
// that no election can follow; in that case the snapshot gets the next index, so that it is the newest.
type mendedSnapshots struct {
	raft.SnapshotStore
	term uint64
}

// Create begins a snapshot.
func (s mendedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if term > maxTerm {
		index, term = index+1, s.term
	}
	return s.SnapshotStore.Create(v, index, term, c, ci, t)
}

// mendTerm resets a current term that no election can follow to the term of the snapshot.
func (l *live) mendTerm(snaps raft.SnapshotStore) error {
	if l.term() <= maxTerm {
		return nil
	}
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return err
	}
	l.m.log.Warn("term is reset by the recovery", "conversation", l.c.id, "from", l.term(), "to", list[0].Term)
	return l.store.SetUint64([]byte(currentTerm), list[0].Term)
}

// beginGeneration drops the state of the previous generation.
func (c *conversation) beginGeneration() {
	c.confirmed.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.vouched, c.health, c.muted = nil, nil, nil, nil
}

// recordRecovery writes the operator's recovery into the log, which completes it.
func (l *live) recordRecovery(ctx context.Context, r *raft.Raft, p *recovery) bool {
	recorded := false
	l.fsm.read(func(m *machine.Machine) { recorded = m.Generation() >= p.Generation })
	if !recorded {
		voters, learners := splitServers(r.GetConfiguration().Configuration().Servers)
		if !l.orderOwn(ctx, "recovery", &wire.Entry{Replicas: &wire.Replicas{Generation: p.Generation, Voters: voters, Learners: learners, Recovery: &p.Act}}) {
			return false
		}
	}
	if err := l.m.cfg.Log.Meta().Delete(recoveryKey(l.c.id)); err != nil {
		l.m.log.Warn("recovery not closed; it is tried again", "conversation", l.c.id, "error", err)
		return false
	}
	return true
}

// noteRecovery raises an alarm if the log says that an operator has recovered the conversation, and no operator of
// this node did: any leader of a generation could write such an entry. An entry that is applied again after a start
// is old and raises no alarm.
func (l *live) noteRecovery(out machine.Outcome) {
	e, err := out.Committed.Open()
	if err != nil || e.Replicas == nil || e.Replicas.Recovery == nil || e.Proposer == l.m.cfg.Node {
		return
	}
	if _, raises := e.Replicas.RaisesTo(e.Replicas.Generation); raises {
		return
	}
	l.m.log.Warn("conversation was recovered by force on another node", "conversation", l.c.id, "node", e.Proposer, "note", e.Replicas.Recovery.Note)
	l.m.warn(l.c.id, RefusedGeneration, e.Proposer, fmt.Errorf("an operator of %s has recovered the conversation by force into generation %d, giving up %v: %q",
		e.Proposer, e.Replicas.Generation, e.Replicas.Recovery.Lost, e.Replicas.Recovery.Note))
}
