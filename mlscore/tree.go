package mlscore

import (
	"encoding/binary"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// ratchetTree is the public state of a ratchet tree (RFC 9420 §7). It is immutable. An edit makes a changed tree: it
// copies the nodes on the path to each change and shares all others, so a pending commit needs O(log n) memory in
// addition to the tree that it starts from.
type ratchetTree struct {
	suite *suite
	root  *treeNode
	index *treeIndex // see indexed
}

// treeNode is a node with its subtree.
//
// It holds its content encoded, as the ratchet_tree extension and the tree hash need it, which is also the smallest
// form. A frozen node may be shared by many trees and is never written again; a node that is not frozen belongs to
// the edit that made it.
type treeNode struct {
	left, right *treeNode // nil at a leaf, and in a blank subtree of at most blankHeight levels
	body        string    // encoded LeafNode or ParentNode, empty when blank
	hash        string    // the tree hash of §7.8 of a frozen parent; a leaf's is computed when it is needed
	occupied    uint32    // non-blank leaves below
	level       uint8     // 0 at a leaf
	frozen      bool
}

// blankHeight is the height up to which a blank subtree is kept as a single node without children. Blank subtrees
// cannot be shared, since the hashes of blank leaves depend on their indices.
const blankHeight = 6

func (n *treeNode) blank() bool { return n.body == "" }

// collapsed reports whether n represents a whole blank subtree without children in memory.
func (n *treeNode) collapsed() bool { return n.left == nil && n.level > 0 }

// encryptionKey returns the first field of a LeafNode or of a ParentNode.
func (n *treeNode) encryptionKey() string { return firstVector(n.body) }

// firstVector returns the content of the vector at the beginning of b. b must be an encoding that has been decoded
// strictly before.
func firstVector(b string) string {
	if b == "" {
		return ""
	}
	switch n := len(b); {
	case b[0] < 0x40 && n >= 1+int(b[0]):
		return b[1 : 1+int(b[0])]
	case b[0] >= 0x40 && b[0] < 0x80 && n >= 2:
		size := int(b[0]&0x3f)<<8 | int(b[1])
		if n >= 2+size {
			return b[2 : 2+size]
		}
	case b[0] >= 0x80 && n >= 4:
		size := int(b[0]&0x3f)<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		if n >= 4+size {
			return b[4 : 4+size]
		}
	}
	return ""
}

// afterVector returns the bytes after the vector at the beginning of b.
func afterVector(b string) string {
	header := 1 << (b[0] >> 6) // RFC 9420 §2.1.2
	return b[header+len(firstVector(b)):]
}

// leafParentHash returns the parent_hash of an encoded leaf, if its source is a commit.
func leafParentHash(body string) (hash string, ok bool) {
	rest := afterVector(afterVector(body)) // the keys
	rest = afterVector(rest[2:])           // the credential: one vector for each type
	for range 5 {                          // the capabilities
		rest = afterVector(rest)
	}
	if LeafNodeSource(rest[0]) != SourceCommit {
		return "", false
	}
	return firstVector(rest[1:]), true
}

// parentBody encodes a ParentNode (§7.1).
func parentBody(key, parentHash []byte, unmerged []LeafIndex) string {
	b := codec.AppendBytes(nil, key)
	b = codec.AppendBytes(b, parentHash)
	b = codec.AppendVarint(b, uint32(4*len(unmerged)))
	for _, i := range unmerged {
		b = binary.BigEndian.AppendUint32(b, uint32(i))
	}
	return string(b)
}

// parentHash returns the second field of a ParentNode.
func (n *treeNode) parentHash() string { return firstVector(afterVector(n.body)) }

// unmergedBytes returns the third field of a ParentNode, four bytes per entry.
func (n *treeNode) unmergedBytes() string {
	if n.blank() || n.level == 0 {
		return ""
	}
	return firstVector(afterVector(afterVector(n.body)))
}

// unmerged lists a parent's unmerged leaves, ascending.
func (n *treeNode) unmerged() []LeafIndex {
	b := n.unmergedBytes()
	if b == "" {
		return nil
	}
	list := make([]LeafIndex, len(b)/4)
	for i := range list {
		list[i] = LeafIndex(binary.BigEndian.Uint32([]byte(b[4*i : 4*i+4])))
	}
	return list
}

// withUnmerged returns a parent's body with another list of unmerged leaves.
func (n *treeNode) withUnmerged(list []LeafIndex) string {
	return parentBody([]byte(n.encryptionKey()), []byte(n.parentHash()), list)
}

// height returns the level of the root: the tree has 2^height leaves, blank ones included.
func (t *ratchetTree) height() int { return int(t.root.level) }

// members returns the number of non-blank leaves.
func (t *ratchetTree) members() int { return int(t.root.occupied) }

// holds reports whether the tree has a leaf i, blank or not.
func (t *ratchetTree) holds(i LeafIndex) bool { return uint64(i) < 1<<t.height() }

// leafBody returns the encoded leaf at i, empty when blank or outside the tree.
func (t *ratchetTree) leafBody(i LeafIndex) string {
	if !t.holds(i) {
		return ""
	}
	n := t.root
	for level := t.height(); level > 0; level-- {
		if n.collapsed() {
			return ""
		}
		n = n.child(i)
	}
	return n.body
}

// child returns the child whose subtree contains leaf i.
func (n *treeNode) child(i LeafIndex) *treeNode {
	if uint32(i)>>(n.level-1)&1 == 0 {
		return n.left
	}
	return n.right
}

// otherChild returns the child whose subtree does not contain leaf i.
func (n *treeNode) otherChild(i LeafIndex) *treeNode {
	if uint32(i)>>(n.level-1)&1 == 0 {
		return n.right
	}
	return n.left
}

// leaf decodes the leaf at i.
func (t *ratchetTree) leaf(i LeafIndex) (*LeafNode, bool) {
	body := t.leafBody(i)
	if body == "" {
		return nil, false
	}
	l, err := parseLeafNode(body)
	return l, err == nil
}

// signatureKey returns the second field of the leaf at i, empty when blank.
func (t *ratchetTree) signatureKey(i LeafIndex) string {
	if body := t.leafBody(i); body != "" {
		return firstVector(afterVector(body))
	}
	return ""
}

// nodeAbove returns the node of the given level above leaf i.
func (t *ratchetTree) nodeAbove(i LeafIndex, level int) *treeNode {
	n := t.root
	for int(n.level) > level && !n.collapsed() {
		n = n.child(i)
	}
	if int(n.level) != level {
		return nil // inside a collapsed blank subtree
	}
	return n
}

// eachLeaf visits the non-blank leaves from the left until visit returns false.
func (t *ratchetTree) eachLeaf(visit func(i LeafIndex, body string) bool) {
	t.root.eachLeaf(0, visit)
}

func (n *treeNode) eachLeaf(first LeafIndex, visit func(LeafIndex, string) bool) bool {
	switch {
	case n.occupied == 0:
		return true
	case n.level == 0:
		return visit(first, n.body)
	}
	return n.left.eachLeaf(first, visit) && n.right.eachLeaf(first+1<<(n.level-1), visit)
}

// firstBlankLeaf returns the leftmost blank leaf; false if there is none.
func (t *ratchetTree) firstBlankLeaf() (LeafIndex, bool) {
	free := t.blankLeaves(1)
	if len(free) == 0 {
		return 0, false
	}
	return free[0], true
}

// blankLeaves lists the leftmost blank leaves, at most limit of them.
func (t *ratchetTree) blankLeaves(limit int) []LeafIndex {
	var list []LeafIndex
	t.root.blankLeaves(0, limit, &list)
	return list
}

func (n *treeNode) blankLeaves(first LeafIndex, limit int, list *[]LeafIndex) {
	size := uint32(1) << n.level
	if n.occupied == size || len(*list) >= limit {
		return
	}
	if n.left == nil { // a blank leaf or a collapsed blank subtree
		for i := uint32(0); i < size && len(*list) < limit; i++ {
			*list = append(*list, first+LeafIndex(i))
		}
		return
	}
	n.left.blankLeaves(first, limit, list)
	n.right.blankLeaves(first+LeafIndex(size/2), limit, list)
}

// resolved is a node of a resolution and the key to encrypt to.
type resolved struct {
	node nodeIndex
	key  string
}

// resolution lists the nodes that cover all of n's non-blank descendants (§4.1.1), without the
// leaves in except, which is sorted.
func (t *ratchetTree) resolution(n *treeNode, first LeafIndex, except []LeafIndex) []resolved {
	var list []resolved
	t.resolve(n, first, except, &list)
	return list
}

func (t *ratchetTree) resolve(n *treeNode, first LeafIndex, except []LeafIndex, list *[]resolved) {
	switch {
	case n.level == 0:
		if !n.blank() && !containsLeaf(except, first) {
			*list = append(*list, resolved{first.node(), n.encryptionKey()})
		}
	case !n.blank():
		*list = append(*list, resolved{nodeAt(first, int(n.level)), n.encryptionKey()})
		for _, i := range n.unmerged() {
			if !containsLeaf(except, i) {
				*list = append(*list, resolved{i.node(), firstVector(t.leafBody(i))})
			}
		}
	case n.occupied > 0:
		t.resolve(n.left, first, except, list)
		t.resolve(n.right, first+1<<(n.level-1), except, list)
	}
}

func containsLeaf(sorted []LeafIndex, i LeafIndex) bool {
	_, found := slices.BinarySearch(sorted, i)
	return found
}

// pathStep is a node of a filtered direct path (§4.1.2) with its copath child.
type pathStep struct {
	level      int
	copath     *treeNode
	copathLeaf LeafIndex // the leftmost leaf below copath
}

// filteredPath returns the filtered direct path of leaf i from the leaf upwards: the parents whose child on the
// copath has a non-empty resolution.
func (t *ratchetTree) filteredPath(i LeafIndex) []pathStep {
	var path []pathStep
	n := t.root
	for level := t.height(); level > 0; level-- {
		if n.collapsed() {
			break // all nodes below are blank
		}
		if other := n.otherChild(i); other.occupied > 0 {
			sibling := nodeAt(i, level-1).sibling()
			path = append(path, pathStep{level, other, sibling.firstLeaf()})
		}
		n = n.child(i)
	}
	slices.Reverse(path)
	return path
}
