package mlscore_test

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_join() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	// One KeyPackage for each group, and a last resort for when all others are used.
	keyPackage := must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))
	lastResort := must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{LastResort: true}))

	a := must(alice.CreateGroup(aliceID, []byte("breakfast"), mlscore.CreateOptions{}))
	welcome := add(a, keyPackage).Welcome
	spam := must(alice.CreateGroup(aliceID, []byte("spam"), mlscore.CreateOptions{}))
	unwanted := add(spam, lastResort).Welcome

	// Bob checks who invites him before he joins. OpenWelcome stores nothing and consumes no key.
	for _, message := range [][]byte{unwanted, welcome} {
		w := must(bob.OpenWelcome(message, mlscore.JoinOptions{}))
		fmt.Printf("%s invites to %s, %d members\n", w.Signer().Credential.Identity, w.Public().GroupID(), w.Public().Size())
		if string(w.Public().GroupID()) == "spam" {
			w.Drop()
			continue
		}
		b := must(w.Join()) // from here on the group is in bob's store
		fmt.Println("joined in epoch", b.Epoch())
	}
	fmt.Println("groups:", len(must(bob.Groups())))
	// Output:
	// alice invites to spam, 2 members
	// alice invites to breakfast, 2 members
	// joined in epoch 1
	// groups: 1
}
