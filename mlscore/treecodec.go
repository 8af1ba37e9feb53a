package mlscore

import (
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// marshal encodes the ratchet_tree extension's data (RFC 9420 §12.4.3.3): all nodes from the left,
// without the blank ones behind the last that is not.
func (t *ratchetTree) marshal() ([]byte, error) { return t.append(nil) }

// append appends what marshal returns to b. A tree of many members has many megabytes: it is measured
// first, so that it is written once.
func (t *ratchetTree) append(b []byte) ([]byte, error) {
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
	b = codec.AppendVarint(slices.Grow(b, size+4), uint32(size))
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

// eachUpToLast visits all nodes in order, but for the blank ones behind the last that is not.
func (t *ratchetTree) eachUpToLast(visit func(*treeNode)) {
	blanks := 0
	t.root.eachNode(0, func(_ NodeIndex, n *treeNode) {
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
func (n *treeNode) eachNode(first LeafIndex, visit func(NodeIndex, *treeNode)) {
	if n.level == 0 {
		visit(first.node(), n)
		return
	}
	if n.collapsed() {
		for i := range NodeIndex(2)<<n.level - 1 {
			visit(first.node()+i, blankLeafNode)
		}
		return
	}
	n.left.eachNode(first, visit)
	visit(nodeAt(first, int(n.level)), n)
	n.right.eachNode(first+1<<(n.level-1), visit)
}

// parseTree reads the ratchet_tree extension's data into a tree with hashes and indices. It checks the
// form; whether the tree may be believed, validate checks.
func parseTree(s *suite, auth Authenticator, data []byte, limits codec.Limits) (*ratchetTree, error) {
	b := newTreeBuilder(s, auth, len(data)/100)
	bodies, err := readTree(data, limits, b.enter)
	if err != nil {
		return nil, err
	}
	return b.finish(bodies)
}

// splitTree gives the nodes' encodings in order, each a part of one string.
func splitTree(data []byte, limits codec.Limits) ([]string, error) {
	return readTree(data, limits, func(LeafIndex, *LeafNode) {})
}

// readTree does what splitTree does, and visits the leaves. What visit is given changes after it returns.
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
	most := min(limits.Count, 2*maxLeaves) // a blank node is one byte here and many in memory
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

// buildTree makes a tree of its nodes' encodings in order; blank ones may be missing at the end.
func buildTree(s *suite, auth Authenticator, bodies []string) (*ratchetTree, error) {
	b := newTreeBuilder(s, auth, len(bodies))
	for at := 0; at < len(bodies); at += 2 {
		if bodies[at] == "" {
			continue
		}
		leaf, err := parseLeafNode(bodies[at])
		if err != nil {
			return nil, within(leafName(LeafIndex(at/2)), ErrMalformed, err)
		}
		b.enter(LeafIndex(at/2), leaf)
	}
	return b.finish(bodies)
}

// treeBuilder makes a tree: first each leaf is entered, then all nodes are put together.
type treeBuilder struct {
	t                            *ratchetTree
	bodies                       []string
	nodes                        []treeNode // allocated, not yet used
	keys, signatures, identities []uint64
	err                          error
}

// newTreeBuilder makes room for so many nodes; there may be more.
func newTreeBuilder(s *suite, auth Authenticator, nodes int) *treeBuilder {
	leaves := (nodes + 1) / 2
	return &treeBuilder{
		t:          &ratchetTree{suite: s, keys: newKeyIndex(), people: newMemberIndex(s, auth)},
		signatures: make([]uint64, 0, leaves),
		identities: make([]uint64, 0, leaves),
	}
}

// enter takes a leaf into what is known of all members together, and keeps nothing of it.
func (b *treeBuilder) enter(i LeafIndex, leaf *LeafNode) {
	x := &b.t.people
	id, err := x.identityBytes(leaf)
	if err != nil {
		b.fail(within(leafName(i), ErrPolicy, err))
		return
	}
	b.signatures = append(b.signatures, x.signatures.entry(x.suite.canonicalKey(string(leaf.SignatureKey)), uint32(i)))
	b.identities = append(b.identities, x.identities.entry(string(id), uint32(i)))
	x.count(leaf, 1)
}

func (b *treeBuilder) finish(bodies []string) (*ratchetTree, error) {
	leaves := (len(bodies) + 1) / 2
	if leaves > maxLeaves {
		return nil, fail(ErrLimit, "", "ratchet tree", "%d leaves, at most %d", leaves, maxLeaves)
	}
	t := b.t
	b.bodies, b.keys = bodies, make([]uint64, 0, len(bodies))
	t.root = b.build(heightFor(leaves), 0)
	if b.err != nil {
		return nil, b.err
	}
	t.suite.freeze(t.root, 0)
	t.keys = t.keys.fill(b.keys)
	t.people.signatures = t.people.signatures.fill(b.signatures)
	t.people.identities = t.people.identities.fill(b.identities)
	t.people.owned = false
	return t, nil
}

// slabNodes is how many nodes are allocated at once: apart, each would take a seventh more.
const slabNodes = 512

func (b *treeBuilder) node(n treeNode) *treeNode {
	if len(b.nodes) == 0 {
		b.nodes = make([]treeNode, slabNodes)
	}
	at := &b.nodes[0]
	b.nodes = b.nodes[1:]
	*at = n
	return at
}

func (b *treeBuilder) body(n NodeIndex) string {
	if uint64(n) < uint64(len(b.bodies)) {
		return b.bodies[n]
	}
	return ""
}

// blank says whether all below a node is, and the node.
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

func (b *treeBuilder) build(level int, first LeafIndex) *treeNode {
	if level <= blankHeight && b.blank(level, first) {
		return b.node(treeNode{level: uint8(level)})
	}
	at := nodeAt(first, level)
	n := b.node(treeNode{level: uint8(level), body: b.body(at)})
	if n.body != "" {
		b.keys = append(b.keys, b.t.keys.entry(n.encryptionKey(), uint32(at)))
	}
	if level == 0 {
		if n.body != "" {
			n.occupied = 1
		}
		return n
	}
	n.left = b.build(level-1, first)
	n.right = b.build(level-1, first+1<<(level-1))
	n.occupied = n.left.occupied + n.right.occupied
	if n.occupied == 0 && !n.blank() {
		b.fail(fail(ErrInvalid, "§7.9.2", nodeName(at), "key in a subtree without members"))
	}
	return n
}

func (b *treeBuilder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// changedNodes visits the nodes whose content differs between two trees, by their places in next and
// in old: only where the trees do not share nodes.
func changedNodes(old, next *ratchetTree, visit func(NodeIndex, string)) {
	// A tree that grew or shrank shares its left part: compare at the lower height, and take the
	// rest as changed from or to blank.
	o, n := old.root, next.root
	for n.level > o.level && n.occupied > 0 {
		visitContents(n, 0, true, visit)
		n.right.eachContent(LeafIndex(1)<<(n.level-1), visit)
		n = n.left
	}
	for o.level > n.level && o.occupied > 0 {
		visitContents(o, 0, false, visit)
		o.right.eachContent(LeafIndex(1)<<(o.level-1), func(i NodeIndex, _ string) { visit(i, "") })
		o = o.left
	}
	diffNodes(o, n, 0, visit)
}

// visitContents reports a node that only one of two trees has.
func visitContents(n *treeNode, first LeafIndex, isNew bool, visit func(NodeIndex, string)) {
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
func (n *treeNode) eachContent(first LeafIndex, visit func(NodeIndex, string)) {
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

func diffNodes(old, next *treeNode, first LeafIndex, visit func(NodeIndex, string)) {
	switch {
	case old == next:
		return
	case old.occupied == 0:
		next.eachContent(first, visit)
		return
	case next.occupied == 0:
		old.eachContent(first, func(i NodeIndex, _ string) { visit(i, "") })
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

func nodeName(n NodeIndex) string {
	if n%2 == 0 {
		return leafName(LeafIndex(n / 2))
	}
	return fmt.Sprintf("node %d", n)
}

func leafName(i LeafIndex) string { return fmt.Sprintf("leaf %d", i) }
