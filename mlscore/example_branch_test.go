package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_branch() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	carol, carolID := device("carol")
	a := must(alice.CreateGroup(aliceID, []byte("all"), mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))
	commit := add(a, must(carol.NewKeyPackage(carolID, mlscore.KeyPackageOptions{})))
	receive(b, commit.Message)

	// Alice and Bob found a group without Carol. Its members are known to be members of the old group.
	founding := must(a.Branch([]byte("the two of us"), mlscore.FoundOptions{
		KeyPackages: []*mlscore.KeyPackage{must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	}))
	sub := must(bob.Join(founding.Welcome, mlscore.JoinOptions{}))
	fmt.Printf("%s: %d members\n", sub.GroupID(), sub.Public().Size())

	// The old group continues.
	m := receive(b, must(a.Protect([]byte("to all"), mlscore.MessageOptions{}))).Application
	fmt.Printf("%s: %s\n", b.GroupID(), m.Data)
	// Output:
	// the two of us: 2 members
	// all: to all
}
