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
	return p.validateLeaves()
}

// validateLeaves checks all leaves, in batches that share the processors, and reports the leftmost
// leaf that is bad.
func (p *PublicState) validateLeaves() error {
	leaves := make([]LeafIndex, 0, p.tree.members())
	p.tree.eachLeaf(func(i LeafIndex, _ string) bool {
		leaves = append(leaves, i)
		return true
	})
	batches := (len(leaves) + batchSize - 1) / batchSize
	errs := make([]error, batches)
	inParallel(batches, func(k int) {
		errs[k] = p.validateBatch(leaves[k*batchSize : min((k+1)*batchSize, len(leaves))])
	})
	for _, err := range errs {
		if err != nil {
			return within("ratchet tree", ErrInvalid, err)
		}
	}
	return nil
}

// validateBatch checks leaves one by one but for their signatures, and those together where the scheme
// can; if they do not verify together, one by one.
func (p *PublicState) validateBatch(leaves []LeafIndex) error {
	batch, together := p.rules.suite.signature.(batchVerifier)
	var items []signedItem
	for _, i := range leaves {
		l, ok := p.tree.leaf(i)
		if !ok {
			return fail(ErrMalformed, "§7.2", leafName(i), "does not decode")
		}
		if err := p.validateLeaf(i, l); err != nil {
			return err
		}
		item := signedItem{l.SignatureKey, signContent("LeafNodeTBS", l.tbs(p.context.GroupID, i)), l.Signature}
		if !together && !p.rules.suite.signature.verify(item.pub, item.message, item.signature) {
			return within(leafName(i), ErrForged, badLeafSignature())
		}
		items = append(items, item)
	}
	if !together || batch.verifyBatch(items) {
		return nil
	}
	for k, item := range items {
		if !p.rules.suite.signature.verify(item.pub, item.message, item.signature) {
			return within(leafName(leaves[k]), ErrForged, badLeafSignature())
		}
	}
	return nil
}

// validateLeaf checks a leaf of a tree that is being joined (§7.3), but for its signature.
func (p *PublicState) validateLeaf(i LeafIndex, l *LeafNode) error {
	rules := p.rules.keyPackageRules(time.Time{})
	if err := l.verifyAlone(p.rules.suite, rules); err != nil {
		return within(leafName(i), ErrInvalid, err)
	}
	if err := rules.validate(l, UseMember); err != nil {
		return within(leafName(i), ErrPolicy, err)
	}
	return checkMemberLeaf(p.tree, i, l, p.context.Extensions)
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
