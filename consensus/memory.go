package consensus

import (
	"context"
	"sync"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// An awake conversation's state is in memory, with the entries that its policy keeps: up to Limits.RecentBytes. Whoever
// leads keeps it awake. So what the conversations that one other organization brought take together is bounded by
// Limits.Awake: beyond it none of them is woken here, and one that would take entries falls asleep instead, so that the
// others get on.

// memory is what awake conversations take, by the organization that brought them, in bytes.
type memory struct {
	most int
	mu   sync.Mutex // guards by
	by   map[wire.Domain]int
}

func (s *memory) add(org wire.Domain, n int) {
	if org == "" || n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = make(map[wire.Domain]int)
	}
	if s.by[org] += n; s.by[org] == 0 {
		delete(s.by, org)
	}
}

func (s *memory) of(org wire.Domain) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[org]
}

// crowded refuses what would make the conversations of an organization take more memory.
func (m *Manager) crowded(c *conversation) error {
	org := c.book.payer
	if org == "" {
		return nil
	}
	n := m.memory.of(org)
	if n < m.memory.most {
		return nil
	}
	m.stats.crowded.Add(1)
	return wire.Errorf(wire.Busy, "wake", "the awake conversations that %s brought take %d bytes of memory on node %s, at most %d: try again when some sleep", org, n, m.cfg.Node, m.memory.most)
}

// makeRoom is crowded for a replica that is to take entries. Where it may not, it falls asleep: its leader wakes it again.
func (l *live) makeRoom() error {
	err := l.m.crowded(l.c)
	if err != nil && l.resting.CompareAndSwap(false, true) && !l.m.serve(l.c, "fall asleep", func(context.Context) {
		if !l.close(0, nil) {
			l.resting.Store(false)
		}
	}) {
		l.resting.Store(false)
	}
	return err
}

// weigh accounts for the state of an awake replica.
func (l *live) weigh() {
	if l.c.book.payer == "" {
		return
	}
	var n int
	l.fsm.read(func(s *machine.Machine) { n = s.Size() })
	l.m.memory.add(l.c.book.payer, n-int(l.weight.Swap(int64(n))))
}

// weighNothing ends the account of a replica that has been closed.
func (l *live) weighNothing() {
	l.m.memory.add(l.c.book.payer, -int(l.weight.Swap(0)))
}
