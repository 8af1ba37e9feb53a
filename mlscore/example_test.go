package mlscore_test

import (
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// device makes a client with an identity of its own. A real one has a Store that lasts (package
// boltstore) and an Authenticator that checks certificates.
func device(name string, change ...func(*mlscore.Config)) (*mlscore.Client, mlscore.Identity) {
	config := mlscore.Config{Auth: mlscore.TrustBasic{}, Store: mlscore.NewMemoryStore(), Now: time.Now}
	for _, c := range change {
		c(&config)
	}
	id := must(mlscore.NewIdentity(nil, mlscore.MLS128X25519AES128Ed25519, mlscore.BasicCredential([]byte(name))))
	return must(mlscore.NewClient(config)), id
}

// add adds the owner of a KeyPackage to a group, and merges the commit: all members get commit.Message,
// the newcomer the Welcome.
func add(g *mlscore.Group, keyPackage *mlscore.KeyPackage) *mlscore.Commit {
	commit := must(g.Commit(mlscore.CommitOptions{
		Proposals:   []mlscore.Proposal{mlscore.AddProposal(keyPackage)},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	}))
	check(g.Merge(commit.Staged))
	return commit
}

// receive takes a message in, and enters the epoch if it is a commit.
func receive(g *mlscore.Group, message []byte) *mlscore.Received {
	received := must(g.Process(message))
	if received.Commit != nil {
		check(g.Merge(received.Commit))
	}
	return received
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A group of three is created, talks, and removes one of its members.
func Example() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	carol, carolID := device("carol")

	// Bob and Carol publish KeyPackages, so that they can be added while they are away.
	bobPackage, err := bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{})
	check(err)
	carolPackage, err := carol.NewKeyPackage(carolID, mlscore.KeyPackageOptions{})
	check(err)

	// Alice founds the group and adds both with one commit.
	a, err := alice.CreateGroup(aliceID, []byte("breakfast"), mlscore.CreateOptions{})
	check(err)
	commit, err := a.Commit(mlscore.CommitOptions{
		Proposals:   []mlscore.Proposal{mlscore.AddProposal(bobPackage), mlscore.AddProposal(carolPackage)},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	})
	check(err)
	// The delivery service has accepted commit.Message: Alice enters the new epoch, and the others join
	// with the Welcome.
	check(a.Merge(commit.Staged))
	b, err := bob.Join(commit.Welcome, mlscore.JoinOptions{})
	check(err)
	c, err := carol.Join(commit.Welcome, mlscore.JoinOptions{})
	check(err)

	message, err := a.Protect([]byte("Who wants eggs?"), mlscore.MessageOptions{})
	check(err)
	for _, g := range []*mlscore.Group{b, c} {
		received, err := g.Process(message)
		check(err)
		m := received.Application
		fmt.Printf("%s: %s\n", m.Sender.Credential.Identity, m.Data)
	}

	// Bob removes Carol. Everybody processes the commit, Carol too.
	leaf, _ := b.ByIdentity([]byte("carol"))
	commit, err = b.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.RemoveProposal(leaf)}})
	check(err)
	check(b.Merge(commit.Staged))
	for _, g := range []*mlscore.Group{a, c} {
		received, err := g.Process(commit.Message)
		check(err)
		fmt.Println("removed:", received.Commit.RemovesSelf())
		check(g.Merge(received.Commit))
	}

	message, err = b.Protect([]byte("Without her, then."), mlscore.MessageOptions{})
	check(err)
	received, err := a.Process(message)
	check(err)
	fmt.Printf("%s\n", received.Application.Data)
	_, err = c.Process(message)
	fmt.Println(errors.Is(err, mlscore.ErrGroupEnded))
	// Output:
	// alice: Who wants eggs?
	// alice: Who wants eggs?
	// removed: false
	// removed: true
	// Without her, then.
	// true
}

// Two members commit in the same epoch. The delivery service accepts one; the other commit vanishes
// when its maker merges the winner, and is made again.
func ExampleGroup_Commit_race() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	bobPackage, err := bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{})
	check(err)
	a, err := alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{})
	check(err)
	commit, err := a.Commit(mlscore.CommitOptions{
		Proposals:   []mlscore.Proposal{mlscore.AddProposal(bobPackage)},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	})
	check(err)
	check(a.Merge(commit.Staged))
	b, err := bob.Join(commit.Welcome, mlscore.JoinOptions{})
	check(err)

	_, err = a.Commit(mlscore.CommitOptions{})
	check(err)
	winner, err := b.Commit(mlscore.CommitOptions{})
	check(err)

	for _, g := range []*mlscore.Group{a, b} {
		received, err := g.Process(winner.Message)
		check(err)
		check(g.Merge(received.Commit))
		_, waiting := g.Pending()
		fmt.Println("epoch", g.Epoch(), "own commit waiting:", waiting)
	}
	// Output:
	// epoch 2 own commit waiting: false
	// epoch 2 own commit waiting: false
}
