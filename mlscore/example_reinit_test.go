package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_reInit() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// Alice closes the group in favour of one with another cipher suite.
	const suite = mlscore.MLS256P384AES256P384
	next := mlscore.ReInit{GroupID: []byte("next"), Version: mlscore.MLS10, CipherSuite: suite}
	commit := must(a.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.ReInitProposal(next)}}))
	check(a.Merge(commit.Staged))
	receive(b, commit.Message)
	fmt.Println("the old group is open:", b.Active())

	// All others make KeyPackages for the new suite, which has keys of another kind.
	bobNext := must(mlscore.NewIdentity(nil, suite, bobID.Credential))
	keyPackage := must(bob.NewKeyPackage(bobNext, mlscore.KeyPackageOptions{}))

	// One member founds the successor. It must have the same members, and is tied to the old group by a PSK.
	aliceNext := must(mlscore.NewIdentity(nil, suite, aliceID.Credential))
	founding := must(a.Successor(mlscore.FoundOptions{
		Identity:    &aliceNext,
		KeyPackages: []*mlscore.KeyPackage{keyPackage},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	}))
	b = must(bob.Join(founding.Welcome, mlscore.JoinOptions{}))
	fmt.Printf("%s: %v, %d members\n", b.GroupID(), b.Public().CipherSuite(), b.Public().Size())
	// Output:
	// the old group is open: false
	// next: MLS_256_DHKEMP384_AES256GCM_SHA384_P384, 2 members
}
