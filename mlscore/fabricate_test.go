package mlscore

import (
	"fmt"
	"testing"
)

// TestFabricate checks that a client accepts a fabricated group when it joins, and that the group works like any
// other.
func TestFabricate(t *testing.T) {
	for _, n := range []int{2, 3, 4, 5, 8, 9, 31, 33, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			alice, bob, carol := newPerson(t, "alice", 1), newPerson(t, "bob", 1), newPerson(t, "carol", 1)
			var err error
			alice.group, bob.group, err = fabricate(n, [2]*Client{alice.Client, bob.Client}, [2]Identity{alice.id, bob.id}, []byte("fabricated"), GroupOptions{})
			if err != nil {
				t.Fatal(err)
			}
			agree(t, alice, bob)
			if got := alice.group.Public().Size(); got != n {
				t.Fatalf("%d members, want %d", got, n)
			}
			if err := alice.group.public().validateTree(); err != nil {
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

// TestSignedLeaf checks that a batch and a single verification use the same signed bytes.
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
