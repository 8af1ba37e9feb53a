package mlscore

import (
	"errors"
	"testing"
)

// TestSection12_4_2_MergePresentCommit checks that a commit that was abandoned, overtaken or merged cannot be
// merged, and that the attempt does not change the group.
func TestSection12_4_2_MergePresentCommit(t *testing.T) {
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	commit := func(p *person) *StagedCommit {
		c, err := p.group.Commit(CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Staged
	}
	refuse := func(what string, p *person, s *StagedCommit, want error) {
		t.Helper()
		before := describeGroup(p.group)
		if err := p.group.Merge(s); !errors.Is(err, want) {
			t.Fatalf("merging %s: %v, want %v", what, err, want)
		}
		if describeGroup(p.group) != before {
			t.Fatalf("merging %s changed the group", what)
		}
		if g, err := p.LoadGroup(p.group.GroupID()); want == ErrStale && (err != nil || describeGroup(g) != before) {
			t.Fatalf("merging %s changed what is stored: %v", what, err)
		}
	}

	given := commit(alice)
	if err := alice.group.Abandon(); err != nil {
		t.Fatal(err)
	}
	refuse("a commit that was given up", alice, given, ErrStale)
	if given.RemovesSelf() {
		t.Fatal("a commit that was given up is taken for one that removes its maker")
	}
	first := commit(alice)
	second := commit(alice)
	refuse("a commit that the next one replaced", alice, first, ErrStale)
	staged := bob.stage(t, second.Message())
	if err := alice.group.Merge(second); err != nil {
		t.Fatal(err)
	}
	if err := bob.group.Merge(staged); err != nil {
		t.Fatal(err)
	}
	agree(t, alice, bob)
	refuse("a commit for the second time", alice, second, ErrStale)
	refuse("a received commit for the second time", bob, staged, ErrStale)

	// Of two commits in one epoch, bob merges the one that removes him.
	other, err := alice.group.Commit(CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keeps := bob.stage(t, other.Message)
	out, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{RemoveProposal(bob.group.Self())}})
	if err != nil {
		t.Fatal(err)
	}
	removes := bob.stage(t, out.Message)
	if !removes.RemovesSelf() || keeps.RemovesSelf() {
		t.Fatal("bob does not see which of the commits removes him")
	}
	if err := bob.group.Merge(removes); err != nil {
		t.Fatal(err)
	}
	refuse("a commit after the removal", bob, keeps, ErrGroupEnded)
	refuse("the removal again", bob, removes, ErrGroupEnded)
	if _, err := bob.LoadGroup(bob.group.GroupID()); !errors.Is(err, ErrMissing) {
		t.Fatalf("bob was removed and still has the group stored: %v", err)
	}
}

// stage processes a commit and does not merge it.
func (p *person) stage(t testing.TB, msg []byte) *StagedCommit {
	t.Helper()
	r, err := p.group.Process(msg)
	if err != nil {
		t.Fatal(err)
	}
	return r.Commit
}
