package mlscore_test

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_psk() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// An external PSK: all members store the same secret under the same id, before the commit.
	id := []byte("word of mouth")
	check(alice.StorePSK(id, mlscore.NewSecret([]byte("open sesame"))))
	commit := must(a.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{must(a.ExternalPSK(id))}}))
	_, err := b.Process(commit.Message)
	fmt.Println("bob lacks it:", errors.Is(err, mlscore.ErrMissing))
	check(bob.StorePSK(id, mlscore.NewSecret([]byte("open sesame"))))
	receive(b, commit.Message)
	check(a.Merge(commit.Staged))

	// A resumption PSK of an earlier epoch: nobody who was not in that epoch can enter the next one.
	resumption := must(a.ResumptionPSK(a.GroupID(), a.Epoch()-1))
	commit = must(a.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{resumption}}))
	check(a.Merge(commit.Staged))
	receive(b, commit.Message)
	fmt.Println("same epoch:", string(a.EpochAuthenticator()) == string(b.EpochAuthenticator()))
	// Output:
	// bob lacks it: true
	// same epoch: true
}
