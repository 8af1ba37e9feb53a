package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// moved moves p's group to another store of p.
func (p *person) moved(t *testing.T) *person {
	t.Helper()
	next := newPerson(t, string(p.id.Credential.Identity), p.id.CipherSuite, func(c *Config) { c.Extensions = p.cfg.Extensions })
	offer := must[[]byte](t)(next.OfferImport(p.group.suite.id))
	next.group = must[*Group](t)(next.ImportGroup(must[[]byte](t)(p.group.MoveOut(offer))))
	return next
}

// TestMoveGroup checks that a moved group works in the new store in the same way as before, and cannot be used in the
// old one.
func TestMoveGroup(t *testing.T) {
	forAllSuites(t, func(t *testing.T, cs CipherSuite) {
		alice, bob, carol := newPerson(t, "alice", cs), newPerson(t, "bob", cs), newPerson(t, "carol", cs)
		alice.create(t, CreateOptions{})
		alice.commit(t, CommitOptions{}, nil, bob, carol)
		late := must[[]byte](t)(alice.group.Protect([]byte("late"), MessageOptions{}))
		alice.commit(t, CommitOptions{}, []*person{bob, carol})
		skipped := must[[]byte](t)(alice.group.Protect([]byte("skipped"), MessageOptions{}))
		bob.receive(t, must[[]byte](t)(alice.group.Protect([]byte("read"), MessageOptions{})))
		first := must[[]byte](t)(bob.group.Protect([]byte("first"), MessageOptions{}))
		update := must[[]byte](t)(bob.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{}))
		own := must[*Commit](t)(bob.group.Commit(CommitOptions{}))

		old := bob
		bob = old.moved(t)
		for name, err := range map[string]error{
			"protect": failure(old.group.Protect(nil, MessageOptions{})),
			"process": failure(old.group.Process(skipped)),
			"commit":  failure(old.group.Commit(CommitOptions{})),
			"move":    failure(old.group.MoveOut(must[[]byte](t)(alice.OfferImport(cs)))),
			"merge":   old.group.Merge(own.Staged),
		} {
			if !errors.Is(err, ErrGroupEnded) || !strings.Contains(err.Error(), "moved to another store") {
				t.Errorf("%s in the old store: %v", name, err)
			}
		}
		if _, err := old.LoadGroup(bob.group.GroupID()); !errors.Is(err, ErrMissing) {
			t.Errorf("loaded from the old store: %v", err)
		}
		if n := len(old.store.records); n != 0 {
			t.Errorf("%d records stay in the old store", n)
		}
		for _, msg := range [][]byte{late, skipped} {
			if got := bob.receive(t, msg).Application; got == nil {
				t.Error("no message")
			}
		}
		second := must[[]byte](t)(bob.group.Protect([]byte("second"), MessageOptions{DespiteProposals: true}))
		for k, msg := range [][]byte{first, update, second} {
			for _, p := range []*person{alice, carol} {
				if got := p.receive(t, msg); k != 1 && got.Application.Generation != uint32(k/2) {
					t.Errorf("message %d has generation %d", k, got.Application.Generation)
				}
			}
		}
		if s, ok := bob.group.Pending(); !ok || !bytes.Equal(s.Message(), own.Message) {
			t.Error("the commit that waited is not there")
		}
		// Alice commits bob's Update: its private keys have moved, too.
		c := alice.commit(t, CommitOptions{}, []*person{bob, carol})
		if len(c.Staged.Effects().Updated) != 1 {
			t.Fatalf("updated %+v", c.Staged.Effects().Updated)
		}
		agree(t, alice, bob, carol)
		bob.commit(t, CommitOptions{}, []*person{alice, carol})
		bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
		agree(t, alice, bob, carol)
	})
}

