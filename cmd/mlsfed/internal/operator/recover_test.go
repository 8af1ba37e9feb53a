package operator

import (
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRecoverAllTakesOnlyWhatHasLostItsMajority checks that only conversations that have lost their majority are
// recovered, and only where this node votes.
func TestRecoverAllTakesOnlyWhatHasLostItsMajority(t *testing.T) {
	s := &node.Status{Node: "n1.a.example"}
	for id, voters := range map[string][]wire.NodeID{
		"two":       {"n1.a.example", "n1.b.example"},
		"three":     {"n1.a.example", "n1.b.example", "n1.c.example"},
		"mostly b":  {"n1.a.example", "n1.b.example", "n2.b.example"},
		"elsewhere": {"n1.b.example", "n2.b.example", "n1.c.example"},
		"own":       {"n1.a.example"},
	} {
		s.Conversations = append(s.Conversations, node.Conversation{ID: id, Voters: voters})
	}
	s.Conversations = append(s.Conversations, node.Conversation{ID: "followed", Voters: []wire.NodeID{"n1.b.example"}, Learners: []wire.NodeID{"n1.a.example"}})
	for _, c := range []struct {
		lost string
		want []string
	}{
		{"b.example", []string{"followed", "mostly b", "two"}}, {"n1.b.example", []string{"followed", "two"}}, {"b.example c.example", []string{"followed", "mostly b", "three", "two"}}, {"c.example", nil},
	} {
		got := withoutMajority(s, strings.Fields(c.lost))
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("without %s: %q, wanted %q", c.lost, got, c.want)
		}
	}
}

// TestRecoverAllWithoutNames checks that without names the conversations that need recovery are recovered, except
// those whose log this node has lost.
func TestRecoverAllWithoutNames(t *testing.T) {
	s := &node.Status{Node: "n1.a.example", Conversations: []node.Conversation{
		{ID: "well", Voters: []wire.NodeID{"n1.b.example"}},
		{ID: "b lost it", Voters: []wire.NodeID{"n1.b.example"}, Lost: []wire.NodeID{"n1.b.example"}, NeedsRecovery: true},
		{ID: "a lost it", Voters: []wire.NodeID{"n1.a.example"}, Lost: []wire.NodeID{"n1.a.example"}, NeedsRecovery: true},
	}}
	if got := needRecovery(s); !slices.Equal(got, []string{"b lost it"}) {
		t.Errorf("recovers %q", got)
	}
	if text := needsRecover(s, &s.Conversations[1]); !strings.Contains(text, "n1.b.example lost the log") || !strings.Contains(text, "--all") {
		t.Error(text)
	}
	if text := needsRecover(s, &s.Conversations[2]); !strings.Contains(text, "on a node that has more of it") {
		t.Error(text)
	}
}
