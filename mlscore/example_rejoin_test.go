package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_rejoin() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// Bob missed a commit, which is lost.
	commit := must(a.Commit(mlscore.CommitOptions{}))
	check(a.Merge(commit.Staged))

	// He takes a GroupInfo of the present epoch, and replaces his old leaf. With the resumption PSK of an earlier
	// epoch he proves that he was a member: an attacker who has only his signature key cannot.
	info := must(a.GroupInfo(mlscore.GroupInfoOptions{Tree: true, External: true}))
	x := must(bob.ExternalJoin(must(b.Identity()), info, mlscore.ExternalOptions{
		Resync: true,
		PSKs: []mlscore.PreSharedKeyID{{
			Type: mlscore.PSKResumption, Usage: mlscore.UsageApplication, GroupID: b.GroupID(), Epoch: b.Epoch(),
		}},
	}))
	effects := receive(a, x.Message).Commit.Effects()
	fmt.Printf("%s is back, %d leaf removed\n", effects.Removed[0].Credential.Identity, len(effects.Removed))
	b = must(x.Complete())
	fmt.Println("members:", b.Public().Size(), "epoch:", b.Epoch())
	// Output:
	// bob is back, 1 leaf removed
	// members: 2 epoch: 3
}
