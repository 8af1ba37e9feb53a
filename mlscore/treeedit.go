package mlscore

import (
	"slices"
)

// treeEdit makes a new tree from a finished tree, which does not change.
//
// The order of calls is that of §12.3: replace and blank leaves, add leaves, finish; and then, in another edit, a
// path.
type treeEdit struct {
	ratchetTree
	keys   keyIndex
	people memberIndex
	bare   bool  // keeps no index: the new tree makes one at the first use
	err    error // of the index that the edit began with
}

func (t *ratchetTree) edit() *treeEdit {
	x := t.indexed()
	return &treeEdit{ratchetTree: *t, keys: x.keys, people: x.people, err: x.err}
}

// editBare begins an edit of a tree whose index may never be needed.
func (t *ratchetTree) editBare() *treeEdit { return &treeEdit{ratchetTree: *t, bare: true} }

// leafChange puts body into leaf index; an empty body blanks it.
type leafChange struct {
	index LeafIndex
	body  string
}

// own returns a node that the edit may write to: n itself, if it was made in this edit.
func own(n *treeNode) *treeNode {
	if !n.frozen {
		return n
	}
	c := *n
	c.frozen, c.hash = false, ""
	return &c
}

// replace puts other content into leaves that are in the tree, or blanks them, and blanks all nodes
// above them (§12.1.2, §12.1.3). No leaf may occur twice.
func (e *treeEdit) replace(changes []leafChange) error {
	if e.err != nil {
		return e.err
	}
	for _, c := range changes {
		if err := e.reindex(c, e.leafBody(c.index)); err != nil {
			return err
		}
	}
	sortChanges(changes)
	e.root = e.put(e.root, 0, changes, false)
	return nil
}

// add puts leaves into blank places of the tree and notes them as unmerged in all non-blank nodes
// above (§12.1.1). The tree must hold their indices.
func (e *treeEdit) add(changes []leafChange) error {
	if e.err != nil {
		return e.err
	}
	keys := make([]uint64, len(changes))
	for k, c := range changes {
		keys[k] = e.keys.entry(firstVector(c.body), uint32(c.index.node()))
	}
	e.keys = e.keys.addAll(keys)
	if err := e.people.addAll(changes); err != nil {
		return err
	}
	sortChanges(changes)
	e.root = e.put(e.root, 0, changes, true)
	return nil
}

func sortChanges(changes []leafChange) {
	slices.SortFunc(changes, func(a, b leafChange) int { return int(int64(a.index) - int64(b.index)) })
}

// reindex updates the indices for the change of one leaf.
func (e *treeEdit) reindex(c leafChange, old string) error {
	if e.bare {
		return nil
	}
	place := uint32(c.index.node())
	if old != "" {
		e.keys = e.keys.remove(firstVector(old), place)
		if err := e.people.remove(c.index, old); err != nil {
			return err
		}
	}
	if c.body != "" {
		e.keys = e.keys.add(firstVector(c.body), place)
		return e.people.addAll([]leafChange{c})
	}
	return nil
}

// put applies sorted changes below n, whose leftmost leaf is first.
func (e *treeEdit) put(n *treeNode, first LeafIndex, changes []leafChange, unmerged bool) *treeNode {
	if len(changes) == 0 {
		return n
	}
	n = own(n)
	if n.level == 0 {
		n.body = changes[0].body
		n.occupied = 0
		if n.body != "" {
			n.occupied = 1
		}
		return n
	}
	if n.collapsed() {
		e.spell(n, first)
	}
	middle := first + 1<<(n.level-1)
	split, _ := slices.BinarySearchFunc(changes, middle, func(c leafChange, i LeafIndex) int {
		return int(int64(c.index) - int64(i))
	})
	n.left = e.put(n.left, first, changes[:split], unmerged)
	n.right = e.put(n.right, middle, changes[split:], unmerged)
	n.occupied = n.left.occupied + n.right.occupied
	if !n.blank() {
		if unmerged {
			n.body = n.withUnmerged(mergeLeaves(n.unmerged(), changes))
		} else {
			e.blankParent(n, first)
		}
	}
	return n
}

// blankParent blanks a parent that this edit owns.
func (e *treeEdit) blankParent(n *treeNode, first LeafIndex) {
	if !n.blank() {
		e.dropKey(n.encryptionKey(), nodeAt(first, int(n.level)))
		n.body = ""
	}
}

// dropKey removes the key of a node from the index.
func (e *treeEdit) dropKey(key string, at nodeIndex) {
	if !e.bare {
		e.keys = e.keys.remove(key, uint32(at))
	}
}

