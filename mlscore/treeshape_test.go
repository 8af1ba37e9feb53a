package mlscore

import (
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"
)

// grow makes one random change to the tree.
func (g *garden) grow() {
	g.t.Helper()
	members := g.members()
	switch g.rng.IntN(6) {
	case 0, 1:
		g.climb(members[g.rng.IntN(len(members))])
	case 2: // a run of removals
		from := g.rng.IntN(len(members))
		to := min(from+1+g.rng.IntN(len(members)), len(members))
		if to-from == len(members) {
			to--
		}
		g.plant(nil, members[from:to], 0)
	case 3:
		g.plant(nil, nil, 1+g.rng.IntN(1+len(members)/2))
	default: // all kinds in one list
		g.rng.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
		updates := g.rng.IntN(len(members))
		removes := g.rng.IntN(len(members) - updates)
		g.plant(members[:updates], members[updates:updates+removes], g.rng.IntN(4))
	}
}

func (g *garden) members() []LeafIndex {
	var list []LeafIndex
	g.tree.eachLeaf(func(i LeafIndex, _ string) bool {
		list = append(list, i)
		return true
	})
	return list
}

// TestSection7_RandomTrees makes random changes to small trees and compares every change with the definitions of
// §4.1, §7.5, §7.7, §7.8 and §7.9.
func TestSection7_RandomTrees(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			g := newGarden(t, seed, 1+int(seed))
			for range 25 {
				if g.tree.members() > 40 {
					g.plant(nil, g.members()[7:], 0)
				}
				g.grow()
			}
		})
	}
}

// TestSection7_PowersOfTwo tries sizes around powers of two, with paths from both ends and the middle, and across the
// height up to which blank subtrees are kept as one node.
func TestSection7_PowersOfTwo(t *testing.T) {
	for _, size := range []int{2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 257, 513, 1025, 2049} {
		if testing.Short() && size > 300 {
			break
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) { aroundSize(t, size) })
	}
}

// TestLongSection7_PowersOfTwo does the same with larger trees.
func TestLongSection7_PowersOfTwo(t *testing.T) {
	if longRun(t) == "" {
		t.Skip("takes minutes: set MLSFED_LONG to short or full")
	}
	for _, size := range []int{4095, 4096, 4097, 8191, 8192, 8193} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { aroundSize(t, size) })
	}
}

func aroundSize(t *testing.T, size int) {
	g := newGarden(t, uint64(size), size)
	last := LeafIndex(size - 1)
	for _, i := range []LeafIndex{0, last, last / 2, last/2 + 1, 0} {
		g.climb(min(i, last))
	}
	g.plant(nil, nil, 1)            // grows to one more than the size
	g.plant(nil, []LeafIndex{0}, 0) // and shrinks again, at the other end
	g.climb(last)
	g.plant([]LeafIndex{last}, nil, 2)
	if size > 8 {
		g.plant(nil, g.members()[size/2:], 0) // shrinks to the left half
		g.climb(2)
	}
}

