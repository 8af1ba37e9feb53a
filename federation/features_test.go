package federation

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAnnounced holds that a node's features are asked for once in a run of that node, that a node of the
// first release has none, and that a restart with a newer build is noticed.
func TestAnnounced(t *testing.T) {
	const feature wire.Feature = "rules/2"
	var asked atomic.Int64
	a, b := federate(t, func(c *Config) {
		if c.Identity.Node != "n1.b.example" {
			return
		}
		c.Handlers = map[wire.Method]Handler{wire.CallFeatures: func(context.Context, wire.NodeID, []byte) (any, error) {
			asked.Add(1)
			return &wire.FeaturesAnswer{Features: wire.NewFeatures(feature, "more")}, nil
		}}
	})
	connected(t, a, b)
	federationtest.Eventually(t, "b's features", func() bool { return a.Announced(b.id.Node, feature) })
	if !a.Announced(b.id.Node, "more") || a.Announced(b.id.Node, "less") {
		t.Error("another set than b's")
	}
	for range 100 {
		a.Announced(b.id.Node, feature)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("b was asked %d times", n)
	}
	// a has no such method: it is like a node of the first release.
	if err := b.Call(t.Context(), a.id.Node, wire.CallFeatures, nil, new(wire.FeaturesAnswer)); !errors.Is(err, wire.Malformed) {
		t.Fatalf("a node without features answers %v", err)
	}
	federationtest.Eventually(t, "a's answer", func() bool {
		b.Announced(a.id.Node, feature)
		b.announcements.mu.Lock()
		defer b.announcements.mu.Unlock()
		return b.announcements.of(a.id.Node).known
	})
	if b.Announced(a.id.Node, feature) {
		t.Error("a announced nothing")
	}
	if a.Announced("n1.stranger.example", feature) || len(a.announcements.by) != 1 {
		t.Errorf("%d nodes are remembered, wanted b alone", len(a.announcements.by))
	}
}
