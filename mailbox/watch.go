package mailbox

import (
	"context"
	"sync"
)

// Subscription is told which of its streams have new items. One of them serves all streams of a session.
type Subscription struct {
	m *Mailbox
	// C receives after Ready has something to say. Several changes may be one signal.
	C chan struct{}

	mu    sync.Mutex
	ready map[Stream]bool
	on    map[Stream]bool // nil when closed
}

// Subscribe makes a subscription without streams. Close ends it.
func (m *Mailbox) Subscribe() *Subscription {
	return &Subscription{m: m, C: make(chan struct{}, 1), on: make(map[Stream]bool)}
}

// Add watches a stream, and marks it ready at once: what came before is there to be read.
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
	s.m.watchers.add(name, s)
	s.wake(name)
	s.mu.Lock()
	gone := !s.on[name] // dropped or closed meanwhile
	s.mu.Unlock()
	if gone {
		s.m.watchers.drop(name, s)
	}
}

// Drop stops watching a stream.
func (s *Subscription) Drop(name Stream) {
	s.mu.Lock()
	delete(s.on, name)
	delete(s.ready, name)
	s.mu.Unlock()
	s.m.watchers.drop(name, s)
}

// Close ends the subscription. C stays open and silent.
func (s *Subscription) Close() {
	s.mu.Lock()
	on := s.on
	s.on, s.ready = nil, nil
	s.mu.Unlock()
	for name := range on {
		s.m.watchers.drop(name, s)
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

// watchers is who watches which stream.
type watchers struct {
	mu sync.Mutex
	of map[Stream]map[*Subscription]struct{}
}

func (w *watchers) add(name Stream, s *Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[name] == nil {
		w.of[name] = make(map[*Subscription]struct{})
	}
	w.of[name][s] = struct{}{}
}

func (w *watchers) drop(name Stream, s *Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of[name], s)
	if len(w.of[name]) == 0 {
		delete(w.of, name)
	}
}

func (w *watchers) count(name Stream) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.of[name])
}

func (w *watchers) list(name Stream) []*Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Subscription, 0, len(w.of[name]))
	for s := range w.of[name] {
		list = append(list, s)
	}
	return list
}

// fewWatchers is how many subscribers of a stream are woken by who has appended to it, without the way
// over another goroutine.
const fewWatchers = 16

// wake wakes who watches a stream.
func (m *Mailbox) wake(name Stream) {
	if m.watchers.count(name) > fewWatchers {
		m.news.add(name)
		return
	}
	for _, s := range m.watchers.list(name) {
		s.wake(name)
	}
}

// news is the streams with many subscribers that were appended to. Waking them takes long, so it is not
// done between two batches.
type news struct {
	signal chan struct{}
	mu     sync.Mutex
	set    map[Stream]bool
}

func (n *news) add(s Stream) {
	n.mu.Lock()
	if n.set == nil {
		n.set = make(map[Stream]bool)
	}
	n.set[s] = true
	n.mu.Unlock()
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

func (n *news) take() map[Stream]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	set := n.set
	n.set = nil
	return set
}

// notify wakes subscribers until ctx ends.
func (m *Mailbox) notify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.news.signal:
		}
		for name := range m.news.take() {
			for _, s := range m.watchers.list(name) {
				s.wake(name)
			}
		}
	}
}
