package mlscore_test

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_remove() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	carol, carolID := device("carol")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))
	commit := add(a, must(carol.NewKeyPackage(carolID, mlscore.KeyPackageOptions{})))
	receive(b, commit.Message)
	c := must(carol.Join(commit.Welcome, mlscore.JoinOptions{}))

	// Alice removes Carol. Carol processes the commit too: it ends the group for her.
	leaf, found := a.ByIdentity([]byte("carol"))
	fmt.Println("carol is a member:", found)
	commit = must(a.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.RemoveProposal(leaf)}}))
	check(a.Merge(commit.Staged))
	receive(b, commit.Message)
	fmt.Println("carol is out:", receive(c, commit.Message).Commit.RemovesSelf())

	// Bob leaves. Nobody can commit its own removal, so he proposes it, and Alice commits.
	receive(a, must(b.ProposeLeave(mlscore.ProposeOptions{})))
	commit = must(a.Commit(mlscore.CommitOptions{}))
	check(a.Merge(commit.Staged))
	receive(b, commit.Message)
	_, err := b.Protect([]byte("still here?"), mlscore.MessageOptions{})
	fmt.Println("bob is out:", errors.Is(err, mlscore.ErrGroupEnded))
	// Output:
	// carol is a member: true
	// carol is out: true
	// bob is out: true
}
