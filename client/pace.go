package client

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// pace spreads the frames of a session, so that the node does not end it. It is a token bucket with the limits that the
// node has told; the node's own bucket was full at the login. A quarter of the burst stays free for pongs, which this
// package does not write, and for earlier frames.
// The goroutine that writes frames alone uses it.
type pace struct {
	burst time.Duration // that the bucket holds, as the time in which it fills
	every time.Duration // a frame; 0: no limit
	full  time.Time     // when the bucket will be
}

func newPace(a *wire.LimitsAnswer) *pace {
	every := a.FrameEvery()
	return &pace{burst: time.Duration(min(a.FrameBurst, maxBurst)*3/4) * every, every: every}
}

// maxBurst bounds what a node may say of its burst, in frames: a longer one is as good as none.
const maxBurst = 1 << 20

// take pays for a frame, and returns for how long to wait before it is sent.
func (p *pace) take(now time.Time) time.Duration {
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(p.every)
	return max(0, p.full.Sub(now)-max(p.burst, p.every))
}

// wait waits until the next frame may be sent, if the node has told its limits.
func (s *session) wait(ctx context.Context) {
	p := s.pace.Load()
	if p == nil {
		return
	}
	w := p.take(time.Now())
	if w <= 0 {
		return
	}
	timer := time.NewTimer(w)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ended:
	case <-ctx.Done():
	}
}

// learnLimits asks the node what it lets this session do. A node of an earlier build does not say, and is not asked.
func (d *Device) learnLimits(ctx context.Context, s *session) {
	if !s.has(wire.FeatureLimits) {
		return
	}
	raw, err := s.request(ctx, wire.MethodLimits, nil)
	answer := new(wire.LimitsAnswer)
	if err == nil {
		err = wire.Decode(raw, wire.MaxSessionFrame, answer)
	}
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn("the node's limits are not known", "node", s.node, "error", err)
		}
		return
	}
	s.pace.Store(newPace(answer))
}
