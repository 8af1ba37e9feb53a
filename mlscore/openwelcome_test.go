package mlscore

import (
	"bytes"
	"errors"
	"testing"
)

// failingStore is a store that can be set to refuse writes.
type failingStore struct {
	*MemoryStore
	fails bool
}

func (s *failingStore) Apply(b Batch) error {
	if s.fails {
		return errors.New("disk full")
	}
	return s.MemoryStore.Apply(b)
}

// welcomeOf founds a group of alice and the owner of a KeyPackage, and returns the Welcome.
func welcomeOf(t *testing.T, alice, bob *person, kp *KeyPackage, opts CommitOptions) []byte {
	t.Helper()
	alice.create(t, CreateOptions{Extensions: Extensions{{0xf0a1, []byte("context")}}})
	opts.Proposals = append(opts.Proposals, AddProposal(kp))
	opts.WelcomeInfo.Tree = true
	c := must[*Commit](t)(alice.group.Commit(opts))
	if err := alice.group.Merge(c.Staged); err != nil {
		t.Fatal(err)
	}
	return c.Welcome
}

func withExtension(c *Config) { c.Extensions = []ExtensionType{0xf0a1} }

// TestOpenWelcome checks that the whole content of a Welcome can be read before joining, and that a client that drops
// the Welcome has no state of the group.
func TestOpenWelcome(t *testing.T) {
	alice := newPerson(t, "alice", labSuite, withExtension)
	store := &failingStore{MemoryStore: NewMemoryStore()}
	bob := newPerson(t, "bob", labSuite, withExtension, func(c *Config) { c.Store = store })
	for _, p := range []*person{alice, bob} {
		if err := p.StorePSK([]byte("psk"), NewSecret([]byte("secret"))); err != nil {
			t.Fatal(err)
		}
	}
	kp := bob.keyPackage(t)
	extra := Extensions{{0xf0a2, []byte("of the GroupInfo")}}
	welcome := welcomeOf(t, alice, bob, kp, CommitOptions{
		Proposals:   []Proposal{{Type: ProposalPSK, PSK: &PreSharedKeyID{Type: PSKExternal, ID: []byte("psk"), Nonce: make([]byte, 32)}}},
		WelcomeInfo: GroupInfoOptions{Extensions: extra},
	})
	before := store.Clone()
	for range 2 {
		w := must[*StagedWelcome](t)(bob.OpenWelcome(welcome, JoinOptions{}))
		p := w.Public()
		name, _ := p.Context().Extensions.Find(0xf0a1)
		if p.Size() != 2 || w.Self() != 1 || string(name) != "context" || !bytes.Equal(p.GroupID(), alice.group.GroupID()) {
			t.Fatalf("%d members, self %d, extension %q", p.Size(), w.Self(), name)
		}
		if s := w.Signer(); s.Leaf != 0 || string(s.Credential.Identity) != "alice" {
			t.Errorf("signed by %+v", s)
		}
		if data, ok := w.Extensions().Find(0xf0a2); !ok || string(data) != "of the GroupInfo" {
			t.Errorf("extensions of the GroupInfo: %v", w.Extensions())
		}
		want, have := must[[]byte](t)(kp.Ref()), must[[]byte](t)(w.KeyPackage().Ref())
		if !bytes.Equal(want, have) {
			t.Errorf("joined with %x, not %x", have, want)
		}
		if list := w.PSKs(); len(list) != 1 || string(list[0].ID) != "psk" {
			t.Errorf("psks %v", list)
		}
		w.Drop()
		if _, err := w.Join(); !errors.Is(err, ErrMisuse) {
			t.Errorf("join after drop: %v", err)
		}
	}
	if !sameRecords(before, store.MemoryStore) {
		t.Error("looking into a Welcome changed the store")
	}
	// A failing store changes nothing; the same Welcome can be tried again.
	w := must[*StagedWelcome](t)(bob.OpenWelcome(bytes.Clone(welcome), JoinOptions{}))
	again := must[*StagedWelcome](t)(bob.OpenWelcome(welcome, JoinOptions{}))
	clear(welcome)
	store.fails = true
	if _, err := w.Join(); !errors.Is(err, ErrStore) {
		t.Errorf("join without a disk: %v", err)
	}
	store.fails = false
	bob.group = must[*Group](t)(w.Join())
	agree(t, alice, bob)
	if _, err := w.Join(); !errors.Is(err, ErrMisuse) {
		t.Errorf("join twice: %v", err)
	}
	if _, err := again.Join(); !errors.Is(err, ErrInvalid) {
		t.Errorf("the same Welcome again: %v", err)
	}
	bob.commit(t, CommitOptions{}, []*person{alice})
	agree(t, alice, bob)
}

// TestOpenWelcomeStale checks that Join returns ErrStale if the KeyPackage was used after OpenWelcome, unless it is a
// last resort.
func TestOpenWelcomeStale(t *testing.T) {
	alice, bob := newPerson(t, "alice", labSuite, withExtension), newPerson(t, "bob", labSuite, withExtension)
	for name, last := range map[string]bool{"one use": false, "last resort": true} {
		kp := must[*KeyPackage](t)(bob.NewKeyPackage(bob.id, KeyPackageOptions{LastResort: last}))
		first, second := welcomeOf(t, alice, bob, kp, CommitOptions{}), welcomeOf(t, alice, bob, kp, CommitOptions{})
		a, b := must[*StagedWelcome](t)(bob.OpenWelcome(first, JoinOptions{})), must[*StagedWelcome](t)(bob.OpenWelcome(second, JoinOptions{}))
		must[*Group](t)(a.Join())
		if _, err := b.Join(); last != (err == nil) || !last && !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sameRecords compares two stores.
func sameRecords(a, b *MemoryStore) bool {
	if len(a.records) != len(b.records) {
		return false
	}
	for k, v := range a.records {
		if w, ok := b.records[k]; !ok || !v.Equal(w) {
			return false
		}
	}
	return true
}
