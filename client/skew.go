package client

import (
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of what a device does about a difference between its clock and its node's.
const (
	minSkew = time.Minute    // less is no difference
	maxSkew = 24 * time.Hour // more is not taken over: a node could make ended certificates valid again
)

// nodeClock is the clock of a device, put right by what its node said last. A KeyPackage that is made by a clock ahead
// is not valid yet for others, and one that is behind refuses theirs.
type nodeClock struct {
	Clock
	off atomic.Int64 // nanoseconds
}

// Now implements Clock.
func (c *nodeClock) Now() time.Time { return c.Clock.Now().Add(time.Duration(c.off.Load())) }

// compareClock takes the node's time over where it differs by between minSkew and maxSkew, and tells the user.
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
