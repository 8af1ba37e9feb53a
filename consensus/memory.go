package consensus

import (
	"context"
	"sync"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// The state of an awake conversation is in memory, together with the newest entries of its log: those in logCache and
// those in the state machine. Older entries that the policy keeps are on disk (archive.go). A conversation is awake as
// long as its leader keeps it awake. So Limits.Awake limits the memory of all conversations that one other
// organization brought. Beyond the limit, none of them is woken here, and a conversation that would accept entries
// falls asleep instead, so that the others make progress.

// memory counts the bytes that awake conversations take, by the organization that brought them.
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

// checkMemory refuses an action that would make the conversations of an organization take more memory.
func (m *Manager) checkMemory(c *conversation) error {
	org := c.book.payer
	if org == "" {
		return nil
	}
	n := m.memory.of(org)
	if n < m.memory.most {
		return nil
	}
	m.stats.memoryRefusals.Add(1)
	return wire.Errorf(wire.Busy, "wake", "the awake conversations that %s brought take %d bytes of memory on node %s, at most %d: try again when some sleep", org, n, m.cfg.Node, m.memory.most)
}

// makeRoom calls checkMemory for a replica that is to accept entries. If checkMemory refuses, the replica falls asleep:
// its leader wakes it again.
func (l *live) makeRoom() error {
	err := l.m.checkMemory(l.c)
	if err != nil && l.resting.CompareAndSwap(false, true) && !l.m.serve(l.c, "fall asleep", func(context.Context) {
		if !l.close(0, nil) {
			l.resting.Store(false)
		}
	}) {
		l.resting.Store(false)
	}
	return err
}

// size returns the approximate memory of an awake replica, in bytes.
func (l *live) size() (n int) {
	l.fsm.read(func(s *machine.Machine) { n = s.Size() })
	return n + l.logs.size()
}

// chargeMemory charges the memory of an awake replica's state.
func (l *live) chargeMemory() {
	if l.c.book.payer == "" {
		return
	}
	n := l.size()
	l.m.memory.add(l.c.book.payer, n-int(l.weight.Swap(int64(n))))
}

// releaseMemory ends the charge of a replica that has been closed.
func (l *live) releaseMemory() {
	l.m.memory.add(l.c.book.payer, -int(l.weight.Swap(0)))
}
