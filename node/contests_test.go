package node

import (
	"testing"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// TestBranchesOfAUser checks that a user can open maxBranchesOfUser branches, and more only when some of them have
// lost. Other users are not held up. Commits without the contest mark are never refused, and count.
func TestBranchesOfAUser(t *testing.T) {
	const id, alice, bob = wire.ConversationID("conversation"), wire.UserID("mimi://a.example/u/alice"), wire.UserID("mimi://a.example/u/bob")
	c := newContests()
	var forks []wire.SequenceNumber
	heads := func(wire.ConversationID) (list []machine.Head, _ error) {
		for _, n := range forks {
			list = append(list, machine.Head{Fork: n})
		}
		return append(list, machine.Head{}), nil // a branch that has lost
	}
	commit := func(contest bool) *wire.Envelope {
		return &wire.Envelope{Conversation: id, Kind: wire.KindCommit, Commit: &wire.CommitBundle{Contest: contest}}
	}
	for n := range wire.SequenceNumber(maxBranchesOfUser) {
		if err := c.mayOpen(alice, commit(true), heads); err != nil {
			t.Fatalf("branch %d: %v", n, err)
		}
		c.note(alice, commit(n > 0), 10+n)
		forks = append(forks, 10+n)
	}
	if err := c.mayOpen(alice, commit(true), heads); wire.CodeOf(err) != wire.TooManyHeads {
		t.Fatalf("over the bound: %v", err)
	}
	if err := c.mayOpen(alice, commit(false), heads); err != nil {
		t.Fatal(err)
	}
	if err := c.mayOpen(bob, commit(true), heads); err != nil {
		t.Fatal(err)
	}
	forks = forks[1:] // one branch has lost
	if err := c.mayOpen(alice, commit(true), heads); err != nil {
		t.Fatal(err)
	}
	for n := range wire.SequenceNumber(2 * maxOpeners) {
		c.note(bob, commit(true), 100+n)
	}
	if len(c.users) > maxOpeners || len(c.order) > maxOpeners {
		t.Fatalf("remembers %d commits", len(c.users))
	}
}