// mergeLeaves adds the indices of sorted changes to a sorted list.
func mergeLeaves(list []LeafIndex, changes []leafChange) []LeafIndex {
	for _, c := range changes {
		list = append(list, c.index)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// spell creates the two children of a collapsed blank node.
func (e *treeEdit) spell(n *treeNode, first LeafIndex) {
	n.left = e.suite.blankNode(int(n.level)-1, first)
	n.right = e.suite.blankNode(int(n.level)-1, first+1<<(n.level-1))
}

// blankNode returns a frozen blank subtree.
func (s *suite) blankNode(level int, first LeafIndex) *treeNode {
	n := &treeNode{level: uint8(level)}
	if level > blankHeight {
		n.left = s.blankNode(level-1, first)
		n.right = s.blankNode(level-1, first+1<<(level-1))
	}
	s.freeze(n, first)
	return n
}

// extend doubles the tree to the right until it holds leaf i (§7.7).
func (e *treeEdit) extend(i LeafIndex) error {
	for !e.holds(i) {
		level := e.height()
		if 1<<(level+1) > maxLeaves {
			return fail(ErrLimit, "", "ratchet tree", "more than %d leaves", maxLeaves)
		}
		e.root = &treeNode{
			left:     e.root,
			right:    e.suite.blankNode(level, LeafIndex(1)<<level),
			occupied: e.root.occupied,
			level:    uint8(level + 1),
		}
	}
	return nil
}

// places lists the leaves that the next n additions get: the leftmost blank leaves, then new leaves to the right, for
// which it extends the tree (§12.1.1).
func (e *treeEdit) places(n int) ([]LeafIndex, error) {
	if e.err != nil {
		return nil, e.err
	}
	list := e.blankLeaves(n)
	for len(list) < n {
		if err := e.extend(LeafIndex(1) << e.height()); err != nil {
			return nil, err
		}
		list = e.blankLeaves(n)
	}
	return list, nil
}

// truncate drops the right half of the tree while it is blank (§7.7). A tree without members keeps one leaf: the only
// member can be removed by its own external commit (§12.4.3.2).
func (e *treeEdit) truncate() {
	if e.members() == 0 { // all blank, so that no key is dropped; the tree may have no halves
		e.root = e.suite.blankNode(0, 0)
	}
	for e.height() > 0 && e.root.right.occupied == 0 {
		if !e.root.blank() {
			e.dropKey(e.root.encryptionKey(), rootOf(e.height()))
		}
		e.root = e.root.left
	}
}

// newPath is the content of an UpdatePath for the tree: a leaf and the parents of its filtered direct path, from the
// leaf upwards.
type newPath struct {
	leaf    leafChange
	steps   []pathStep
	parents []string
}

// setPath blanks the direct path and sets the new contents (§7.5).
func (e *treeEdit) setPath(p newPath) error {
	if e.err != nil {
		return e.err
	}
	if err := e.reindex(p.leaf, e.leafBody(p.leaf.index)); err != nil {
		return err
	}
	bodies := make([]string, e.height()+1)
	bodies[0] = p.leaf.body
	for k, step := range p.steps {
		bodies[step.level] = p.parents[k]
	}
	e.root = e.putPath(e.root, p.leaf.index, bodies)
	return nil
}

func (e *treeEdit) putPath(n *treeNode, i LeafIndex, bodies []string) *treeNode {
	n = own(n)
	body := bodies[n.level]
	if n.level == 0 {
		n.body, n.occupied = body, 1
		return n
	}
	first := nodeAt(i, int(n.level)).firstLeaf()
	if n.collapsed() {
		e.spell(n, first)
	}
	if n.left == n.child(i) {
		n.left = e.putPath(n.left, i, bodies)
	} else {
		n.right = e.putPath(n.right, i, bodies)
	}
	n.occupied = n.left.occupied + n.right.occupied
	e.blankParent(n, first)
	if body != "" {
		n.body = body
		e.keys = e.keys.add(n.encryptionKey(), uint32(nodeAt(i, int(n.level))))
	}
	return n
}

// finish computes the missing hashes and freezes the tree.
func (e *treeEdit) finish() *ratchetTree {
	e.suite.freeze(e.root, 0)
	t := e.ratchetTree
	if e.bare {
		t.index = unindexed(t.suite, t.index.people.auth)
	} else {
		t.index = indexed(e.keys, e.people)
	}
	return &t
}
