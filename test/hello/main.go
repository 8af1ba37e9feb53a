// Program hello uses mlscore in the fewest lines: two devices, a group, a message.
package main

import (
	"fmt"
	"log"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

func main() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")

	keyPackage := must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{})) // bob publishes it
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{}))
	commit := must(a.Commit(mlscore.CommitOptions{
		Proposals:   []mlscore.Proposal{mlscore.AddProposal(keyPackage)},
		WelcomeInfo: mlscore.GroupInfoOptions{Tree: true},
	}))
	if err := a.Merge(commit.Staged); err != nil { // the delivery service has accepted commit.Message
		log.Fatal(err)
	}
	b := must(bob.Join(commit.Welcome, mlscore.JoinOptions{}))

	message := must(a.Protect([]byte("hello"), mlscore.MessageOptions{}))
	received := must(b.Process(message)).Application
	fmt.Printf("%s: %s\n", received.Sender.Credential.Identity, received.Data)
}

func device(name string) (*mlscore.Client, mlscore.Identity) {
	credential := mlscore.BasicCredential([]byte(name))
	id := must(mlscore.NewIdentity(nil, mlscore.MLS128X25519AES128Ed25519, credential))
	store := mlscore.NewMemoryStore() // package boltstore has a durable one
	return must(mlscore.NewClient(mlscore.Config{Auth: mlscore.TrustBasic{}, Store: store, Now: time.Now})), id
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
