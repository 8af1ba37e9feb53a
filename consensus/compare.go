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

// A voter that leads can still show two followers two different futures: each sees a genuine log. The two notice the
// difference when they compare order hashes. So each replica asks a replica of another organization for its order
// hash from time to time, while entries arrive. The word of one peer proves nothing: a difference raises an alarm
// that names the peer, and the other replicas are asked. Only if more organizations contradict this replica than
// agree with it does its conversation go into quarantine.
//
// Order hashes alone do not distinguish a replica that lags behind from a replica to which an entry was never shown.
// So the index of the last entry in Raft's log is compared too: at that index, either one entry is committed or none
// yet. In addition, two replicas that have applied the log up to the same index have equally many entries. This
// matters because a voter that votes twice in a term makes two leaders, whose logs have the same terms, so that later
// entries fit both logs.

// compareRounds is the number of replicas that a conversation is compared with after new entries: one of them may
// belong to the liar.
const compareRounds = 3

// compareWorkers is the number of conversations that are compared at the same time.
const compareWorkers = 16

// compareLoop compares the conversations that have new entries.
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

// compareWithNext compares a conversation with the next replica of another organization, in turn.
func (m *Manager) compareWithNext(ctx context.Context, c *conversation) {
	defer m.quarantineOnPanic(c, "compare", nil)
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

// scheduleComparison schedules the comparison of a conversation that has applied an entry.
func (m *Manager) scheduleComparison(c *conversation) {
	c.rounds.Store(compareRounds)
	m.compared.mark(c.id)
}

// Doubt compares a conversation at once with the replicas of one organization, because something that this
// organization brought does not fit the local replica. It does so once in Timers.Compare. It does not block.
func (m *Manager) Doubt(id wire.ConversationID, org wire.Domain) {
	c, err := m.find(id)
	if err != nil || !m.meter.take(meterKey{wire.NodeID(org), id, meterDoubt}, 1, m.cfg.Timers.Compare) {
		return
	}
	m.serve(c, "compare", func(ctx context.Context) {
		for range 8 { // after a start, the features of other nodes are asked for in the background
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

// witnesses returns the members of other organizations that can be asked, except one node.
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

// compareWith asks one node, and investigates a difference.
func (m *Manager) compareWith(ctx context.Context, c *conversation, n wire.NodeID) {
	seq, own, at, err := m.orderAndIndex(c)
	if err != nil || seq == 0 {
		return
	}
	index, content := m.lastCommand(c)
	t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own, Index: index, At: at})
	if err != nil || t.Out || t.Sequence == 0 || t.Generation != c.generation() {
		return
	}
	if isBehind(t.Sequence, t.At, seq, at) {
		m.handleDifference(ctx, c, n, differentCount(n, t.Sequence, t.At, seq, at))
		return
	}
	if differ(content, t.Content) {
		m.handleDifference(ctx, c, n, fmt.Errorf("entry %d of the log is %v at %s, here it is %v: %w", index, t.Content, n, content, errDiverged))
		return
	}
	if here := m.localOrder(c, t.Sequence); differ(here, t.Order) {
		m.handleDifference(ctx, c, n, differentOrder(n, t.Sequence, t.Order, here))
	}
}

// missingEntriesReply reports whether a replica that has applied the log up to one index has fewer entries than another
// replica had at its index. An index of 0 is unknown.
func isBehind(seq wire.SequenceNumber, at uint64, than wire.SequenceNumber, there uint64) bool {
	return there > 0 && at >= there && seq < than
}

func differentCount(peer wire.NodeID, seq wire.SequenceNumber, at uint64, own wire.SequenceNumber, here uint64) error {
	return fmt.Errorf("%s has %d entries up to place %d of the log, here there are %d up to place %d: %w", peer, seq, at, own, here, errDiverged)
}

func differentOrder(peer wire.NodeID, seq wire.SequenceNumber, theirs, own wire.Hash) error {
	return fmt.Errorf("order hash after entry %d is %v at %s, here it is %v: %w", seq, theirs, peer, own, errDiverged)
}

// lastSought is the number of log entries that are searched for the last command. The entries after it are Raft's
// own, one per leader.
const lastSought = 256

// lastCommand returns the index of the last entry in Raft's log that is committed and goes to the state machine, and
// the digest of that entry; the index is 0 if the entry is not kept.
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
	seq, order, _, err = m.orderAndIndex(c)
	return seq, order, err
}

// orderAndIndex returns the last entry, its order hash, and the index of Raft's log up to which they were determined.
func (m *Manager) orderAndIndex(c *conversation) (seq wire.SequenceNumber, order wire.Hash, at uint64, err error) {
	if err := c.refused("read"); err != nil {
		return 0, order, 0, err
	}
	err = m.viewAnyAt(c, func(s *machine.Machine, applied uint64) { seq, order, at = s.Sequence(), s.Order(), applied })
	return seq, order, at, err
}

// localOrder returns the order hash after an entry; it is zero if it is no longer kept, or not known yet.
func (m *Manager) localOrder(c *conversation, seq wire.SequenceNumber) (order wire.Hash) {
	if err := m.view(c, func(s *machine.Machine) {
		if at, h := orderAt(s, seq); at == seq {
			order = h
		}
	}); err != nil {
		return wire.Hash{}
	}
	return order
}

// handleDifference handles a peer that has, or claims to have, another history than this replica. err describes the
// difference.
func (m *Manager) handleDifference(ctx context.Context, c *conversation, peer wire.NodeID, err error) {
	if !m.holds(ruleCompare) || !m.meter.take(meterKey{peer, c.id, meterCompare}, 1, refusalPause) {
		return
	}
	_ = m.refuse(peer, c.id, RefusedDivergence, err)
	m.warn(c.id, RefusedDivergence, peer, err)
	seq, own, at, viewErr := m.orderAndIndex(c)
	if viewErr != nil {
		return
	}
	same, other := m.pollOrder(ctx, c, peer, seq, own, at)
	other[peer.Organization()] = true
	if len(other) > len(same)+1 { // this organization is in the minority
		_ = m.distrust(c, ReasonDiverged, RefusedDivergence, peer, fmt.Errorf("%d other organizations against %d: %w", len(other), len(same), err))
	}
}

// pollOrder asks the replicas of other organizations, except one node, whether they have the same order hash.
func (m *Manager) pollOrder(ctx context.Context, c *conversation, but wire.NodeID, seq wire.SequenceNumber, own wire.Hash, at uint64) (same, other map[wire.Domain]bool) {
	same, other = make(map[wire.Domain]bool), make(map[wire.Domain]bool)
	index, content := m.lastCommand(c)
	for _, a := range m.askAll(m.witnesses(c, but), func(n wire.NodeID) witness {
		t, err := m.askTestimony(ctx, n, c, question{Sequence: seq, Order: own, Index: index, At: at})
		return witness{testimony: t, err: err}
	}) {
		if a.err != nil || a.Out || a.Sequence == 0 || a.Generation != c.generation() {
			continue
		}
		switch here := m.localOrder(c, a.Sequence); { // a replica that lags behind is compared at its own last entry
		case differ(a.Order, here), differ(a.Content, content), isBehind(a.Sequence, a.At, seq, at):
			other[a.node.Organization()] = true
		case a.Order == here && here != (wire.Hash{}):
			same[a.node.Organization()] = true
		}
	}
	return same, other
}

// muteLife is the time for which a node that contradicted this replica neither leads nor gets a vote here.
const muteLife = 10 * time.Minute

// handleContradiction refuses a leader's message that contradicts an applied entry, and determines which side is wrong.
// If a replica of a third organization agrees with this replica, and no more organizations agree with the sender, the
// sender is wrong: the conversation continues without its lead. Otherwise the conversation goes into quarantine: nobody
// else can be asked, or this replica is the one that received a false history.
func (m *Manager) handleContradiction(c *conversation, reason Reason, why Refusal, from wire.NodeID, err error) error {
	_ = m.refuse(from, c.id, why, err)
	m.warn(c.id, why, from, err)
	if m.meter.take(meterKey{from, c.id, meterPoll}, 1, m.cfg.Timers.Call) {
		m.serve(c, "look into a contradiction", func(ctx context.Context) {
			seq, own, at, viewErr := m.orderAndIndex(c)
			if viewErr != nil {
				m.quarantine(c, reason, err)
				return
			}
			for range 8 { // after a start, the features of other nodes are asked for in the background
				if m.announced(from) { // the sender compares and alerts its own devices: it may have been deceived itself
					_, _ = m.askTestimony(ctx, from, c, question{Sequence: seq, Order: own, At: at})
					break
				}
				if !pause(ctx, m.cfg.Timers.Call/8) {
					return
				}
			}
			same, other := m.pollOrder(ctx, c, from, seq, own, at)
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

// muted records until when a node gets no vote here, and whether it may lead.
type muted struct {
	since, until time.Time
	leads        bool // the node gets no vote, and may lead if others vote for it
}

// mute prevents a node from leading this replica for muteLife.
func (c *conversation) mute(n wire.NodeID) { c.addMute(n, false) }

// denyVote prevents a node from getting the vote of this replica for muteLife. If the node leads by the votes of
// others, this replica follows it: refusing would only leave this replica behind.
func (c *conversation) denyVote(n wire.NodeID) { c.addMute(n, true) }

func (c *conversation) addMute(n wire.NodeID, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.muted == nil || len(c.muted) >= wire.MaxReplicas {
		c.muted = make(map[wire.NodeID]muted)
	}
	now := time.Now()
	if have := c.muted[n]; leads && !have.leads && now.Before(have.until) {
		return
	}
	c.muted[n] = muted{since: now, until: now.Add(muteLife), leads: leads}
}

func (c *conversation) isMuted(n wire.NodeID) bool {
	m := c.mutedUntil(n)
	return !m.leads && time.Now().Before(m.until)
}

// voteDenied reports whether a node gets no vote here; unlike isMuted, it includes nodes that may lead.
func (c *conversation) voteDenied(n wire.NodeID) bool {
	return time.Now().Before(c.mutedUntil(n).until)
}

func (c *conversation) mutedUntil(n wire.NodeID) muted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.muted[n]
}
