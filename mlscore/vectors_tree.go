package mlscore

import (
	"cmp"
	"crypto/rand"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// treeMathCase is a case of the format "Tree Math".
type treeMathCase struct {
	Leaves  uint32    `json:"n_leaves"`
	Nodes   uint32    `json:"n_nodes"`
	Root    uint32    `json:"root"`
	Left    []*uint32 `json:"left"`
	Right   []*uint32 `json:"right"`
	Parent  []*uint32 `json:"parent"`
	Sibling []*uint32 `json:"sibling"`
}

func (c *treeMathCase) verify(*suite) error {
	if c.Leaves == 0 || c.Leaves > maxLeaves || uint64(len(c.Left)) > 4*uint64(c.Leaves) {
		return fail(ErrMalformed, "", "n_leaves", "%d, with %d nodes listed", c.Leaves, len(c.Left))
	}
	// The size is checked before the lists, which have that length, are computed.
	if n := uint32(2)<<heightFor(int(c.Leaves)) - 1; n != c.Nodes || uint64(len(c.Left)) != uint64(n) {
		return fail(ErrInvalid, "", "n_nodes", "is %d, the vector says %d and lists %d", n, c.Nodes, len(c.Left))
	}
	got := treeMathOf(c.Leaves)
	return cmp.Or(
		sameNumber("root", got.Root, c.Root),
		sameNodes("left", got.Left, c.Left),
		sameNodes("right", got.Right, c.Right),
		sameNodes("parent", got.Parent, c.Parent),
		sameNodes("sibling", got.Sibling, c.Sibling),
	)
}

// treeMathOf computes a case for a number of leaves.
func treeMathOf(leaves uint32) *treeMathCase {
	height := heightFor(int(leaves))
	root := rootOf(height)
	c := &treeMathCase{Leaves: leaves, Nodes: 2<<height - 1, Root: uint32(root)}
	for i := range nodeIndex(c.Nodes) {
		c.Left = append(c.Left, nodeIf(i.level() > 0, i, nodeIndex.left))
		c.Right = append(c.Right, nodeIf(i.level() > 0, i, nodeIndex.right))
		c.Parent = append(c.Parent, nodeIf(i != root, i, nodeIndex.parent))
		c.Sibling = append(c.Sibling, nodeIf(i != root, i, nodeIndex.sibling))
	}
	return c
}

func nodeIf(exists bool, n nodeIndex, f func(nodeIndex) nodeIndex) *uint32 {
	if !exists {
		return nil
	}
	v := uint32(f(n))
	return &v
}

func sameNodes(object string, got, want []*uint32) error {
	if len(got) != len(want) {
		return fail(ErrInvalid, "", object, "has %d entries, not %d", len(want), len(got))
	}
	for i := range got {
		if got[i] == nil || want[i] == nil {
			if got[i] != want[i] {
				return fail(ErrInvalid, "", object, "of node %d: exists only here or only in the vector", i)
			}
			continue
		}
		if err := sameNumber(fmt.Sprintf("%s of node %d", object, i), *got[i], *want[i]); err != nil {
			return err
		}
	}
	return nil
}

// treeOperationCase is a case of the format "Tree Operations".
type treeOperationCase struct {
	Suite      CipherSuite `json:"cipher_suite"`
	Before     hexData     `json:"tree_before"`
	Proposal   hexData     `json:"proposal"`
	Sender     uint32      `json:"proposal_sender"`
	HashBefore hexData     `json:"tree_hash_before"`
	After      hexData     `json:"tree_after"`
	HashAfter  hexData     `json:"tree_hash_after"`
}

func (c *treeOperationCase) verify(s *suite) error {
	t, err := parseTree(s, trustSignatureKey{}, c.Before, codec.DefaultLimits)
	if err != nil {
		return within("tree_before", ErrMalformed, err)
	}
	before, err := t.marshal()
	if err := cmp.Or(err, same("tree_before", before, c.Before), same("tree_hash_before", t.hash(), c.HashBefore)); err != nil {
		return err
	}
	p, err := reencodes("proposal", c.Proposal, decodeProposal, func(p Proposal, w *codec.Writer) { p.encode(w) })
	if err != nil {
		return err
	}
	if t.leafBody(LeafIndex(c.Sender)) == "" {
		return fail(ErrInvalid, "", "proposal_sender", "%s is blank", leafName(LeafIndex(c.Sender)))
	}
	next, err := applyOne(t, p, member(LeafIndex(c.Sender)))
	if err != nil {
		return err
	}
	after, err := next.marshal()
	return cmp.Or(err, same("tree_after", after, c.After), same("tree_hash_after", next.hash(), c.HashAfter))
}

// applyOne applies an Add, Update or Remove to a tree, as a commit by another member would. The tree comes without
// its group, so the signature in an Update's leaf, which covers the group's id, cannot be verified.
func applyOne(t *ratchetTree, p Proposal, from Sender) (*ratchetTree, error) {
	state := &PublicState{
		rules:   &rules{suite: t.suite, auth: trustSignatureKey{}},
		context: GroupContext{Version: MLS10, CipherSuite: t.suite.id},
		tree:    t,
	}
	sp := sentProposal{Proposal: p, sender: from}
	pl := &plan{list: []sentProposal{sp}, committer: Sender{Type: SenderMember, Index: ^uint32(0)}}
	switch p.Type {
	case ProposalAdd, ProposalRemove:
		if err := state.checkProposal(&sp, pl); err != nil {
			return nil, within(sp.name(0), ErrInvalid, err)
		}
	case ProposalUpdate:
		pl.updated = []LeafIndex{LeafIndex(from.Index)}
	default:
		return nil, fail(ErrInvalid, "", "proposal", "of type %v, not add, update or remove", p.Type)
	}
	if err := state.applyList(pl); err != nil {
		return nil, err
	}
	return pl.tree, nil
}

// treeValidationCase is a case of the format "Tree Validation".
type treeValidationCase struct {
	Suite       CipherSuite `json:"cipher_suite"`
	Tree        hexData     `json:"tree"`
	GroupID     hexData     `json:"group_id"`
	Resolutions [][]uint32  `json:"resolutions"`
	Hashes      []hexData   `json:"tree_hashes"`
}

func (c *treeValidationCase) verify(s *suite) error {
	t, err := parseTree(s, trustSignatureKey{}, c.Tree, codec.DefaultLimits)
	if err != nil {
		return within("tree", ErrMalformed, err)
	}
	nodes := int(2)<<t.height() - 1
	if len(c.Hashes) != nodes || len(c.Resolutions) != nodes {
		return fail(ErrInvalid, "", "tree", "has %d nodes, the vector %d hashes and %d resolutions", nodes, len(c.Hashes), len(c.Resolutions))
	}
	for i := range nodeIndex(nodes) {
		hash, resolution := t.nodeFacts(i)
		if err := cmp.Or(same("tree hash", hash, c.Hashes[i]), sameResolution(resolution, c.Resolutions[i])); err != nil {
			return within(fmt.Sprintf("node %d", i), ErrInvalid, err)
		}
	}
	// The state validates parent hashes, signatures of leaves and all other checks of a joiner.
	state := &PublicState{
		rules:   &rules{suite: s, auth: trustSignatureKey{}},
		context: GroupContext{Version: MLS10, CipherSuite: s.id, GroupID: c.GroupID},
		tree:    t,
	}
	return state.validateTree()
}

// nodeFacts returns the tree hash and the resolution of any node, including a node inside a collapsed blank subtree.
func (t *ratchetTree) nodeFacts(i nodeIndex) (hash []byte, resolution []uint32) {
	resolution = []uint32{}
	n := t.nodeAbove(i.firstLeaf(), i.level())
	if n == nil {
		return []byte(t.suite.blankHash(i.level(), i.firstLeaf())), resolution
	}
	for _, r := range t.resolution(n, i.firstLeaf(), nil) {
		resolution = append(resolution, uint32(r.node))
	}
	return []byte(t.suite.treeHash(n, i.firstLeaf())), resolution
}

func sameResolution(got, want []uint32) error {
	if err := sameNumber("length of the resolution", len(got), len(want)); err != nil {
		return err
	}
	for k := range got {
		if err := sameNumber(fmt.Sprintf("resolution, entry %d", k), got[k], want[k]); err != nil {
			return err
		}
	}
	return nil
}

// treeKEMCase is a case of the format "TreeKEM".
type treeKEMCase struct {
	Suite     CipherSuite   `json:"cipher_suite"`
	GroupID   hexData       `json:"group_id"`
	Epoch     uint64        `json:"epoch"`
	Confirmed hexData       `json:"confirmed_transcript_hash"`
	Tree      hexData       `json:"ratchet_tree"`
	Leaves    []leafPrivate `json:"leaves_private"`
	Paths     []pathVector  `json:"update_paths"`
}

// leafPrivate is the private state of a member.
type leafPrivate struct {
	Index       uint32           `json:"index"`
	Encryption  hexData          `json:"encryption_priv"`
	Signature   hexData          `json:"signature_priv"`
	PathSecrets []nodePathSecret `json:"path_secrets"`
}

type nodePathSecret struct {
	Node   uint32  `json:"node"`
	Secret hexData `json:"path_secret"`
}

// pathVector is an UpdatePath and the results of processing it for each leaf.
type pathVector struct {
	Sender       uint32     `json:"sender"`
	Path         hexData    `json:"update_path"`
	PathSecrets  []*hexData `json:"path_secrets"` // by leaf; null for the sender and for blank leaves
	CommitSecret hexData    `json:"commit_secret"`
	HashAfter    hexData    `json:"tree_hash_after"`
}

func (c *treeKEMCase) verify(s *suite) error {
	t, err := parseTree(s, trustSignatureKey{}, c.Tree, codec.DefaultLimits)
	if err != nil {
		return within("ratchet_tree", ErrMalformed, err)
	}
	if len(c.Leaves) == 0 || len(c.Paths) == 0 {
		return fail(ErrMalformed, "", "case", "has %d leaves_private and %d update_paths", len(c.Leaves), len(c.Paths))
	}
	v := &treeKEM{suite: s, tree: t, c: c, private: map[LeafIndex]pathKeys{}, signers: map[LeafIndex]Secret{}}
	for i := range c.Leaves {
		if err := v.takeLeaf(&c.Leaves[i]); err != nil {
			return within(fmt.Sprintf("leaves_private[%d]", i), ErrInvalid, err)
		}
	}
	if err := sameNumber("number of leaves with private keys", t.members(), len(v.private)); err != nil {
		return err
	}
	for i := range c.Paths {
		if err := v.verifyPath(&c.Paths[i]); err != nil {
			return within(fmt.Sprintf("update_paths[%d]", i), ErrInvalid, err)
		}
	}
	return nil
}

// treeKEM is a case with the private states of all members.
type treeKEM struct {
	suite   *suite
	tree    *ratchetTree
	c       *treeKEMCase
	private map[LeafIndex]pathKeys
	signers map[LeafIndex]Secret
}

// takeLeaf makes a member's private state and compares it with the tree.
func (v *treeKEM) takeLeaf(l *leafPrivate) error {
	i := LeafIndex(l.Index)
	leaf, ok := v.tree.leaf(i)
	if !ok {
		return fail(ErrInvalid, "", leafName(i), "is blank")
	}
	if _, twice := v.private[i]; twice {
		return fail(ErrMalformed, "", leafName(i), "is there twice")
	}
	encryption, err := v.suite.publicKeyOf(v.suite.privateKeyOf(l.Encryption))
	if err != nil {
		return err
	}
	signature, err := v.suite.signaturePublicKey(v.suite.privateKeyOf(l.Signature))
	if err != nil {
		return err
	}
	if err := cmp.Or(
		same("public key of encryption_priv", encryption, leaf.EncryptionKey),
		same("public key of signature_priv", signature, leaf.SignatureKey),
	); err != nil {
		return err
	}
	var keys pathKeys
	keys.set(0, NewSecret(v.suite.privateKeyOf(l.Encryption)))
	for _, p := range l.PathSecrets {
		if err := v.takeSecret(&keys, i, p); err != nil {
			return within(fmt.Sprintf("path secret of node %d", p.Node), ErrInvalid, err)
		}
	}
	v.private[i], v.signers[i] = keys, NewSecret(v.suite.privateKeyOf(l.Signature))
	return nil
}

// takeSecret adds the private key that is derived from a path secret.
func (v *treeKEM) takeSecret(keys *pathKeys, i LeafIndex, p nodePathSecret) error {
	at := nodeIndex(p.Node)
	level := at.level()
	if level == 0 || level > v.tree.height() || !at.covers(i) {
		return fail(ErrInvalid, "", nodeName(at), "is not above %s", leafName(i))
	}
	n := v.tree.nodeAbove(i, level)
	if n == nil || n.blank() {
		return fail(ErrInvalid, "", nodeName(at), "is blank")
	}
	secret, err := v.suite.secretOf("path secret", p.Secret)
	if err != nil {
		return err
	}
	chain := pathSecrets{v.suite, secret}
	_, priv, pub, err := chain.step()
	if err != nil {
		return err
	}
	keys.set(level, priv)
	return same("public key", pub, []byte(n.encryptionKey()))
}

// context returns the GroupContext for a path that leads to a tree.
func (v *treeKEM) context(t *ratchetTree) []byte {
	c := GroupContext{
		Version:                 MLS10,
		CipherSuite:             v.suite.id,
		GroupID:                 v.c.GroupID,
		Epoch:                   v.c.Epoch,
		TreeHash:                t.hash(),
		ConfirmedTranscriptHash: v.c.Confirmed,
	}
	return c.marshal()
}

func (v *treeKEM) verifyPath(p *pathVector) error {
	i := LeafIndex(p.Sender)
	if v.tree.leafBody(i) == "" {
		return fail(ErrInvalid, "", "sender", "%s is blank", leafName(i))
	}
	if len(p.PathSecrets) != 1<<v.tree.height() {
		return fail(ErrMalformed, "", "path_secrets", "%d, the tree has %d leaves", len(p.PathSecrets), 1<<v.tree.height())
	}
	merged, err := v.merge(i, p.Path)
	if err != nil {
		return err
	}
	if err := same("tree_hash_after", merged.tree.hash(), p.HashAfter); err != nil {
		return err
	}
	for j, want := range p.PathSecrets {
		j := LeafIndex(j)
		if receives := j != i && v.tree.leafBody(j) != ""; receives != (want != nil) {
			return fail(ErrInvalid, "", "path_secrets", "null for a leaf that receives, or not null for one that does not: %s", leafName(j))
		}
		if want == nil {
			continue
		}
		if err := v.open(merged, j, *want, p.CommitSecret); err != nil {
			return within("at "+leafName(j), ErrInvalid, err)
		}
	}
	return within("path made here", ErrInvalid, v.verifyOwnPath(i))
}

// merge checks an encoded path from leaf i, its leaf's signature and its parent hashes, and merges it into the tree.
func (v *treeKEM) merge(i LeafIndex, path []byte) (*receivedPath, error) {
	p, err := reencodes("update_path", path, decodeUpdatePath, (*updatePath).encode)
	if err != nil {
		return nil, err
	}
	if p.leaf.Source != SourceCommit {
		return nil, fail(ErrInvalid, "§7.3", "update_path", "leaf node source is %d, not commit", p.leaf.Source)
	}
	if err := p.leaf.verifySignature(v.suite, v.c.GroupID, i); err != nil {
		return nil, err
	}
	merged, err := v.tree.mergePath(i, p, nil)
	if err != nil {
		return nil, err
	}
	return merged, merged.tree.verifyParentHashes()
}

// open processes a path as leaf j.
func (v *treeKEM) open(r *receivedPath, j LeafIndex, pathSecret, commitSecret []byte) error {
	context := v.context(r.tree)
	k, secret, err := r.decrypt(j, v.private[j], context)
	if err != nil {
		return err
	}
	if pathSecret != nil {
		if err := same("path secret", secret.Bytes(), pathSecret); err != nil {
			return err
		}
	}
	_, commit, err := r.derive(k, secret)
	return cmp.Or(err, same("commit_secret", commit.Bytes(), commitSecret))
}

// verifyOwnPath makes another path from leaf i, and all members process it.
func (v *treeKEM) verifyOwnPath(i LeafIndex) error {
	leaf, ok := v.tree.leaf(i)
	if !ok {
		return fail(ErrInvalid, "", leafName(i), "is blank")
	}
	key, err := v.tree.suite.newSigner(v.signers[i].Bytes())
	if err != nil {
		return err
	}
	created, err := v.tree.createPath(rand.Reader, i, *leaf, key, v.c.GroupID)
	if err != nil {
		return err
	}
	path, err := created.seal(rand.Reader, v.context(created.tree), nil)
	if err != nil {
		return err
	}
	var w codec.Writer
	path.encode(&w)
	merged, err := v.merge(i, w.Buffer())
	if err != nil {
		return err
	}
	if err := same("tree hash after it", merged.tree.hash(), created.tree.hash()); err != nil {
		return err
	}
	for j := range v.private {
		if j == i {
			continue
		}
		if err := v.open(merged, j, nil, created.commit.Bytes()); err != nil {
			return within("at "+leafName(j), ErrInvalid, err)
		}
	}
	return nil
}
