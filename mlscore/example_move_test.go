package mlscore_test

import (
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_move() {
	alice, aliceID := device("alice")
	bob, bobID := device("bob")
	a := must(alice.CreateGroup(aliceID, []byte("breakfast"), mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))
	unused := must(bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{}))

	// Bob has a new phone. It offers to import one group; the offer is a secret of the two devices.
	phone, _ := device("bob")
	offer := must(phone.OfferImport(bobID.CipherSuite))

	// The old device moves the group out, encrypted to the offer, and deletes its own copy.
	moved := must(b.MoveOut(offer))
	_, err := b.Protect([]byte("from the old one"), mlscore.MessageOptions{})
	fmt.Println("gone from the old device:", errors.Is(err, mlscore.ErrGroupEnded))
	b = must(phone.ImportGroup(moved))
	_, err = phone.ImportGroup(moved)
	fmt.Println("imported twice:", err == nil)

	// KeyPackages that are published and not used move individually, with their private keys.
	ref := must(unused.Ref())
	keyPackage, keys, err := bob.ExportKeyPackage(ref)
	check(err)
	check(phone.ImportKeyPackage(keyPackage, keys))
	check(bob.DeleteKeyPackage(ref))

	m := receive(a, must(b.Protect([]byte("from the new one"), mlscore.MessageOptions{}))).Application
	fmt.Printf("%s: %s\n", m.Sender.Credential.Identity, m.Data)
	// Output:
	// gone from the old device: true
	// imported twice: false
	// bob: from the new one
}
