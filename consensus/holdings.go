package consensus

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A node that was away may have slept through a change. When a connection comes up, each end says what
// it holds of the conversations that both have a part in; where the logs end differently, the
// conversation is woken, and Raft does the rest.

// holding is one conversation's end on the sender's node.
type holding struct {
	_          struct{} `cbor:",toarray"`
	ID         wire.ConversationID
	Generation uint64
	End        position
}

// holdings is the payload; with one entry it is also the question of restAlone, answered by a standing.
type holdings struct {
	_    struct{} `cbor:",toarray"`
	List []holding
}

// standing is where a replica ends, and up to where it knows the log to be committed.
type standing struct {
	_         struct{} `cbor:",toarray"`
	End       position
	Committed uint64
}

// maxHoldings is the number in one frame.
const maxHoldings = 1000

func (h *holdings) Check() error {
	if len(h.List) > maxHoldings {
		return wire.Errorf(wire.TooLarge, "holdings", "%d in one frame, at most %d", len(h.List), maxHoldings)
	}
	return nil
}

// greet is called when a connection to a node has come up.
func (m *Manager) greet(n wire.NodeID) {
	for _, out := range m.holdingsFor(func(other wire.NodeID) bool { return other == n })[n] {
		m.tell(n, &frame{kind: kindHoldings, payload: out})
	}
}

// greetLoop calls every node that this one shares a conversation with, when it starts and then now and
// again: what was lost on the way is said once more.
func (m *Manager) greetLoop(ctx context.Context) {
	for m.greetAll(ctx) && pause(ctx, m.cfg.Timers.Greet) {
	}
}

// greetAll returns when each node has been reached once, or Timers.Greet has passed; false when ctx
// has ended.
func (m *Manager) greetAll(ctx context.Context) bool {
	waiting := make(map[wire.NodeID]bool)
	m.each("greet", func(c *conversation) bool {
		if rec, err := m.readRecord(c.id); err == nil {
			// A node that has declined a replica is asked again, too: it may have been too busy.
			for _, n := range append(rec.members(), rec.Missing...) {
				waiting[n] = true
			}
		}
		return true
	})
	delete(waiting, m.cfg.Node)
	wait := m.cfg.Timers.Repair
	for end := time.Now().Add(m.cfg.Timers.Greet); time.Now().Before(end); wait *= 2 {
		m.greetSome(ctx, waiting)
		if len(waiting) == 0 {
			break
		}
		if !pause(ctx, min(wait, time.Minute)) {
			return false
		}
	}
	return ctx.Err() == nil
}

// greetsAtOnce bounds the nodes that are called at once: nodes that do not answer must not hold up others.
const greetsAtOnce = 16

// greetSome calls the nodes that wait, and removes those that were reached.
func (m *Manager) greetSome(ctx context.Context, waiting map[wire.NodeID]bool) {
	frames := m.holdingsFor(func(n wire.NodeID) bool { return waiting[n] })
	var mu sync.Mutex // guards waiting
	var all sync.WaitGroup
	places := make(chan struct{}, greetsAtOnce)
	for _, n := range slices.Sorted(maps.Keys(waiting)) {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			for _, out := range frames[n] {
				if _, err := m.mesh.ask(ctx, n, &frame{kind: kindHoldings, payload: out}); err != nil {
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

// holdingsFor returns what each of some nodes shares with this one, in frames. It reads each record once,
// whatever the number of nodes.
func (m *Manager) holdingsFor(wanted func(wire.NodeID) bool) map[wire.NodeID][][]byte {
	frames := make(map[wire.NodeID][][]byte)
	lists := make(map[wire.NodeID]*holdings)
	flush := func(n wire.NodeID) {
		out := lists[n]
		if b, err := wire.Encode(out); err == nil && len(out.List) > 0 {
			frames[n] = append(frames[n], b)
		}
		out.List = nil
	}
	m.each("greet", func(c *conversation) bool {
		if c.awake() != nil {
			return true // its heartbeats speak for it
		}
		rec, err := m.readRecord(c.id)
		if err == nil && slices.ContainsFunc(rec.Missing, wanted) {
			m.serve(c, "repair", func(ctx context.Context) { m.repair(ctx, c) }) // it can be given its replica now
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
				out = new(holdings)
				lists[n] = out
			}
			out.List = append(out.List, holding{ID: c.id, Generation: rec.Generation, End: position{Term: rec.LastTerm, Last: rec.Last}})
			if len(out.List) == maxHoldings {
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

// askStanding asks one node how far its replica has got.
func (m *Manager) askStanding(ctx context.Context, n wire.NodeID, c *conversation) (standing, error) {
	payload, err := wire.Encode(&holdings{List: []holding{{ID: c.id, Generation: c.generation()}}})
	if err != nil {
		return standing{}, err
	}
	b, err := m.mesh.ask(ctx, n, &frame{kind: kindHoldings, generation: c.generation(), conversation: c.id, payload: payload})
	if err != nil {
		return standing{}, err
	}
	var s standing
	return s, wire.Decode(b, 64, &s)
}

// receiveHoldings compares what another node holds. A frame about one conversation is a question.
func (m *Manager) receiveHoldings(_ context.Context, from wire.NodeID, f *frame) ([]byte, error) {
	var in holdings
	if err := wire.Decode(f.payload, maxHoldings*128, &in); err != nil {
		return nil, err
	}
	if f.conversation != "" {
		c, err := m.party(from, f.conversation, roleOfQuestion)
		if err != nil {
			return nil, err
		}
		s, err := m.standingOf(c)
		if err != nil {
			return nil, err
		}
		return wire.Encode(s)
	}
	m.spawn(func(ctx context.Context) { m.compareHoldings(ctx, from, in.List) })
	return nil, nil
}

func (m *Manager) compareHoldings(ctx context.Context, from wire.NodeID, list []holding) {
	for _, h := range list {
		m.compareHolding(ctx, from, h)
	}
}

func (m *Manager) compareHolding(ctx context.Context, from wire.NodeID, h holding) {
	defer m.caughtIn(h.ID, "compare", nil)
	c, err := m.party(from, h.ID, roleOfQuestion)
	if err != nil {
		m.sayGone(from, h, err)
		return
	}
	s, err := m.standingOf(c)
	if err == nil && h.Generation == c.generation() && c.awake() == nil && s.End != h.End && m.mayWake(from, c) == nil {
		m.repair(ctx, c)
	}
}

// sayGone tells a node that asks about a conversation in which it has no part any more.
func (m *Manager) sayGone(to wire.NodeID, h holding, err error) {
	if wire.CodeOf(err) == wire.NotReplica {
		m.tell(to, &frame{kind: kindFarewell, generation: h.Generation, conversation: h.ID})
	}
}

// standingOf is how far this node's replica has got, awake or not.
func (m *Manager) standingOf(c *conversation) (standing, error) {
	if l := c.awake(); l != nil {
		if r := l.r.Load(); r != nil {
			return standing{End: l.end(), Committed: r.CommitIndex()}, nil
		}
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return standing{}, err
	}
	return standing{End: position{Term: rec.LastTerm, Last: rec.Last}, Committed: rec.Applied}, nil
}

// catchUp wakes the conversations that were awake when the node stopped: those whose log goes on behind
// what is known to be committed. Others may wait for what it holds.
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
