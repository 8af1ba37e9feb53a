package client

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// pace limits the rate of frames of a session, so that the node does not end the session. It is a token bucket with
// the limits that the node has announced; the node's own bucket was full at the login. A quarter of the burst is
// reserved for pongs, which this package does not write, and for earlier frames. Only the goroutine that writes
// frames uses pace.
type pace struct {
	rate   tokenbucket.Rate // Every is 0 without a limit
	bucket tokenbucket.Bucket
}

func newPace(a *wire.LimitsAnswer) *pace {
	return &pace{rate: tokenbucket.Rate{Burst: max(1, int(min(a.FrameBurst, maxBurst)*3/4)), Every: a.FrameEvery()}}
}

// maxBurst bounds the burst that a node may announce, in frames: a longer one is cut to maxBurst.
const maxBurst = 1 << 20

// take takes the token of a frame, and returns how long to wait before sending it.
func (p *pace) take(now time.Time) time.Duration { return p.bucket.Take(p.rate, now, 1) }

// wait waits until the next frame may be sent, if the node has announced its limits.
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

// learnLimits asks the node for the limits of this session. A node of an earlier build does not announce limits, and
// is not asked.
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
