package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRecoverAllTakesOnlyWhatHasLostItsMajority, and only where this node votes.
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
	for _, c := range []struct {
		lost string
		want []string
	}{
		{"b.example", []string{"mostly b", "two"}}, {"n1.b.example", []string{"two"}}, {"b.example c.example", []string{"mostly b", "three", "two"}}, {"c.example", nil},
	} {
		got := withoutMajority(s, strings.Fields(c.lost))
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("without %s: %q, wanted %q", c.lost, got, c.want)
		}
	}
}

// TestTwoOrganizationsAreTold what holds for their conversation.
func TestTwoOrganizationsAreTold(t *testing.T) {
	members := func(domains ...wire.Domain) (list []client.Member) {
		for _, d := range domains {
			list = append(list, client.Member{Organization: d})
		}
		return list
	}
	for _, c := range []struct {
		members []client.Member
		witness wire.Domain
		told    bool
	}{
		{members("a.example"), "", false}, {members("a.example", "b.example", "b.example"), "", true},
		{members("a.example", "b.example"), "w.example", false}, {members("a.example", "b.example", "c.example"), "", false},
	} {
		if got := oneVote(c.members, c.witness, "a.example"); (got != "") != c.told {
			t.Errorf("%v with witness %q: %q", c.members, c.witness, got)
		}
	}
}
