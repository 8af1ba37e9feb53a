package consensus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// A voter that leads can still tell two followers two futures: each sees a genuine log. The two notice when
// they compare order hashes. So each replica asks one of another organization now and then, while entries
// come, what its order hash is. A peer's word proves nothing: a difference raises an alarm that names the
// peer, and the others are asked. Only where more organizations contradict this replica than agree with it,
// its conversation goes into quarantine.
//
// Order hashes alone do not tell a replica that lags behind from one to which an entry was never shown. So the last
// entry's place in Raft's log is compared too: what is committed there is one entry, or none yet. And a replica that has
// applied the log as far as another one has as many entries: a voter that votes twice in a term makes two leaders, whose
// logs have the same terms, so that what follows fits both.

// compareRounds is with how many replicas a conversation is compared after it has got on: one may be the liar's own.
const compareRounds = 3

// compareWorkers is the number of conversations that are compared at once.
const compareWorkers = 16

// compareLoop compares the conversations that have got on.
func (m *Manager) compareLoop(ctx context.Context) {
	if !m.holds(ruleCompare) {
		return
	}
	for pause(ctx, m.cfg.Timers.Compare) {
		work := make(chan *conversation)
		var workers sync.WaitGroup
		due := m.compared.take()
		for range min(compareWorkers, len(due)) {
			workers.Go(func() {
				for c := range work {
					m.compareWithNext(ctx, c)
				}
			})
		}
		for _, id := range due {
			if c, err := m.find(id); err == nil {
				work <- c
			}
		}
		close(work)
		workers.Wait()
	}
}

// compareWithNext compares with the next replica of another organization, in turn.
func (m *Manager) compareWithNext(ctx context.Context, c *conversation) {
	defer m.caught(c, "compare", nil)
	peers := m.witnesses(c, "")
	if len(peers) == 0 {
		return
	}
	at := int(c.turn.Add(1)) % len(peers)
	m.compareWith(ctx, c, peers[at])
	if c.rounds.Add(-1) > 0 {
		m.compared.mark(c.id)
	}
}

// gotOn has a conversation compared that has applied an entry.
func (m *Manager) gotOn(c *conversation) {
	c.rounds.Store(compareRounds)
	m.compared.mark(c.id)
}

// Doubt compares a conversation with the replicas of one organization at once: what it brought does not fit what is
// here. Once in Timers.Compare is enough. It does not block.
func (m *Manager) Doubt(id wire.ConversationID, org wire.Domain) {
	c, err := m.find(id)
	if err != nil || !m.meter.take(meterKey{wire.NodeID(org), id, meterDoubt}, 1, m.cfg.Timers.Compare) {
		return
	}
	m.serve(c, "compare", func(ctx context.Context) {
		for range 8 { // after a start, what other nodes understand is asked in the background
			of := slices.DeleteFunc(m.witnesses(c, ""), func(n wire.NodeID) bool { return n.Organization() != org })
			for _, n := range of {
				m.compareWith(ctx, c, n)
			}
			if len(of) > 0 || !pause(ctx, m.cfg.Timers.Call/8) {
				return
			}
		}
	})
}

// witnesses are the members of other organizations that can be asked, without one node.
func (m *Manager) witnesses(c *conversation, but wire.NodeID) []wire.NodeID {
	known, err := m.committed(c)
	if err != nil {
		return nil
	}
	var list []wire.NodeID
	for _, n := range append(append([]wire.NodeID{}, known.voters...), known.learners...) {
		if n != but && n.Organization() != m.cfg.Node.Organization() && m.announced(n) {
			list = append(list, n)
		}
	}
	return list
}

