package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// maxTransfers is the number of leader transfers at the same time.
const maxTransfers = 32

// TransferLeadership transfers the leadership of every conversation that this node leads, before the node stops:
// another replica then leads, so that no failure detection is needed. TransferLeadership does not put idle
// conversations to sleep instead: the frames that say so might be lost with the node. Transfers that do not succeed
// before ctx ends are left to an election.
func (m *Manager) TransferLeadership(ctx context.Context) {
	var all sync.WaitGroup
	place := make(chan struct{}, maxTransfers)
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
			defer m.quarantineOnPanic(c, "transfer leadership", nil)
			m.transferLeadership(ctx, c, r)
		})
	}
	all.Wait()
}

func (m *Manager) transferLeadership(ctx context.Context, c *conversation, r *raft.Raft) {
	if voters, _ := splitServers(r.GetConfiguration().Configuration().Servers); len(voters) < 2 {
		return // there is no other voter
	}
	r.LeadershipTransfer() // do not wait for its future: Raft may be shut down and never answer
	for r.State() == raft.Leader {
		if !pause(ctx, 10*time.Millisecond) {
			m.log.Info("leadership not transferred: the others elect", "conversation", c.id)
			return
		}
	}
}

// yield makes another voter campaign, because the disk of this leader is stalled. Raft's main goroutine waits for the
// disk, so that Raft itself cannot transfer the leadership, and the frames that would end it do not leave the node. The
// message that starts the campaign is the only exception: it promises nothing that the disk would have to keep. If the
// campaign fails, the timers of the followers remain.
func (t *transport) yield() {
	r := t.conv.raft()
	if r == nil || r.State() != raft.Leader {
		return
	}
	now, last := time.Now().UnixNano(), t.yielded.Load()
	if now-last < int64(t.m.cfg.Timers.Stall) || !t.yielded.CompareAndSwap(last, now) {
		return
	}
	term := r.CurrentTerm()
	voters, _ := splitServers(r.GetConfiguration().Configuration().Servers)
	var best wire.NodeID
	var at uint64
	for _, n := range without(voters, t.m.cfg.Node) {
		// A voter with a shorter log would not be elected.
		if have, ok := t.acks.get(n, term); ok && have.index > at && t.m.mesh.reachable(n) {
			best, at = n, have.index
		}
	}
	if best == "" {
		return
	}
	t.m.log.Warn("the disk does not end a write: another voter is asked to lead", "conversation", t.conv.id, "peer", best)
	t.m.notify(best, t.frame(kindTimeoutNow, nil))
}
