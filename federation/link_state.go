package federation

import (
	"log/slog"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// linkState reports when the link to a node goes up and when it goes down, once each. A link that replaces another one
// is not reported.
type linkState struct {
	verifier *organization.Verifier
	links    *links
	lines    *lines
	linked   func(node wire.NodeID, up bool, why string)

	mu    sync.Mutex                // guards since, and orders the reports
	since map[wire.NodeID]time.Time // of the links that were reported as up; by the machine's monotonic clock
	down  map[wire.NodeID]time.Time // of those that went down after that
}

func newLinkState(verifier *organization.Verifier, links *links, lines *lines, linked func(wire.NodeID, bool, string)) *linkState {
	if linked == nil {
		linked = func(wire.NodeID, bool, string) {}
	}
	return &linkState{verifier: verifier, links: links, lines: lines, linked: linked, since: make(map[wire.NodeID]time.Time), down: make(map[wire.NodeID]time.Time)}
}

// report compares the state of a node's link with the last report, and reports a change. err is the error that ended a
// connection; stopping means that this node is closing all links.
func (s *linkState) report(n wire.NodeID, err error, stopping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, reported := s.since[n]
	switch up := s.links.has(n); {
	case up == reported:
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
			return // all links end, which needs no report
		}
		why := "closed"
		if !s.verifier.Admits(n.Organization()) {
			why = cutRemoved
		} else if reason := cutReason(err); reason != "" {
			why = reason
		}
		s.lines.warn("link down", "node", n, "reason", why, "error", err, "after", time.Since(since).Round(time.Millisecond))
		s.linked(n, false, why)
	}
}

// maxDown bounds the stored ends of links. They are for display only, and are all dropped at the bound.
const maxDown = 4096

// changed returns when a node's link last went up or down, the zero time if it has not since this node's start.
func (s *linkState) changed(n wire.NodeID) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, up := s.since[n]; up {
		return at
	}
	return s.down[n]
}
