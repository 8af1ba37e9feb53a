package consensus

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestDroppedAsideEndsItsProbation checks that a replica that gave way is listed with its size in bytes, and that the
// replacing replica is served after an operator drops the listed one.
func TestDroppedAsideEndsItsProbation(t *testing.T) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil, victim := s.voters[0], s.voters[1]
		for _, n := range []wire.NodeID{s.leader, s.learner, victim} {
			s.stop(s.nodes[n])
		}
		s.start(s.nodes[victim])
		m := s.nodes[victim].m
		if err := inviteAs(s.t, s.cluster, evil, victim, conv, 1, evil, victim); err != nil {
			t.Fatal(err)
		}
		list := m.AllAsides()
		if len(list) != 1 || list[0].ID != conv || !list[0].Probation || list[0].Bytes() == 0 || !list[0].Ends().IsZero() {
			t.Fatalf("kept: %+v", list)
		}
		cv, err := m.held(conv)
		if err != nil || cv.probation.Load() == nil {
			t.Fatalf("nothing is waited for (%v)", err)
		}
		if err := m.DropAside(conv, list[0].Group+1); wire.CodeOf(err) != wire.Invalid {
			t.Errorf("another number: %v", err)
		}
		if err := m.DropAside(conv, list[0].Group); err != nil {
			t.Fatal(err)
		}
		if cv.probation.Load() != nil || len(m.AllAsides()) != 0 {
			t.Errorf("still kept: %+v", m.AllAsides())
		}
		s.before = nil // the operator has dropped it
		return evil
	})
}

// TestAsideOfSeveralEnds checks that a replica which several organizations have dismissed shows the time of its
// automatic deletion.
func TestAsideOfSeveralEnds(t *testing.T) {
	since := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	a := Aside{Since: wire.TimeOf(since), Expires: true}
	if end := a.Ends(); !end.Equal(since.Add(asideLife)) {
		t.Errorf("ends at %v", end)
	}
}
