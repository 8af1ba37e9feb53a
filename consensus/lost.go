package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A voter that has lost its log asks for its removal, and the leader removes it. If the voters without such a loss
// are no majority, no leader can be elected: an operator has to recover the conversation on another node. So a node
// records which voters have reported the loss of their logs, and a restored node that held the only vote reports its
// loss to the learners. The record is for operators and decides nothing: the worst result of a false report is the
// removal of the reporting voter itself.

// lostEvery is the number of Timers.Repair after which a fenced voter notifies the learners again; a received report
// is valid for three times as long.
const lostEvery = 12

// noteLost records a member's report that it has lost its log.
func (m *Manager) noteLost(c *conversation, n wire.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = make(map[wire.NodeID]time.Time)
	}
	c.lost[n] = time.Now()
}

// lostVoters returns the voters that have lost their logs, as far as this node knows: this node, and voters that
// reported a loss in the last minutes.
func (m *Manager) lostVoters(c *conversation, voters []wire.NodeID) (lost []wire.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, at := range c.lost {
		if time.Since(at) > 3*lostEvery*m.cfg.Timers.Repair {
			delete(c.lost, n)
		} else if contains(voters, n) {
			lost = append(lost, n)
		}
	}
	if c.out.Load() && contains(voters, m.cfg.Node) && !contains(lost, m.cfg.Node) {
		lost = append(lost, m.cfg.Node)
	}
	slices.Sort(lost)
	return lost
}

// NeedsRecovery reports whether the conversation can continue only after an operator recovers it: it has no leader,
// and the voters that have not lost their logs are no majority.
func (s *Status) NeedsRecovery() bool {
	return len(s.Lost) > 0 && 2*(len(s.Voters)-len(s.Lost)) <= len(s.Voters) && (s.Leader == "" || contains(s.Lost, s.Leader))
}

// NeedRecovery returns the conversations of this node whose Status.NeedsRecovery is true.
func (m *Manager) NeedRecovery() (ids []wire.ConversationID) {
	for _, c := range m.list() {
		c.mu.Lock()
		heard := len(c.lost) > 0
		c.mu.Unlock()
		if !heard && !c.out.Load() {
			continue
		}
		if s, err := m.replicaStatus(c); err == nil && s.NeedsRecovery() {
			ids = append(ids, c.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// reportLoss notifies the learners of a conversation that this node held the only vote and was restored. It repeats
// this until the conversation is recovered.
func (m *Manager) reportLoss(ctx context.Context, c *conversation, learners []wire.NodeID) {
	for c.out.Load() {
		for _, n := range learners {
			_, err := m.mesh.askFor(ctx, n, &frame{kind: kindRejoin, generation: c.generation(), conversation: c.id}, 3*m.cfg.Timers.Call)
			m.log.Debug("the loss at the only voter was reported to the learner", "conversation", c.id, "peer", n, "error", err)
		}
		if !pause(ctx, lostEvery*m.cfg.Timers.Repair) {
			return
		}
	}
}
