package mlsbench

import (
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// TestFabricate checks that the two real members of a fabricated group agree on its epoch, and continue with commits.
func TestFabricate(t *testing.T) {
	var clients [2]*mlscore.Client
	var ids [2]mlscore.Identity
	for k, name := range []string{"first", "last"} {
		var err error
		clients[k], err = mlscore.NewClient(mlscore.Config{
			Auth:  mlscore.TrustBasic{},
			Store: mlscore.NewMemoryStore(),
			Now:   time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		ids[k], err = mlscore.NewIdentity(nil, mlscore.MLS128X25519AES128Ed25519, mlscore.BasicCredential([]byte(name)))
		if err != nil {
			t.Fatal(err)
		}
	}
	first, last, err := Fabricate(37, clients, ids, []byte("group"), mlscore.GroupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := first.Public().Size(); n != 37 || first.Self() != 0 || last.Self() != 36 {
		t.Errorf("%d members, leaves %d and %d", n, first.Self(), last.Self())
	}
	c, err := last.Commit(mlscore.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := first.Process(c.Message)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Merge(r.Commit), last.Merge(c.Staged)); err != nil {
		t.Fatal(err)
	}
	if string(first.EpochAuthenticator()) != string(last.EpochAuthenticator()) {
		t.Error("the members do not agree after a commit")
	}
	if _, _, err := Fabricate(1, clients, ids, nil, mlscore.GroupOptions{}); !errors.Is(err, mlscore.ErrMisuse) {
		t.Errorf("a group of one member: %v", err)
	}
}

// TestPrimitives runs each primitive of each signature scheme: they panic if one of them fails.
func TestPrimitives(t *testing.T) {
	for _, cs := range append(mlscore.CipherSuites(), mlscore.MLS128MLKEM768X25519ChaCha20MLDSA44) {
		p, err := NewPrimitives(cs)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range []func(){
			p.GenerateKey, p.DeriveKey, func() { p.Seal() }, p.Open, func() { p.Sign() }, p.Verify, p.VerifyFirst,
			p.HashLeaf, p.HashParent, p.HashParentHash, p.Derive, func() { p.SealKilobyte() }, p.OpenKilobyte,
		} {
			run()
		}
		if n := p.VerifyMany(3); n < 1 || n > 3 {
			t.Errorf("%v: %d signatures are verified together", cs, n)
		}
	}
	if _, err := NewPrimitives(8); !errors.Is(err, mlscore.ErrUnsupported) {
		t.Errorf("an unknown suite: %v", err)
	}
}
