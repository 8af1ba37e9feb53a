package mlscore_test

import (
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_customExtension() {
	const topic, color mlscore.ExtensionType = 0xf0a1, 0xf0a2 // of the range for private use
	supports := func(c *mlscore.Config) { c.Extensions = []mlscore.ExtensionType{topic} }
	alice, aliceID := device("alice", supports)
	bob, bobID := device("bob", supports)
	eve, eveID := device("eve") // does not know the extension

	// All members must support the topic: the group's required_capabilities demand it from new members.
	required := mlscore.RequiredCapabilities{Extensions: []mlscore.ExtensionType{topic}}
	a := must(alice.CreateGroup(aliceID, nil, mlscore.CreateOptions{
		Extensions: mlscore.Extensions{required.Extension(), {Type: topic, Data: []byte("eggs")}},
	}))
	err := a.Public().CheckKeyPackage(must(eve.NewKeyPackage(eveID, mlscore.KeyPackageOptions{})), time.Now())
	fmt.Println("eve can be added:", err == nil)

	// An extension of bob's own leaf. His capabilities list it automatically.
	keyPackage := must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{
		LeafExtensions: mlscore.Extensions{{Type: color, Data: []byte("blue")}},
	}))
	b := must(bob.Join(add(a, keyPackage).Welcome, mlscore.JoinOptions{}))
	member, _ := a.Public().MemberByIdentity([]byte("bob"))
	blue, _ := member.Extensions.Find(color)
	fmt.Printf("bob likes %s\n", blue)

	// A commit replaces all of the group's extensions.
	extensions := b.Public().Context().Extensions.With(mlscore.Extension{Type: topic, Data: []byte("toast")})
	commit := must(b.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.ExtensionsProposal(extensions)}}))
	check(b.Merge(commit.Staged))
	fmt.Println("extensions changed:", receive(a, commit.Message).Commit.Effects().ExtensionsChanged)
	toast, _ := a.Public().Context().Extensions.Find(topic)
	fmt.Printf("the topic is %s\n", toast)
	// Output:
	// eve can be added: false
	// bob likes blue
	// extensions changed: true
	// the topic is toast
}
