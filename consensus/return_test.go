package consensus

import (
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestInventedGenerationIsLeft has one voter claim, to a node that has just started and can ask nobody else, that an
// operator's recovery began a new generation. The node follows, finds that a majority lives in the previous
// generation, and returns to its previous replica. A node that finds no majority stays.
//
// A replica without a vote has contact with its leader only: it asks the other voters.
func TestInventedGenerationIsLeft(t *testing.T) {
	for _, part := range []string{"voter", "learner"} {
		t.Run(part, func(t *testing.T) { inventedGeneration(t, part == "learner") })
	}
}

func inventedGeneration(t *testing.T, learner bool) {
	withScene(t, nil, func(s *scene) wire.NodeID {
		evil, victim, third, other := s.voters[0], s.voters[1], s.leader, s.learner
		if learner {
			victim, other = other, victim
		}
		s.stop(s.nodes[third])
		s.stop(s.nodes[other])
		s.stop(s.nodes[victim])
		s.start(s.nodes[victim])
		if err := inviteAs(s.t, s.cluster, evil, victim, conv, 1, evil, victim); err != nil {
			t.Fatal(err)
		}
		generation := func() uint64 {
			st, err := s.nodes[victim].m.Status(conv)
			if err != nil {
				return 99
			}
			return st.Generation
		}
		s.eventually("the invented generation is followed", func() bool { return generation() == 1 })
		s.start(s.nodes[other])
		if n := len(s.nodes[victim].m.asidesOf(conv)); n != 1 {
			t.Fatalf("%d replicas are kept", n)
		}
		s.start(s.nodes[third])
		s.eventually("the generation before is returned to", func() bool { return generation() == 0 })
		if n := len(s.nodes[victim].m.asidesOf(conv)); n != 0 {
			t.Errorf("%d replicas are still kept", n)
		}
		s.goesOn(victim, third, other)
		s.stop(s.nodes[victim]) // the old replica survives a restart, too
		s.start(s.nodes[victim])
		s.goesOn(third, victim, other)
		return evil
	})
}
