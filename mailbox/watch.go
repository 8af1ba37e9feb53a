package mailbox

import (
	"context"
	"sync"
)

// Subscription reports which of its streams have new items. One subscription serves all streams of a session.
type Subscription struct {
	w *Watchers
	// C receives when Ready has streams to return. Several changes may cause one signal.
	C chan struct{}

	mu    sync.Mutex
	ready map[Stream]bool
	on    map[Stream]bool // nil when closed
}

// Subscribe returns a subscription without streams. Close ends it.
func (w *Watchers) Subscribe() *Subscription {
	return &Subscription{w: w, C: make(chan struct{}, 1), on: make(map[Stream]bool)}
}

// Add watches a stream, and marks it ready at once: earlier items are there to be read.
func (s *Subscription) Add(name Stream) {
	s.mu.Lock()
	add := s.on != nil && !s.on[name]
	if add {
		s.on[name] = true
	}
	s.mu.Unlock()
	if !add {
		return
	}
	s.w.add(name, s)
	s.wake(name)
	s.mu.Lock()
	gone := !s.on[name] // dropped or closed meanwhile
	s.mu.Unlock()
	if gone {
		s.w.drop(name, s)
	}
}

// Drop stops watching a stream.
func (s *Subscription) Drop(name Stream) {
	s.mu.Lock()
	delete(s.on, name)
	delete(s.ready, name)
	s.mu.Unlock()
	s.w.drop(name, s)
}

// Close ends the subscription. C stays open and silent.
func (s *Subscription) Close() {
	s.mu.Lock()
	on := s.on
	s.on, s.ready = nil, nil
	s.mu.Unlock()
	for name := range on {
		s.w.drop(name, s)
	}
}

// Ready returns the streams with new items, or that were removed, since it was last called.
func (s *Subscription) Ready() []Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]Stream, 0, len(s.ready))
	for name := range s.ready {
		names = append(names, name)
	}
	s.ready = nil
	return names
}

func (s *Subscription) wake(name Stream) {
	s.mu.Lock()
	if !s.on[name] {
		s.mu.Unlock()
		return
	}
	if s.ready == nil {
		s.ready = make(map[Stream]bool)
	}
	s.ready[name] = true
	s.mu.Unlock()
	select {
	case s.C <- struct{}{}:
	default:
	}
}

// Watchers wakes the subscriptions of streams, for an implementation of [Box]. It is safe for concurrent use.
type Watchers struct {
	signal chan struct{} // size 1: news is not empty

	mu   sync.Mutex // guards what follows
	of   map[Stream]map[*Subscription]struct{}
	news map[Stream]bool // streams with many subscriptions that have changed
}

// NewWatchers returns watchers without subscriptions. It starts nothing.
func NewWatchers() *Watchers {
	return &Watchers{signal: make(chan struct{}, 1), of: make(map[Stream]map[*Subscription]struct{})}
}

func (w *Watchers) add(name Stream, s *Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[name] == nil {
		w.of[name] = make(map[*Subscription]struct{})
	}
	w.of[name][s] = struct{}{}
}

func (w *Watchers) drop(name Stream, s *Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of[name], s)
	if len(w.of[name]) == 0 {
		delete(w.of, name)
	}
}

func (w *Watchers) list(name Stream) []*Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Subscription, 0, len(w.of[name]))
	for s := range w.of[name] {
		list = append(list, s)
	}
	return list
}

// Watched returns the number of subscriptions of a stream.
func (w *Watchers) Watched(name Stream) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.of[name])
}

// fewWatchers is how many subscriptions of a stream the appending goroutine itself wakes. More take too long to be
// woken between two batches, so that another goroutine wakes them.
const fewWatchers = 16

// Wake wakes the subscriptions of a stream. If there are many, Run wakes them later.
func (w *Watchers) Wake(name Stream) {
	if w.Watched(name) > fewWatchers {
		w.later(name)
		return
	}
	for _, s := range w.list(name) {
		s.wake(name)
	}
}

func (w *Watchers) later(name Stream) {
	w.mu.Lock()
	if w.news == nil {
		w.news = make(map[Stream]bool)
	}
	w.news[name] = true
	w.mu.Unlock()
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

func (w *Watchers) take() map[Stream]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	news := w.news
	w.news = nil
	return news
}

// Run wakes the many subscriptions of a stream, until ctx ends.
func (w *Watchers) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.signal:
		}
		for name := range w.take() {
			for _, s := range w.list(name) {
				s.wake(name)
			}
		}
	}
}
