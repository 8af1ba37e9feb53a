package federation

import (
	"log/slog"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// linkState says of each node when its link goes up and when it goes down, once each: a link that replaces another one
// changes nothing.
type linkState struct {
	trust  *trust
	links  *links
	lines  *lines
	linked func(node wire.NodeID, up bool, why string)

	mu    sync.Mutex                // guards since, and orders what is told
	since map[wire.NodeID]time.Time // of the links that were told of as up; of the machine's monotonic clock
	down  map[wire.NodeID]time.Time // of those that went down after that
}

func newLinkState(trust *trust, links *links, lines *lines, linked func(wire.NodeID, bool, string)) *linkState {
	if linked == nil {
		linked = func(wire.NodeID, bool, string) {}
	}
	return &linkState{trust: trust, links: links, lines: lines, linked: linked, since: make(map[wire.NodeID]time.Time), down: make(map[wire.NodeID]time.Time)}
}

// tell compares the state of a node's link with what was told of it. err is why a connection has ended; stopping says
// that this node ends them all.
func (s *linkState) tell(n wire.NodeID, err error, stopping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, told := s.since[n]
	switch up := s.links.has(n); {
	case up == told:
	case up:
		s.since[n] = time.Now()
		delete(s.down, n)
		s.lines.write(slog.LevelInfo, "link up", "node", n)
		s.linked(n, true, "")
	default:
		delete(s.since, n)
		if len(s.down) >= maxDown {
			clear(s.down)
		}
		s.down[n] = time.Now()
		if stopping {
			return // of all links at once, and no news
		}
		why := "closed"
		if !s.trust.believes(n.Organization()) {
			why = cutRemoved
		} else if reason := cutReason(err); reason != "" {
			why = reason
		}
		s.lines.warn("link down", "node", n, "reason", why, "error", err, "after", time.Since(at).Round(time.Millisecond))
		s.linked(n, false, why)
	}
}

// maxDown bounds the links whose end is remembered. All are forgotten at once: it is for display.
const maxDown = 4096

// changed is when a node's link went up or down last, the zero time if this node has not seen it since its start.
func (s *linkState) changed(n wire.NodeID) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, up := s.since[n]; up {
		return at
	}
	return s.down[n]
}
