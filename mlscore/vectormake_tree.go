package mlscore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// kemTree is a ratchet tree with the private state of all its members. It includes path secrets, which a Group does
// not keep.
type kemTree struct {
	m       *vectorMaker
	groupID []byte
	tree    *ratchetTree
	leaves  map[LeafIndex]*kemLeaf
	people  int // so far
}

type kemLeaf struct {
	encryption Secret
	signature  Secret
	paths      map[int]knownSecret // by level
}

// knownSecret is a path secret and the public key that is derived from it.
type knownSecret struct {
	secret []byte
	pub    string
}

// newKEMTree makes the tree in which leaf i commits the addition of leaf i+1, up to n leaves.
func newKEMTree(m *vectorMaker, groupID []byte, n int) (*kemTree, error) {
	t := &kemTree{m: m, groupID: groupID, leaves: map[LeafIndex]*kemLeaf{}}
	kp, leaf, err := t.newcomer()
	if err != nil {
		return nil, err
	}
	body, err := kp.LeafNode.marshal()
	if err != nil {
		return nil, err
	}
	if t.tree, err = buildTree(m.suite, trustSignatureKey{}, []string{string(body)}); err != nil {
		return nil, err
	}
	t.leaves[0] = leaf
	for i := range n - 1 {
		if err := t.commit(LeafIndex(i), kemChange{add: 1}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// newcomer makes a new client's KeyPackage with its private keys.
func (t *kemTree) newcomer() (*KeyPackage, *kemLeaf, error) {
	client, id, err := t.m.client(fmt.Sprintf("member %d", t.people))
	if err != nil {
		return nil, nil, err
	}
	t.people++
	rec, err := client.newKeyPackage(t.m.suite, id, KeyPackageOptions{Lifetime: vectorLifetime})
	if err != nil {
		return nil, nil, err
	}
	return rec.keyPackage, &kemLeaf{rec.leafKey, rec.signer, map[int]knownSecret{}}, nil
}

// kemChange is the content of a commit.
type kemChange struct {
	remove  []LeafIndex
	add     int
	partial bool // without a path
}

// state returns the public state of a group with the tree.
func (t *kemTree) state() *PublicState {
	return &PublicState{
		rules:   &rules{suite: t.m.suite, auth: trustSignatureKey{}},
		context: GroupContext{Version: MLS10, CipherSuite: t.m.suite.id, GroupID: t.groupID},
		tree:    t.tree,
	}
}

// commit makes the changes as leaf by.
func (t *kemTree) commit(by LeafIndex, c kemChange) error {
	var list []sentProposal
	var newcomers []*kemLeaf
	for _, i := range c.remove {
		list = append(list, sentProposal{Proposal: RemoveProposal(i), sender: member(by)})
		delete(t.leaves, i)
	}
	for range c.add {
		kp, leaf, err := t.newcomer()
		if err != nil {
			return err
		}
		newcomers = append(newcomers, leaf)
		list = append(list, sentProposal{Proposal: AddProposal(kp), sender: member(by)})
	}
	plan, err := t.state().planList(list, member(by), 0)
	if err != nil {
		return err
	}
	t.tree = plan.tree
	for k, i := range plan.added {
		t.leaves[i] = newcomers[k]
	}
	if !c.partial {
		if err := t.setPath(by); err != nil {
			return err
		}
	}
	t.prune()
	return nil
}

// setPath sets a new path for a leaf and passes the path secrets to the members that receive them.
func (t *kemTree) setPath(by LeafIndex) error {
	created, err := t.createPath(by)
	if err != nil {
		return err
	}
	t.tree = created.tree
	t.leaves[by].encryption = created.private.at(0)
	for i, leaf := range t.leaves {
		for k, step := range created.steps {
			if i == by || step.level >= commonLevel(by, i) {
				leaf.paths[step.level] = knownSecret{slices.Clone(created.secrets[k].Bytes()), string(created.keys[k])}
			}
		}
	}
	return nil
}

func (t *kemTree) createPath(by LeafIndex) (*createdPath, error) {
	leaf, ok := t.tree.leaf(by)
	if !ok {
		return nil, fail(ErrMisuse, "", leafName(by), "is blank")
	}
	key, err := t.m.suite.newSigner(t.leaves[by].signature.Bytes())
	if err != nil {
		return nil, err
	}
	return t.tree.createPath(t.m.rand, by, *leaf, key, t.groupID)
}

// prune deletes the secrets of nodes that are blank now, or have other keys.
func (t *kemTree) prune() {
	for i, leaf := range t.leaves {
		for level, known := range leaf.paths {
			if n := t.tree.nodeAbove(i, level); n == nil || n.blank() || n.encryptionKey() != known.pub {
				delete(leaf.paths, level)
			}
		}
	}
}

// commitContent makes a Commit by a leaf, with a proposal and a path, without changing the tree.
func (t *kemTree) commitContent(by LeafIndex) (*commitContent, error) {
	created, err := t.createPath(by)
	if err != nil {
		return nil, err
	}
	context := t.state().context
	context.TreeHash = created.tree.hash()
	path, err := created.seal(t.m.rand, context.marshal(), nil)
	if err != nil {
		return nil, err
	}
	psk := PreSharedKeyID{Type: PSKExternal, ID: t.m.bytes(8), Nonce: t.m.hash()}
	proposal := Proposal{Type: ProposalPSK, PSK: &psk}
	return &commitContent{proposals: []proposalOrRef{{proposal: &proposal}, {ref: t.m.hash()}}, path: path}, nil
}

// treeShape is a history of a group that gives a tree of a certain shape.
type treeShape struct {
	leaves int
	then   []kemCommit
}

type kemCommit struct {
	by LeafIndex
	kemChange
}

// The shapes of "Tree Validation", with a smaller largest tree, and the shape of RFC 9420 appendix A for the figure
// in which parent-hash links skip a node with an unmerged leaf.
var (
	shapeBlanks   = treeShape{8, []kemCommit{{0, kemChange{remove: []LeafIndex{2, 3}, add: 1}}}}
	shapeSkipping = treeShape{8, []kemCommit{{0, kemChange{remove: []LeafIndex{1, 2, 3}}}}}
	shapeUnmerged = treeShape{7, []kemCommit{{0, kemChange{add: 1}}}}
	shapeAppendix = treeShape{7, []kemCommit{
		{0, kemChange{remove: []LeafIndex{5}}},
		{4, kemChange{}},
		{0, kemChange{add: 1, partial: true}},
	}}
	validatedShapes = []treeShape{
		{leaves: 2}, {leaves: 3}, {leaves: 4}, {leaves: 5}, {leaves: 8}, {leaves: 17},
		shapeBlanks, shapeSkipping, shapeUnmerged, shapeAppendix,
	}
	encryptedShapes = []treeShape{{leaves: 2}, {leaves: 3}, shapeBlanks, shapeAppendix}
)

func (m *vectorMaker) grow(s treeShape) (*kemTree, error) {
	t, err := newKEMTree(m, m.bytes(16), s.leaves)
	if err != nil {
		return nil, err
	}
	for _, c := range s.then {
		if err := t.commit(c.by, c.kemChange); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func makeTreeValidations(m *vectorMaker) (cases []any, err error) {
	for _, shape := range validatedShapes {
		t, err := m.grow(shape)
		if err != nil {
			return nil, err
		}
		c := &treeValidationCase{Suite: m.suite.id, GroupID: t.groupID}
		if c.Tree, err = t.tree.encoded(); err != nil {
			return nil, err
		}
		for i := range nodeIndex(2)<<t.tree.height() - 1 {
			hash, resolution := t.tree.nodeFacts(i)
			c.Hashes = append(c.Hashes, hash)
			c.Resolutions = append(c.Resolutions, resolution)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// encoded is marshal for a field of a case.
func (t *ratchetTree) encoded() (hexData, error) {
	b, err := t.marshal()
	return b, err
}

// makeTreeOperations makes these cases: additions to a full tree and to a tree with a blank leaf, an update, and
// removals of a leaf in the middle and of the last leaf, which makes the tree smaller.
func makeTreeOperations(m *vectorMaker) (cases []any, err error) {
	for _, op := range []struct {
		shape  treeShape
		kind   ProposalType
		sender LeafIndex
		target LeafIndex
	}{
		{shape: treeShape{leaves: 4}, kind: ProposalAdd, sender: 1},
		{shape: shapeSkipping, kind: ProposalAdd, sender: 5},
		{shape: treeShape{leaves: 5}, kind: ProposalUpdate, sender: 3},
		{shape: treeShape{leaves: 5}, kind: ProposalRemove, sender: 0, target: 1},
		{shape: treeShape{leaves: 5}, kind: ProposalRemove, sender: 2, target: 4},
	} {
		t, err := m.grow(op.shape)
		if err != nil {
			return nil, err
		}
		p := RemoveProposal(op.target)
		switch op.kind {
		case ProposalAdd:
			kp, _, err := t.newcomer()
			if err != nil {
				return nil, err
			}
			p = AddProposal(kp)
		case ProposalUpdate:
			if p, err = t.update(op.sender); err != nil {
				return nil, err
			}
		}
		c, err := treeOperation(t.tree, p, op.sender)
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// update makes an Update proposal of a leaf.
func (t *kemTree) update(i LeafIndex) (Proposal, error) {
	leaf, ok := t.tree.leaf(i)
	if !ok {
		return Proposal{}, fail(ErrMisuse, "", leafName(i), "is blank")
	}
	_, pub, err := t.m.suite.generateKeyPair(t.m.rand)
	if err != nil {
		return Proposal{}, err
	}
	leaf.EncryptionKey, leaf.Source = pub, SourceUpdate
	return Proposal{Type: ProposalUpdate, Update: leaf}, leaf.sign(t.m.suite, t.leaves[i].signature, t.groupID, i)
}

func treeOperation(t *ratchetTree, p Proposal, sender LeafIndex) (*treeOperationCase, error) {
	c := &treeOperationCase{Suite: t.suite.id, Sender: uint32(sender), HashBefore: t.hash()}
	var w codec.Writer
	p.encode(&w)
	next, err := applyOne(t, p, member(sender))
	if err != nil {
		return nil, err
	}
	c.HashAfter = next.hash()
	if c.Proposal, err = w.Finish(); err != nil {
		return nil, err
	}
	if c.Before, err = t.encoded(); err != nil {
		return nil, err
	}
	c.After, err = next.encoded()
	return c, err
}

func makeTreeKEMs(m *vectorMaker) (cases []any, err error) {
	for _, shape := range encryptedShapes {
		t, err := m.grow(shape)
		if err != nil {
			return nil, err
		}
		c := &treeKEMCase{Suite: m.suite.id, GroupID: t.groupID, Epoch: uint64(m.below(1 << 20)), Confirmed: m.hash()}
		if c.Tree, err = t.tree.encoded(); err != nil {
			return nil, err
		}
		members := slices.Sorted(maps.Keys(t.leaves))
		for _, i := range members {
			c.Leaves = append(c.Leaves, t.leaves[i].private(i))
		}
		for _, i := range slices.Compact([]LeafIndex{members[0], members[len(members)/2], members[len(members)-1]}) {
			p, err := t.pathVector(c, i)
			if err != nil {
				return nil, err
			}
			c.Paths = append(c.Paths, *p)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func (l *kemLeaf) private(i LeafIndex) leafPrivate {
	p := leafPrivate{Index: uint32(i), Encryption: l.encryption.Bytes(), Signature: l.signature.Bytes(), PathSecrets: []nodePathSecret{}}
	for _, level := range slices.Sorted(maps.Keys(l.paths)) {
		p.PathSecrets = append(p.PathSecrets, nodePathSecret{uint32(nodeAt(i, level)), l.paths[level].secret})
	}
	return p
}

// pathVector makes an UpdatePath from leaf i, without changing the tree.
func (t *kemTree) pathVector(c *treeKEMCase, i LeafIndex) (*pathVector, error) {
	created, err := t.createPath(i)
	if err != nil {
		return nil, err
	}
	v := &treeKEM{suite: t.m.suite, c: c}
	path, err := created.seal(t.m.rand, v.context(created.tree), nil)
	if err != nil {
		return nil, err
	}
	var w codec.Writer
	path.encode(&w)
	p := &pathVector{Sender: uint32(i), CommitSecret: created.commit.Bytes(), HashAfter: created.tree.hash()}
	if p.Path, err = w.Finish(); err != nil {
		return nil, err
	}
	p.PathSecrets = make([]*hexData, 1<<t.tree.height())
	for j := range t.leaves {
		if secret, ok := created.secretFor(i, j); ok && j != i {
			have := hexData(secret.Bytes())
			p.PathSecrets[j] = &have
		}
	}
	return p, nil
}
