package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_externalSender() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	// A server has a signature key of the group's suite, but is not a client.
	key, public, err := mlscore.GenerateSignatureKey(nil, aliceID.CipherSuite)
	check(err)
	server := mlscore.ExternalSender{SignatureKey: public, Credential: mlscore.BasicCredential([]byte("server"))}

	// The group lists the server in its external_senders.
	extension := must(mlscore.ExternalSendersExtension([]mlscore.ExternalSender{server}))
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{Extensions: mlscore.Extensions{extension}}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	// The server finds itself in the list and proposes to remove Bob.
	info := must(mlscore.ParseGroupInfo(must(a.GroupInfo(mlscore.GroupInfoOptions{}))))
	list := must(info.Context().Extensions.ExternalSenders())
	fmt.Printf("external sender 0: %s\n", list[0].Credential.Identity)
	remove := must(mlscore.ProposeExternally(0, key, info.Context(), mlscore.RemoveProposal(b.Self())))
	greet := must(mlscore.ProposeExternally(0, key, info.Context(), mlscore.ExtensionsProposal(nil)))

	// Members process the proposals, and one member commits the chosen proposals by reference.
	chosen := receive(a, remove).Proposal
	unwanted := receive(a, greet).Proposal
	receive(b, remove)
	receive(b, greet)
	fmt.Println("proposed by", chosen.Sender)
	commit := must(a.Commit(mlscore.CommitOptions{Refs: [][]byte{chosen.Ref}}))
	check(a.Drop(unwanted.Ref)) // no later commit of this member in this epoch contains it
	check(a.Merge(commit.Staged))
	fmt.Println("bob is out:", receive(b, commit.Message).Commit.RemovesSelf())
	// Output:
	// external sender 0: server
	// proposed by external sender 0
	// bob is out: true
}
