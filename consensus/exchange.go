package consensus

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A node that was away may have missed a change. When a connection is established, each end sends a summary of its
// state: the ends of its logs, for the conversations in which both have a part. If two logs end differently, the
// conversation is woken, and Raft does the rest.

// replicaSummary is the end of one conversation's log on the sender's node.
type replicaSummary struct {
	_          struct{} `cbor:",toarray"`
	ID         wire.ConversationID
	Generation uint64
	End        position
}

// stateSummary is the payload of the frame. With one entry it is also the question of sleepAlone, which is answered by
// a logStatus.
type stateSummary struct {
	_    struct{} `cbor:",toarray"`
	List []replicaSummary
}

// replicaStatus is the end of a replica's log, and the index up to which the replica knows the log to be committed.
type logStatus struct {
	_         struct{} `cbor:",toarray"`
	End       position
	Committed uint64
}

// maxSummaries is the largest number of replicas in one frame.
const maxSummaries = 1000

func (h *stateSummary) Check() error {
	if len(h.List) > maxSummaries {
		return wire.Errorf(wire.TooLarge, "holdings", "%d replicas in one frame, at most %d", len(h.List), maxSummaries)
	}
	return nil
}

// stateExchange holds the nodes whose connection was established and that have not received this node's summary yet. A
// summary reads the records of all conversations: nodes whose connection is established meanwhile share the next pass.
type stateExchange struct {
	mu      sync.Mutex // guards the fields below
	waiting map[wire.NodeID]bool
	busy    bool   // a goroutine sends summaries
	passes  uint64 // number of passes over all records
}

// exchangeShare limits the time for exchanges of state to 1/exchangeShare of all time.
const exchangeShare = 20

// exchangeState is called when a connection to a node is established.
func (m *Manager) exchangeState(ctx context.Context, n wire.NodeID) {
	g := &m.exchange
	g.mu.Lock()
	if g.waiting == nil {
		g.waiting = make(map[wire.NodeID]bool)
	}
	g.waiting[n] = true
	busy := g.busy
	g.busy = true
	g.mu.Unlock()
	if busy {
		return
	}
	ended := false
	defer func() {
		if !ended { // a panic ends only this exchange
			g.mu.Lock()
			defer g.mu.Unlock()
			g.busy = false
		}
	}()
	for {
		g.mu.Lock()
		list := g.waiting
		g.waiting = nil
		if ended = len(list) == 0 || ctx.Err() != nil; ended {
			g.busy = false
			g.mu.Unlock()
			return
		}
		g.passes++
		g.mu.Unlock()
		begun := time.Now()
		for n, frames := range m.summariesFor(func(n wire.NodeID) bool { return list[n] }) {
			for _, out := range frames {
				m.notify(n, &frame{kind: kindSummary, payload: out})
			}
		}
		pause(ctx, max(m.cfg.Timers.Coalesce, min(exchangeShare*time.Since(begun), m.cfg.Timers.Repair)))
	}
}

// exchangeLoop calls every node that shares a conversation with this one, at the start and then at intervals: a lost
// list is sent again.
func (m *Manager) exchangeLoop(ctx context.Context) {
	for m.exchangeWithAll(ctx) && pause(ctx, m.cfg.Timers.Exchange) {
	}
}

// exchangeWithAll returns when each node has been reached once, or Timers.Exchange has passed. It returns false when
// ctx has ended.
func (m *Manager) exchangeWithAll(ctx context.Context) bool {
	waiting := make(map[wire.NodeID]bool)
	m.each("exchange state", func(c *conversation) bool {
		if rec, err := m.readRecord(c.id); err == nil {
			// A node that has declined a replica is called too: it may have been too busy.
			for _, n := range append(rec.members(), rec.Missing...) {
				waiting[n] = true
			}
		}
		return true
	})
	delete(waiting, m.cfg.Node)
	wait := m.cfg.Timers.Repair
	for end := time.Now().Add(m.cfg.Timers.Exchange); time.Now().Before(end); wait *= 2 {
		m.exchangeWith(ctx, waiting)
		if len(waiting) == 0 {
			break
		}
		if !pause(ctx, min(wait, time.Minute)) {
			return false
		}
	}
	return ctx.Err() == nil
}

// maxExchanges limits the nodes that are called at once: nodes that do not answer must not delay others.
const maxExchanges = 16

// exchangeWith calls the waiting nodes, and removes the nodes that were reached from the list.
func (m *Manager) exchangeWith(ctx context.Context, waiting map[wire.NodeID]bool) {
	frames := m.summariesFor(func(n wire.NodeID) bool { return waiting[n] })
	var mu sync.Mutex // guards waiting
	var all sync.WaitGroup
	places := make(chan struct{}, maxExchanges)
	for _, n := range slices.Sorted(maps.Keys(waiting)) {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			for _, out := range frames[n] {
				if _, err := m.mesh.ask(ctx, n, &frame{kind: kindSummary, payload: out}); err != nil {
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			delete(waiting, n)
		})
	}
	all.Wait()
}

