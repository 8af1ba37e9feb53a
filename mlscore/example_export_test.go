package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_export() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// A secret for the application, for a call in this epoch. The label names its purpose.
	callA := must(a.Export("example call", []byte("call 1"), 32))
	callB := must(b.Export("example call", []byte("call 1"), 32))
	fmt.Println("same secret:", callA.Equal(callB))
	callA.Erase()

	// Two people compare the epoch authenticator to verify that they share the epoch.
	fmt.Println("same epoch:", string(a.EpochAuthenticator()) == string(b.EpochAuthenticator()))

	// The secret of the next epoch, before the commit is merged.
	commit := must(a.Commit(mlscore.CommitOptions{}))
	next := must(commit.Staged.Export("example call", []byte("call 1"), 32))
	check(a.Merge(commit.Staged))
	receive(b, commit.Message)
	fmt.Println("same secret:", next.Equal(must(b.Export("example call", []byte("call 1"), 32))))
	// Output:
	// same secret: true
	// same epoch: true
	// same secret: true
}
