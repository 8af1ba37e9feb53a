package mlscore_test

import (
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_create() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	carol, carolID := device("carol")
	// Bob and Carol publish KeyPackages, so that they can be added while they are away.
	bobPackage := must(must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{})).Message())
	carolPackage := must(must(carol.NewKeyPackage(carolID, mlscore.KeyPackageOptions{})).Message())

	// Alice founds the group, verifies the KeyPackages, and adds both with one commit.
	a := must(alice.CreateGroup(aliceID, []byte("breakfast"), mlscore.CreateOptions{}))
	var adds []mlscore.Proposal
	for _, message := range [][]byte{bobPackage, carolPackage} {
		keyPackage := must(mlscore.ParseKeyPackage(message))
		check(a.Public().CheckKeyPackage(keyPackage, time.Now()))
		adds = append(adds, mlscore.AddProposal(keyPackage))
	}
	commit := must(a.Commit(mlscore.CommitOptions{
		Proposals:   adds,
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}, // the newcomers need the tree
	}))
	// The delivery service accepts commit.Message as the first of its epoch: only now is it merged.
	check(a.Merge(commit.Staged))

	b := must(bob.Join(commit.Welcome, mlscore.JoinOptions{}))
	c := must(carol.Join(commit.Welcome, mlscore.JoinOptions{}))
	message := must(a.Protect([]byte("Who wants eggs?"), mlscore.MessageOptions{}))
	for _, g := range []*mlscore.Group{b, c} {
		m := must(g.Process(message)).Application
		fmt.Printf("%s: %s\n", m.Sender.Credential.Identity, m.Data)
	}
	// Output:
	// alice: Who wants eggs?
	// alice: Who wants eggs?
}