// compareWith asks one node, and looks into a difference.
func (m *Manager) compareWith(ctx context.Context, c *conversation, n wire.NodeID) {
	seq, own, at, err := m.placeOf(c)
	if err != nil || seq == 0 {
		return
	}
	index, content := m.lastCommand(c)
	t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own, Index: index, At: at})
	if err != nil || t.Out || t.Sequence == 0 || t.Generation != c.generation() {
		return
	}
	if lacks(t.Sequence, t.At, seq, at) {
		m.differs(ctx, c, n, differentCount(n, t.Sequence, t.At, seq, at))
		return
	}
	if differ(content, t.Content) {
		m.differs(ctx, c, n, fmt.Errorf("entry %d of the log is %v at %s, here it is %v: %w", index, t.Content, n, content, errDiverged))
		return
	}
	if here := m.orderHere(c, t.Sequence); differ(here, t.Order) {
		m.differs(ctx, c, n, differentOrder(n, t.Sequence, t.Order, here))
	}
}

// lacks reports whether a replica that has applied the log up to one place has fewer entries than another one had there.
// A place of 0 is not known.
func lacks(seq wire.SequenceNumber, at uint64, than wire.SequenceNumber, there uint64) bool {
	return there > 0 && at >= there && seq < than
}

func differentCount(peer wire.NodeID, seq wire.SequenceNumber, at uint64, own wire.SequenceNumber, here uint64) error {
	return fmt.Errorf("%s has %d entries up to place %d of the log, here there are %d up to place %d: %w", peer, seq, at, own, here, errDiverged)
}

func differentOrder(peer wire.NodeID, seq wire.SequenceNumber, theirs, own wire.Hash) error {
	return fmt.Errorf("order hash after entry %d is %v at %s, here it is %v: %w", seq, theirs, peer, own, errDiverged)
}

// lastSought is how far back the last entry is sought behind those of Raft's own, one a leader.
const lastSought = 256

// lastCommand is the place of the last entry in Raft's log that is committed and goes to the state machine, with its
// digest; 0 where it is not kept.
func (m *Manager) lastCommand(c *conversation) (index uint64, content wire.Hash) {
	at := m.floorOf(c)
	for index = at; index > 0 && at-index < lastSought; index-- {
		var e raft.Log
		if err := m.cfg.Log.Group(c.group).GetLog(index, &e); err != nil {
			return 0, wire.Hash{}
		}
		if e.Type == raft.LogCommand {
			return index, entryDigest(&e)
		}
	}
	return 0, wire.Hash{}
}

func (m *Manager) orderOf(c *conversation) (seq wire.SequenceNumber, order wire.Hash, err error) {
	seq, order, _, err = m.placeOf(c)
	return seq, order, err
}

// placeOf is the last entry, its order hash, and up to which place of Raft's log they were found.
func (m *Manager) placeOf(c *conversation) (seq wire.SequenceNumber, order wire.Hash, at uint64, err error) {
	if err := c.refused("read"); err != nil {
		return 0, order, 0, err
	}
	err = m.lookAt(c, func(s *machine.Machine, applied uint64) { seq, order, at = s.Sequence(), s.Order(), applied })
	return seq, order, at, err
}

// orderHere is the order hash after an entry; zero where it is no longer kept, or not there yet.
func (m *Manager) orderHere(c *conversation, seq wire.SequenceNumber) (order wire.Hash) {
	if err := m.view(c, func(s *machine.Machine) {
		if at, h := orderAt(s, seq); at == seq {
			order = h
		}
	}); err != nil {
		return wire.Hash{}
	}
	return order
}

// differs hears that a peer has, or says that it has, another history than this replica. err says where.
func (m *Manager) differs(ctx context.Context, c *conversation, peer wire.NodeID, err error) {
	if !m.holds(ruleCompare) || !m.meter.take(meterKey{peer, c.id, meterCompare}, 1, refusalPause) {
		return
	}
	_ = m.refuse(peer, c.id, RefusedDivergence, err)
	m.warn(c.id, RefusedDivergence, peer, err)
	seq, own, at, viewErr := m.placeOf(c)
	if viewErr != nil {
		return
	}
	same, other := m.poll(ctx, c, peer, seq, own, at)
	other[peer.Organization()] = true
	if len(other) > len(same)+1 { // this organization is of its own opinion
		_ = m.distrust(c, ReasonDiverged, RefusedDivergence, peer, fmt.Errorf("%d other organizations against %d: %w", len(other), len(same), err))
	}
}