// TestMoveGroupOnce checks that a moved group can be imported only once, and only into the store that made the offer.
func TestMoveGroupOnce(t *testing.T) {
	alice, bob := newPerson(t, "alice", labSuite), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	store := &failingStore{MemoryStore: NewMemoryStore()}
	next := newPerson(t, "bob", labSuite, func(c *Config) { c.Store = store })
	offer, unused := must[[]byte](t)(next.OfferImport(labSuite)), must[[]byte](t)(next.OfferImport(labSuite))

	for name, c := range map[string]struct {
		offer []byte
		kind  error
	}{
		"no offer":            {[]byte{moveVersion, 'n', 'o'}, ErrMalformed},
		"none at all":         {nil, ErrMalformed},
		"of a later version":  {append([]byte{moveVersion + 1}, offer[1:]...), ErrUnsupported},
		"of another suite":    {must[[]byte](t)(alice.OfferImport(MLS128P256AES128P256)), ErrInvalid},
		"with another length": {append(bytes.Clone(offer), 0), ErrMalformed},
		"with a short token":  {(&importOffer{labSuite, make([]byte, moveTokenLen-1), make([]byte, 32)}).marshal(), ErrMalformed},
		"with a bad key":      {(&importOffer{labSuite, make([]byte, moveTokenLen), make([]byte, 31)}).marshal(), ErrMalformed},
		"with a weak key":     {(&importOffer{labSuite, make([]byte, moveTokenLen), make([]byte, 32)}).marshal(), ErrInvalid},
	} {
		if _, err := bob.group.MoveOut(c.offer); !errors.Is(err, c.kind) {
			t.Errorf("offer %s: %v, not %v", name, err, c.kind)
		}
	}
	must[[]byte](t)(bob.group.Protect(nil, MessageOptions{})) // the group is still in this store
	moved := must[[]byte](t)(bob.group.MoveOut(offer))

	if bytes.Contains(moved, alice.group.GroupID()) {
		t.Error("the group's id can be read")
	}
	if _, err := alice.ImportGroup(moved); !errors.Is(err, ErrNotForUs) {
		t.Errorf("imported elsewhere: %v", err)
	}
	for at := range moved {
		bad := bytes.Clone(moved)
		bad[at] ^= 1
		if _, err := next.ImportGroup(bad); err == nil {
			t.Fatalf("imported with byte %d changed", at)
		}
	}
	for n := range len(moved) {
		if _, err := next.ImportGroup(moved[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("imported with %d of %d bytes: %v", n, len(moved), err)
		}
	}
	later := append([]byte{moveVersion + 1}, moved[1:]...)
	if _, err := next.ImportGroup(later); !errors.Is(err, ErrUnsupported) {
		t.Errorf("imported from a later version: %v", err)
	}
	store.fails = true
	if _, err := next.ImportGroup(moved); !errors.Is(err, ErrStore) {
		t.Errorf("imported without a disk: %v", err)
	}
	if err := next.WithdrawImport(unused); !errors.Is(err, ErrStore) {
		t.Errorf("withdrawn without a disk: %v", err)
	}
	store.fails = false
	next.group = must[*Group](t)(next.ImportGroup(moved))
	if _, err := next.ImportGroup(moved); !errors.Is(err, ErrNotForUs) {
		t.Errorf("imported twice: %v", err)
	}
	// A second import fails even after the group was erased: its keys have been used.
	if err := next.group.Erase(); err != nil {
		t.Fatal(err)
	}
	if _, err := next.ImportGroup(moved); !errors.Is(err, ErrNotForUs) {
		t.Errorf("imported again after it was erased: %v", err)
	}
	if err := next.WithdrawImport([]byte{moveVersion, 0}); !errors.Is(err, ErrMalformed) {
		t.Errorf("withdrawing no offer: %v", err)
	}
	// A withdrawn offer cannot be used.
	if err := next.WithdrawImport(unused); err != nil {
		t.Fatal(err)
	}
	if _, err := next.ImportGroup(must[[]byte](t)(alice.group.MoveOut(unused))); !errors.Is(err, ErrNotForUs) {
		t.Errorf("imported by an offer that was withdrawn: %v", err)
	}
	if n := len(store.records); n != 0 {
		t.Errorf("%d records are left", n)
	}
	for name, err := range map[string]error{
		"a suite that is unknown":     failure(next.OfferImport(noSuite)),
		"withdrawn for another suite": next.WithdrawImport((&importOffer{noSuite, make([]byte, moveTokenLen), nil}).marshal()),
	} {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMoveGroupForged checks that an attacker who knows the public key of an offer, but not its token, cannot make
// the client import anything; and that with both, the attacker cannot make it import a group that does not load.
func TestMoveGroupForged(t *testing.T) {
	mallory, bob := newPerson(t, "mallory", labSuite), newPerson(t, "bob", labSuite)
	mallory.create(t, CreateOptions{})
	offer := must[[]byte](t)(bob.OfferImport(labSuite))
	m := &movedRecords{id: mallory.group.GroupID()}
	if err := m.collect(mallory.store); err != nil {
		t.Fatal(err)
	}
	seal := func(offer []byte, ref []byte, plain []byte) error {
		t.Helper()
		o := must[*importOffer](t)(parseImportOffer(offer))
		out := &movedGroup{suite: labSuite, ref: ref}
		var err error
		s := mallory.group.suite
		out.sealed.kemOutput, out.sealed.ciphertext, err = s.encryptWithLabel(mallory.cfg.Rand, o.pub, moveLabel, offer, plain)
		if err != nil {
			t.Fatal(err)
		}
		return failure(bob.ImportGroup(must[[]byte](t)(out.marshal())))
	}
	send := func(offer []byte, ref []byte, m *movedRecords) error {
		t.Helper()
		return seal(offer, ref, must[[]byte](t)(m.marshal()))
	}
	ref := mallory.group.suite.offerRef(offer)
	guess := must[*importOffer](t)(parseImportOffer(offer))
	guess.token = make([]byte, moveTokenLen)
	if err := send(guess.marshal(), ref, m); !errors.Is(err, ErrForged) {
		t.Errorf("without the token: %v", err)
	}
	for k := range m.records {
		less := *m
		less.records = append(slices.Clone(m.records[:k]), m.records[k+1:]...)
		kind := m.records[k].rest[0]
		if err := send(offer, ref, &less); kind != recordPSK && kind != recordTreeKey && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrMissing) {
			t.Errorf("without record %q: %v", kind, err)
		}
		if kind == recordPSK || kind == recordTreeKey { // the group loads, and only bob is harmed
			offer = must[[]byte](t)(bob.OfferImport(labSuite))
			ref = mallory.group.suite.offerRef(offer)
			if g, err := bob.LoadGroup(m.id); err == nil {
				if err := g.Erase(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := seal(offer, ref, []byte("no records")); !errors.Is(err, ErrMalformed) {
		t.Errorf("no records: %v", err)
	}
	for name, bad := range map[string]movedRecord{
		"at a later place": {1, []byte{'z'}, nil},
		"without a key":    {0, nil, nil},
	} {
		more := *m
		more.records = append(slices.Clone(m.records), bad)
		if err := send(offer, ref, &more); !errors.Is(err, ErrMalformed) {
			t.Errorf("a record %s: %v", name, err)
		}
	}
	other := *m
	other.id = []byte("another id")
	if err := send(offer, ref, &other); !errors.Is(err, ErrMalformed) {
		t.Errorf("under another id: %v", err)
	}
	bob.create(t, CreateOptions{})
	taken := *m
	taken.id = bob.group.GroupID()
	if err := send(offer, ref, &taken); !errors.Is(err, ErrInvalid) {
		t.Errorf("over a group that is there: %v", err)
	}
}

// TestMoveGroupSameID checks that predecessors of the same id move together with a group, and cannot move alone.
func TestMoveGroupSameID(t *testing.T) {
	alice, bob := newPerson(t, "alice", labSuite), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	for k := range 2 {
		r := ReInit{GroupID: alice.group.GroupID(), Version: MLS10, CipherSuite: labSuite}
		late := must[[]byte](t)(alice.group.Protect(fmt.Append(nil, "late ", k), MessageOptions{}))
		alice.commit(t, CommitOptions{Proposals: []Proposal{ReInitProposal(r)}}, []*person{bob})
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{KeyPackages: []*KeyPackage{bob.keyPackage(t)}, WelcomeInfo: GroupInfoOptions{Tree: true}}))
		closed := bob.group
		alice.group, bob.group = f.Group, must[*Group](t)(bob.Join(f.Welcome, JoinOptions{}))
		if _, err := closed.MoveOut(must[[]byte](t)(alice.OfferImport(labSuite))); !errors.Is(err, ErrMisuse) {
			t.Errorf("a closed group moves without its successor: %v", err)
		}
		bob = bob.moved(t)
		before := must[*Group](t)(bob.group.Predecessor())
		if got := must[*Received](t)(before.Process(late)).Application; got == nil {
			t.Error("the closed group reads nothing")
		}
	}
	agree(t, alice, bob)
	if groups := must[[][]byte](t)(bob.Groups()); len(groups) != 1 {
		t.Errorf("%d groups", len(groups))
	}
}

// TestMoveGroupCrash checks that the group stays in its store if the store fails.
func TestMoveGroupCrash(t *testing.T) {
	store := &failingStore{MemoryStore: NewMemoryStore()}
	alice, bob := newPerson(t, "alice", labSuite, func(c *Config) { c.Store = store }), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	offer := must[[]byte](t)(bob.OfferImport(labSuite))
	store.fails = true
	if _, err := alice.group.MoveOut(offer); !errors.Is(err, ErrStore) {
		t.Errorf("moved without a disk: %v", err)
	}
	if _, err := alice.OfferImport(labSuite); !errors.Is(err, ErrStore) {
		t.Errorf("offered without a disk: %v", err)
	}
	store.fails = false
	alice.commit(t, CommitOptions{}, []*person{bob})
	agree(t, alice, bob)
}

// answerlessStore makes writes but returns an error, as after a failed fsync. It keeps the Output.
type answerlessStore struct {
	*MemoryStore
	failing bool
	output  []byte
}

func (s *answerlessStore) Apply(b Batch) error {
	if err := s.MemoryStore.Apply(b); err != nil || !s.failing {
		return err
	}
	s.output = bytes.Clone(b.Output)
	return errors.New("no answer")
}

// TestMoveGroupLostAnswer checks that if a write was made and its result is lost, the group is in exactly one place:
// in one store, or in the Output of the write.
func TestMoveGroupLostAnswer(t *testing.T) {
	from, to := &answerlessStore{MemoryStore: NewMemoryStore()}, &answerlessStore{MemoryStore: NewMemoryStore()}
	alice, bob := newPerson(t, "alice", labSuite, func(c *Config) { c.Store = from }), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	next := newPerson(t, "alice", labSuite, func(c *Config) { c.Store = to })
	offer := must[[]byte](t)(next.OfferImport(labSuite))
	from.failing, to.failing = true, true
	if _, err := alice.group.MoveOut(offer); !errors.Is(err, ErrStore) {
		t.Fatal(err)
	}
	if _, err := alice.LoadGroup(alice.group.GroupID()); !errors.Is(err, ErrMissing) {
		t.Errorf("the group is still in the old store: %v", err)
	}
	if _, err := next.ImportGroup(from.output); !errors.Is(err, ErrStore) {
		t.Fatal(err)
	}
	if _, err := next.ImportGroup(from.output); !errors.Is(err, ErrNotForUs) {
		t.Errorf("imported twice: %v", err)
	}
	to.failing = false
	next.group = must[*Group](t)(next.LoadGroup(alice.group.GroupID()))
	next.commit(t, CommitOptions{}, []*person{bob})
	agree(t, next, bob)
}

// TestImportOfferDamaged checks that a damaged stored offer makes the import fail.
func TestImportOfferDamaged(t *testing.T) {
	alice, bob := newPerson(t, "alice", labSuite), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	offer := must[[]byte](t)(bob.OfferImport(labSuite))
	moved := must[[]byte](t)(alice.group.MoveOut(offer))
	var b Batch
	b.put(offerKey(alice.group.suite.offerRef(offer)), []byte{stateVersion})
	if err := bob.store.Apply(b); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.ImportGroup(moved); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}
