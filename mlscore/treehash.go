package mlscore

import (
	"bytes"
	"encoding/binary"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Node types of §7.8 and of the ratchet_tree extension.
const (
	nodeTypeLeaf   = 1
	nodeTypeParent = 2
)

// leafTreeHash returns the tree hash of a leaf (RFC 9420 §7.8).
func (h *hasher) leafTreeHash(i LeafIndex, body string) string {
	return string(h.sumLeaf(h.tag[:0], i, body))
}

// sumLeaf appends the tree hash of a leaf to dst.
func (h *hasher) sumLeaf(dst []byte, i LeafIndex, body string) []byte {
	b := append(h.buf[:0], nodeTypeLeaf)
	b = binary.BigEndian.AppendUint32(b, uint32(i))
	h.buf = appendOptional(b, body)
	return h.sum(dst, h.buf)
}

// parentTreeHash returns the tree hash of a parent (§7.8).
func (h *hasher) parentTreeHash(body, left, right string) string {
	return h.sumParent(body, append(h.left[:0], left...), append(h.right[:0], right...))
}

// sumParent is parentTreeHash for hashes of children that are not kept.
func (h *hasher) sumParent(body string, left, right []byte) string {
	b := append(h.buf[:0], nodeTypeParent)
	b = appendOptional(b, body)
	b = codec.AppendBytes(b, left)
	h.buf = codec.AppendBytes(b, right)
	return string(h.sum(h.tag[:0], h.buf))
}

func appendOptional(b []byte, body string) []byte {
	if body == "" {
		return append(b, 0)
	}
	return append(append(b, 1), body...)
}

func appendVector(b []byte, v string) []byte {
	return append(codec.AppendVarint(b, uint32(len(v))), v...)
}

func (h *hasher) blankHash(level int, first LeafIndex) string {
	if level == 0 {
		return h.leafTreeHash(first, "")
	}
	return h.parentTreeHash("", h.blankHash(level-1, first), h.blankHash(level-1, first+1<<(level-1)))
}

// blankHash returns the tree hash of a blank subtree.
func (s *suite) blankHash(level int, first LeafIndex) string {
	h := s.kdf.get()
	defer s.kdf.put(h)
	return h.blankHash(level, first)
}

// freeze computes the missing hashes in the subtree of n and freezes its nodes.
func (s *suite) freeze(n *treeNode, first LeafIndex) {
	h := s.kdf.get()
	defer s.kdf.put(h)
	h.freeze(n, first)
}

func (h *hasher) freeze(n *treeNode, first LeafIndex) {
	switch {
	case n.frozen:
		return
	case n.level == 0:
	case n.collapsed():
		n.hash = h.blankHash(int(n.level), first)
	default:
		middle := first + 1<<(n.level-1)
		h.freeze(n.left, first)
		h.freeze(n.right, middle)
		left := h.appendTreeHash(h.left[:0], n.left, first)
		n.hash = h.sumParent(n.body, left, h.appendTreeHash(h.right[:0], n.right, middle))
	}
	n.frozen = true
}

// appendTreeHash appends the tree hash of a frozen node to dst.
func (h *hasher) appendTreeHash(dst []byte, n *treeNode, first LeafIndex) []byte {
	if n.level == 0 {
		return h.sumLeaf(dst, first, n.body)
	}
	return append(dst, n.hash...)
}

// treeHash returns the tree hash of a frozen node.
func (h *hasher) treeHash(n *treeNode, first LeafIndex) string {
	if n.level == 0 {
		return h.leafTreeHash(first, n.body)
	}
	return n.hash
}

// treeHash returns the tree hash of a frozen node.
func (s *suite) treeHash(n *treeNode, first LeafIndex) string {
	h := s.kdf.get()
	defer s.kdf.put(h)
	return h.treeHash(n, first)
}

// hash returns the tree hash of the whole tree.
func (t *ratchetTree) hash() []byte { return []byte(t.suite.treeHash(t.root, 0)) }

// hashWithout returns the tree hash of n as it would be with some of its leaves blank and struck from the unmerged
// lists: the original sibling tree hash of §7.9. except is sorted; only paths to leaves in except are hashed again.
func (h *hasher) hashWithout(n *treeNode, first LeafIndex, except []LeafIndex) string {
	if len(except) == 0 || n.occupied == 0 {
		return h.treeHash(n, first)
	}
	if n.level == 0 {
		return h.leafTreeHash(first, "")
	}
	middle := first + 1<<(n.level-1)
	left, right := splitLeaves(except, middle)
	body := n.body
	if !n.blank() {
		body = n.withUnmerged(subtractLeaves(n.unmerged(), except))
	}
	return h.parentTreeHash(body, h.hashWithout(n.left, first, left), h.hashWithout(n.right, middle, right))
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

// leavesBelow returns the part of a sorted list that lies below a node.
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

// parentHashOf returns the hash of ParentHashInput (§7.9).
func (s *suite) parentHashOf(key, parentHash, siblingHash string) []byte {
	h := s.kdf.get()
	defer s.kdf.put(h)
	return bytes.Clone(h.parentHashOf(key, parentHash, siblingHash))
}

// parentHashOf is parentHashOf of the suite; the result is valid until the hasher is used again.
func (h *hasher) parentHashOf(key, parentHash, siblingHash string) []byte {
	b := appendVector(h.buf[:0], key)
	b = appendVector(b, parentHash)
	h.buf = appendVector(b, siblingHash)
	return h.sum(h.tag[:0], h.buf)
}

// pathHashes returns, for a path with new keys, the bodies of its parents and the parent hash for its leaf. It works
// from the root down, since each hash covers all nodes above; the topmost node of the path has no parent hash.
func (s *suite) pathHashes(steps []pathStep, keys [][]byte) (bodies []string, leaf []byte) {
	bodies = make([]string, len(steps))
	above := []byte{}
	for k := len(steps) - 1; k >= 0; k-- {
		bodies[k] = parentBody(keys[k], above, nil)
		above = s.parentHashOf(string(keys[k]), string(above), s.treeHash(steps[k].copath, steps[k].copathLeaf))
	}
	return bodies, above
}

// verifyParentHashes checks that every non-blank parent is parent-hash valid (§7.9.2), from the top down: each parent
// has exactly one descendant that vouches for it. That descendant is a leaf, or a parent with the same check.
func (t *ratchetTree) verifyParentHashes() error {
	h := t.suite.kdf.get()
	defer t.suite.kdf.put(h)
	return h.verifyParent(t.root, 0)
}

func (h *hasher) verifyParent(n *treeNode, first LeafIndex) error {
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
		if h.vouches(n, n.left, first, n.right, middle, unmerged) {
			vouching++
		}
		if h.vouches(n, n.right, middle, n.left, first, unmerged) {
			vouching++
		}
		if vouching != 1 {
			return fail(ErrForged, "§7.9.2", nodeName(nodeAt(first, int(n.level))), "not parent-hash valid: %d descendants vouch for it", vouching)
		}
	}
	if n.collapsed() {
		return nil
	}
	if err := h.verifyParent(n.left, first); err != nil {
		return err
	}
	return h.verifyParent(n.right, middle)
}

// vouches looks below child c of p for a node D whose parent hash is that of p with copath child s: D must be the
// only node in c's resolution without p's unmerged leaves.
func (h *hasher) vouches(p, c *treeNode, cFirst LeafIndex, s *treeNode, sFirst LeafIndex, unmerged []LeafIndex) bool {
	below := leavesBelow(unmerged, cFirst, int(c.level))
	d, ok := soleUnmatched(c, cFirst, below)
	if !ok {
		return false
	}
	have := ""
	if d.level > 0 {
		have = d.parentHash()
	} else if have, ok = leafParentHash(d.body); !ok {
		return false
	}
	if have == "" { // the empty parent hash of the topmost node of a path vouches for nothing
		return false
	}
	sibling := h.hashWithout(s, sFirst, leavesBelow(unmerged, sFirst, int(s.level)))
	return have == string(h.parentHashOf(p.encryptionKey(), p.parentHash(), sibling))
}

// soleUnmatched returns the only node of c's resolution that is not a leaf in unmerged. All leaves of unmerged must
// be in the resolution. It stops at a second such node.
func soleUnmatched(c *treeNode, first LeafIndex, unmerged []LeafIndex) (*treeNode, bool) {
	if len(unmerged) == 0 && !c.blank() && c.unmergedBytes() == "" {
		return c, true
	}
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