// poll asks the replicas of other organizations, without one node, whether they have the same order hash.
func (m *Manager) poll(ctx context.Context, c *conversation, but wire.NodeID, seq wire.SequenceNumber, own wire.Hash, at uint64) (same, other map[wire.Domain]bool) {
	same, other = make(map[wire.Domain]bool), make(map[wire.Domain]bool)
	index, content := m.lastCommand(c)
	for _, a := range m.askAll(m.witnesses(c, but), func(n wire.NodeID) witness {
		t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own, Index: index, At: at})
		return witness{testimony: t, err: err}
	}) {
		if a.err != nil || a.Out || a.Sequence == 0 || a.Generation != c.generation() {
			continue
		}
		switch here := m.orderHere(c, a.Sequence); { // a replica that lags behind is compared where it is
		case differ(a.Order, here), differ(a.Content, content), lacks(a.Sequence, a.At, seq, at):
			other[a.node.Organization()] = true
		case a.Order == here && here != (wire.Hash{}):
			same[a.node.Organization()] = true
		}
	}
	return same, other
}

// muteLife is for how long a node that contradicted what is here does not lead or get a vote here.
const muteLife = 10 * time.Minute

// contradicted refuses what a leader sent, because it contradicts what was applied here, and finds out which of the
// two is wrong. Where a replica of a third organization has what is here, and no more are with the sender, the
// sender is: the conversation goes on without its lead. Otherwise it goes into quarantine: nobody else can be
// asked, or this replica is the one that was told another future.
func (m *Manager) contradicted(c *conversation, reason Reason, why Refusal, from wire.NodeID, err error) error {
	_ = m.refuse(from, c.id, why, err)
	m.warn(c.id, why, from, err)
	if m.meter.take(meterKey{from, c.id, meterPoll}, 1, m.cfg.Timers.Call) {
		m.serve(c, "look into a contradiction", func(ctx context.Context) {
			seq, own, at, viewErr := m.placeOf(c)
			if viewErr != nil {
				m.quarantine(c, reason, err)
				return
			}
			for range 8 { // after a start, what other nodes understand is asked in the background
				if m.announced(from) { // it compares, and tells its own devices: it may have been deceived itself
					_, _ = m.askTestimony(ctx, from, c, question{Sequence: seq, Order: own, At: at})
					break
				}
				if !pause(ctx, m.cfg.Timers.Call/8) {
					return
				}
			}
			same, other := m.poll(ctx, c, from, seq, own, at)
			delete(same, from.Organization())
			other[from.Organization()] = true
			if len(same) > 0 && len(same) >= len(other) {
				c.mute(from)
				return
			}
			m.quarantine(c, reason, fmt.Errorf("%w (of other organizations, %d agree with this node and %d with the sender)", err, len(same), len(other)))
		})
	}
	return wire.Errorf(wire.Invalid, "raft", "%v", err)
}

// muted says until when a node gets no vote here, and whether it does not lead either.
type muted struct {
	until time.Time
	leads bool // it gets no vote, and may lead where others vote for it
}

// mute keeps a node from leading this replica for muteLife.
func (c *conversation) mute(n wire.NodeID) { c.silence(n, false) }

// denyVote keeps a node from getting the vote of this replica for muteLife. Where it leads all the same, by the votes of
// others, this replica follows: only it would be left behind else.
func (c *conversation) denyVote(n wire.NodeID) { c.silence(n, true) }

func (c *conversation) silence(n wire.NodeID, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.muted == nil || len(c.muted) >= wire.MaxReplicas {
		c.muted = make(map[wire.NodeID]muted)
	}
	now := time.Now()
	if have := c.muted[n]; leads && !have.leads && now.Before(have.until) {
		return
	}
	c.muted[n] = muted{now.Add(muteLife), leads}
}

func (c *conversation) isMuted(n wire.NodeID) bool {
	m := c.mutedUntil(n)
	return !m.leads && time.Now().Before(m.until)
}

// getsNoVote is isMuted for what gets no vote.
func (c *conversation) getsNoVote(n wire.NodeID) bool {
	return time.Now().Before(c.mutedUntil(n).until)
}

func (c *conversation) mutedUntil(n wire.NodeID) muted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.muted[n]
}
