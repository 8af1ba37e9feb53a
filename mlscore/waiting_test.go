package mlscore

import (
	"errors"
	"testing"
	"time"
)

// TestWaitingProposals12_4 checks that a committer can choose waiting proposals by reference (§12.4).
func TestWaitingProposals12_4(t *testing.T) {
	for _, public := range []bool{false, true} {
		l := newLab(t, public, labOptions{names: []string{"alice", "bob", "carol", "dave"}})
		alice, bob := l.who("alice"), l.who("bob")
		var refs [][]byte
		for _, name := range []string{"carol", "dave"} {
			leaf, _ := alice.group.ByIdentity([]byte(name))
			msg := must[[]byte](t)(alice.group.Propose(RemoveProposal(leaf), ProposeOptions{}))
			got := bob.receive(t, msg)
			l.who("carol").receive(t, msg)
			l.who("dave").receive(t, msg)
			if l.server != nil {
				next, _, err := l.server.Process(msg)
				if err != nil {
					t.Fatal(err)
				}
				l.server = next
			}
			refs = append(refs, got.Proposal.Ref)
		}
		list := bob.group.Public().Pending()
		if len(list) != 2 || string(list[1].Ref) != string(refs[1]) || list[1].Sender != member(alice.group.Self()) || list[1].Remove != 3 {
			t.Fatalf("waiting: %+v", list)
		}
		for _, c := range []struct {
			name string
			refs [][]byte
			kind error
		}{
			{"one that is not there", [][]byte{refs[0], []byte("?")}, ErrMissing},
			{"one twice", [][]byte{refs[0], refs[0]}, ErrMisuse},
		} {
			if _, err := bob.group.Commit(CommitOptions{Refs: c.refs}); !errors.Is(err, c.kind) {
				t.Errorf("%s: %v, not %v", c.name, err, c.kind)
			}
		}
		none := must[*Commit](t)(bob.group.Commit(CommitOptions{Refs: [][]byte{}}))
		if n := len(none.Staged.Effects().Proposals); n != 0 {
			t.Errorf("a commit of no reference holds %d proposals", n)
		}
		c := must[*Commit](t)(bob.group.Commit(CommitOptions{Refs: refs[1:]}))
		if e := c.Staged.Effects(); len(e.Removed) != 1 || e.Removed[0].Leaf != 3 {
			t.Fatalf("removed %+v", e.Removed)
		}
		l.deliver(bob, c.Message)
		if err := bob.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		if n := len(bob.group.Public().Pending()); n != 0 {
			t.Errorf("%d proposals wait in the next epoch", n)
		}
		l.agree()
		l.goesOn()
	}
}

// TestDropProposal checks that this member does not commit a dropped proposal, does not count it as waiting, and
// keeps it dropped after a restart; and that it processes another member's commit of the proposal.
func TestDropProposal(t *testing.T) {
	l := newLab(t, false, labOptions{names: []string{"alice", "bob", "carol"}})
	alice, bob := l.who("alice"), l.who("bob")
	update := must[[]byte](t)(bob.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{}))
	l.deliver(bob, update)
	remove := must[[]byte](t)(alice.group.Propose(RemoveProposal(2), ProposeOptions{}))
	l.deliver(alice, remove)
	list := bob.group.Public().Pending()
	if err := bob.group.Drop([]byte("?")); !errors.Is(err, ErrMissing) {
		t.Errorf("dropping nothing: %v", err)
	}
	for _, p := range list {
		if err := bob.group.Drop(p.Ref); err != nil {
			t.Fatal(err)
		}
		if err := bob.group.Drop(p.Ref); !errors.Is(err, ErrMissing) {
			t.Errorf("dropping twice: %v", err)
		}
	}
	check := func() {
		t.Helper()
		if n := len(bob.group.Public().Pending()); n != 0 {
			t.Errorf("%d proposals wait", n)
		}
		if _, err := bob.group.Commit(CommitOptions{Refs: [][]byte{list[1].Ref}}); !errors.Is(err, ErrMissing) {
			t.Errorf("committing a dropped one: %v", err)
		}
		c := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		if n := len(c.Staged.Effects().Proposals); n != 0 || c.Skipped != nil {
			t.Errorf("%d proposals are committed, %v skipped", n, c.Skipped)
		}
		if _, err := bob.group.Protect([]byte("on"), MessageOptions{}); err != nil {
			t.Error(err)
		}
	}
	check()
	bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
	check()
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{}))
	if n := len(c.Staged.Effects().Proposals); n != 2 {
		t.Fatalf("%d proposals are committed", n)
	}
	l.deliver(alice, c.Message)
	if err := alice.group.Merge(c.Staged); err != nil {
		t.Fatal(err)
	}
	l.agree()
	// The dropped proposals have no effect in the next epoch.
	l.deliver(alice, must[[]byte](t)(alice.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})))
	if bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID())); len(bob.group.Public().Pending()) != 1 {
		t.Error("a new proposal does not wait")
	}
}

// TestLoadDroppedDamaged checks that a record that names a missing proposal is refused.
func TestLoadDroppedDamaged(t *testing.T) {
	alice := newPerson(t, "alice", labSuite)
	alice.create(t, CreateOptions{})
	var b Batch
	b.put(groupKey(alice.group.name(), recordDropped, uint64Bytes(0), uint32Bytes(0)), []byte{stateVersion})
	if err := alice.store.Apply(b); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.LoadGroup(alice.group.GroupID()); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

// TestDropRefused checks that Drop fails and drops nothing in a group that has ended, or if the store fails.
func TestDropRefused(t *testing.T) {
	store := &failingStore{MemoryStore: NewMemoryStore()}
	alice, bob := newPerson(t, "alice", labSuite, func(c *Config) { c.Store = store }), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	alice.receive(t, must[[]byte](t)(bob.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})))
	ref := alice.group.Public().Pending()[0].Ref
	store.fails = true
	if err := alice.group.Drop(ref); !errors.Is(err, ErrStore) || len(alice.group.Public().Pending()) != 1 {
		t.Errorf("dropped without a disk: %v", err)
	}
	store.fails = false
	c := bob.commit(t, CommitOptions{OnlyThese: true, Proposals: []Proposal{RemoveProposal(alice.group.Self())}}, nil)
	alice.receive(t, c.Message)
	if err := alice.group.Drop(ref); !errors.Is(err, ErrGroupEnded) {
		t.Errorf("dropped after the end: %v", err)
	}
}

// TestChosenExpired7_3 checks that a chosen proposal with a KeyPackage that has expired meanwhile fails the commit.
func TestChosenExpired7_3(t *testing.T) {
	now := testTime
	alice := newPerson(t, "alice", labSuite, func(c *Config) { c.Now = func() time.Time { return now } })
	alice.create(t, CreateOptions{})
	kp := newPerson(t, "bob", labSuite).keyPackage(t)
	must[[]byte](t)(alice.group.Propose(AddProposal(kp), ProposeOptions{}))
	ref := alice.group.Public().Pending()[0].Ref
	now = testTime.Add(31 * 24 * time.Hour)
	if _, err := alice.group.Commit(CommitOptions{Refs: [][]byte{ref}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	now = testTime
	must[*Commit](t)(alice.group.Commit(CommitOptions{Refs: [][]byte{ref}}))
}