// summariesFor returns, for each of some nodes, the conversations that it shares with this node, in frames. It reads
// each record once, independent of the number of nodes.
func (m *Manager) summariesFor(wanted func(wire.NodeID) bool) map[wire.NodeID][][]byte {
	frames := make(map[wire.NodeID][][]byte)
	lists := make(map[wire.NodeID]*stateSummary)
	flush := func(n wire.NodeID) {
		out := lists[n]
		if b, err := wire.Encode(out); err == nil && len(out.List) > 0 {
			frames[n] = append(frames[n], b)
		}
		out.List = nil
	}
	m.each("exchange state", func(c *conversation) bool {
		if c.awake() != nil {
			return true // the conversation's heartbeats make it unnecessary
		}
		rec, err := m.readRecord(c.id)
		if err == nil && slices.ContainsFunc(rec.Missing, wanted) {
			m.serve(c, "repair", func(ctx context.Context) { m.repair(ctx, c) }) // the node can receive its replica now
		}
		if err != nil || rec.Rejoin {
			return true
		}
		for _, n := range rec.members() {
			if !wanted(n) {
				continue
			}
			out := lists[n]
			if out == nil {
				out = new(stateSummary)
				lists[n] = out
			}
			out.List = append(out.List, replicaSummary{ID: c.id, Generation: rec.Generation, End: position{Term: rec.LastTerm, Last: rec.Last}})
			if len(out.List) == maxSummaries {
				flush(n)
			}
		}
		return true
	})
	for n := range lists {
		flush(n)
	}
	return frames
}

// askLogStatus asks one node for the status of its replica's log.
func (m *Manager) askLogStatus(ctx context.Context, n wire.NodeID, c *conversation) (logStatus, error) {
	payload, err := wire.Encode(&stateSummary{List: []replicaSummary{{ID: c.id, Generation: c.generation()}}})
	if err != nil {
		return logStatus{}, err
	}
	b, err := m.mesh.ask(ctx, n, &frame{kind: kindSummary, generation: c.generation(), conversation: c.id, payload: payload})
	if err != nil {
		return logStatus{}, err
	}
	var s logStatus
	return s, wire.Decode(b, 64, &s)
}

// receiveSummary compares the replicas of another node with those of this one. A frame about one conversation is a
// question.
func (m *Manager) receiveSummary(_ context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var in stateSummary
	if err := wire.Decode(f.payload, maxSummaries*128, &in); err != nil {
		return nil, err
	}
	if f.conversation != "" {
		c, err := m.findWithRole(from, f.conversation, roleOfQuestion)
		if err != nil {
			return nil, err
		}
		s, err := m.logStatusOf(c)
		if err != nil {
			return nil, err
		}
		return wire.Encode(s)
	}
	m.spawn(func(ctx context.Context) { m.compareSummaries(ctx, from, in.List) })
	return nil, nil
}

func (m *Manager) compareSummaries(ctx context.Context, from wire.NodeID, list []replicaSummary) {
	for _, h := range list {
		m.compareSummary(ctx, from, h)
	}
}

func (m *Manager) compareSummary(ctx context.Context, from wire.NodeID, h replicaSummary) {
	defer m.quarantineOnPanicIn(h.ID, "compare", nil)
	c, err := m.findWithRole(from, h.ID, roleOfQuestion)
	if err != nil {
		m.answerGone(from, h, err)
		return
	}
	s, err := m.logStatusOf(c)
	if err == nil && h.Generation == c.generation() && c.awake() == nil && s.End != h.End && m.mayWake(from, c) == nil {
		m.repair(ctx, c)
	}
}

// answerGone answers a node that asks about a conversation in which it no longer has a part.
func (m *Manager) answerGone(to wire.NodeID, h replicaSummary, err error) {
	if wire.CodeOf(err) == wire.NotReplica {
		m.notify(to, &frame{kind: kindFarewell, generation: h.Generation, conversation: h.ID})
	}
}

// logStatusOf returns the status of the log of this node's replica, awake or not.
func (m *Manager) logStatusOf(c *conversation) (logStatus, error) {
	if l := c.awake(); l != nil {
		if r := l.r.Load(); r != nil {
			return logStatus{End: l.end(), Committed: r.CommitIndex()}, nil
		}
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return logStatus{}, err
	}
	return logStatus{End: position{Term: rec.LastTerm, Last: rec.Last}, Committed: rec.Applied}, nil
}

// catchUp wakes the conversations that were awake when the node stopped: those with log entries after the last entry
// known to be committed. Other replicas may wait for these entries.
func (m *Manager) catchUp(ctx context.Context) {
	m.each("catch up", func(c *conversation) bool {
		rec, err := m.readRecord(c.id)
		if err != nil {
			m.log.Error("conversation not read", "conversation", c.id, "error", err)
			return true
		}
		last, err := m.cfg.Log.Group(c.group).LastIndex()
		if err != nil {
			m.damaged(c, err)
			return true
		}
		if last <= rec.Applied && !m.recovering(c.id) {
			return true
		}
		if _, err := m.wakeUp(ctx, c); err != nil && ctx.Err() == nil {
			m.log.Warn("conversation not woken after the restart", "conversation", c.id, "error", err)
		}
		return pause(ctx, time.Millisecond)
	})
}
