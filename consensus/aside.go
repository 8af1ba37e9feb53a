package consensus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Nothing is deleted on the word of one node. A replica may have to give way: to a new generation of the
// configuration, to a dismissal that its own log does not contain, or to another claim to its id. Its log and its
// snapshot then stay on disk under the number of their group, and a record says what they belong to.
//
// A replica of a new generation is then on probation: it delivers nothing until its log has the order hash that the
// previous replica applied last. Only then is the previous replica deleted. If the new replica has another hash, the
// conversation goes into quarantine, and both replicas are kept for the operator.

const asidePrefix = "aside/"

// Aside is a kept replica that gave way to another one.
type Aside struct {
	Group      uint32              `cbor:"1,keyasint"`
	ID         wire.ConversationID `cbor:"2,keyasint"`
	Generation uint64              `cbor:"3,keyasint"`
	Sequence   wire.SequenceNumber `cbor:"4,keyasint"` // the last entry that it applied
	Order      wire.Hash           `cbor:"5,keyasint"`
	Since      wire.Time           `cbor:"6,keyasint"`
	Why        string              `cbor:"7,keyasint"`
	Record     []byte              `cbor:"8,keyasint"`           // the record at that time
	Probation  bool                `cbor:"9,keyasint,omitempty"` // the replacing replica has to continue this one
	Expires    bool                `cbor:"10,keyasint,omitempty"`
	Log        uint64              `cbor:"11,keyasint,omitempty"` // bytes of its log, as charged

	payer    wire.Domain // charged while the replica is kept
	snapshot uint64      // bytes of its snapshot
}

// maxAsides is the number of replicas of one conversation that are kept in addition to the served one.
const maxAsides = 4

// asideLife is the time for which a replica is kept that several organizations have dismissed.
const asideLife = 30 * 24 * time.Hour

const maxAsideRecord = maxRecordSize + 4096

func asideKey(group uint32, id wire.ConversationID) []byte {
	key := binary.BigEndian.AppendUint32([]byte(asidePrefix), group)
	return append(key, id...)
}

// loadAsides reads the kept replicas and charges for them. The conversations are already loaded.
func (m *Manager) loadAsides(used map[uint32]bool, snapshots map[uint32]uint64) error {
	return m.cfg.Log.Meta().Scan([]byte(asidePrefix), func(key, value []byte) error {
		a := new(Aside)
		if err := wire.Decode(value, maxAsideRecord, a); err != nil {
			return fmt.Errorf("replica set aside: %w", err)
		}
		rec, err := decodeRecord(a.Record)
		if err != nil {
			return fmt.Errorf("replica set aside of %v: %w", a.ID, err)
		}
		a.payer, a.snapshot = m.payer(rec.Inviter), snapshots[a.Group]
		m.cfg.Account.Adopt(a.payer, StoredLog, a.Log)
		m.cfg.Account.Adopt(a.payer, StoredSnapshot, a.snapshot)
		used[a.Group] = true
		m.next = max(m.next, a.Group+1)
		m.asides[a.ID] = append(m.asides[a.ID], a)
		if c := m.conversations[a.ID]; c != nil && a.Probation {
			c.probation.Store(a)
		}
		return nil
	})
}

// asidesOf lists the kept replicas of a conversation that gave way.
func (m *Manager) asidesOf(id wire.ConversationID) []Aside {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Aside
	for _, a := range m.asides[id] {
		list = append(list, *a)
	}
	return list
}

// AllAsides lists the kept replicas that gave way, of all conversations. The replicas of one conversation are
// together, in the order in which they gave way.
func (m *Manager) AllAsides() []Aside {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Aside
	for _, id := range slices.Sorted(maps.Keys(m.asides)) {
		for _, a := range m.asides[id] {
			list = append(list, *a)
		}
	}
	return list
}

// Bytes returns the size of the kept replica on disk, as charged.
func (a *Aside) Bytes() uint64 { return a.Log + a.snapshot }

// Ends returns the time at which the kept replica is deleted automatically, or zero if only an operator deletes it.
func (a *Aside) Ends() time.Time {
	if !a.Expires {
		return time.Time{}
	}
	return a.Since.Std().Add(asideLife)
}

