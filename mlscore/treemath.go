package mlscore

import "math/bits"

// LeafIndex numbers the leaves of a ratchet tree from the left, blank ones included.
type LeafIndex uint32

// nodeIndex numbers the nodes of a ratchet tree in the array representation of RFC 9420 appendix C:
// leaf i is node 2i, and a parent lies between its subtrees.
type nodeIndex uint32

// maxLeaves bounds a tree so that every node index fits in a nodeIndex.
const maxLeaves = 1 << 30

// node returns the array index of leaf i.
func (i LeafIndex) node() nodeIndex { return nodeIndex(i) * 2 }

// level returns the level of a node: 0 for a leaf, and one more for each step up (appendix C).
func (n nodeIndex) level() int { return bits.TrailingZeros32(^uint32(n)) }

// nodeAt returns the node of the given level whose subtree contains leaf i.
func nodeAt(i LeafIndex, level int) nodeIndex {
	return nodeIndex(uint32(i)>>level<<(level+1) | (1<<level - 1))
}

// firstLeaf returns the leftmost leaf below n.
func (n nodeIndex) firstLeaf() LeafIndex {
	k := n.level()
	return LeafIndex((uint32(n) - (1<<k - 1)) / 2)
}

// covers reports whether leaf i lies below n.
func (n nodeIndex) covers(i LeafIndex) bool { return nodeAt(i, n.level()) == n }

// left and right are the children of a parent node.
func (n nodeIndex) left() nodeIndex  { return n ^ (1 << (n.level() - 1)) }
func (n nodeIndex) right() nodeIndex { return n ^ (3 << (n.level() - 1)) }

// parent returns the node above n in a tree that is high enough.
func (n nodeIndex) parent() nodeIndex {
	k := n.level()
	return (n | 1<<k) &^ (1 << (k + 1))
}

// sibling returns the other child of n's parent.
func (n nodeIndex) sibling() nodeIndex {
	p := n.parent()
	if n < p {
		return p.right()
	}
	return p.left()
}

// rootOf returns the root of a full tree of the given height.
func rootOf(height int) nodeIndex { return 1<<height - 1 }

// heightFor returns the height of the smallest full tree with at least n leaves, n ≥ 1.
func heightFor(n int) int { return bits.Len32(uint32(n - 1)) }

// commonLevel returns the level of the lowest common ancestor of two leaves.
func commonLevel(a, b LeafIndex) int { return bits.Len32(uint32(a ^ b)) }
