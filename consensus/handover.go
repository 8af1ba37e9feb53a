package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// handovers is the number of conversations that are handed over at once.
const handovers = 32

// HandOver gives up the leadership of every conversation that this node leads, before it stops: another
// replica leads from then on, so that nobody has to notice that this one is gone. An idle conversation is
// not put to sleep instead: the frames that say so might leave with the node. What does not succeed
// before ctx ends is left to an election.
func (m *Manager) HandOver(ctx context.Context) {
	var all sync.WaitGroup
	place := make(chan struct{}, handovers)
	for _, c := range m.served() {
		r := c.raft()
		if r == nil || r.State() != raft.Leader {
			continue
		}
		select {
		case place <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-place }()
			defer m.caught(c, "hand over", nil)
			m.handOver(ctx, c, r)
		})
	}
	all.Wait()
}

func (m *Manager) handOver(ctx context.Context, c *conversation, r *raft.Raft) {
	if voters, _ := splitServers(r.GetConfiguration().Configuration().Servers); len(voters) < 2 {
		return // there is nobody to hand it to
	}
	r.LeadershipTransfer() // its future is not waited for: Raft may be shut down and never answer
	for r.State() == raft.Leader {
		if !pause(ctx, 10*time.Millisecond) {
			m.log.Info("leadership not handed over: the others elect", "conversation", c.id)
			return
		}
	}
}
