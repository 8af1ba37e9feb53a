package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// TestLeaderWaitsForItsState checks that a leader counts no entry as applied that its state machine has not applied
// yet: otherwise it would order replicas from an old state.
func TestLeaderWaitsForItsState(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		l := s.live(s.leader)
		r := l.r.Load()
		if !l.caughtUpAsLeader(r) {
			t.Fatal("the leader has not caught up")
		}
		at := r.AppliedIndex()
		for index := at; index > 0; index-- {
			var e raft.Log
			if err := l.store.GetLog(index, &e); err != nil {
				t.Fatal(err)
			}
			own := e.Type != raft.LogCommand && e.Type != raft.LogConfiguration
			l.fsm.mu.Lock()
			applied := l.fsm.index
			l.fsm.index = index - 1
			l.fsm.mu.Unlock()
			if got := l.caughtUpAsLeader(r); got != own {
				t.Errorf("without entry %d, of type %v: %v", index, e.Type, got)
			}
			l.fsm.mu.Lock()
			l.fsm.index = applied
			l.fsm.mu.Unlock()
			if !own {
				break
			}
		}
		return ""
	})
}
