package federation

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/backoff"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

const (
	// slowAfter is the number of failures in a row after which a node counts as dead: the attempts to
	// reach all dead nodes share one rate, Limits.Redials.
	slowAfter = 3
	// lookAgain bounds the sleep of keepLinks, in multiples of Timers.Poll.
	lookAgain = 20
	// lookShare is the share of the time, 1 in lookShare, that looking for links may take.
	lookShare = 20
)

// linking decides to which nodes a link is opened, and when. It costs nothing while every link that is
// wanted exists: keepLinks sleeps until something changes or a pause ends. Its times are those of the
// machine's monotonic clock.
type linking struct {
	self    wire.NodeID
	limits  Limits
	timers  Timers
	jitter  func() float64
	redials tokenbucket.Bucket // of attempts to reach dead nodes

	mu      sync.Mutex // guards what follows, and redials
	targets []*target  // in an order that differs from node to node
	by      map[wire.NodeID]*target
	opening int       // attempts under way
	turn    int       // the index in targets at which the next look begins
	looks   uint64    // passes over targets
	dials   uint64    // attempts
	revived time.Time // when all pauses were ended last
}

// target is a node to which a link is wanted.
type target struct {
	node     wire.NodeID
	own      bool      // a node of the own organization
	entry    uint64    // the version of the allow-list in which its organization's entry changed last
	busy     bool      // an attempt is under way, or its connection has not become a link yet
	failures int       // in a row
	until    time.Time // no attempt before
	heard    time.Time // when the pause was ended last, because the node was heard of
}

func newLinking(cfg Config) *linking {
	return &linking{self: cfg.Identity.Node, limits: cfg.Limits, timers: cfg.Timers, jitter: cfg.jitter, by: make(map[wire.NodeID]*target)}
}

// wish is a node to which a link is wanted.
type wish struct {
	node  wire.NodeID
	own   bool
	entry uint64
}

// set replaces the nodes to which links are wanted. A node that stays keeps its place, and its pause too
// unless the entry of its organization in the allow-list has changed.
func (s *linking) set(wishes []wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[wire.NodeID]bool, len(wishes))
	rand.Shuffle(len(wishes), func(i, k int) { wishes[i], wishes[k] = wishes[k], wishes[i] })
	for _, w := range wishes {
		if w.node == s.self {
			continue
		}
		wanted[w.node] = true
		t := s.by[w.node]
		if t == nil {
			t = &target{node: w.node, own: w.own, entry: w.entry}
			s.by[w.node] = t
			s.targets = append(s.targets, t)
		}
		if t.entry != w.entry {
			t.entry, t.failures, t.until = w.entry, 0, time.Time{}
		}
	}
	s.targets = slices.DeleteFunc(s.targets, func(t *target) bool {
		if wanted[t.node] {
			return false
		}
		delete(s.by, t.node)
		return true
	})
}

// next returns the nodes to which a link is to be opened now: those that have not failed first, then the others, each
// kind in turns. left returns for how long the breaker of a node stays open, 0 if it is not open. The second result is
// when to look again if nothing happens before.
func (s *linking) next(now time.Time, linked func(wire.NodeID) bool, links int, left func(wire.NodeID) time.Duration) ([]wire.NodeID, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	var list []wire.NodeID
	again := now.Add(lookAgain * s.timers.Poll)
	later := func(at time.Time) {
		if at.Before(again) {
			again = at
		}
	}
	begin, blocked := s.turn, false
	for _, failed := range []bool{false, true} {
		for i := range s.targets {
			at := (begin + i) % len(s.targets)
			t := s.targets[at]
			// Checks without cost come first: most of thousands of dead nodes are skipped in each pass.
			if (t.failures > 0) != failed || t.busy || !t.own && links+s.opening >= s.limits.Links {
				continue
			}
			if t.until.After(now) {
				later(t.until)
				continue
			}
			dead := t.failures >= slowAfter
			if dead && (blocked || !s.redials.Has(s.limits.Redials, now)) {
				if !blocked { // the next look begins with this node
					s.turn, blocked = at, true
					later(now.Add(s.limits.Redials.Every))
				}
				continue
			}
			if linked(t.node) {
				continue
			}
			if wait := left(t.node); wait > 0 {
				later(now.Add(wait))
				continue
			}
			if s.opening >= s.limits.Dialing {
				s.turn = at
				return list, again
			}
			if dead {
				s.redials.Take(s.limits.Redials, now, 1)
			}
			t.busy = true
			s.opening++
			s.dials++
			list = append(list, t.node)
		}
	}
	return list, again
}