// moveAside takes this replica out of service and keeps its data.
func (m *Manager) moveAside(c *conversation, why string, probation, expires bool) error {
	m.mu.Lock()
	kept := len(m.asides[c.id])
	m.mu.Unlock()
	if kept >= maxAsides {
		return wire.Errorf(wire.Quota, "invite", "node %s keeps %d replicas of %v already: its operator has to look at them", m.cfg.Node, kept, c.id)
	}
	a := &Aside{Group: c.group, ID: c.id, Since: wire.TimeOf(m.cfg.Now()), Why: why, Expires: expires}
	if err := m.viewAny(c, func(s *machine.Machine) { a.Sequence, a.Order = s.Sequence(), s.Order() }); err != nil {
		if !c.out.Load() {
			return err
		}
	}
	a.Probation = probation && a.Sequence > 0
	return m.retire(c, why, a)
}

// keepAside replaces the record by one that describes the kept replica, in one write.
func (m *Manager) keepAside(c *conversation, a *Aside) error {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return err
	}
	a.Generation = rec.Generation
	a.payer, a.Log, a.snapshot = c.book.payer, c.book.log.Load(), c.book.snapshot.Load()
	if a.Record, err = wire.Encode(rec); err != nil {
		return err
	}
	b, err := wire.Encode(a)
	if err != nil {
		return err
	}
	if err := m.cfg.Log.Meta().Apply(raftlog.MetaChange{Key: asideKey(a.Group, a.ID), Value: b}, raftlog.MetaChange{Key: recordKey(c.id), Delete: true}, raftlog.MetaChange{Key: sizeKey(c.id), Delete: true}); err != nil {
		return fmt.Errorf("set %v aside: %w", c.id, err)
	}
	m.mu.Lock()
	m.asides[c.id] = append(m.asides[c.id], a)
	m.mu.Unlock()
	return nil
}

// DropAside deletes a kept replica that gave way. It is for operators. The replacing replica then has nothing to
// prove.
func (m *Manager) DropAside(id wire.ConversationID, group uint32) error {
	m.mu.Lock()
	at := slices.IndexFunc(m.asides[id], func(a *Aside) bool { return a.Group == group })
	if at < 0 {
		m.mu.Unlock()
		return wire.Errorf(wire.Invalid, "drop", "node %s keeps no replica of %v under number %d", m.cfg.Node, id, group)
	}
	gone := m.asides[id][at]
	m.asides[id] = slices.Delete(m.asides[id], at, at+1)
	if len(m.asides[id]) == 0 {
		delete(m.asides, id)
	}
	m.mu.Unlock()
	err := m.cfg.Log.Meta().Delete(asideKey(group, id))
	if err == nil {
		err = errors.Join(m.cfg.Log.Drop(group), m.snaps.drop(group))
	}
	if err != nil {
		return fmt.Errorf("drop what is kept of %v: %w", id, err)
	}
	m.cfg.Account.Release(gone.payer, StoredLog, gone.Log)
	m.cfg.Account.Release(gone.payer, StoredSnapshot, gone.snapshot)
	m.mu.Lock()
	m.free = append(m.free, group)
	c := m.conversations[id]
	m.mu.Unlock()
	if c != nil && c.probation.CompareAndSwap(gone, nil) {
		m.pump.mark(id)
	}
	return nil
}

// prove checks, after each entry, whether the log has reached the end of the previous replica.
func (l *live) prove() {
	a := l.c.probation.Load()
	if a == nil {
		return
	}
	var proven, reached bool
	var err error
	l.fsm.read(func(s *machine.Machine) {
		if reached = s.Sequence() >= a.Sequence; reached {
			proven, err = hasPast(s, a.Sequence, a.Order)
		}
	})
	switch {
	case err != nil:
		_ = l.m.distrust(l.c, ReasonDiverged, RefusedDivergence, l.leader(), fmt.Errorf("generation %d does not continue generation %d: %w", l.c.generation(), a.Generation, err))
	case reached && l.c.probation.CompareAndSwap(a, nil):
		l.m.serve(l.c, "end a probation", func(context.Context) { l.m.endProbation(l.c, a, proven) })
	}
}

// endProbation deletes the previous replica if the log is proven to continue it. If only other nodes have confirmed
// that, because the entries that show it are no longer kept, the previous replica stays.
func (m *Manager) endProbation(c *conversation, a *Aside, proven bool) {
	m.pump.mark(c.id)
	if !proven {
		b := *a
		b.Probation = false
		if v, err := wire.Encode(&b); err == nil {
			err = m.cfg.Log.Meta().Set(asideKey(a.Group, a.ID), v)
			if err != nil {
				m.log.Warn("end of a probation not written: it begins again with the next start", "conversation", c.id, "error", err)
			}
		}
		return
	}
	m.log.Info("new generation continues what was applied here", "conversation", c.id, "generation", c.generation(), "entry", a.Sequence)
	if err := m.DropAside(c.id, a.Group); err != nil {
		m.log.Warn("replica of the generation before not deleted", "conversation", c.id, "error", err)
	}
}

