package mailbox

import "sync"

// Totals has the bytes of each sender in all streams of a mailbox, by a tag of the sender. The totals do not fall when
// items are removed. An implementation counts its records when it starts, and again when a sender has come to the bound;
// meanwhile it adds each item. So a total is never too small.
type Totals[T comparable] struct {
	// Full holds one element if a sender has come to the bound, so that the records are counted again.
	Full chan struct{}

	mu      sync.Mutex // guards the fields below
	counted map[T]uint64
	during  map[T]uint64 // brought before a count that is under way
	since   map[T]uint64 // brought since the last count has begun
}

// NewTotals returns empty totals.
func NewTotals[T comparable]() *Totals[T] {
	return &Totals[T]{Full: make(chan struct{}, 1), since: make(map[T]uint64)}
}

// Add adds the bytes of an item.
func (s *Totals[T]) Add(sender T, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since[sender] += bytes
}

// Of returns the bytes of a sender.
func (s *Totals[T]) Of(sender T) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted[sender] + s.during[sender] + s.since[sender]
}

// Recount requests another count. It does not wait.
func (s *Totals[T]) Recount() {
	select {
	case s.Full <- struct{}{}:
	default:
	}
}

// Begin begins a count. Items that come during the count may be in it, too.
func (s *Totals[T]) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.during, s.since = s.since, make(map[T]uint64)
}

// End takes the result of a count; nil for a count that failed.
func (s *Totals[T]) End(counted map[T]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if counted != nil {
		s.counted = counted
	} else {
		for sender, n := range s.during {
			s.since[sender] += n
		}
	}
	s.during = nil
}