// TestSection7_7_AwkwardShapes tries the shapes of trees that are difficult for an implementation that keeps blank
// subtrees as single nodes.
func TestSection7_7_AwkwardShapes(t *testing.T) {
	span := func(from, to LeafIndex) []LeafIndex {
		var list []LeafIndex
		for i := from; i < to; i++ {
			list = append(list, i)
		}
		return list
	}
	for name, run := range map[string]func(g *garden){
		"the left half of the root is empty": func(g *garden) {
			g.climb(200)
			g.plant(nil, span(0, 128), 0)
			g.climb(200)
			g.climb(128)
			g.plant(nil, nil, 3)
			g.climb(1)
		},
		"the right half is empty": func(g *garden) {
			g.climb(5)
			g.plant(nil, span(128, 256), 0)
			g.climb(5)
			g.plant(nil, nil, 1)
		},
		"only the last leaf is left": func(g *garden) {
			g.plant(nil, span(0, 255), 0)
			g.climb(255)
			g.plant([]LeafIndex{255}, nil, 0)
			g.plant(nil, nil, 1)
			g.climb(0)
			g.plant(nil, []LeafIndex{255}, 0)
		},
		"only the first leaf is left": func(g *garden) {
			g.plant(nil, span(1, 256), 0)
			g.climb(0)
			g.plant(nil, nil, 70)
		},
		"unmerged leaves below blanks": func(g *garden) {
			g.climb(0)
			g.climb(255)
			g.plant(nil, span(60, 70), 0)
			g.climb(100) // sets the nodes above the blanks
			g.plant(nil, nil, 5)
			g.climb(200)
			g.plant(nil, nil, 8) // unmerged in some of the nodes only
			g.plant(nil, []LeafIndex{61, 62}, 1)
			g.climb(63)
			g.climb(66)
		},
		"whole blank subtrees of 64 leaves": func(g *garden) {
			g.plant(nil, span(64, 128), 0)
			g.climb(0)
			g.plant(nil, span(0, 64), 0)
			g.climb(130)
			g.plant(nil, nil, 1)  // expands the first blank subtree
			g.plant(nil, nil, 70) // fills it, and expands the second
			g.climb(64)
			g.plant(nil, span(64, 71), 0) // and blanks it again
			g.climb(3)
		},
		"a blank subtree that comes back from its encoding": func(g *garden) {
			g.plant(nil, span(64, 192), 0)
			g.reparse()
			g.climb(0)
			g.plant(nil, nil, 2)
			g.plant(nil, span(192, 256), 0)
			g.climb(65)
		},
		"extended and cut back again and again": func(g *garden) {
			for range 4 {
				g.plant(nil, nil, 1)
				g.climb(256)
				g.plant(nil, []LeafIndex{256}, 0)
				g.climb(0)
			}
		},
		"adds take the places of removes in one list": func(g *garden) {
			g.climb(17)
			g.plant(span(20, 25), span(0, 10), 12)
			g.climb(0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGarden(t, 1, 256)
			run(g)
		})
	}
}

// reparse replaces the tree by an equal tree that was built at once.
func (g *garden) reparse() {
	t, err := buildTree(g.s, TrustBasic{}, allBodies(g.tree))
	if err != nil {
		g.t.Fatal(err)
	}
	g.tree = t
}

// TestSection7_7_LastMemberLeaves removes the only member, as an external commit by that same client does
// (§12.4.3.2): the tree is truncated to one blank leaf, for every place of the member and every history of the tree.
func TestSection7_7_LastMemberLeaves(t *testing.T) {
	for _, leaves := range []int{1, 2, 3, 64, 65, 128, 129, 300} {
		for _, reparse := range []bool{false, true} {
			t.Run(fmt.Sprintf("leaf %d, reparse=%v", leaves-1, reparse), func(t *testing.T) {
				g := newGarden(t, 2, leaves)
				last := LeafIndex(leaves - 1)
				g.plant(nil, g.members()[:leaves-1], 0)
				if reparse {
					g.reparse()
				}
				g.climb(last)
				g.plant(nil, []LeafIndex{last}, 0)
				if g.tree.height() != 0 || g.tree.members() != 0 || !g.tree.root.blank() {
					t.Fatalf("a tree of height %d is left", g.tree.height())
				}
				g.plant(nil, nil, 1)
				g.climb(0)
			})
		}
	}
}

// TestSection7_9_2_ForgedTrees changes single fields of valid trees and compares the results of the checks of parent
// hashes and unmerged leaves with those of the definitions.
func TestSection7_9_2_ForgedTrees(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	refused := 0
	for seed := range uint64(6) {
		g := newGarden(t, seed, 3+3*int(seed))
		for range 12 {
			g.grow()
			if g.tree.members() > 24 {
				g.plant(nil, g.members()[5:], 0)
			}
		}
		g.climb(g.members()[0])
		g.plant(nil, nil, 2)
		for range rounds {
			if !g.forge() {
				refused++
			}
		}
	}
	if refused < rounds {
		t.Fatalf("only %d forged trees were refused: the changes miss what is checked", refused)
	}
}

// forge compares the results for one forged tree.
func (g *garden) forge() (valid bool) {
	g.t.Helper()
	forged := &naiveTree{g.s, slices.Clone(g.naive.nodes)}
	what := g.disturb(forged)
	tree, err := buildTree(g.s, TrustBasic{}, forged.nodes)
	if err != nil {
		g.t.Fatalf("%s: %v", what, err)
	}
	unmerged := forged.unmergedValid()
	if err := tree.checkUnmerged(tree.root, 0, nil); (err == nil) != unmerged {
		g.t.Fatalf("%s: unmerged leaves: %v, want valid: %v", what, err, unmerged)
	}
	if !unmerged {
		return false // parent hashes are checked only if the lists are valid
	}
	hashes := forged.parentHashesValid()
	if err := tree.verifyParentHashes(); (err == nil) != hashes {
		g.t.Fatalf("%s: parent hashes: %v, want valid: %v", what, err, hashes)
	}
	return hashes
}

