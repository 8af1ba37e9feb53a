package mlscore

import (
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// naiveTree is the array representation of RFC 9420 appendix C. Every value is computed from the definitions in the
// text at each call. It is the reference for ratchetTree.
type naiveTree struct {
	s     *suite
	nodes []string // encoded LeafNodes and ParentNodes, empty when blank; 2^(d+1)-1 of them
}

// The tree computations of appendix C, for a tree of n leaves.

func naiveLog2(x int) int {
	if x == 0 {
		return 0
	}
	k := 0
	for x>>k > 0 {
		k++
	}
	return k - 1
}

func naiveLevel(x int) int {
	k := 0
	for x>>k&1 == 1 {
		k++
	}
	return k
}

func naiveWidth(n int) int {
	if n == 0 {
		return 0
	}
	return 2*(n-1) + 1
}

func naiveRoot(n int) int { return 1<<naiveLog2(naiveWidth(n)) - 1 }

func naiveLeft(x int) int  { return x ^ 1<<(naiveLevel(x)-1) }
func naiveRight(x int) int { return x ^ 3<<(naiveLevel(x)-1) }

func naiveParent(x, n int) int {
	if x == naiveRoot(n) {
		panic("the root has no parent")
	}
	k := naiveLevel(x)
	b := x >> (k + 1) & 1
	return (x | 1<<k) ^ b<<(k+1)
}

func naiveSibling(x, n int) int {
	p := naiveParent(x, n)
	if x < p {
		return naiveRight(p)
	}
	return naiveLeft(p)
}

func naiveDirectPath(x, n int) []int {
	var d []int
	for x != naiveRoot(n) {
		x = naiveParent(x, n)
		d = append(d, x)
	}
	return d
}

func naiveCopath(x, n int) []int {
	if x == naiveRoot(n) {
		return nil
	}
	d := append([]int{x}, naiveDirectPath(x, n)...)
	var c []int
	for _, y := range d[:len(d)-1] {
		c = append(c, naiveSibling(y, n))
	}
	return c
}

// naiveCommonAncestor implements common_ancestor_semantic: the lowest node in both direct paths.
func naiveCommonAncestor(x, y, n int) int {
	other := append([]int{y}, naiveDirectPath(y, n)...)
	for _, a := range append([]int{x}, naiveDirectPath(x, n)...) {
		if slices.Contains(other, a) {
			return a
		}
	}
	panic("no common ancestor")
}

// leaves returns the number of leaves, blank ones included.
func (t *naiveTree) leaves() int { return (len(t.nodes) + 1) / 2 }

func (t *naiveTree) root() int { return naiveRoot(t.leaves()) }

// below lists all nodes below x, without x.
func (t *naiveTree) below(x int) []int {
	if x%2 == 0 {
		return nil
	}
	l, r := naiveLeft(x), naiveRight(x)
	return append(append(append([]int{l}, t.below(l)...), r), t.below(r)...)
}

// naiveParentNode is ParentNode of §7.1.
type naiveParentNode struct {
	key, parentHash []byte
	unmerged        []int
}

func (t *naiveTree) parent(x int) naiveParentNode {
	r := codec.NewReader([]byte(t.nodes[x]), codec.DefaultLimits)
	p := naiveParentNode{key: r.Bytes(), parentHash: r.Bytes()}
	r.Vector(func(r *codec.Reader) { p.unmerged = append(p.unmerged, int(r.Uint32())) })
	if err := r.Finish(); err != nil {
		panic(fmt.Sprintf("node %d: %v", x, err))
	}
	return p
}

func (p naiveParentNode) encode() string {
	var w codec.Writer
	w.Bytes(p.key)
	w.Bytes(p.parentHash)
	w.Vector(func(w *codec.Writer) {
		for _, i := range p.unmerged {
			w.Uint32(uint32(i))
		}
	})
	return string(w.Buffer())
}

func (t *naiveTree) key(x int) string {
	r := codec.NewReader([]byte(t.nodes[x]), codec.DefaultLimits)
	return string(r.Bytes())
}

// resolution returns the resolution of §4.1.1.
func (t *naiveTree) resolution(x int) []int {
	switch {
	case t.nodes[x] != "" && x%2 == 1:
		list := []int{x}
		for _, i := range t.parent(x).unmerged {
			list = append(list, 2*i)
		}
		return list
	case t.nodes[x] != "":
		return []int{x}
	case x%2 == 0:
		return nil
	}
	return append(t.resolution(naiveLeft(x)), t.resolution(naiveRight(x))...)
}

// filteredDirectPath returns the filtered direct path of §4.1.2, with the copath child of each node.
func (t *naiveTree) filteredDirectPath(leaf int) (path, copath []int) {
	siblings := naiveCopath(2*leaf, t.leaves())
	for k, x := range naiveDirectPath(2*leaf, t.leaves()) {
		if len(t.resolution(siblings[k])) > 0 {
			path, copath = append(path, x), append(copath, siblings[k])
		}
	}
	return path, copath
}

// treeHash returns the tree hash of §7.8.
func (t *naiveTree) treeHash(x int) []byte {
	var w codec.Writer
	if x%2 == 0 {
		w.Uint8(1)
		w.Uint32(uint32(x / 2))
	} else {
		w.Uint8(2)
	}
	w.Optional(t.nodes[x] != "")
	w.Fixed([]byte(t.nodes[x]))
	if x%2 == 1 {
		w.Bytes(t.treeHash(naiveLeft(x)))
		w.Bytes(t.treeHash(naiveRight(x)))
	}
	return t.s.hash(w.Buffer())
}

// parentHash returns the parent hash of §7.9 for p with copath child c.
func (t *naiveTree) parentHash(p, c int) []byte {
	node := t.parent(p)
	original := t.without(node.unmerged)
	var w codec.Writer
	w.Bytes(node.key)
	w.Bytes(node.parentHash)
	w.Bytes(original.treeHash(c))
	return t.s.hash(w.Buffer())
}

// without returns the tree with leaves blank and removed from all lists of unmerged leaves (§7.9).
func (t *naiveTree) without(leaves []int) *naiveTree {
	if len(leaves) == 0 {
		return t
	}
	out := &naiveTree{t.s, slices.Clone(t.nodes)}
	for x := 1; x < len(out.nodes); x += 2 {
		if out.nodes[x] != "" {
			p := out.parent(x)
			p.unmerged = slices.DeleteFunc(p.unmerged, func(i int) bool { return slices.Contains(leaves, i) })
			out.nodes[x] = p.encode()
		}
	}
	for _, i := range leaves {
		out.nodes[2*i] = ""
	}
	return out
}

// parentHashField returns the parent_hash of a node, which a leaf has only if a commit put it there.
func (t *naiveTree) parentHashField(x int) ([]byte, bool) {
	if x%2 == 1 {
		return t.parent(x).parentHash, true
	}
	l, err := parseLeafNode(t.nodes[x])
	if err != nil {
		panic(fmt.Sprintf("leaf %d: %v", x/2, err))
	}
	return l.ParentHash, l.Source == SourceCommit
}

// validWithRespectTo reports whether the parent hash in d is valid with respect to p (§7.9.2).
func (t *naiveTree) validWithRespectTo(d, p int) bool {
	if t.nodes[d] == "" {
		return false
	}
	have, ok := t.parentHashField(d)
	if !ok {
		return false
	}
	c, s := naiveLeft(p), naiveRight(p)
	if c != d && !slices.Contains(t.below(c), d) {
		c, s = s, c
	}
	resolution := t.resolution(c)
	if !slices.Contains(resolution, d) {
		return false
	}
	rest := slices.DeleteFunc(resolution, func(x int) bool { return x == d })
	var unmerged []int
	for _, i := range t.parent(p).unmerged {
		if 2*i == c || slices.Contains(t.below(c), 2*i) {
			unmerged = append(unmerged, 2*i)
		}
	}
	slices.Sort(rest)
	return slices.Equal(rest, unmerged) && string(have) == string(t.parentHash(p, s))
}

// parentHashesValid implements the top-down check of §7.9.2: exactly one descendant of each non-blank parent vouches
// for it.
func (t *naiveTree) parentHashesValid() bool {
	for p := 1; p < len(t.nodes); p += 2 {
		if t.nodes[p] == "" {
			continue
		}
		count := 0
		for _, d := range t.below(p) {
			if t.validWithRespectTo(d, p) {
				count++
			}
		}
		if count != 1 {
			return false
		}
	}
	return true
}

// unmergedValid implements the check of unmerged leaves in §12.4.3.1.
func (t *naiveTree) unmergedValid() bool {
	for p := 1; p < len(t.nodes); p += 2 {
		if t.nodes[p] == "" {
			continue
		}
		for _, i := range t.parent(p).unmerged {
			if 2*i >= len(t.nodes) || t.nodes[2*i] == "" || !slices.Contains(t.below(p), 2*i) {
				return false
			}
			for _, x := range naiveDirectPath(2*i, t.leaves()) {
				if x == p {
					break
				}
				if t.nodes[x] != "" && !slices.Contains(t.parent(x).unmerged, i) {
					return false
				}
			}
		}
	}
	return true
}

// marshal returns the ratchet_tree extension of §12.4.3.3.
func (t *naiveTree) marshal() []byte {
	last := len(t.nodes)
	for last > 0 && t.nodes[last-1] == "" {
		last--
	}
	var w codec.Writer
	w.Vector(func(w *codec.Writer) {
		for x, body := range t.nodes[:last] {
			w.Optional(body != "")
			if body != "" {
				w.Uint8(uint8(1 + x%2))
				w.Fixed([]byte(body))
			}
		}
	})
	return w.Buffer()
}

// blankPath blanks the direct path of a leaf.
func (t *naiveTree) blankPath(leaf int) {
	for _, x := range naiveDirectPath(2*leaf, t.leaves()) {
		t.nodes[x] = ""
	}
}

// update implements §12.1.2.
func (t *naiveTree) update(leaf int, body string) {
	t.nodes[2*leaf] = body
	t.blankPath(leaf)
}

// remove implements §12.1.3 with the truncation of §7.7.
func (t *naiveTree) remove(leaf int) {
	t.update(leaf, "")
	for len(t.nodes) > 1 && !slices.ContainsFunc(t.nodes[t.root()+1:], func(b string) bool { return b != "" }) {
		t.nodes = t.nodes[:(len(t.nodes)-1)/2]
	}
}

// freeLeaf returns the leaf that the next addition gets, in a tree that is extended if it is full (§12.1.1).
func (t *naiveTree) freeLeaf() int {
	for i := range t.leaves() {
		if t.nodes[2*i] == "" {
			return i
		}
	}
	n := t.leaves()
	t.nodes = append(t.nodes, make([]string, len(t.nodes)+1)...)
	return n
}

// add implements §12.1.1.
func (t *naiveTree) add(body string) int {
	i := t.freeLeaf()
	t.nodes[2*i] = body
	for _, x := range naiveDirectPath(2*i, t.leaves()) {
		if t.nodes[x] != "" {
			p := t.parent(x)
			p.unmerged = append(p.unmerged, i)
			slices.Sort(p.unmerged)
			t.nodes[x] = p.encode()
		}
	}
	return i
}

// applyPath puts new keys on the filtered direct path of a leaf, blanks the rest of the direct path, and returns the
// parent hash for the leaf, which the caller must set (§7.5, §7.9).
func (t *naiveTree) applyPath(leaf int, keys [][]byte) []byte {
	path, copath := t.filteredDirectPath(leaf)
	t.blankPath(leaf)
	above := []byte{}
	for k := len(path) - 1; k >= 0; k-- {
		t.nodes[path[k]] = naiveParentNode{key: keys[k], parentHash: above}.encode()
		above = t.parentHash(path[k], copath[k])
	}
	return above
}
