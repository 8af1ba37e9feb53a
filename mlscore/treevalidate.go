package mlscore

import "time"

// validateTree makes all checks on a tree that a joiner owes (RFC 9420 §12.4.3.1): parent hashes,
// unmerged leaves, every leaf by itself and against all others, uniqueness of every key.
func (p *PublicState) validateTree() error {
	t := p.tree
	if err := t.checkUnmerged(t.root, 0, nil); err != nil {
		return err
	}
	if err := t.verifyParentHashes(); err != nil {
		return err
	}
	if err := p.checkExtensions(p.context.Extensions); err != nil {
		return within("GroupContext", ErrInvalid, err)
	}
	if err := t.checkParentKeys(t.root, 0); err != nil {
		return err
	}
	var first error
	t.eachLeaf(func(i LeafIndex, body string) bool {
		first = within("ratchet tree", ErrInvalid, p.validateLeaf(i, body))
		return first == nil
	})
	return first
}

// validateLeaf checks a leaf of a tree that is being joined (§7.3).
func (p *PublicState) validateLeaf(i LeafIndex, body string) error {
	l, err := parseLeafNode(body)
	if err != nil {
		return within(leafName(i), ErrMalformed, err)
	}
	if err := p.checkNewLeaf(i, l); err != nil {
		return err
	}
	if err := p.rules.keyPackageRules(time.Time{}).validate(l, UseMember); err != nil {
		return within(leafName(i), ErrPolicy, err)
	}
	return checkMember(p.tree, i, p.context.Extensions)
}

// checkParentKeys looks for parents whose key stands elsewhere too (§12.4.3.1).
func (t *ratchetTree) checkParentKeys(n *treeNode, first LeafIndex) error {
	if n.level == 0 || n.occupied == 0 {
		return nil
	}
	at := nodeAt(first, int(n.level))
	if !n.blank() {
		if other, found := t.otherNode(at, []byte(n.encryptionKey())); found {
			return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "key of %s also stands at %s", nodeName(at), nodeName(other))
		}
	}
	if err := t.checkParentKeys(n.left, first); err != nil {
		return err
	}
	return t.checkParentKeys(n.right, first+1<<(n.level-1))
}

// checkUnmerged checks the lists of unmerged leaves (§12.4.3.1): each entry is a member below its
// parent, and stands in the list of every non-blank node in between. above is the part of the list of
// the next non-blank node above that lies below n.
func (t *ratchetTree) checkUnmerged(n *treeNode, first LeafIndex, above []LeafIndex) error {
	at := nodeAt(first, int(n.level))
	if n.level == 0 {
		if len(above) > 0 && n.blank() {
			return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "unmerged %s is blank", nodeName(at))
		}
		return nil
	}
	if n.occupied == 0 {
		if len(above) > 0 {
			return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "unmerged %s is blank", leafName(above[0]))
		}
		return nil
	}
	list := above
	if !n.blank() {
		list = n.unmerged()
		for _, i := range above {
			if !containsLeaf(list, i) {
				return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "unmerged %s is missing from the list of %s", leafName(i), nodeName(at))
			}
		}
		if below := leavesBelow(list, first, int(n.level)); len(below) != len(list) {
			return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "%s lists an unmerged leaf that is not below it", nodeName(at))
		}
	}
	left, right := splitLeaves(list, first+1<<(n.level-1))
	if err := t.checkUnmerged(n.left, first, left); err != nil {
		return err
	}
	return t.checkUnmerged(n.right, first+1<<(n.level-1), right)
}
