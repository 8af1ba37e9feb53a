package federation

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// linkReports collects the reports of a federation about its links.
type linkReports struct {
	mu   sync.Mutex
	list []string
	more chan struct{}
}

func (s *linkReports) linked(n wire.NodeID, up bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf("%s %v %s", n, up, why))
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *linkReports) wait(t *testing.T, want ...string) {
	t.Helper()
	for {
		s.mu.Lock()
		list := slices.Clone(s.list)
		s.mu.Unlock()
		if slices.Equal(list, want) {
			return
		}
		if len(list) > len(want) {
			t.Fatalf("reported %q, wanted %q", list, want)
		}
		select {
		case <-s.more:
		case <-time.After(30 * time.Second):
			t.Fatalf("reported %q, wanted %q", list, want)
		}
	}
}

// TestLinkChangesAreReportedOnce: one line and one call when a link goes up, and one when it goes down, for both
// openers and any number of connections; none when this node stops.
func TestLinkChangesAreReportedOnce(t *testing.T) {
	s := &linkReports{more: make(chan struct{}, 1)}
	// Only a dials, since its record names an address at which nothing listens. When both sides dial at the same time,
	// one of the two connections ends, and that is reported too.
	a := start(t, newOrganization(t, "a.example"), echoing, func(c *Config) { c.Linked, c.Advertise = s.linked, "127.0.0.1:1" })
	b := start(t, newOrganization(t, "b.example"), echoing)
	a.admitSeed(t, b)
	b.admit(t, a)
	up, closed := "n1.b.example true ", "n1.b.example false closed"
	link := func() (connected bool, since time.Time) {
		for _, p := range a.Status().Peers {
			for _, n := range p.Nodes {
				if n.Node == "n1.b.example" {
					connected, since = n.Connected, n.Since
				}
			}
		}
		return connected, since
	}
	if connected, since := link(); !connected && !since.IsZero() {
		t.Errorf("a link that never was is down since %v", since)
	}
	s.wait(t, up)
	connected, first := link()
	if !connected || first.IsZero() {
		t.Errorf("the link is up %v, since %v", connected, first)
	}
	b.end()
	s.wait(t, up, closed)
	if connected, since := link(); connected || !since.After(first) {
		t.Errorf("the link is up %v, since %v; before %v", connected, since, first)
	}
	b = b.again(t)
	a.admitSeed(t, b)
	s.wait(t, up, closed, up)
	if err := a.peers.Suspend("b.example"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, up, closed, up, "n1.b.example false removed")
	if err := a.peers.Resume("b.example"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, up, closed, up, "n1.b.example false removed", up)
	for _, line := range [][]string{
		{"level=INFO", `msg="link up"`, "node=n1.b.example"}, {"level=WARN", `msg="link down"`, "node=n1.b.example", "reason=closed"}, {"level=WARN", `msg="link down"`, "reason=removed"},
	} {
		if !a.log.Has(line...) {
			t.Errorf("the log lacks %q", line)
		}
	}
	a.end()
	s.wait(t, up, closed, up, "n1.b.example false removed", up)
}
