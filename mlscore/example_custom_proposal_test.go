package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_customProposal() {
	const vote mlscore.ProposalType = 0xf0b1 // of the range for private use
	supports := func(c *mlscore.Config) {
		c.Proposals = []mlscore.ProposalType{vote}
		c.PathlessProposals = []mlscore.ProposalType{vote} // its specification requires no path
	}
	alice, aliceID := device("alice", supports)
	bob, bobID := device("bob", supports)
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// Bob proposes, Alice commits. MLS carries the content and leaves its meaning to the application.
	receive(a, must(b.Propose(mlscore.CustomProposal(vote, []byte("pancakes")), mlscore.ProposeOptions{})))
	commit := must(a.Commit(mlscore.CommitOptions{OmitPath: true}))
	check(a.Merge(commit.Staged))
	for _, p := range receive(b, commit.Message).Commit.Effects().Proposals {
		if p.Type == vote {
			fmt.Printf("a vote for %s\n", p.Custom)
		}
	}
	// Output: a vote for pancakes
}
