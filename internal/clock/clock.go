// Package clock counts time for what a node keeps, so that a machine whose clock jumps neither loses what it stores
// nor keeps it for good.
//
// A Clock has two readings. Count is the time that things age by: it goes on with the monotonic clock, never back,
// and takes no jump of the machine's clock over. Now is the time of day: Count and the jumps that were believed. A
// jump is believed when the machine's clock has kept it for a while. Shown converts a stored Count to a time of day.
package clock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits are those of a Clock. Zero means the default, in brackets.
type Limits struct {
	Tolerance time.Duration // [1 min] a machine's clock that is this far off is followed; further, it has jumped
	Confirm   time.Duration // [1 h] a jump that has lasted for so long, by the monotonic clock, is believed
	Downtime  time.Duration // [24 h] of a pause between two runs, so much counts
}

// slew is the part of elapsed time by which Count follows a clock that is off, a twentieth.
const slew = 20

// maxJumps bounds the jumps that are remembered for Shown; the two oldest become one.
const maxJumps = 64

func or(v, otherwise time.Duration) time.Duration {
	if v == 0 {
		return otherwise
	}
	return v
}

// Config is what a Clock works with.
type Config struct {
	Limits Limits
	Wall   func() time.Time     // the machine's clock; nil: time.Now
	Elapse func() time.Duration // the monotonic clock, from any beginning; nil: the machine's
	// After returns a channel that gets the time after a duration of the monotonic clock; nil: time.After.
	After func(time.Duration) <-chan time.Time
	// Stored is what State returned in a former run, nil in the first.
	Stored []byte
	// Report is called for each jump: when it is seen, when it has ended, and when it is believed. May be nil. It
	// must not call the Clock.
	Report func(Jump)
}

// Jump is what the machine's clock has done.
type Jump struct {
	By    time.Duration // ahead, or behind if negative
	Stage Stage
}

// Stage is what became of a jump.
type Stage string

// The stages.
const (
	Seen     Stage = "seen"
	Ended    Stage = "ended"
	Believed Stage = "believed"
)

// Clock is safe for concurrent use.
type Clock struct {
	limits Limits
	wall   func() time.Time
	elapse func() time.Duration
	after  func(time.Duration) <-chan time.Time
	report func(Jump)

	mu       sync.Mutex // guards what follows
	count    int64      // nanoseconds since 1970, as ageing counts them
	last     time.Duration
	jumps    []jump // believed, the oldest first
	suspect  int64  // how far off the machine's clock is; 0 if it is not
	since    time.Duration
	believed int
}

// jump moves Now, from a Count on, by nanoseconds.
type jump struct{ at, by int64 }

// Defaults are what zero limits stand for. They are those of the configuration that 'mlsfed init' writes: a test compares
// them.
func Defaults() Limits { return Limits{time.Minute, time.Hour, 24 * time.Hour} }

// New makes a clock that goes on where State was taken.
func New(cfg Config) (*Clock, error) {
	l, usual := cfg.Limits, Defaults()
	c := &Clock{
		limits: Limits{or(l.Tolerance, usual.Tolerance), or(l.Confirm, usual.Confirm), or(l.Downtime, usual.Downtime)},
		wall:   cfg.Wall, elapse: cfg.Elapse, after: cfg.After, report: cfg.Report,
	}
	if c.wall == nil {
		c.wall = time.Now
	}
	if c.elapse == nil {
		start := time.Now()
		c.elapse = func() time.Duration { return time.Since(start) }
	}
	if c.after == nil {
		c.after = time.After
	}
	if c.report == nil {
		c.report = func(Jump) {}
	}
	c.last = c.elapse()
	now := c.read()
	if cfg.Stored == nil {
		c.count = now
		return c, nil
	}
	count, wall, jumps, err := decode(cfg.Stored)
	if err != nil {
		return nil, err
	}
	c.jumps = jumps
	c.count = count + min(max(now-wall, 0), int64(c.limits.Downtime))
	return c, nil
}

// After returns a channel that gets the time after a duration.
func (c *Clock) After(d time.Duration) <-chan time.Time { return c.after(d) }

