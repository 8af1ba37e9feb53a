package mlscore

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// marshal encodes the ratchet_tree extension's data (RFC 9420 §12.4.3.3): all nodes from the left, without the blank
// nodes after the last non-blank one. The encoding of a tree of many members has many megabytes: marshal computes its
// length first, so that it is written once.
func (t *ratchetTree) marshal() ([]byte, error) {
	size := 0
	t.eachUpToLast(func(n *treeNode) {
		size++
		if !n.blank() {
			size += 1 + len(n.body)
		}
	})
	if size > codec.MaxLength {
		return nil, fail(ErrLimit, "§12.4.3.3", "ratchet tree", "%d bytes, a vector carries at most %d", size, codec.MaxLength)
	}
	b := codec.AppendVarint(make([]byte, 0, size+4), uint32(size))
	t.eachUpToLast(func(n *treeNode) {
		switch {
		case n.blank():
			b = append(b, 0)
		case n.level == 0:
			b = append(append(b, 1, nodeTypeLeaf), n.body...)
		default:
			b = append(append(b, 1, nodeTypeParent), n.body...)
		}
	})
	return b, nil
}

// eachUpToLast visits all nodes in order, without the blank nodes after the last non-blank one.
func (t *ratchetTree) eachUpToLast(visit func(*treeNode)) {
	blanks := 0
	t.root.eachNode(0, func(_ nodeIndex, n *treeNode) {
		if n.blank() {
			blanks++
			return
		}
		for ; blanks > 0; blanks-- {
			visit(blankLeafNode)
		}
		visit(n)
	})
}

var blankLeafNode = &treeNode{}

// eachNode visits all nodes in order, those of collapsed blank subtrees included.
func (n *treeNode) eachNode(first LeafIndex, visit func(nodeIndex, *treeNode)) {
	if n.level == 0 {
		visit(first.node(), n)
		return
	}
	if n.collapsed() {
		for i := range nodeIndex(2)<<n.level - 1 {
			visit(first.node()+i, blankLeafNode)
		}
		return
	}
	n.left.eachNode(first, visit)
	visit(nodeAt(first, int(n.level)), n)
	n.right.eachNode(first+1<<(n.level-1), visit)
}

// parseTree reads the ratchet_tree extension's data into a tree with hashes and an index. It checks the form only;
// validateTree checks the content.
func parseTree(s *suite, auth Authenticator, data []byte, limits codec.Limits) (*ratchetTree, error) {
	index := newIndexBuilder(s, auth, len(data)/100)
	bodies, err := readTree(data, limits, index.enter)
	if err != nil {
		return nil, err
	}
	return buildIndexed(s, index, bodies)
}

// splitTree returns the nodes' encodings in order, as parts of one string.
func splitTree(data []byte, limits codec.Limits) ([]string, error) {
	return readTree(data, limits, func(LeafIndex, *LeafNode) {})
}

// readTree is splitTree that also visits the leaves. The leaf is valid only until visit returns.
func readTree(data []byte, limits codec.Limits, visit func(LeafIndex, *LeafNode)) ([]string, error) {
	outer := codec.NewReader(data, limits)
	vector := outer.Bytes()
	if err := outer.Finish(); err != nil {
		return nil, malformed("ratchet tree", err)
	}
	limits.Bytes = max(limits.Bytes, len(vector))
	r := codec.NewReader(vector, limits)
	all := string(vector)
	bodies := make([]string, 0, len(vector)/100)
	most := min(limits.Count, 2*maxLeaves) // a blank node is one byte in data and many in memory
	if limits.Count <= 0 {
		most = codec.DefaultLimits.Count
	}
	var leaf LeafNode
	for r.Len() > 0 && r.Err() == nil {
		if len(bodies) >= most {
			return nil, fail(ErrLimit, "", "ratchet tree", "more than %d nodes", most)
		}
		if !r.Optional() {
			bodies = append(bodies, "")
			continue
		}
		want := uint8(nodeTypeLeaf + len(bodies)%2)
		if got := r.Uint8(); r.Err() == nil && got != want {
			r.Fail(fail(ErrMalformed, "§12.4.3.3", "", "type %d in a place for type %d", got, want))
		}
		start := len(all) - r.Len()
		if want == nodeTypeLeaf {
			leaf.decode(r)
		} else {
			decodeParentNode(r)
		}
		if r.Err() != nil {
			break
		}
		if want == nodeTypeLeaf {
			visit(LeafIndex(len(bodies)/2), &leaf)
		}
		bodies = append(bodies, all[start:len(all)-r.Len()])
	}
	if err := r.Finish(); err != nil {
		return nil, within(fmt.Sprintf("ratchet tree, node %d", len(bodies)), ErrMalformed, malformed("", err))
	}
	if len(bodies) == 0 {
		return nil, fail(ErrMalformed, "§12.4.3.3", "ratchet tree", "is empty")
	}
	if bodies[len(bodies)-1] == "" {
		return nil, fail(ErrMalformed, "§12.4.3.3", "ratchet tree", "ends with a blank node")
	}
	if len(bodies)%2 == 0 {
		return nil, fail(ErrMalformed, "§12.4.3.3", "ratchet tree", "last node is a parent")
	}
	return bodies, nil
}

