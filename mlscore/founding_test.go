package mlscore

import (
	"errors"
	"testing"
)

// TestSection11_2_FoundingIsWhole checks that founding a successor makes one write of everything or nothing. A
// founding that the rules or the store refuse leaves no group whose id would be taken.
func TestSection11_2_FoundingIsWhole(t *testing.T) {
	store := &crashStore{MemoryStore: NewMemoryStore()}
	alice := newPerson(t, "alice", 1, func(c *Config) { c.Store = store })
	bob, carol := newPerson(t, "bob", 1), newPerson(t, "carol", 1)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob, carol)
	p := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: 1})
	bob.commit(t, CommitOptions{Proposals: []Proposal{p}}, []*person{alice, carol})

	found := func(members ...*person) (*Founding, error) {
		opts := FoundOptions{WelcomeInfo: GroupInfoOptions{Tree: true}}
		for _, m := range members {
			opts.KeyPackages = append(opts.KeyPackages, m.keyPackage(t))
		}
		return alice.group.Successor(opts)
	}
	nothing := func(what string) {
		t.Helper()
		if _, err := alice.LoadGroup([]byte("next")); !errors.Is(err, ErrMissing) {
			t.Fatalf("after %s: %v", what, err)
		}
	}
	if _, err := found(bob); !errors.Is(err, ErrInvalid) {
		t.Fatalf("a successor without carol: %v", err)
	}
	nothing("a founding without carol")
	store.at, store.kind = store.count+1, writeRefused
	if f, err := found(bob, carol); !errors.Is(err, ErrStore) || f != nil {
		t.Fatalf("a founding that the store refused: %v", err)
	}
	nothing("a founding that the store refused")

	writes := store.count
	f, err := found(bob, carol)
	if err != nil {
		t.Fatal(err)
	}
	if store.count != writes+1 {
		t.Fatalf("the founding made %d writes, want 1", store.count-writes)
	}
	loaded, err := alice.LoadGroup([]byte("next"))
	if err != nil {
		t.Fatal(err)
	}
	if describeGroup(loaded) != describeGroup(f.Group) {
		t.Fatal("what is stored of the new group is not what was returned")
	}
	alice.group = f.Group
	for _, m := range []*person{bob, carol} {
		if m.group, err = m.Join(f.Welcome, JoinOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, alice, bob, carol)
	bob.commit(t, CommitOptions{}, []*person{alice, carol})
	agree(t, alice, bob, carol)
}
