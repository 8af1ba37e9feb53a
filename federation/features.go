package federation

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// How long the answer about a node's features is valid, and how many answers are stored.
const (
	featuresLife  = 10 * time.Minute // without a link; with one, as long as the node's run lasts
	featuresRetry = 5 * time.Second  // after a question without an answer
	maxAnnounced  = 1 << 16          // nodes
)

// announcements stores the features of other nodes. A node is asked by a call when its features are first needed, and
// again after each of its restarts. A node of the first release does not know the call: its set is empty.
type announcements struct {
	mu sync.Mutex // guards by
	by map[wire.NodeID]*announcement
}

type announcement struct {
	features wire.Features
	instance uint64    // of the link while the node was asked, 0 without a link
	at       time.Time // of the last answer, or of the last failure
	known    bool
	asking   bool
}

// Announced reports whether node n is known to understand a feature. It does not block: a node that has not been asked
// yet is asked in the background, and Announced returns false until the node has answered.
func (f *Federation) Announced(n wire.NodeID, feature wire.Feature) bool {
	if _, err := f.verifier.Root(n.Organization()); err != nil {
		return false
	}
	var instance uint64
	if l := f.links.get(n); l != nil {
		instance = l.instance
	}
	now := f.cfg.Clock.Now()
	f.announcements.mu.Lock()
	defer f.announcements.mu.Unlock()
	a := f.announcements.of(n)
	fresh := a.known && (instance != 0 && a.instance == instance || now.Sub(a.at) < featuresLife && (instance == 0 || a.instance == 0))
	if !fresh && !a.asking && (a.known || now.Sub(a.at) >= featuresRetry || a.at.IsZero()) {
		a.asking = f.spawn(func(ctx context.Context) { f.askFeatures(ctx, n, instance) })
	}
	return fresh && a.features.Has(feature)
}

// spawn runs fn on a goroutine that Run waits for. It reports false while Run does not run.
func (f *Federation) spawn(fn func(context.Context)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.stopping {
		return false
	}
	ctx := f.ctx
	f.tasks.Go(func() { fn(ctx) })
	return true
}

// of returns the entry of n, and makes it if there is none. The caller holds s.mu.
func (s *announcements) of(n wire.NodeID) *announcement {
	a := s.by[n]
	if a != nil {
		return a
	}
	for old, b := range s.by {
		if len(s.by) < maxAnnounced {
			break
		}
		if !b.asking {
			delete(s.by, old)
		}
	}
	a = new(announcement)
	s.by[n] = a
	return a
}

func (f *Federation) askFeatures(ctx context.Context, n wire.NodeID, instance uint64) {
	var answer wire.FeaturesAnswer
	err := f.Call(ctx, n, wire.CallFeatures, nil, &answer)
	f.announcements.mu.Lock()
	defer f.announcements.mu.Unlock()
	a := f.announcements.of(n)
	a.asking, a.at = false, f.cfg.Clock.Now()
	// A node of the first release answers that it has no such method.
	a.known = err == nil || errors.Is(err, wire.Malformed)
	a.features, a.instance = answer.Features, instance
}
