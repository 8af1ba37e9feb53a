package consensus

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// await waits until a connection to a node stands, for patience at most, and has it dialed meanwhile as often as it may
// be. Whoever tries again only then has one failure for a long absence, whatever its own pauses after failures are.
func (s *mesh) await(ctx context.Context, to wire.NodeID, patience time.Duration) bool {
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		p := s.peer(to)
		if p == nil {
			return false
		}
		up, wait, stands := p.waitFor()
		if stands {
			return true
		}
		next := time.NewTimer(wait)
		select {
		case <-up:
		case <-next.C:
			select {
			case p.wanted <- struct{}{}:
			default: // it dials
			}
		case <-end.C:
			next.Stop()
			return false
		case <-ctx.Done():
			next.Stop()
			return false
		}
		next.Stop()
	}
}

// reached ends the pause before a node is dialed again: something has shown that it is back.
func (s *mesh) reached(n wire.NodeID) {
	p := s.existing(n)
	if p == nil {
		return
	}
	p.mu.Lock()
	p.failed, p.retry = 0, time.Time{}
	waits := p.conn == nil && p.up != nil
	p.mu.Unlock()
	if waits {
		select {
		case p.wanted <- struct{}{}:
		default: // it dials
		}
	}
}

// lookAgain is how often whoever waits for a connection looks whether one is to be dialed, where no pause says so.
const lookAgain = 100 * time.Millisecond

// waitFor returns what is closed when a connection stands, and how long to wait before it is dialed.
func (p *peer) waitFor() (up <-chan struct{}, wait time.Duration, stands bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return nil, 0, true
	}
	if p.up == nil {
		p.up = make(chan struct{})
	}
	return p.up, max(time.Until(p.retry), lookAgain), false
}
