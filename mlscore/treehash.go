package mlscore

import (
	"encoding/binary"
	"strings"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Node types of §7.8 and of the ratchet_tree extension.
const (
	nodeTypeLeaf   = 1
	nodeTypeParent = 2
)

// leafTreeHash is the tree hash of a leaf (RFC 9420 §7.8).
func (s *suite) leafTreeHash(i LeafIndex, body string) string {
	b := make([]byte, 0, 6+len(body))
	b = append(b, nodeTypeLeaf)
	b = binary.BigEndian.AppendUint32(b, uint32(i))
	return string(s.hash(appendOptional(b, body)))
}

// parentTreeHash is the tree hash of a parent (§7.8).
func (s *suite) parentTreeHash(body, left, right string) string {
	b := make([]byte, 0, 8+len(body)+len(left)+len(right))
	b = append(b, nodeTypeParent)
	b = appendOptional(b, body)
	b = append(codec.AppendVarint(b, uint32(len(left))), left...)
	b = append(codec.AppendVarint(b, uint32(len(right))), right...)
	return string(s.hash(b))
}

func appendOptional(b []byte, body string) []byte {
	if body == "" {
		return append(b, 0)
	}
	return append(append(b, 1), body...)
}

// blankHash is the tree hash of a blank subtree.
func (s *suite) blankHash(level int, first LeafIndex) string {
	if level == 0 {
		return s.leafTreeHash(first, "")
	}
	return s.parentTreeHash("", s.blankHash(level-1, first), s.blankHash(level-1, first+1<<(level-1)))
}

// freeze computes the hashes that are missing below n.
func (s *suite) freeze(n *treeNode, first LeafIndex) {
	switch {
	case n.hash != "":
	case n.level == 0:
		n.hash = s.leafTreeHash(first, n.body)
	case n.collapsed():
		n.hash = s.blankHash(int(n.level), first)
	default:
		s.freeze(n.left, first)
		s.freeze(n.right, first+1<<(n.level-1))
		n.hash = s.parentTreeHash(n.body, n.left.hash, n.right.hash)
	}
}

// hash is the tree hash of the whole tree.
func (t *ratchetTree) hash() []byte { return []byte(t.root.hash) }

// hashWithout is the tree hash of n as it would be with some of its leaves blank and struck from the
// unmerged lists: the original sibling tree hash of §7.9. except is sorted; only paths to leaves in it
// are hashed anew.
func (s *suite) hashWithout(n *treeNode, first LeafIndex, except []LeafIndex) string {
	if len(except) == 0 || n.occupied == 0 {
		return n.hash
	}
	if n.level == 0 {
		return s.leafTreeHash(first, "")
	}
	middle := first + 1<<(n.level-1)
	left, right := splitLeaves(except, middle)
	body := n.body
	if !n.blank() {
		body = n.withUnmerged(subtractLeaves(n.unmerged(), except))
	}
	return s.parentTreeHash(body, s.hashWithout(n.left, first, left), s.hashWithout(n.right, middle, right))
}

// splitLeaves divides a sorted list at middle.
func splitLeaves(list []LeafIndex, middle LeafIndex) (left, right []LeafIndex) {
	for k, i := range list {
		if i >= middle {
			return list[:k], list[k:]
		}
	}
	return list, nil
}

// within cuts a sorted list down to the leaves below a node.
func leavesBelow(list []LeafIndex, first LeafIndex, level int) []LeafIndex {
	_, rest := splitLeaves(list, first)
	below, _ := splitLeaves(rest, first+1<<level)
	return below
}

func subtractLeaves(list, except []LeafIndex) []LeafIndex {
	var out []LeafIndex
	for _, i := range list {
		if !containsLeaf(except, i) {
			out = append(out, i)
		}
	}
	return out
}

// parentHashOf is the hash of ParentHashInput (§7.9).
func (s *suite) parentHashOf(key, parentHash, siblingHash string) []byte {
	var b []byte
	for _, v := range [...]string{key, parentHash, siblingHash} {
		b = append(codec.AppendVarint(b, uint32(len(v))), v...)
	}
	return s.hash(b)
}

// pathHashes gives, for a path that is about to replace all keys on it, the bodies of its parents and
// the parent hash for its leaf. It goes from the root down, since each hash covers all above it; the
// topmost node of the path has none.
func (s *suite) pathHashes(steps []pathStep, keys [][]byte) (bodies []string, leaf []byte) {
	bodies = make([]string, len(steps))
	above := []byte{}
	for k := len(steps) - 1; k >= 0; k-- {
		bodies[k] = parentBody(keys[k], above, nil)
		above = s.parentHashOf(string(keys[k]), string(above), steps[k].copath.hash)
	}
	return bodies, above
}

// verifyParentHashes checks that every non-blank parent is parent-hash valid (§7.9.2), from the top
// down: each has exactly one descendant that vouches for it. That descendant is a leaf, or a parent
// for which the same is checked.
func (t *ratchetTree) verifyParentHashes() error { return t.verifyParent(t.root, 0) }

func (t *ratchetTree) verifyParent(n *treeNode, first LeafIndex) error {
	if n.level == 0 || n.occupied == 0 && n.blank() {
		return nil
	}
	middle := first + 1<<(n.level-1)
	if !n.blank() {
		if n.occupied == 0 {
			return fail(ErrInvalid, "§7.9.2", nodeName(nodeAt(first, int(n.level))), "key in a subtree without members")
		}
		unmerged := n.unmerged()
		vouching := 0
		if t.vouches(n, n.left, first, n.right, middle, unmerged) {
			vouching++
		}
		if t.vouches(n, n.right, middle, n.left, first, unmerged) {
			vouching++
		}
		if vouching != 1 {
			return fail(ErrForged, "§7.9.2", nodeName(nodeAt(first, int(n.level))), "not parent-hash valid: %d descendants vouch for it", vouching)
		}
	}
	if n.collapsed() {
		return nil
	}
	if err := t.verifyParent(n.left, first); err != nil {
		return err
	}
	return t.verifyParent(n.right, middle)
}

// vouches looks below child c of p for a node D whose parent hash is that of p with copath child s:
// D must be what is left of c's resolution without p's unmerged leaves.
func (t *ratchetTree) vouches(p, c *treeNode, cFirst LeafIndex, s *treeNode, sFirst LeafIndex, unmerged []LeafIndex) bool {
	below := leavesBelow(unmerged, cFirst, int(c.level))
	d, ok := t.soleUnmatched(c, cFirst, below)
	if !ok {
		return false
	}
	var have string
	if d.level == 0 {
		leaf, err := parseLeafNode(d.body)
		if err != nil || leaf.Source != SourceCommit {
			return false
		}
		have = string(leaf.ParentHash)
	} else {
		have = d.parentHash()
	}
	sibling := t.suite.hashWithout(s, sFirst, leavesBelow(unmerged, sFirst, int(s.level)))
	return strings.Compare(have, string(t.suite.parentHashOf(p.encryptionKey(), p.parentHash(), sibling))) == 0
}

// soleUnmatched finds the one node of c's resolution that is not a leaf in unmerged, where all of
// unmerged must be in the resolution. It stops as soon as a second one turns up.
func (t *ratchetTree) soleUnmatched(c *treeNode, first LeafIndex, unmerged []LeafIndex) (*treeNode, bool) {
	var sole *treeNode
	matched := 0
	var walk func(n *treeNode, first LeafIndex) bool
	take := func(n *treeNode, i LeafIndex) bool {
		if n.level == 0 && containsLeaf(unmerged, i) {
			matched++
			return true
		}
		if sole != nil {
			return false
		}
		sole = n
		return true
	}
	walk = func(n *treeNode, first LeafIndex) bool {
		switch {
		case n.level == 0:
			return n.blank() || take(n, first)
		case !n.blank():
			if !take(n, first) {
				return false
			}
			for _, i := range n.unmerged() {
				if !containsLeaf(unmerged, i) {
					return false
				}
				matched++
			}
			return true
		case n.occupied == 0:
			return true
		}
		return walk(n.left, first) && walk(n.right, first+1<<(n.level-1))
	}
	if !walk(c, first) || sole == nil || matched != len(unmerged) {
		return nil, false
	}
	return sole, true
}
