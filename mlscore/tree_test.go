package mlscore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// garden changes a tree and its naive counterpart by the same operations and compares them.
type garden struct {
	t     *testing.T
	rng   *mathrand.Rand
	s     *suite
	tree  *ratchetTree
	naive *naiveTree
	names int
	large bool // too large for definitions that take quadratic time
}

func newGarden(t *testing.T, seed uint64, leaves int) *garden {
	t.Helper()
	g := &garden{t: t, rng: mathrand.New(mathrand.NewPCG(seed, 0)), s: suites[0], large: leaves > 80}
	first := g.bareLeaf(SourceKeyPackage, nil)
	tree, err := buildTree(g.s, TrustBasic{}, []string{first})
	if err != nil {
		t.Fatal(err)
	}
	g.tree, g.naive = tree, &naiveTree{g.s, []string{first}}
	g.plant(nil, nil, leaves-1)
	return g
}

func (g *garden) bytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, g.rng.Uint64())
	}
	return b[:n]
}

// bareLeaf returns a leaf with all fields that a tree uses: its keys are random, its signature is empty.
func (g *garden) bareLeaf(source LeafNodeSource, parentHash []byte) string {
	g.names++
	l := LeafNode{
		EncryptionKey: g.bytes(32),
		SignatureKey:  g.bytes(32),
		Credential:    BasicCredential(fmt.Appendf(nil, "leaf %d", g.names)),
		Capabilities:  Capabilities{Versions: []ProtocolVersion{MLS10}, CipherSuites: CipherSuites(), Credentials: []CredentialType{CredentialBasic}},
		Source:        source,
		ParentHash:    parentHash,
	}
	if g.rng.IntN(3) == 0 { // a second class of capabilities
		l.Capabilities.Extensions = []ExtensionType{0xff01}
	}
	body, err := l.marshal()
	if err != nil {
		g.t.Fatal(err)
	}
	return string(body)
}

// plant applies updates, removes and adds in the order of §12.3, and compares.
func (g *garden) plant(updates, removes []LeafIndex, adds int) {
	g.t.Helper()
	before, snapshot := g.tree, snapshotOf(g.tree.root)
	e := g.tree.edit()
	var changes []leafChange
	for _, i := range updates {
		body := g.bareLeaf(SourceUpdate, nil)
		changes = append(changes, leafChange{i, body})
		g.naive.update(int(i), body)
	}
	for _, i := range removes {
		changes = append(changes, leafChange{i, ""})
		g.naive.remove(int(i))
	}
	g.rng.Shuffle(len(changes), func(a, b int) { changes[a], changes[b] = changes[b], changes[a] })
	if err := e.replace(changes); err != nil {
		g.t.Fatal(err)
	}
	e.truncate()
	places, err := e.places(adds)
	if err != nil {
		g.t.Fatal(err)
	}
	added := make([]leafChange, adds)
	for k := range added {
		added[k] = leafChange{places[k], g.bareLeaf(SourceKeyPackage, nil)}
		if at := g.naive.add(added[k].body); at != int(places[k]) {
			g.t.Fatalf("leaf %d is next, want %d", places[k], at)
		}
	}
	if err := e.add(added); err != nil {
		g.t.Fatal(err)
	}
	g.tree = e.finish()
	g.check(before, snapshot)
}

// climb sets a new path for a leaf, as its owner's commit does.
func (g *garden) climb(i LeafIndex) {
	g.t.Helper()
	before, snapshot := g.tree, snapshotOf(g.tree.root)
	steps := g.tree.filteredPath(i)
	keys := make([][]byte, len(steps))
	for k := range keys {
		keys[k] = g.bytes(32)
	}
	want := g.naive.applyPath(int(i), keys)
	parents, parentHash := g.s.pathHashes(steps, keys)
	if !bytes.Equal(parentHash, want) {
		g.t.Fatalf("parent hash for leaf %d is %x, want %x", i, parentHash, want)
	}
	body := g.bareLeaf(SourceCommit, parentHash)
	g.naive.nodes[2*i] = body
	e := g.tree.edit()
	if err := e.setPath(newPath{leafChange{i, body}, steps, parents}); err != nil {
		g.t.Fatal(err)
	}
	g.tree = e.finish()
	g.check(before, snapshot)
}

