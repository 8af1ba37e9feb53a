package consensus

import (
	"context"
	"errors"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestOneWordCommitsNothing checks that a replica whose peers sleep considers its last entry committed only if a
// majority of the voters has it, and not because a learner, or one voter of three, says so.
func TestOneWordCommitsNothing(t *testing.T) {
	voters := []wire.NodeID{nodeA, nodeB, nodeC}
	says := func(committed uint64) logStatus {
		return logStatus{End: position{Term: 2, Last: 9}, Committed: committed}
	}
	for what, c := range map[string]struct {
		self    wire.NodeID
		answers map[wire.NodeID]logStatus
		want    uint64
	}{
		"a learner's word to a voter":    {nodeA, map[wire.NodeID]logStatus{nodeM: says(9)}, 0},
		"a voter's word to a learner":    {nodeM, map[wire.NodeID]logStatus{nodeA: says(9)}, 0},
		"two voters' words to both":      {nodeM, map[wire.NodeID]logStatus{nodeA: says(9), nodeB: says(8)}, 9},
		"another voter's to a voter":     {nodeA, map[wire.NodeID]logStatus{nodeB: says(9)}, 9},
		"more than it has":               {nodeA, map[wire.NodeID]logStatus{nodeB: says(1 << 63)}, 9},
		"a learner's and a voter's":      {nodeA, map[wire.NodeID]logStatus{nodeB: says(7), nodeM: says(9)}, 7},
		"nobody's":                       {nodeA, nil, 0},
		"two learners' words to a voter": {nodeA, map[wire.NodeID]logStatus{nodeM: says(9), "n2.m.example": says(9)}, 0},
	} {
		if got := committedUpTo(voters, c.self, c.answers); got != c.want {
			t.Errorf("%s: committed up to %d, wanted %d", what, got, c.want)
		}
	}
}

// TestWakersOfOrganization checks that an organization whose conversations find no leader does not keep others from
// being woken.
func TestWakersOfOrganization(t *testing.T) {
	m := &Manager{waking: make(chan struct{}, maxWaking)}
	of := func(org wire.Domain) *conversation { return &conversation{book: book{payer: org}} }
	over, cancel := context.WithCancel(t.Context())
	cancel()
	var releases []func()
	for range maxWakingOf {
		release, err := m.admitWaker(t.Context(), of("mallory.example"))
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	if _, err := m.admitWaker(over, of("mallory.example")); !errors.Is(err, errAgain) {
		t.Fatalf("one more than its part: %v", err)
	}
	for _, org := range []wire.Domain{"", "b.example"} {
		release, err := m.admitWaker(t.Context(), of(org))
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	for _, release := range releases {
		release()
	}
	if len(m.waking) > 0 {
		t.Errorf("%d places are not free again", len(m.waking))
	}
}
