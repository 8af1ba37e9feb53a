package machine

import (
	"errors"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// newBranches is newBench for a conversation with rules of level 2.
func newBranches(t testing.TB, orgs ...wire.Domain) (*bench, author.Place) {
	b, p := newBench(t, wire.Policy{}, orgs...)
	now := &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}}
	for _, r := range []*wire.Replicas{now, wire.RaiseLevel(now, 2)} {
		if out := b.m.Apply(b.raw(nil, r)); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	return b, p
}

// by applies a submission that a node of an organization has brought.
func (b *bench) by(org wire.Domain, e *wire.Envelope) Outcome {
	b.t.Helper()
	raw, err := wire.Encode(&wire.Entry{Version: wire.EntryVersion, Time: b.time, Proposer: wire.NodeID("n1." + string(org)), Envelope: e})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.m.Apply(raw)
}

// commitBy orders a commit, with or without the contest mark, and returns the new place.
func (b *bench) commitBy(org wire.Domain, p author.Place, contest bool, change wire.DeliveryChange) author.Place {
	b.t.Helper()
	e := p.Commit(b.id(), 16, change)
	if contest {
		e = p.Contest(e.Submission, change)
	}
	out := b.by(org, e)
	if out.Err != nil {
		b.t.Fatalf("commit for epoch %d, opened by entry %d: %v", p.Epoch, p.Parent, out.Err)
	}
	return author.After(e, out.Receipt)
}

func (b *bench) refuseBy(org wire.Domain, e *wire.Envelope, want wire.Code) {
	b.t.Helper()
	before := b.digest()
	if out := b.by(org, e); out.Err == nil || !errors.Is(out.Err, want) || b.digest() != before {
		b.t.Fatalf("%+v, wanted %v and no change", out, want)
	}
}

var none wire.DeliveryChange

// TestChainOfPoisonIsContested checks that the epoch before a chain of commits that only their maker can process can
// be contested, whatever the length of the chain.
func TestChainOfPoisonIsContested(t *testing.T) {
	for _, length := range []int{1, 2, 3, MaxAncestors, MaxAncestors + 100} {
		b, good := newBranches(t, "a.example", "m.example")
		good = b.commitBy("a.example", good, false, none)
		good = b.commitBy("m.example", good, false, none) // confirms the previous commit, and not itself
		p := good
		for range length {
			p = b.commitBy("m.example", p, false, none)
		}
		if n := len(b.m.heads[0].trail); n > MaxAncestors {
			t.Fatalf("%d ancestors", n)
		}
		next := b.commitBy("a.example", good, true, none)
		b.commitBy("a.example", next, false, none)
	}
}

// TestConfirmationEndsContests checks that after members of two organizations have processed a commit, the epoch
// before it can no longer be contested, unless that epoch is the parent of a head.
func TestConfirmationEndsContests(t *testing.T) {
	b, first := newBranches(t, "a.example", "b.example")
	second := b.commitBy("a.example", first, false, none)
	third := b.commitBy("a.example", second, false, none)
	if _, err := b.m.Judge(&wire.Entry{Version: 1, Time: b.time, Proposer: "n1.a.example", Envelope: first.Contest(b.id(), none)}); err != nil {
		t.Fatalf("nobody else has confirmed the first commit: %v", err)
	}
	b.commitBy("b.example", third, false, none)
	b.refuseBy("a.example", first.Contest(b.id(), none), wire.StaleEpoch)
	b.refuseBy("a.example", second.Contest(b.id(), none), wire.StaleEpoch)
	if out := b.by("a.example", third.Contest(b.id(), none)); out.Err != nil {
		t.Fatalf("the parent: %v", out.Err)
	}
}

// TestNewcomersConfirmNothingOfBefore checks that a submission from a device that a poison commit adds, brought by
// the device's honest node, is no evidence for the commit that added it. The device can process later entries.
func TestNewcomersConfirmNothingOfBefore(t *testing.T) {
	b, good := newBranches(t, "a.example", "m.example")
	p := b.commitBy("m.example", good, false, wire.DeliveryChange{Add: author.Addresses(7, "a.example")})
	p = b.commitBy("a.example", p, false, none)
	p = b.commitBy("m.example", p, false, none)
	b.commitBy("a.example", p, false, none)
	b.commitBy("a.example", good, true, none)
}