// sweepAsides deletes replicas that several organizations have dismissed, after asideLife.
func (m *Manager) sweepAsides(ctx context.Context) {
	for pause(ctx, time.Hour) {
		before := wire.TimeOf(m.cfg.Now().Add(-asideLife))
		var old []Aside
		m.mu.Lock()
		for _, list := range m.asides {
			for _, a := range list {
				if a.Expires && a.Since < before {
					old = append(old, *a)
				}
			}
		}
		m.mu.Unlock()
		for _, a := range old {
			if err := m.DropAside(a.ID, a.Group); err != nil {
				m.log.Warn("replica set aside not deleted", "conversation", a.ID, "error", err)
			}
		}
	}
}

// maxGenerations is the number of recoveries that a node may have missed.
const maxGenerations = 64

// contradicts reports whether this replica has better knowledge than a node which says that an operator's recovery
// began a new generation: the previous generation is alive here, and this node was present to see it. This node was
// present if the other node has sent frames in the previous generation since this one started, if an entry has been
// made since, or if this node has been up for long.
func (m *Manager) contradicts(c *conversation, who wire.NodeID, generation uint64) bool {
	if c.generation() >= generation || c.out.Load() || c.refused("testify") != nil {
		return false
	}
	c.mu.Lock()
	seen := c.seen[who]
	c.mu.Unlock()
	if !seen && m.cfg.Now().Sub(m.began) < m.cfg.Timers.Lost && !m.livedSince(c, m.began) {
		return false
	}
	l := c.awake()
	// A sleeping conversation fell asleep in order. An election takes a moment, and a hostile voter can cause one.
	return l == nil || l.leader() != "" || time.Since(time.Unix(0, c.led.Load())) < leaderless
}

// noteLeader records when this replica knew a leader.
func (c *conversation) noteLeader(known bool) {
	if known {
		c.led.Store(time.Now().UnixNano())
	}
}

// leaderless is the time for which a conversation without a leader still counts as alive.
const leaderless = 30 * time.Second

// livedSince reports whether an entry was made after since.
func (m *Manager) livedSince(c *conversation, since time.Time) bool {
	last, err := m.readKept(c, m.view, func(s *machine.Machine) machine.EntryRange {
		kept, _ := s.Entries(max(s.Sequence(), 1)-1, 1, 0)
		return kept
	})
	if err != nil || len(last) == 0 {
		return false
	}
	e, err := last[0].Open()
	return err == nil && e.Time > wire.TimeOf(since)
}

// mayFollow decides whether this replica gives way to a new generation.
//
// A recovery is for a conversation that has lost its quorum, so a quorum cannot be asked for its consent. It is
// possible only to ask whether a node contradicts. A replica that holds the only vote follows nobody: its
// conversation has lost nothing while this replica exists.
func (m *Manager) mayFollow(ctx context.Context, c *conversation, from wire.NodeID, generation uint64) error {
	if !m.holds(ruleAside) {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return m.refuse(from, c.id, RefusedGeneration, wire.Errorf(wire.Invalid, "invite",
			"generation %d of %v by %s is not followed: %s", generation, c.id, from, fmt.Sprintf(format, args...)))
	}
	known, err := m.committed(c)
	switch {
	case err != nil:
		return err
	case generation > c.generation()+maxGenerations:
		return refuse("it is more than %d ahead of generation %d", maxGenerations, c.generation())
	case c.out.Load():
	case len(known.voters) == 1 && known.voters[0] == m.cfg.Node:
		return refuse("this node holds the only vote and nobody else can be asked; recover the conversation here, or drop it here")
	case m.contradicts(c, from, generation):
		return refuse("the generation before lives here")
	}
	var asked []wire.NodeID
	for _, n := range known.voters {
		if n != m.cfg.Node && n.Organization() != from.Organization() && m.announced(n) {
			asked = append(asked, n)
		}
	}
	for _, a := range m.askAll(asked, func(n wire.NodeID) witness {
		t, err := m.askTestimony(ctx, n, c, question{About: from, Claim: generation})
		return witness{testimony: t, err: err}
	}) {
		if a.err == nil && a.Contradicts {
			return refuse("%s contradicts", a.node)
		}
	}
	return nil
}
