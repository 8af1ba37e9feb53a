package main

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// traffic is a Transport that watches what goes through another: how much, and whether the device still
// has something to do. It changes nothing of it.
type traffic struct {
	client.Transport

	mu       sync.Mutex
	sent     uint64 // bytes of frames
	received uint64
	open     map[uint64]wire.Method // requests of the present session without an answer
	answered map[wire.Method]int    // requests of the present session that were answered
	last     time.Time              // of the last frame
}

func newTraffic(t client.Transport) *traffic { return &traffic{Transport: t, last: time.Now()} }

// Dial implements client.Transport.
func (t *traffic) Dial(ctx context.Context) (client.Conn, error) {
	c, err := t.Transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open, t.answered = make(map[uint64]wire.Method), make(map[wire.Method]int)
	return &watchedConn{Conn: c, t: t}, nil
}

type watchedConn struct {
	client.Conn
	t *traffic
}

// Read implements client.Conn.
func (c *watchedConn) Read(ctx context.Context) ([]byte, error) {
	b, err := c.Conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.t.received += uint64(len(b))
	c.t.last = time.Now()
	f := new(wire.Frame)
	if wire.Decode(b, wire.MaxSessionFrame, f) == nil && (f.Type == wire.FrameAnswer || f.Type == wire.FrameError) {
		if m, ok := c.t.open[f.ID]; ok {
			delete(c.t.open, f.ID)
			c.t.answered[m]++
		}
	}
	return b, nil
}

// Write implements client.Conn.
func (c *watchedConn) Write(ctx context.Context, b []byte) error {
	c.t.note(b)
	return c.Conn.Write(ctx, b)
}

func (t *traffic) note(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent += uint64(len(b))
	t.last = time.Now()
	f := new(wire.Frame)
	if wire.Decode(b, wire.MaxSessionFrame, f) == nil && f.Type == wire.FrameRequest {
		t.open[f.ID] = f.Method
	}
}

// bytes is what went out and came in so far.
func (t *traffic) bytes() (sent, received uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, t.received
}

// quiet is how long nothing happens on a connection before a device counts as up to date. The waits of
// commandTiming are shorter.
const quiet = 250 * time.Millisecond

// settled reports whether the device has been brought up to date: it has looked after its KeyPackages,
// which it does before it asks for the user's devices, waits for no answer, and nothing comes.
func (t *traffic) settled(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[wire.MethodDevices] > 0 && len(t.open) == 0 && now.Sub(t.last) >= quiet
}

// begun reports whether the device has looked after its KeyPackages in this session.
func (t *traffic) begun() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[wire.MethodDevices] > 0
}

// settle waits until the device is up to date, or for a time. The error is that of a context.
func (t *traffic) settle(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if t.settled(now) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
