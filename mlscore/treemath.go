package mlscore

import "math/bits"

// LeafIndex numbers the leaves of a ratchet tree from the left, blank ones included.
type LeafIndex uint32

// NodeIndex numbers the nodes of a ratchet tree in the array representation of RFC 9420 appendix C:
// leaf i is node 2i, and a parent lies between its subtrees.
type NodeIndex uint32

// maxLeaves bounds a tree so that every node index fits a NodeIndex.
const maxLeaves = 1 << 30

// node is the array index of leaf i.
func (i LeafIndex) node() NodeIndex { return NodeIndex(i) * 2 }

// level is 0 at a leaf and one more at each step up (appendix C).
func (n NodeIndex) level() int { return bits.TrailingZeros32(^uint32(n)) }

// nodeAt is the node of the given level whose subtree contains leaf i.
func nodeAt(i LeafIndex, level int) NodeIndex {
	return NodeIndex(uint32(i)>>level<<(level+1) | (1<<level - 1))
}

// firstLeaf is the leftmost leaf below n.
func (n NodeIndex) firstLeaf() LeafIndex {
	k := n.level()
	return LeafIndex((uint32(n) - (1<<k - 1)) / 2)
}

// covers says whether leaf i lies below n.
func (n NodeIndex) covers(i LeafIndex) bool { return nodeAt(i, n.level()) == n }

// left and right are the children of a parent node.
func (n NodeIndex) left() NodeIndex  { return n ^ (1 << (n.level() - 1)) }
func (n NodeIndex) right() NodeIndex { return n ^ (3 << (n.level() - 1)) }

// parent is the node above n in a tree that is high enough to have one.
func (n NodeIndex) parent() NodeIndex {
	k := n.level()
	return (n | 1<<k) &^ (1 << (k + 1))
}

// sibling is the other child of n's parent.
func (n NodeIndex) sibling() NodeIndex {
	p := n.parent()
	if n < p {
		return p.right()
	}
	return p.left()
}

// rootOf is the root of a full tree of the given height.
func rootOf(height int) NodeIndex { return 1<<height - 1 }

// heightFor is the height of the smallest full tree with at least n leaves, n ≥ 1.
func heightFor(n int) int { return bits.Len32(uint32(n - 1)) }

// commonLevel is the level of the lowest common ancestor of two leaves.
func commonLevel(a, b LeafIndex) int { return bits.Len32(uint32(a ^ b)) }