// decodeParentNode checks a ParentNode's form (§7.1).
func decodeParentNode(r *codec.Reader) {
	r.Bytes() // encryption_key
	r.Bytes() // parent_hash
	var last uint32
	first := true
	r.Vector(func(r *codec.Reader) {
		i := r.Uint32()
		if !first && i <= last {
			r.Fail(fail(ErrMalformed, "§7.1", "unmerged leaves", "%d after %d: the list must ascend", i, last))
		}
		last, first = i, false
	})
}

// buildTree makes a tree of its nodes' encodings in order. Blank nodes at the end may be missing.
func buildTree(s *suite, auth Authenticator, bodies []string) (*ratchetTree, error) {
	index := newIndexBuilder(s, auth, len(bodies))
	for at := 0; at < len(bodies); at += 2 {
		if bodies[at] == "" {
			continue
		}
		leaf, err := parseLeafNode(bodies[at])
		if err != nil {
			return nil, within(leafName(LeafIndex(at/2)), ErrMalformed, err)
		}
		index.enter(LeafIndex(at/2), leaf)
	}
	return buildIndexed(s, index, bodies)
}

// buildIndexed makes a tree whose leaves are already in index.
func buildIndexed(s *suite, index *indexBuilder, bodies []string) (*ratchetTree, error) {
	b := &treeBuilder{bodies: bodies, index: index}
	root, err := b.root(s)
	if err = cmp.Or(index.err, err); err != nil {
		return nil, err
	}
	index.finish()
	return &ratchetTree{suite: s, root: root, index: indexed(index.index.keys, index.index.people)}, nil
}

// restoreTree makes a tree of its stored form. changed, ascending, lists the nodes that differ from those whose
// hashes are stored. restoreTree decodes no leaf, and computes only the hashes that changed or are not stored.
func restoreTree(s *suite, auth Authenticator, stored *storedTree, changed []nodeIndex) (*ratchetTree, error) {
	b := &treeBuilder{bodies: stored.bodies, hashes: stored.hashes, changed: changed}
	root, err := b.root(s)
	if err != nil {
		return nil, err
	}
	return &ratchetTree{suite: s, root: root, index: unindexed(s, auth)}, nil
}

// treeBuilder assembles a tree of nodes.
type treeBuilder struct {
	bodies  []string
	hashes  []string      // of parents, as in storedTree; there may be none
	changed []nodeIndex   // changed nodes: stored hashes above them are not used
	index   *indexBuilder // receives the encryption keys; nil for none
	nodes   []treeNode    // allocated, not yet used
	err     error
}

// root builds the whole tree, hashes included.
func (b *treeBuilder) root(s *suite) (*treeNode, error) {
	leaves := (len(b.bodies) + 1) / 2
	if leaves > maxLeaves {
		return nil, fail(ErrLimit, "", "ratchet tree", "%d leaves, at most %d", leaves, maxLeaves)
	}
	root := b.build(heightFor(leaves), 0, b.changed)
	if b.err != nil {
		return nil, b.err
	}
	s.freeze(root, 0)
	return root, nil
}

// slabNodes is the number of nodes in one allocation: allocated individually, each would take a seventh more memory.
const slabNodes = 512

func (b *treeBuilder) node(n treeNode) *treeNode {
	if len(b.nodes) == 0 {
		b.nodes = make([]treeNode, min(slabNodes, len(b.bodies)+1))
	}
	at := &b.nodes[0]
	b.nodes = b.nodes[1:]
	*at = n
	return at
}

func (b *treeBuilder) body(n nodeIndex) string {
	if uint64(n) < uint64(len(b.bodies)) {
		return b.bodies[n]
	}
	return ""
}

