package consensus

import (
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A voter that has lost its log asks to be taken out, and whoever leads does it. Where no majority is left without such
// voters, nobody can: an operator has to recover the conversation on another node. So a node remembers who has said that
// it lost its log, and a restored node that held the only vote tells the learners. It is for operators to see and decides
// nothing: a voter that claims it without reason has itself taken out at most.

// lostEvery is after how many Timers.Repair a fenced voter tells the learners again; what was heard holds three times as
// long.
const lostEvery = 12

// noteLost remembers that a member says that it has lost its log.
func (m *Manager) noteLost(c *conversation, n wire.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = make(map[wire.NodeID]time.Time)
	}
	c.lost[n] = time.Now()
}

// lostVoters are the voters that have lost their logs, as far as this node has heard: itself, and those that said so in
// the last minutes.
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

// NeedsRecovery reports whether the conversation goes on only if an operator recovers it: it has no leader, and the
// voters that have not lost their logs are no majority.
func (s *Status) NeedsRecovery() bool {
	return len(s.Lost) > 0 && 2*(len(s.Voters)-len(s.Lost)) <= len(s.Voters) && (s.Leader == "" || contains(s.Lost, s.Leader))
}

// NeedRecovery are the conversations of this node whose Status.NeedsRecovery is true.
func (m *Manager) NeedRecovery() (ids []wire.ConversationID) {
	for _, c := range m.list() {
		c.mu.Lock()
		heard := len(c.lost) > 0
		c.mu.Unlock()
		if !heard && !c.out.Load() {
			continue
		}
		if s, err := m.standing(c); err == nil && s.NeedsRecovery() {
			ids = append(ids, c.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// tellLost tells the learners of a conversation that this node held the only vote and was restored, until it is recovered.
func (m *Manager) tellLost(ctx context.Context, c *conversation, learners []wire.NodeID) {
	for c.out.Load() {
		for _, n := range learners {
			_, err := m.mesh.askFor(ctx, n, &frame{kind: kindRejoin, generation: c.generation(), conversation: c.id}, 3*m.cfg.Timers.Call)
			m.log.Debug("the learner was told that the only voter was restored", "conversation", c.id, "peer", n, "error", err)
		}
		if !pause(ctx, lostEvery*m.cfg.Timers.Repair) {
			return
		}
	}
}
