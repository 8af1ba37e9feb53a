package test

import (
	"crypto/tls"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
)

// calendar is the clock of nodes and devices in a test. It runs as the machine's clock does, and pass moves it
// forward: timers that are due then fire.
type calendar struct {
	begun time.Time

	mu     sync.Mutex // guards what follows
	moved  time.Duration
	timers map[*calendarTimer]struct{}
}

type calendarTimer struct {
	due  time.Duration
	ring chan time.Time
}

func newCalendar() *calendar {
	return &calendar{begun: time.Now(), timers: make(map[*calendarTimer]struct{})}
}

// use makes the nodes and the devices of a cluster use the calendar.
func (c *calendar) use(o *cluster.Options) {
	o.Node = func(o *node.Options) { o.Now, o.Elapse, o.After = c.Now, c.Elapse, c.After }
	o.TLS = &tls.Config{Time: c.Now}
	before := o.Client
	o.Client = func(o *client.Options) {
		if before != nil {
			before(o)
		}
		o.Clock = c
	}
}

// Elapse returns the time since the beginning.
func (c *calendar) Elapse() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.begun) + c.moved
}

// Now implements client.Clock.
func (c *calendar) Now() time.Time { return c.begun.Add(c.Elapse()) }

// After implements client.Clock.
func (c *calendar) After(d time.Duration) <-chan time.Time {
	t := &calendarTimer{due: c.Elapse() + d, ring: make(chan time.Time, 1)}
	c.mu.Lock()
	c.timers[t] = struct{}{}
	c.mu.Unlock()
	time.AfterFunc(d, c.fire)
	return t.ring
}

// pass moves the calendar forward.
func (c *calendar) pass(d time.Duration) {
	c.mu.Lock()
	c.moved += d
	c.mu.Unlock()
	c.fire()
}

func (c *calendar) fire() {
	now := c.Elapse()
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.timers {
		if t.due <= now {
			t.ring <- c.begun.Add(now)
			delete(c.timers, t)
		}
	}
}