// blank reports whether a node and all nodes below it are blank.
func (b *treeBuilder) blank(level int, first LeafIndex) bool {
	from := min(uint64(first.node()), uint64(len(b.bodies)))
	to := min(uint64(first.node())+2<<level-1, uint64(len(b.bodies)))
	for _, body := range b.bodies[from:to] {
		if body != "" {
			return false
		}
	}
	return true
}

// build makes the subtree of a level whose leftmost leaf is first. changed are the changed nodes in it.
func (b *treeBuilder) build(level int, first LeafIndex, changed []nodeIndex) *treeNode {
	at := nodeAt(first, level)
	if level <= blankHeight && b.blank(level, first) {
		return b.node(b.hashed(treeNode{level: uint8(level)}, at, changed))
	}
	n := b.node(b.hashed(treeNode{level: uint8(level), body: b.body(at)}, at, changed))
	if b.index != nil && n.body != "" {
		b.index.keys = append(b.index.keys, b.index.index.keys.entry(n.encryptionKey(), uint32(at)))
	}
	if level == 0 {
		if n.body != "" {
			n.occupied = 1
		}
		return n
	}
	split, own := slices.BinarySearch(changed, at)
	left, right := changed[:split], changed[split:]
	if own {
		right = right[1:]
	}
	n.left = b.build(level-1, first, left)
	n.right = b.build(level-1, first+1<<(level-1), right)
	n.occupied = n.left.occupied + n.right.occupied
	n.frozen = n.frozen && n.left.frozen && n.right.frozen // a taller tree may not have stored the hashes below
	if n.occupied == 0 && !n.blank() {
		b.fail(fail(ErrInvalid, "§7.9.2", nodeName(at), "key in a subtree without members"))
	}
	return n
}

// hashed freezes a node whose hash is known. A leaf keeps no hash.
func (b *treeBuilder) hashed(n treeNode, at nodeIndex, changed []nodeIndex) treeNode {
	switch {
	case n.level == 0:
		n.frozen = true
	case len(changed) == 0 && uint64(at/2) < uint64(len(b.hashes)):
		n.hash = b.hashes[at/2]
		n.frozen = n.hash != ""
	}
	return n
}

func (b *treeBuilder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// changedNodes visits the nodes whose content differs between two trees, with their places in next or in old. It
// walks only the subtrees that the trees do not share.
func changedNodes(old, next *ratchetTree, visit func(nodeIndex, string)) {
	// A tree that grew or shrank shares its left part: compare at the lower height, and report the rest as changed
	// from or to blank.
	o, n := old.root, next.root
	for n.level > o.level && n.occupied > 0 {
		visitContents(n, 0, true, visit)
		n.right.eachContent(LeafIndex(1)<<(n.level-1), visit)
		n = n.left
	}
	for o.level > n.level && o.occupied > 0 {
		visitContents(o, 0, false, visit)
		o.right.eachContent(LeafIndex(1)<<(o.level-1), func(i nodeIndex, _ string) { visit(i, "") })
		o = o.left
	}
	diffNodes(o, n, 0, visit)
}

// visitContents reports the nodes of a subtree that only one of two trees has.
func visitContents(n *treeNode, first LeafIndex, isNew bool, visit func(nodeIndex, string)) {
	if n.blank() {
		return
	}
	body := ""
	if isNew {
		body = n.body
	}
	visit(nodeAt(first, int(n.level)), body)
}

// eachContent visits the nodes below n that are not blank.
func (n *treeNode) eachContent(first LeafIndex, visit func(nodeIndex, string)) {
	if n.occupied == 0 {
		return
	}
	if !n.blank() {
		visit(nodeAt(first, int(n.level)), n.body)
	}
	if n.level > 0 {
		n.left.eachContent(first, visit)
		n.right.eachContent(first+1<<(n.level-1), visit)
	}
}

func diffNodes(old, next *treeNode, first LeafIndex, visit func(nodeIndex, string)) {
	switch {
	case old == next:
		return
	case old.occupied == 0:
		next.eachContent(first, visit)
		return
	case next.occupied == 0:
		old.eachContent(first, func(i nodeIndex, _ string) { visit(i, "") })
		return
	}
	if old.body != next.body {
		visit(nodeAt(first, int(next.level)), next.body)
	}
	if next.level > 0 {
		diffNodes(old.left, next.left, first, visit)
		diffNodes(old.right, next.right, first+1<<(next.level-1), visit)
	}
}

func nodeName(n nodeIndex) string {
	if n%2 == 0 {
		return leafName(LeafIndex(n / 2))
	}
	return fmt.Sprintf("node %d", n)
}

func leafName(i LeafIndex) string { return fmt.Sprintf("leaf %d", i) }
