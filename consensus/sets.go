package consensus

import (
	"container/list"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// idSet is a set of conversations that need some work.
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

// take returns the elements and empties the set.
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

// sleeperCache keeps the most recently read data of sleeping conversations, up to a number of bytes. A value in the
// cache is never changed.
type sleeperCache[T any] struct {
	most int // bytes

	mu    sync.Mutex // guards the fields below
	order *list.List // of *sleeper[T], the most recently used in front
	by    map[wire.ConversationID]*list.Element
	bytes int
}

type sleeper[T any] struct {
	id      wire.ConversationID
	applied uint64
	value   T
	size    int
}

func newSleeperCache[T any](most int) *sleeperCache[T] {
	return &sleeperCache[T]{most: most, order: list.New(), by: make(map[wire.ConversationID]*list.Element)}
}

func (c *sleeperCache[T]) get(id wire.ConversationID, applied uint64) (value T, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[id]
	if e == nil || e.Value.(*sleeper[T]).applied != applied {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*sleeper[T]).value, true
}

func (c *sleeperCache[T]) put(s *sleeper[T]) {
	c.forget(s.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.size > c.most/2 {
		return // it would evict all others
	}
	c.by[s.id] = c.order.PushFront(s)
	for c.bytes += s.size; c.bytes > c.most; {
		c.drop(c.order.Back())
	}
}

// drop is called with c.mu held.
func (c *sleeperCache[T]) drop(e *list.Element) {
	s := c.order.Remove(e).(*sleeper[T])
	delete(c.by, s.id)
	c.bytes -= s.size
}

func (c *sleeperCache[T]) forget(id wire.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.by[id]; ok {
		c.drop(e)
	}
}
