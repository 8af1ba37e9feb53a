package consensus

import (
	"container/list"
	"sync"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// idSet is a set of conversations that something is to be done about.
type idSet struct {
	mu  sync.Mutex // guards ids
	ids map[wire.ConversationID]struct{}
}

func newIDSet() *idSet { return &idSet{ids: make(map[wire.ConversationID]struct{})} }

func (s *idSet) mark(id wire.ConversationID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[id] = struct{}{}
}

// take empties the set.
func (s *idSet) take() []wire.ConversationID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]wire.ConversationID, 0, len(s.ids))
	for id := range s.ids {
		ids = append(ids, id)
	}
	clear(s.ids)
	return ids
}

// maxSleepers is how many sleeping conversations' states are kept in memory after they were read.
const maxSleepers = 32

// sleeperCache keeps the states of sleeping conversations that were read last. A state in it is never
// changed.
type sleeperCache struct {
	mu    sync.Mutex // guards what follows
	order *list.List // of *sleeper, the one used last in front
	by    map[wire.ConversationID]*list.Element
}

type sleeper struct {
	id      wire.ConversationID
	applied uint64
	m       *machine.Machine
}

func newSleeperCache() *sleeperCache {
	return &sleeperCache{order: list.New(), by: make(map[wire.ConversationID]*list.Element)}
}

func (c *sleeperCache) get(id wire.ConversationID, applied uint64) *machine.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.by[id]
	if !ok || e.Value.(*sleeper).applied != applied {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*sleeper).m
}

func (c *sleeperCache) put(s *sleeper) {
	c.forget(s.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[s.id] = c.order.PushFront(s)
	if c.order.Len() > maxSleepers {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.by, last.Value.(*sleeper).id)
	}
}

func (c *sleeperCache) forget(id wire.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.by[id]; ok {
		c.order.Remove(e)
		delete(c.by, id)
	}
}