// disturb makes one change in a tree.
func (g *garden) disturb(n *naiveTree) string {
	var parents, leaves []int
	for x, body := range n.nodes {
		if body == "" {
			continue
		}
		if x%2 == 1 {
			parents = append(parents, x)
		} else {
			leaves = append(leaves, x)
		}
	}
	x := parents[g.rng.IntN(len(parents))]
	p := n.parent(x)
	what := fmt.Sprintf("node %d: ", x)
	switch g.rng.IntN(6) {
	case 0:
		p.key = g.bytes(32)
		what += "another key"
	case 1:
		p.parentHash = g.bytes(32)
		what += "another parent hash"
	case 2:
		p.parentHash = []byte{}
		what += "no parent hash"
	case 3:
		p.unmerged = g.disturbList(n, p.unmerged)
		what += fmt.Sprintf("unmerged %v", p.unmerged)
	case 4: // the leaf keeps its keys and loses its parent hash, or gets a wrong one
		x = leaves[g.rng.IntN(len(leaves))]
		source, hash := SourceCommit, g.bytes(32)
		if g.rng.IntN(2) == 0 {
			source, hash = SourceUpdate, nil
		}
		n.nodes[x] = g.bareLeaf(source, hash)
		return fmt.Sprintf("leaf %d: replaced, source %d", x/2, source)
	case 5:
		if x == n.root() && len(parents) == 1 {
			return "nothing"
		}
		n.nodes[x] = ""
		return what + "blanked"
	}
	n.nodes[x] = p.encode()
	return what
}

// disturbList adds a leaf to a list, or removes one.
func (g *garden) disturbList(n *naiveTree, list []int) []int {
	if len(list) > 0 && g.rng.IntN(2) == 0 {
		return slices.Delete(slices.Clone(list), 0, 1)
	}
	list = append(slices.Clone(list), g.rng.IntN(n.leaves()+2))
	slices.Sort(list)
	return slices.Compact(list)
}

// TestSection4_1_Figures checks the examples of §4.1.1 and §4.1.2 with the trees in the text.
func TestSection4_1_Figures(t *testing.T) {
	const a, b, c, d, e, f, g, h = 0, 2, 4, 6, 8, 10, 12, 14 // leaves
	t.Run("§4.1.1 a tree with blanks and unmerged leaves", func(t *testing.T) {
		tree := figure(t, []int{a, b, d, e, f, h}, map[int][]int{3: {1}, 9: nil})
		for x, want := range map[int][]int{3: {3, b}, c: nil, g: nil, 7: {3, b, 9, h}} {
			var got []int
			n := nodeIndex(x)
			for _, r := range tree.resolution(tree.nodeAbove(n.firstLeaf(), n.level()), n.firstLeaf(), nil) {
				got = append(got, int(r.node))
			}
			if !slices.Equal(got, want) {
				t.Errorf("resolution of node %d is %v, want %v", x, got, want)
			}
		}
	})
	t.Run("§4.1.2 a complete tree with five members", func(t *testing.T) {
		const T, W, X, Y = 1, 7, 9, 11
		tree := figure(t, []int{a, b, e, f, g}, map[int][]int{T: nil, W: nil, X: nil, Y: nil})
		for leaf, want := range map[int][]int{a: {T, W}, b: {T, W}, e: {X, Y, W}, f: {X, Y, W}, g: {Y, W}} {
			var got []int
			for _, step := range tree.filteredPath(LeafIndex(leaf / 2)) {
				got = append(got, int(nodeAt(LeafIndex(leaf/2), step.level)))
			}
			if !slices.Equal(got, want) {
				t.Errorf("filtered direct path of leaf %d is %v, want %v", leaf/2, got, want)
			}
		}
	})
}

// figure builds a tree of 8 leaves with members and parents at given nodes.
func figure(t *testing.T, leaves []int, parents map[int][]int) *ratchetTree {
	t.Helper()
	g := &garden{t: t, rng: mathrand.New(mathrand.NewPCG(0, 0)), s: suites[0]}
	bodies := make([]string, 15)
	for _, x := range leaves {
		bodies[x] = g.bareLeaf(SourceKeyPackage, nil)
	}
	for x, unmerged := range parents {
		bodies[x] = naiveParentNode{key: g.bytes(32), unmerged: unmerged}.encode()
	}
	tree, err := buildTree(g.s, TrustBasic{}, bodies)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
