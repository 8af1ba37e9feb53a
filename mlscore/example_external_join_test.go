package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_externalJoin() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))

	// A member publishes a GroupInfo of the present epoch. A client that has it can join.
	info := must(a.GroupInfo(mlscore.GroupInfoOptions{Tree: true, External: true}))

	// Bob makes a commit that adds himself. Nothing is stored before it is accepted.
	x := must(bob.ExternalJoin(bobID, info, mlscore.ExternalOptions{}))
	receive(a, x.Message) // the delivery service has accepted the commit: all members process it
	b := must(x.Complete())

	fmt.Println("members:", a.Public().Size(), "same epoch:", string(a.EpochAuthenticator()) == string(b.EpochAuthenticator()))

	// Carol asks to be added instead. A member commits her proposal, and she joins with the Welcome.
	carol, carolID := device("carol")
	info = must(b.GroupInfo(mlscore.GroupInfoOptions{}))
	proposal, _, err := carol.ProposeSelf(carolID, must(mlscore.ParseGroupInfo(info)).Context(), mlscore.KeyPackageOptions{})
	check(err)
	receive(a, proposal)
	receive(b, proposal)
	commit := must(b.Commit(mlscore.CommitOptions{WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}}))
	check(b.Merge(commit.Staged))
	receive(a, commit.Message)
	c := must(carol.Join(commit.Welcome, mlscore.JoinOptions{}))
	fmt.Println("members:", c.Public().Size())
	// Output:
	// members: 2 same epoch: true
	// members: 3
}
