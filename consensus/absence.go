package consensus

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// await waits until there is a connection to a node, at most for patience, and meanwhile has the node dialed as often
// as allowed. A caller that retries only after await sees one failure for a long absence, independent of the length
// of its own pauses after failures.
func (s *mesh) await(ctx context.Context, to wire.NodeID, patience time.Duration) bool {
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		p := s.peer(to)
		if p == nil {
			return false
		}
		up, wait, connected := p.nextDial()
		if connected {
			return true
		}
		next := time.NewTimer(wait)
		select {
		case <-up:
		case <-next.C:
			select {
			case p.wanted <- struct{}{}:
			default: // it is already dialing
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

// reached ends the pause before a node is dialed again: there is evidence that the node is back.
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
		default: // it is already dialing
		}
	}
}

// dialCheckInterval is the interval at which a waiting caller checks whether to dial, if no pause determines it.
const dialCheckInterval = 100 * time.Millisecond

// nextDial reports whether there is a connection. If there is none, it returns a channel that is closed when there is
// one, and the time to wait before dialing.
func (p *peer) nextDial() (up <-chan struct{}, wait time.Duration, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return nil, 0, true
	}
	if p.up == nil {
		p.up = make(chan struct{})
	}
	return p.up, max(time.Until(p.retry), dialCheckInterval), false
}
