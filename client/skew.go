package client

import (
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds for the difference between a device's clock and its node's.
const (
	minSkew = time.Minute    // a smaller difference is ignored
	maxSkew = 24 * time.Hour // a larger difference is not applied: a node could make expired certificates valid again
)

// nodeClock is the clock of a device, corrected by the time that its node reported last. With a clock that is ahead,
// a device makes KeyPackages that are not valid yet for others; with one that is behind, it refuses theirs.
type nodeClock struct {
	Clock
	off atomic.Int64 // nanoseconds
}

// Now implements Clock.
func (c *nodeClock) Now() time.Time { return c.Clock.Now().Add(time.Duration(c.off.Load())) }

// compareClock applies the node's time if it differs by between minSkew and maxSkew, and emits an event.
func (d *Device) compareClock(node wire.Time) {
	c, ok := d.opts.Clock.(*nodeClock)
	if !ok || node == 0 {
		return
	}
	off := node.Std().Sub(c.Clock.Now())
	switch {
	case off.Abs() < minSkew:
		c.off.Store(0)
		return
	case off.Abs() <= maxSkew:
		c.off.Store(int64(off))
	default:
		c.off.Store(0)
	}
	how := "behind"
	if off < 0 {
		how = "ahead of"
	}
	does := "until it is set right, the node's time is used"
	if off.Abs() > maxSkew {
		does = "set it right: until then this device cannot be added to conversations, and refuses what others make"
	}
	err := wire.Errorf(wire.Invalid, "clock", "the clock of this device is %v %s that of its organization's node (%s): %s", off.Abs().Round(time.Second), how, node.Std().UTC().Format(time.RFC3339), does)
	d.log.Warn("clocks differ", "off", off)
	d.emit(Event{Type: EventClock, Err: err})
}
