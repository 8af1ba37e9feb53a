package mlscore

import (
	"encoding/binary"
	"runtime"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// validateTree makes all checks on a tree that a joiner must make (RFC 9420 §12.4.3.1): parent hashes, unmerged
// leaves, every leaf by itself and against all others, uniqueness of every key.
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
	unique := t.unique()
	if !unique {
		if err := t.checkParentKeys(t.root, 0); err != nil {
			return err
		}
	}
	return p.validateLeaves(unique)
}

// unique reports whether every key and every identity occurs once in the tree. It looks at all nodes at once and does
// not return the place of a duplicate: checkParentKeys and checkUnique do.
func (t *ratchetTree) unique() bool {
	sameKey := func(a, b uint32) bool {
		return t.nodeKey(nodeIndex(a)) == t.nodeKey(nodeIndex(b))
	}
	sameSignatureKey := func(a, b uint32) bool {
		return t.suite.canonicalKey(t.signatureKey(LeafIndex(a))) == t.suite.canonicalKey(t.signatureKey(LeafIndex(b)))
	}
	sameIdentity := func(a, b uint32) bool {
		one, errOne := t.identityAt(LeafIndex(a))
		other, errOther := t.identityAt(LeafIndex(b))
		return errOne != nil || errOther != nil || one == other
	}
	x := t.indexed()
	return !x.keys.twice(sameKey) && !x.people.signatures.twice(sameSignatureKey) && !x.people.identities.twice(sameIdentity)
}

// nodeKey returns the encryption key of a non-blank node.
func (t *ratchetTree) nodeKey(n nodeIndex) string {
	return t.nodeAbove(n.firstLeaf(), n.level()).encryptionKey()
}

// identityAt returns the identity of the member at leaf i.
func (t *ratchetTree) identityAt(i LeafIndex) (string, error) {
	_, id, err := t.identify(t.leafBody(i))
	return id, err
}

// validateLeaves checks all leaves, in batches on all processors, and reports the leftmost bad leaf. unique is true
// if no two leaves share a key or an identity.
func (p *PublicState) validateLeaves(unique bool) error {
	leaves := make([]leafChange, 0, p.tree.members())
	p.tree.eachLeaf(func(i LeafIndex, body string) bool {
		leaves = append(leaves, leafChange{i, body})
		return true
	})
	size := min(batchSize, max(leastBatch, (len(leaves)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0)))
	errs := make([]error, (len(leaves)+size-1)/size)
	inParallel(len(errs), func(k int) {
		batch := leaves[k*size : min((k+1)*size, len(leaves))]
		if !unique || !p.validTogether(batch) {
			errs[k] = p.validateEach(batch)
		}
	})
	for _, err := range errs {
		if err != nil {
			return within("ratchet tree", ErrInvalid, err)
		}
	}
	return nil
}

// validTogether checks leaves whose keys and identities are unique, and verifies their signatures together, if the
// scheme can do that. If the result is false, validateEach finds the error.
func (p *PublicState) validTogether(leaves []leafChange) bool {
	s := p.rules.suite
	batch, together := s.signature.(batchVerifier)
	if !together {
		return false
	}
	rules := p.rules.keyPackageRules()
	items := make([]signedItem, len(leaves))
	size := 0
	for _, at := range leaves {
		size += len(at.body)
	}
	bodies := make([]byte, 0, size) // consecutive, in memory that nothing else uses
	signed := make([]byte, 0, size)
	var l LeafNode
	var r codec.Reader
	for k, at := range leaves {
		bodies = append(bodies, at.body...)
		r.Reset(bodies[len(bodies)-len(at.body):], codec.DefaultLimits)
		l.decode(&r)
		if r.Finish() != nil || l.verifyContent(s, rules) != nil || rules.validate(s, &l, UseMember) != nil ||
			checkSupport(p.tree, at.index, &l, p.context.Extensions) != nil {
			return false
		}
		start := len(signed)
		signed = appendSignedLeaf(signed, at, &l, p.context.GroupID)
		items[k] = signedItem{l.SignatureKey, signed[start:], l.Signature}
	}
	return batch.verifyBatch(items)
}

// appendSignedLeaf appends the input of a leaf's signature, SignContent of LeafNodeTBS: the leaf's encoding up to the
// signature and, unless the leaf comes from a KeyPackage, group id and leaf index (§7.2).
func appendSignedLeaf(b []byte, at leafChange, l *LeafNode, groupID []byte) []byte {
	var header [4]byte
	content := at.body[:len(at.body)-len(l.Signature)-len(codec.AppendVarint(header[:0], uint32(len(l.Signature))))]
	var tail []byte
	if l.Source != SourceKeyPackage {
		var scratch [64]byte
		tail = binary.BigEndian.AppendUint32(codec.AppendBytes(scratch[:0], groupID), uint32(at.index))
	}
	b = appendLabelled(b, "LeafNodeTBS", len(content)+len(tail))
	return append(append(b, content...), tail...)
}

// validateEach checks leaves individually.
func (p *PublicState) validateEach(leaves []leafChange) error {
	for _, at := range leaves {
		l, err := parseLeafNode(at.body)
		if err != nil {
			return within(leafName(at.index), ErrMalformed, err)
		}
		if err := p.validateLeaf(at.index, l); err != nil {
			return err
		}
		if err := l.verifySignature(p.rules.suite, p.context.GroupID, at.index); err != nil {
			return within(leafName(at.index), ErrForged, err)
		}
	}
	return nil
}

// validateLeaf checks a leaf of a tree that is being joined (§7.3), except its signature.
func (p *PublicState) validateLeaf(i LeafIndex, l *LeafNode) error {
	rules := p.rules.keyPackageRules()
	if err := l.verifyAlone(p.rules.suite, rules); err != nil {
		return within(leafName(i), ErrInvalid, err)
	}
	if err := rules.validate(p.rules.suite, l, UseMember); err != nil {
		return within(leafName(i), ErrPolicy, err)
	}
	return checkMemberLeaf(p.tree, i, l, p.context.Extensions)
}

// checkParentKeys refuses a parent whose key another node has too (§12.4.3.1).
func (t *ratchetTree) checkParentKeys(n *treeNode, first LeafIndex) error {
	if n.level == 0 || n.occupied == 0 {
		return nil
	}
	at := nodeAt(first, int(n.level))
	if !n.blank() {
		if other, found := t.otherNode(at, []byte(n.encryptionKey())); found {
			return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "key of %s is also used at %s", nodeName(at), nodeName(other))
		}
	}
	if err := t.checkParentKeys(n.left, first); err != nil {
		return err
	}
	return t.checkParentKeys(n.right, first+1<<(n.level-1))
}

// checkUnmerged checks the lists of unmerged leaves (§12.4.3.1): each entry is a member below its parent, and is in
// the list of every non-blank node in between. above is the list of the next non-blank node above, restricted to
// leaves below n.
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
