// Package traffic observes the connection of a device.
package traffic

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// Meter is a Transport that observes another Transport: the number of bytes, and whether the device still has
// something to do. It changes no data.
type Meter struct {
	client.Transport

	mu       sync.Mutex
	sent     uint64 // bytes of frames
	received uint64
	open     map[uint64]wire.Method // requests of the present session without an answer
	answered map[wire.Method]int    // requests of the present session that were answered
	last     time.Time              // of the last frame
}

// New returns a Meter of a transport.
func New(t client.Transport) *Meter { return &Meter{Transport: t, last: time.Now()} }

// Dial implements client.Transport.
func (t *Meter) Dial(ctx context.Context) (client.Conn, error) {
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
	t *Meter
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

func (t *Meter) note(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent += uint64(len(b))
	t.last = time.Now()
	f := new(wire.Frame)
	if wire.Decode(b, wire.MaxSessionFrame, f) == nil && f.Type == wire.FrameRequest {
		t.open[f.ID] = f.Method
	}
}

// Bytes returns the bytes sent and received so far.
func (t *Meter) Bytes() (sent, received uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, t.received
}

// Quiet is how long a connection must be idle before a device counts as up to date. A device whose own waits (see
// client.Timing) are not shorter counts as up to date too early.
const Quiet = 250 * time.Millisecond

// settled reports whether the device is up to date: it has checked its KeyPackages, which it does before it asks for
// the user's devices, it waits for no answer, and the connection is idle.
func (t *Meter) settled(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[wire.MethodDevices] > 0 && len(t.open) == 0 && now.Sub(t.last) >= Quiet
}

// Begun reports whether the device has checked its KeyPackages in this session.
func (t *Meter) Begun() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[wire.MethodDevices] > 0
}

// Settle waits until the device is up to date, but at most for a time. The error is the error of a context.
func (t *Meter) Settle(ctx context.Context, most time.Duration) error {
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