// TestOneOrganizationConfirmsNothing checks that one member cannot confirm a chain of its own: if all members are of
// one organization, nobody can distinguish them.
func TestOneOrganizationConfirmsNothing(t *testing.T) {
	b, good := newBranches(t, "a.example")
	p := good
	for range 5 {
		p = b.commitBy("a.example", p, false, none)
	}
	b.commitBy("a.example", good, true, none)
}

// TestContestableEpochsExpire checks that after HeadLife only the parent of a head can be contested.
func TestContestableEpochsExpire(t *testing.T) {
	b, first := newBranches(t, "a.example")
	second := b.commitBy("a.example", first, false, none)
	b.commitBy("a.example", second, false, none)
	for range 8 {
		b.time += MaxStep
		b.by("a.example", author.Create(testID, b.id(), wire.Policy{}, author.Addresses(1, "a.example"))) // refused
		if out := b.m.Apply(b.raw(nil, &wire.Replicas{Voters: []wire.NodeID{"n1.a.example"}})); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	b.refuseBy("a.example", first.Contest(b.id(), none), wire.StaleEpoch)
	if out := b.by("a.example", second.Contest(b.id(), none)); out.Err != nil {
		t.Fatal(out.Err)
	}
}

// TestBranchThatGivesWay checks that an organization has a share of the branches, and cannot exceed it by branches
// on top of branches; others always have room.
func TestBranchThatGivesWay(t *testing.T) {
	b, good := newBranches(t, "a.example", "b.example", "m.example")
	mine := b.commitBy("m.example", good, false, none) // all members follow the commit, and nobody has confirmed it yet
	p := good
	for n := 1; n < MaxBranchesOfOrganization; n++ {
		p = b.commitBy("m.example", p, true, none)
		b.commitBy("m.example", p, false, none)
	}
	b.refuseBy("m.example", good.Contest(b.id(), none), wire.TooManyHeads)
	b.refuseBy("m.example", p.Contest(b.id(), none), wire.TooManyHeads)
	if b.m.headAt(mine.Parent) == nil {
		t.Fatal("the first commit's branch has given way")
	}
	b.commitBy("a.example", good, true, none)
	b.commitBy("b.example", good, true, none)
	next := b.commitBy("a.example", mine, false, none) // confirms it: all other branches have lost
	for range MaxBranches {
		if b.m.headAt(next.Parent) == nil {
			t.Fatal("a confirmed branch has given way")
		}
		b.commitBy("b.example", mine, true, none)
		if len(b.m.heads) == MaxBranches {
			return
		}
	}
}

// TestFullOfContests checks that if contests of many organizations fill the conversation and none is confirmed, a
// further one is refused, and none of them gives way.
func TestFullOfContests(t *testing.T) {
	orgs := []wire.Domain{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example", "h.example"}
	b, good := newBranches(t, orgs...)
	b.commitBy("h.example", good, false, none)
	var heads []wire.SequenceNumber
	for _, org := range orgs[:MaxBranches-1] {
		heads = append(heads, b.commitBy(org, good, true, none).Parent)
	}
	b.refuseBy("h.example", good.Contest(b.id(), none), wire.TooManyHeads)
	for _, seq := range heads {
		if b.m.headAt(seq) == nil {
			t.Errorf("the branch of entry %d has given way", seq)
		}
	}
}

// TestCloseOfAPoisonedHead checks that a close ends only its branch. The conversation continues where its epochs are
// contested.
func TestCloseOfAPoisonedHead(t *testing.T) {
	b, good := newBranches(t, "a.example", "m.example")
	p := b.commitBy("m.example", b.commitBy("m.example", good, false, none), false, none)
	if out := b.by("m.example", p.Close(b.id())); out.Err != nil || !b.m.Closed() {
		t.Fatalf("%+v", out)
	}
	b.refuseBy("m.example", p.Commit(b.id(), 16, none), wire.Closed)
	next := b.commitBy("a.example", good, true, none)
	if b.m.Closed() {
		t.Fatal("still closed")
	}
	b.refuseBy("m.example", p.Commit(b.id(), 16, none), wire.Closed)
	if h := b.m.Heads(); len(h) != 1 || h[0].Sequence != next.Parent {
		t.Fatalf("heads %+v", h)
	}
	b.commitBy("a.example", next, false, none)
}

// TestRemovedOrganizationsCanContest checks that after a commit which removes all other organizations, these keep
// their replicas until the commit is confirmed.
func TestRemovedOrganizationsCanContest(t *testing.T) {
	b, good := newBranches(t, "a.example", "b.example", "m.example")
	p := b.commitBy("m.example", good, false, wire.DeliveryChange{Remove: author.Addresses(1, "a.example", "b.example")})
	if got := b.m.Holders(); !slices.Equal(got, []wire.Domain{"a.example", "b.example"}) {
		t.Fatalf("holders %v", got)
	}
	b.commitBy("m.example", p, false, none)
	next := b.commitBy("a.example", good, true, none)
	if got := b.m.Holders(); len(got) != 0 || !b.m.Delivers("b.example", next.Parent) {
		t.Fatalf("holders %v, spans %v", got, b.m.Spans())
	}
	// An honest removal is confirmed by another organization.
	out := b.by("a.example", next.Commit(b.id(), 16, wire.DeliveryChange{Remove: author.Addresses(1, "m.example")}))
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	removal := b.m.headAt(out.Receipt.Sequence)
	if removal == nil {
		t.Fatal("no head")
	}
}

// TestKeysOfEndedEpochs checks that messages are accepted under the key of an epoch as long as the epoch can be
// contested, unless a member was removed since.
func TestKeysOfEndedEpochs(t *testing.T) {
	b, good := newBranches(t, "a.example", "b.example", "m.example")
	p := b.commitBy("m.example", b.commitBy("m.example", good, false, none), false, none)
	heads := b.m.Heads()
	if key, removed, ok := heads[0].Past(good.Epoch); !ok || removed || key != author.Public(good.Opener) {
		t.Fatalf("%v %v %v", key, removed, ok)
	}
	b.commitBy("m.example", p, false, wire.DeliveryChange{Remove: author.Addresses(1, "b.example")})
	heads = b.m.Heads()
	if _, removed, ok := heads[0].Past(good.Epoch); !ok || !removed {
		t.Fatalf("after a removal: %v %v", removed, ok)
	}
	if _, _, ok := heads[0].Past(99); ok {
		t.Fatal("an epoch that never was")
	}
}

func TestChangesCompose(t *testing.T) {
	x, y, z := author.Address("a.example", 1), author.Address("b.example", 2), author.Address("c.example", 3)
	for _, c := range []struct{ a, b, want wire.DeliveryChange }{
		{wire.DeliveryChange{Add: []wire.Address{x}}, wire.DeliveryChange{Remove: []wire.Address{x}}, wire.DeliveryChange{}},
		{wire.DeliveryChange{Remove: []wire.Address{x}}, wire.DeliveryChange{Add: []wire.Address{x}}, wire.DeliveryChange{}},
		{wire.DeliveryChange{Add: []wire.Address{y}, Remove: []wire.Address{z}}, wire.DeliveryChange{Add: []wire.Address{x}, Remove: []wire.Address{y}},
			wire.DeliveryChange{Add: []wire.Address{x}, Remove: []wire.Address{z}}},
	} {
		got := composeChanges(c.a, c.b)
		if !slices.Equal(got.Add, c.want.Add) || !slices.Equal(got.Remove, c.want.Remove) {
			t.Errorf("%v then %v is %v, wanted %v", c.a, c.b, got, c.want)
		}
	}
}

// BenchmarkApplyUnconfirmed is BenchmarkApplyCommit with a full trail: no other organization confirms anything.
func BenchmarkApplyUnconfirmed(b *testing.B) {
	bb, p := newBranches(b, "a.example")
	for b.Loop() {
		e := p.Commit(bb.id(), 4096, none)
		p = author.After(e, bb.accept(e))
	}
}
