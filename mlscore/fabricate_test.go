package mlscore

import (
	"fmt"
	"testing"
)

// TestFabricate: a fabricated group is one that anybody would join, and goes on like any other.
func TestFabricate(t *testing.T) {
	for _, n := range []int{2, 3, 4, 5, 8, 9, 31, 33, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			alice, bob, carol := newPerson(t, "alice", 1), newPerson(t, "bob", 1), newPerson(t, "carol", 1)
			f, err := Fabricate(n, [2]*Client{alice.Client, bob.Client}, [2]Identity{alice.id, bob.id}, []byte("fabricated"), GroupOptions{})
			if err != nil {
				t.Fatal(err)
			}
			alice.group, bob.group = f.First, f.Last
			agree(t, alice, bob)
			if got := f.First.Public().Size(); got != n {
				t.Fatalf("%d members, want %d", got, n)
			}
			if err := f.First.public().validateTree(); err != nil {
				t.Fatal(err)
			}
			alice.commit(t, CommitOptions{}, []*person{bob}, carol)
			bob.commit(t, CommitOptions{}, []*person{alice, carol})
			carol.commit(t, CommitOptions{}, []*person{alice, bob})
			agree(t, alice, bob, carol)
			if err := carol.group.public().validateTree(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestSignedLeaf: what a batch takes for signed is what a single verification encodes.
func TestSignedLeaf(t *testing.T) {
	g := newLargeGroup(t, 20)
	for range 3 { // leaves that come from KeyPackages
		_, add := g.newcomer(t)
		g.merge(g.alice, g.commit(CommitOptions{Proposals: []Proposal{add}}).Staged)
	}
	sources := map[LeafNodeSource]int{}
	for _, groupID := range [][]byte{{}, g.alice.group.GroupID(), make([]byte, 100)} {
		g.alice.group.public().tree.eachLeaf(func(i LeafIndex, body string) bool {
			l := must[*LeafNode](t)(parseLeafNode(body))
			sources[l.Source]++
			want := signContent("LeafNodeTBS", l.tbs(groupID, i))
			if got := appendSignedLeaf(nil, leafChange{i, body}, l, groupID); string(got) != string(want) {
				t.Fatalf("leaf %d: %x, want %x", i, got, want)
			}
			return true
		})
	}
	if sources[SourceCommit] == 0 || sources[SourceKeyPackage] == 0 {
		t.Fatalf("sources %v", sources)
	}
}
