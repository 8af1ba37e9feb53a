package client

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestPaceKeepsWithinTheNodesLimit sends as fast as the pace allows, and checks that the node's own bucket allows
// each frame.
func TestPaceKeepsWithinTheNodesLimit(t *testing.T) {
	for _, a := range []wire.LimitsAnswer{
		{FrameBurst: 800, FrameMicros: 5000}, {FrameBurst: 1, FrameMicros: 1_000_000}, {FrameBurst: 2, FrameMicros: 1},
	} {
		p := newPace(&a)
		now := time.Unix(1_700_000_000, 0)
		begin, level := now, float64(a.FrameBurst) // tokens left in the node's bucket for the session
		last := now
		for i := range 3000 {
			now = now.Add(p.take(now))
			level = min(float64(a.FrameBurst), level+float64(now.Sub(last))/float64(a.FrameEvery())) - 1
			last = now
			if level < -1e-6 {
				t.Fatalf("%+v: frame %d is over the node's limit by %v", a, i, -level)
			}
		}
		if most := time.Duration(3001) * a.FrameEvery(); now.Sub(begin) > most {
			t.Errorf("%+v: 3,000 frames take %v, the rate allows them in %v", a, now.Sub(begin), most)
		}
	}
	// The limits that a node may announce to slow a device down are bounded, and no arithmetic overflows.
	p := newPace(&wire.LimitsAnswer{FrameBurst: 1 << 63, FrameMicros: 1 << 63})
	if w := p.take(time.Now()); w < 0 || w > time.Hour {
		t.Errorf("waits %v", w)
	}
	if w := newPace(&wire.LimitsAnswer{}).take(time.Now()); w != 0 {
		t.Errorf("without a limit: waits %v", w)
	}
}