// check compares the tree with the naive one, and the previous tree with its snapshot.
func (g *garden) check(before *ratchetTree, snapshot []string) {
	t := g.t
	t.Helper()
	if !slices.Equal(snapshot, snapshotOf(before.root)) {
		t.Fatal("an edit changed the tree that it started from")
	}
	bodies := allBodies(g.tree)
	if !slices.Equal(bodies, g.naive.nodes) {
		t.Fatalf("nodes differ from those of the definition: %d and %d of them", len(bodies), len(g.naive.nodes))
	}
	if !bytes.Equal(g.tree.hash(), g.naive.treeHash(g.naive.root())) {
		t.Fatal("tree hash differs from the definition's")
	}
	g.checkDiff(before)
	g.checkLeaves()
	g.checkPaths()
	g.checkCodec()
	if err := g.tree.verifyParentHashes(); err != nil {
		t.Fatal(err)
	}
	if err := g.tree.checkUnmerged(g.tree.root, 0, nil); err != nil {
		t.Fatal(err)
	}
	if !g.large && (!g.naive.parentHashesValid() || !g.naive.unmergedValid()) {
		t.Fatal("the naive tree does not hold what it defines")
	}
}

// allBodies lists a tree's nodes in their order.
func allBodies(t *ratchetTree) []string {
	var list []string
	t.root.eachNode(0, func(i nodeIndex, n *treeNode) {
		if int(i) != len(list) {
			panic(fmt.Sprintf("node %d is visited as number %d", i, len(list)))
		}
		list = append(list, n.body)
	})
	return list
}

// snapshotOf returns a text of every field of the nodes of a tree.
func snapshotOf(n *treeNode) []string {
	if n == nil {
		return nil
	}
	list := snapshotOf(n.left)
	list = append(list, fmt.Sprintf("%p %d %d %v %x %x", n, n.level, n.occupied, n.frozen, n.hash, n.body))
	return append(list, snapshotOf(n.right)...)
}

// checkDiff checks that the old array with the changed nodes equals the new array.
func (g *garden) checkDiff(before *ratchetTree) {
	g.t.Helper()
	for _, d := range [][2]*ratchetTree{{before, g.tree}, {g.tree, before}, {g.tree, g.tree}} {
		nodes, want := allBodies(d[0]), allBodies(d[1])
		seen := map[nodeIndex]bool{}
		changedNodes(d[0], d[1], func(i nodeIndex, body string) {
			if seen[i] {
				g.t.Fatalf("node %d is reported twice", i)
			}
			seen[i] = true
			for int(i) >= len(nodes) {
				nodes = append(nodes, "")
			}
			if nodes[i] == body {
				g.t.Fatalf("node %d is reported and has not changed", i)
			}
			nodes[i] = body
		})
		for len(nodes) < len(want) {
			nodes = append(nodes, "")
		}
		if !slices.Equal(nodes[:len(want)], want) {
			g.t.Fatal("the changed nodes do not lead to the new tree")
		}
		if slices.ContainsFunc(nodes[len(want):], func(b string) bool { return b != "" }) {
			g.t.Fatal("a node that was cut off is not reported")
		}
	}
}