// opened ends an attempt. Its place is free for another one, whether or not it brought a connection.
func (s *linking) opened(n wire.NodeID, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	t := s.by[n]
	if t == nil {
		return
	}
	if err != nil {
		t.busy = false
		s.failed(t, now)
	}
}

func (s *linking) failed(t *target, now time.Time) {
	t.until = now.Add(backoff.Pause(t.failures, s.timers.RetryMin, s.timers.LinkRest, s.jitter()))
	t.failures++
}

// ended takes in that a connection that this node had opened has ended after lasted, and whether another
// link to the node is up. A short one counts as a failure, so that a node that accepts and closes is not
// dialed without a pause.
func (s *linking) ended(n wire.NodeID, lasted time.Duration, linked bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.by[n]
	if t == nil {
		return
	}
	t.busy = false
	if !linked && lasted < s.timers.RetryMax {
		s.failed(t, now)
	}
}

// linked takes in that a link is up, of those links that exist now. The first link after a time without
// any ends all pauses, at most once in LinkRest/10: probably not the others had failed, but this node's
// network.
func (s *linking) linked(n wire.NodeID, links int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.by[n]; t != nil {
		t.busy, t.failures, t.until = false, 0, time.Time{}
	}
	if links > 1 || !s.revived.IsZero() && now.Sub(s.revived) < s.timers.LinkRest/10 {
		return
	}
	s.revived = now
	for _, t := range s.targets {
		t.failures, t.until = 0, time.Time{}
	}
}

// heard ends the pause of a node that was heard of: it connected, answered, or made a new record. It does
// so once in RetryMax for each node, since another node can cause it at will. It reports whether there
// was a pause.
func (s *linking) heard(n wire.NodeID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.by[n]
	if t == nil || t.failures == 0 {
		return false
	}
	if !t.heard.IsZero() && now.Sub(t.heard) < s.timers.RetryMax {
		return false
	}
	t.failures, t.until, t.heard = 0, time.Time{}, now
	return true
}

// counts returns the number of attempts and of passes over all nodes so far.
func (s *linking) counts() (dials, looks uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials, s.looks
}

// heard takes in that a node has proved itself by a connection, an answer or a new record.
func (f *Federation) heard(n wire.NodeID) {
	f.breakers.reset(n)
	if f.linking.heard(n, time.Now()) {
		f.wake(f.linkNow)
	}
}

// keepLinks opens links to known nodes that have none. It looks at all of them only when a link has
// ended, an attempt is over, a node or an organization has become known, or a pause ends.
func (f *Federation) keepLinks(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-f.linkNow:
		}
		begun := time.Now()
		wait := f.openLinks(ctx)
		timer.Reset(max(wait, 0))
		// Many events in a row, such as 1,000 records that arrive, must not cost as many passes.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(lookShare*time.Since(begun), f.cfg.Timers.Poll)):
		}
	}
}

// openLinks begins the attempts that are due, and returns how long nothing more is due.
func (f *Federation) openLinks(ctx context.Context) time.Duration {
	f.refreshTargets()
	now, stored := time.Now(), f.cfg.Clock.Now()
	list, again := f.linking.next(now, f.links.has, f.links.count(),
		func(n wire.NodeID) time.Duration { return f.breakers.left(n, stored) })
	for _, n := range list {
		f.tasks.Go(func() { f.openLink(ctx, n) })
	}
	return again.Sub(now)
}

// refreshTargets makes the list of nodes again if an organization or a record has changed.
func (f *Federation) refreshTargets() {
	peers, nodes := f.cfg.Peers.Version(), f.records.version()
	if f.sawPeers == peers+1 && f.sawNodes == nodes+1 {
		return
	}
	f.sawPeers, f.sawNodes = peers+1, nodes+1
	var wishes []wish
	for _, d := range f.admitted() {
		nodes := f.Nodes(d)
		for _, s := range f.seeds(d) {
			if !slices.Contains(nodes, s.Node) {
				nodes = append(nodes, s.Node)
			}
		}
		p, _ := f.cfg.Peers.Get(d)
		for _, n := range nodes {
			wishes = append(wishes, wish{n, d == f.cfg.Identity.Domain, p.Changed})
		}
	}
	f.linking.set(wishes)
}
