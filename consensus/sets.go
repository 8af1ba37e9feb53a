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

// sleeperCache keeps the states of sleeping conversations that were read last, up to a number of bytes. A
// state in it is never changed.
type sleeperCache struct {
	most int // bytes

	mu    sync.Mutex // guards what follows
	order *list.List // of *sleeper, the one used last in front
	by    map[wire.ConversationID]*list.Element
	bytes int
}

type sleeper struct {
	size    int
	id      wire.ConversationID
	applied uint64
	m       *machine.Machine
}

func newSleeperCache(most int) *sleeperCache {
	return &sleeperCache{most: most, order: list.New(), by: make(map[wire.ConversationID]*list.Element)}
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
	s.size = s.m.Size()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.size > c.most/2 {
		return // it would drive out all others
	}
	c.by[s.id] = c.order.PushFront(s)
	for c.bytes += s.size; c.bytes > c.most; {
		c.drop(c.order.Back())
	}
}

// drop is called with c.mu held.
func (c *sleeperCache) drop(e *list.Element) {
	s := c.order.Remove(e).(*sleeper)
	delete(c.by, s.id)
	c.bytes -= s.size
}

func (c *sleeperCache) forget(id wire.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.by[id]; ok {
		c.drop(e)
	}
}