// checkLeaves compares the leaves and the free leaves.
func (g *garden) checkLeaves() {
	t := g.t
	t.Helper()
	var occupied, blank []LeafIndex
	for i := range g.naive.leaves() {
		body := g.naive.nodes[2*i]
		if g.tree.leafBody(LeafIndex(i)) != body {
			t.Fatalf("leaf %d differs", i)
		}
		if body == "" {
			blank = append(blank, LeafIndex(i))
		} else {
			occupied = append(occupied, LeafIndex(i))
		}
	}
	var visited []LeafIndex
	g.tree.eachLeaf(func(i LeafIndex, body string) bool {
		visited = append(visited, i)
		return body == g.naive.nodes[2*i]
	})
	if !slices.Equal(visited, occupied) || g.tree.members() != len(occupied) {
		t.Fatalf("members %v, want %v", visited, occupied)
	}
	for _, limit := range []int{1, 3, len(blank), len(blank) + 1} {
		if got, want := g.tree.blankLeaves(limit), blank[:min(limit, len(blank))]; !slices.Equal(got, want) {
			t.Fatalf("blank leaves %v, want %v", got, want)
		}
	}
	if got, found := g.tree.firstBlankLeaf(); found != (len(blank) > 0) || found && got != blank[0] {
		t.Fatalf("first blank leaf %d, %v; want %v", got, found, blank)
	}
	if g.tree.leafBody(LeafIndex(g.naive.leaves())) != "" || g.tree.signatureKey(^LeafIndex(0)) != "" {
		t.Fatal("there is a leaf outside of the tree")
	}
	checkIndex(t, g.tree, allBodies(g.tree))
}

// checkPaths compares resolutions and filtered direct paths: all of a small tree, some of a large one.
func (g *garden) checkPaths() {
	g.t.Helper()
	for x := range g.naive.nodes {
		if g.large && g.rng.IntN(len(g.naive.nodes)) > 30 {
			continue
		}
		g.checkResolution(nodeIndex(x))
		if x%2 == 0 {
			g.checkFilteredPath(LeafIndex(x / 2))
		}
	}
}

func (g *garden) checkResolution(x nodeIndex) {
	g.t.Helper()
	n := g.tree.nodeAbove(x.firstLeaf(), x.level())
	if n == nil {
		if len(g.naive.resolution(int(x))) > 0 {
			g.t.Fatalf("node %d is not there", x)
		}
		return
	}
	if !bytes.Equal([]byte(g.s.treeHash(n, x.firstLeaf())), g.naive.treeHash(int(x))) {
		g.t.Fatalf("tree hash of node %d differs", x)
	}
	var except []LeafIndex
	for i := range g.naive.leaves() {
		if g.rng.IntN(4) == 0 {
			except = append(except, LeafIndex(i))
		}
	}
	for _, skip := range [][]LeafIndex{nil, except} {
		var want []resolved
		for _, y := range g.naive.resolution(int(x)) {
			if y%2 == 0 && slices.Contains(skip, LeafIndex(y/2)) {
				continue
			}
			want = append(want, resolved{nodeIndex(y), g.naive.key(y)})
		}
		if got := g.tree.resolution(n, x.firstLeaf(), skip); !slices.Equal(got, want) {
			g.t.Fatalf("resolution of node %d without %v is %v, want %v", x, skip, got, want)
		}
	}
}

func (g *garden) checkFilteredPath(i LeafIndex) {
	g.t.Helper()
	path, copath := g.naive.filteredDirectPath(int(i))
	got := g.tree.filteredPath(i)
	if len(got) != len(path) {
		g.t.Fatalf("filtered direct path of leaf %d has %d nodes, want %v", i, len(got), path)
	}
	for k, step := range got {
		c := nodeIndex(copath[k])
		if int(nodeAt(i, step.level)) != path[k] || step.copathLeaf != c.firstLeaf() ||
			step.copath != g.tree.nodeAbove(c.firstLeaf(), c.level()) {
			g.t.Fatalf("filtered direct path of leaf %d, step %d: level %d, want node %d and copath %d", i, k, step.level, path[k], c)
		}
	}
}

// checkCodec checks that decoding an encoded tree returns the same tree.
func (g *garden) checkCodec() {
	t := g.t
	t.Helper()
	if g.tree.members() == 0 {
		return // a group always has members
	}
	encoded, err := g.tree.marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded, g.naive.marshal()) {
		t.Fatal("encoding differs from the definition's")
	}
	again, err := parseTree(g.s, TrustBasic{}, encoded, codec.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.hash(), g.tree.hash()) || !slices.Equal(allBodies(again), allBodies(g.tree)) {
		t.Fatal("the tree that was encoded and parsed is another one")
	}
	sameIndices(t, g.tree, again)
}
