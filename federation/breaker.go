package federation

import (
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/backoff"
	"github.com/mlsfed/mlsfed/wire"
)

// breakers are circuit breakers, one for each node: after a failure to reach a node, attempts fail at once for a while.
type breakers struct {
	mu sync.Mutex // guards what follows
	by map[wire.NodeID]*breaker
	// moves are the last times at which breakers were reset because a record named another address.
	moves map[wire.NodeID]time.Time
}

type breaker struct {
	failures int
	until    time.Time
	wait     time.Duration // with which until was set
	why      error
}

func newBreakers() *breakers {
	return &breakers{by: make(map[wire.NodeID]*breaker), moves: make(map[wire.NodeID]time.Time)}
}

// open reports whether attempts fail now. A breaker with more time left than it was tripped for comes from a clock that
// has gone back since, and is not open.
func (b *breaker) open(now time.Time) bool {
	left := b.until.Sub(now)
	return left > 0 && left <= b.wait
}

// check returns the error of the last attempt while the breaker of the node is open.
func (s *breakers) check(n wire.NodeID, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.by[n]; b != nil && b.open(now) {
		return b.why
	}
	return nil
}

// left returns for how long the breaker of a node stays open, 0 if it is not open.
func (s *breakers) left(n wire.NodeID, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.by[n]; b != nil && b.open(now) {
		return b.until.Sub(now)
	}
	return 0
}

// trip opens the breaker of a node for a time that grows with each failure in a row. Attempts that were under way at
// the same time count as one failure.
func (s *breakers) trip(n wire.NodeID, why error, cfg Config) {
	now := cfg.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.by[n]
	if b == nil {
		b = new(breaker)
		s.by[n] = b
	}
	if b.open(now) {
		return
	}
	b.wait = backoff.Pause(b.failures, cfg.Timers.RetryMin, cfg.Timers.RetryMax, cfg.jitter())
	b.until = now.Add(b.wait)
	b.failures++
	b.why = why
}

// reset lets attempts pass again and forgets the failures of a node.
func (s *breakers) reset(n wire.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, n)
}

// moved resets the breaker of a node whose record names another address, at most once in Timers.RetryMax: otherwise a
// node that moves all the time could make this node dial an address each time.
func (s *breakers) moved(n wire.NodeID, cfg Config) {
	now := cfg.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, at := range s.moves {
		if since := now.Sub(at); since < 0 || since >= cfg.Timers.RetryMax {
			delete(s.moves, other)
		}
	}
	if _, recent := s.moves[n]; recent {
		return
	}
	s.moves[n] = now
	delete(s.by, n)
}

// forgive resets the breakers of the nodes of organizations whose entry in the allow-list has changed.
func (s *breakers) forgive(changed func(wire.Domain) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.by {
		if changed(n.Organization()) {
			delete(s.by, n)
		}
	}
}