// Count is the time that things age by. It never goes back.
func (c *Clock) Count() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return time.Unix(0, c.count)
}

// Now is the time of day, without a jump that is not believed. It goes back only when a jump back is believed.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return time.Unix(0, c.count+c.offset(c.count))
}

// Shown is the time of day at a Count.
func (c *Clock) Shown(count time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := count.UnixNano()
	return time.Unix(0, n+c.offset(n))
}

// Off is how far the machine's clock is ahead of Now, 0 while they agree, and how many jumps were believed in this run.
func (c *Clock) Off() (off time.Duration, believed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return time.Duration(c.suspect), c.believed
}

// offset is the sum of the jumps until a count.
func (c *Clock) offset(count int64) (sum int64) {
	for _, j := range c.jumps {
		if j.at > count {
			break
		}
		sum += j.by
	}
	return sum
}

// latest is what a later machine's clock is taken for: further, nanoseconds in 64 bits would soon end.
var latest = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// read is the machine's clock.
func (c *Clock) read() int64 {
	now := c.wall()
	if now.Before(time.Unix(0, 0)) {
		return 0
	}
	if now.After(latest) {
		now = latest
	}
	return now.UnixNano()
}

// advance counts what has elapsed. c.mu is held.
func (c *Clock) advance() {
	now, wall := c.elapse(), c.read()
	elapsed := int64(max(now-c.last, 0))
	c.last = max(c.last, now)
	c.count += elapsed
	off := wall - c.count - c.offset(c.count)
	tolerance := int64(c.limits.Tolerance)
	if off >= -tolerance && off <= tolerance {
		c.count += min(max(off, -elapsed/slew), elapsed/slew)
		if c.suspect != 0 {
			by := time.Duration(c.suspect)
			c.suspect = 0
			c.report(Jump{by, Ended})
		}
		return
	}
	if d := off - c.suspect; c.suspect == 0 || d < -tolerance || d > tolerance {
		c.suspect, c.since = off, now
		c.report(Jump{time.Duration(off), Seen})
		return
	}
	if now-c.since < c.limits.Confirm {
		return
	}
	c.jumps = append(c.jumps, jump{c.count, off})
	if len(c.jumps) > maxJumps {
		c.jumps[1].by += c.jumps[0].by
		c.jumps = c.jumps[1:]
	}
	c.suspect = 0
	c.believed++
	c.report(Jump{time.Duration(off), Believed})
}

// stateVersion begins what State returns.
const stateVersion = 1

// State is what the next run goes on from. It is to be stored now and then, and at the end.
func (c *Clock) State() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	b := []byte{stateVersion}
	b = binary.BigEndian.AppendUint64(b, uint64(c.count))
	b = binary.BigEndian.AppendUint64(b, uint64(c.read()))
	for _, j := range c.jumps {
		b = binary.BigEndian.AppendUint64(b, uint64(j.at))
		b = binary.BigEndian.AppendUint64(b, uint64(j.by))
	}
	return b
}

func decode(b []byte) (count, wall int64, jumps []jump, err error) {
	if len(b) == 0 || b[0] != stateVersion {
		return 0, 0, nil, fmt.Errorf("clock: the stored state has another version than %d", stateVersion)
	}
	b = b[1:]
	if len(b) < 16 || len(b)%16 != 0 || len(b) > 16*(maxJumps+1) {
		return 0, 0, nil, fmt.Errorf("clock: the stored state has %d bytes", len(b))
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	count, wall = number(0), number(8)
	if count < 0 || wall < 0 {
		return 0, 0, nil, errors.New("clock: the stored state is of before 1970")
	}
	// A count that began there goes on.
	if wall > latest.UnixNano() || count > latest.AddDate(40, 0, 0).UnixNano() {
		return 0, 0, nil, fmt.Errorf("clock: the stored state is of after %d", latest.Year())
	}
	for at := 16; at < len(b); at += 16 {
		j := jump{number(at), number(at + 8)}
		if n := len(jumps); n > 0 && j.at < jumps[n-1].at || j.at > count {
			return 0, 0, nil, errors.New("clock: jumps of the stored state are out of order")
		}
		jumps = append(jumps, j)
	}
	return count, wall, jumps, nil
}
