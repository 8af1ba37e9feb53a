package mlscore

import (
	"bytes"
	"fmt"
	"math/bits"
	mathrand "math/rand/v2"
	"testing"
)

// largeWalk changes many members at once in a group of thousands, of whom only a few are real.
type largeWalk struct {
	t      *testing.T
	rng    *mathrand.Rand
	maker  *person // makes the KeyPackages of members that are not real
	people []*person
	next   int
}

// TestLongWalkLarge walks a group of 10,000 members: runs of members leave and join, the tree is truncated to its
// left half and extended again, and leaves stay unmerged below blanks. At every step it checks that the real members
// agree, that all parent hashes and lists of unmerged leaves are valid, and that the tree equals one that is built
// from its encoding. Sometimes a client joins, and the whole tree is validated.
func TestLongWalkLarge(t *testing.T) {
	long := longRun(t)
	if long == "" {
		t.Skip("takes minutes: set MLSFED_LONG to short or full")
	}
	steps := 60
	if long == "full" {
		steps = 400
	}
	const members = 10_000
	seed := seedOf(t, 3)
	w := &largeWalk{t: t, rng: mathrand.New(mathrand.NewPCG(seed, members)), maker: newPerson(t, "maker", 1)}
	g := newLargeGroup(t, members)
	w.people = []*person{g.alice, g.bob}
	w.check()
	w.remove(g.alice, w.span(5, 40)) // the first two blank leaves are for members who stay until the end
	w.commit(g.bob, nil, newPerson(t, "carol", 1), newPerson(t, "dave", 1))
	for step := range steps {
		switch {
		case step == steps/2: // bob is removed with the right half
			w.remove(g.alice, w.span(members/4, 1<<w.tree().height()))
			if got, want := w.tree().height(), bits.Len(members/4-1); got != want {
				t.Fatalf("the tree has a height of %d after its right half went, want %d", got, want)
			}
		case step == steps*3/4: // and the tree grows again
			w.add(w.anyone(), 1<<w.tree().height()-w.tree().members()+1)
		default:
			w.step()
		}
	}
	w.commit(w.anyone(), nil, newPerson(t, "erin", 1))
	if err := w.people[0].group.public().validateTree(); err != nil {
		t.Fatal(err)
	}
}

func (w *largeWalk) tree() *ratchetTree { return w.people[0].group.public().tree }

func (w *largeWalk) anyone() *person { return w.people[w.rng.IntN(len(w.people))] }

// step makes one random change.
func (w *largeWalk) step() {
	size := LeafIndex(1) << w.tree().height()
	switch by := w.anyone(); w.rng.IntN(6) {
	case 0: // a run of blanks, about as long as the width of a subtree
		from := LeafIndex(w.rng.IntN(int(size)))
		w.remove(by, w.span(from, from+1<<w.rng.IntN(9)+LeafIndex(w.rng.IntN(3))))
	case 1: // unmerged leaves, below blanks too
		w.add(by, 1+w.rng.IntN(200))
	case 2: // both at once
		from := LeafIndex(w.rng.IntN(int(size)))
		w.commit(by, append(w.removes(by, w.span(from, from+20)), w.adds(1+w.rng.IntN(30))...))
	case 3: // without a path
		w.commitWith(by, CommitOptions{Proposals: w.adds(3), OmitPath: true})
	default:
		w.commit(by, nil)
	}
}

// span lists the members from one leaf to another that may be removed: all that are not real, and bob.
func (w *largeWalk) span(from, to LeafIndex) []LeafIndex {
	stays := map[LeafIndex]bool{}
	for _, p := range w.people {
		stays[p.group.Self()] = string(p.id.Credential.Identity) != "bob"
	}
	var list []LeafIndex
	for i := from; i < to; i++ {
		if !stays[i] && w.tree().leafBody(i) != "" {
			list = append(list, i)
		}
	}
	return list
}

func (w *largeWalk) removes(by *person, leaves []LeafIndex) []Proposal {
	var list []Proposal
	for _, i := range leaves {
		if i != by.group.Self() {
			list = append(list, RemoveProposal(i))
		}
	}
	return list
}

func (w *largeWalk) adds(n int) []Proposal {
	w.t.Helper()
	list := make([]Proposal, n)
	for k := range list {
		w.next++
		id := w.maker.id
		key, _, err := GenerateSignatureKey(nil, 1)
		if err != nil {
			w.t.Fatal(err)
		}
		id.SignatureKey = key
		id.Credential = BasicCredential(fmt.Appendf(nil, "extra %d", w.next))
		list[k] = AddProposal(must[*KeyPackage](w.t)(w.maker.NewKeyPackage(id, KeyPackageOptions{})))
	}
	return list
}

func (w *largeWalk) add(by *person, n int)               { w.commit(by, w.adds(n)) }
func (w *largeWalk) remove(by *person, list []LeafIndex) { w.commit(by, w.removes(by, list)) }

func (w *largeWalk) commit(by *person, list []Proposal, newcomers ...*person) {
	w.commitWith(by, CommitOptions{Proposals: list}, newcomers...)
}

// commitWith makes the real members process a commit, drops removed members, and checks the group.
func (w *largeWalk) commitWith(by *person, opts CommitOptions, newcomers ...*person) {
	w.t.Helper()
	by.commit(w.t, opts, w.people, newcomers...)
	var left []*person
	for _, p := range append(w.people, newcomers...) {
		if p.group.Active() {
			left = append(left, p)
		}
	}
	w.people = left
	w.check()
}

func (w *largeWalk) check() {
	w.t.Helper()
	agree(w.t, w.people...)
	tree := w.tree()
	for _, p := range w.people[1:] {
		if !bytes.Equal(p.group.public().tree.hash(), tree.hash()) {
			w.t.Fatalf("%s has another tree", p.id.Credential.Identity)
		}
	}
	if err := tree.checkUnmerged(tree.root, 0, nil); err != nil {
		w.t.Fatal(err)
	}
	if err := tree.verifyParentHashes(); err != nil {
		w.t.Fatal(err)
	}
	built, err := buildTree(tree.suite, TrustBasic{}, allBodies(tree))
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(built.hash(), tree.hash()) || built.height() != tree.height() || built.members() != tree.members() {
		w.t.Fatal("the tree is not the one that its encoding gives")
	}
	sameIndices(w.t, tree, built)
}
