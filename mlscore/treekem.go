package mlscore

import (
	"fmt"
	"io"
)

// pathKeys are the private keys that a member holds for its direct path, by level: level 0 is the leaf. The Secret of
// a level without a key is empty.
type pathKeys []Secret

// at returns the key at a level.
func (k pathKeys) at(level int) Secret {
	if level < len(k) {
		return k[level]
	}
	return Secret{}
}

// set sets the key at a level.
func (k *pathKeys) set(level int, key Secret) {
	for len(*k) <= level {
		*k = append(*k, Secret{})
	}
	(*k)[level] = key
}

func (k pathKeys) erase() { eraseAll(k...) }

// carryOver copies the keys of those nodes above leaf i that next still has, so that the keys of the old epoch can be
// erased separately.
func (k pathKeys) carryOver(old, next *ratchetTree, i LeafIndex) pathKeys {
	var out pathKeys
	for level := range k {
		if k[level].Len() == 0 {
			continue
		}
		o, n := old.nodeAbove(i, level), next.nodeAbove(i, level)
		if o != nil && n != nil && !n.blank() && n.encryptionKey() == o.encryptionKey() {
			out.set(level, k[level].Clone())
		}
	}
	return out
}

// missing returns a node above leaf i whose private key the member should hold and does not: a node that is not blank
// and does not list the leaf as unmerged (§4.2).
func (k pathKeys) missing(t *ratchetTree, i LeafIndex) (at nodeIndex, found bool) {
	for level := 0; level <= t.height(); level++ {
		n := t.nodeAbove(i, level)
		if n != nil && !n.blank() && k.at(level).Len() == 0 && !containsLeaf(n.unmerged(), i) {
			return nodeAt(i, level), true
		}
	}
	return 0, false
}

// pathSecrets derives the chain of §7.4 from a first path secret over n nodes.
type pathSecrets struct {
	suite  *suite
	secret Secret // of the next node
}

// step derives the key pair of the next node and advances to the node above. It returns the path secret that was
// used, which the caller must erase.
func (p *pathSecrets) step() (used, priv Secret, pub []byte, err error) {
	used = p.secret
	node := p.suite.deriveSecret(used.Bytes(), "node")
	defer node.Erase()
	priv, pub, err = p.suite.deriveKeyPair(node.Bytes())
	p.secret = p.suite.deriveSecret(used.Bytes(), "path")
	return used, priv, pub, err
}

// createdPath is a member's new path before and after it is encrypted.
type createdPath struct {
	tree    *ratchetTree
	leaf    *LeafNode
	steps   []pathStep
	keys    [][]byte // public keys, in the order of steps
	secrets []Secret // path secrets, in the order of steps
	private pathKeys // of the sender's direct path
	commit  Secret   // commit_secret
}

func (c *createdPath) erase() {
	if c != nil {
		eraseAll(c.secrets...)
		eraseAll(c.commit)
	}
}

// createPath generates new keys for leaf i and its filtered direct path in t, and signs the leaf (RFC 9420 §7.4,
// §7.5). leaf holds the sender's other fields; createPath sets its keys, source, parent hash and signature. t must
// hold leaf i.
func (t *ratchetTree) createPath(rand io.Reader, i LeafIndex, leaf LeafNode, key *signer, groupID []byte) (*createdPath, error) {
	s := t.suite
	c := &createdPath{leaf: &leaf, steps: t.filteredPath(i)}
	first := make([]byte, s.hashLen())
	if _, err := io.ReadFull(rand, first); err != nil {
		return nil, fmt.Errorf("read randomness for a path secret: %w", err)
	}
	leafPriv, leafPub, err := s.generateKeyPair(rand)
	if err != nil {
		return nil, err
	}
	c.private.set(0, leafPriv)
	chain := pathSecrets{s, ownSecret(first)}
	for _, step := range c.steps {
		used, priv, pub, err := chain.step()
		if err != nil {
			return nil, err
		}
		c.secrets = append(c.secrets, used)
		c.keys = append(c.keys, pub)
		c.private.set(step.level, priv)
	}
	c.commit = chain.secret
	var parents []string
	parents, leaf.ParentHash = s.pathHashes(c.steps, c.keys)
	leaf.EncryptionKey, leaf.Source = leafPub, SourceCommit
	if err := leaf.signWith(key, groupID, i); err != nil {
		return nil, err
	}
	body, err := leaf.marshal()
	if err != nil {
		return nil, err
	}
	e := t.edit()
	if err := e.setPath(newPath{leafChange{i, string(body)}, c.steps, parents}); err != nil {
		return nil, err
	}
	c.tree = e.finish()
	return c, nil
}

// seal encrypts the path secrets to the resolutions of the copath, without the leaves that the same
// commit adds (§7.6). context is the provisional GroupContext.
func (c *createdPath) seal(rand io.Reader, context []byte, added []LeafIndex) (*updatePath, error) {
	s := c.tree.suite
	info := s.sealInfo("UpdatePathNode", context)
	var list []sealing
	ends := make([]int, len(c.steps))
	for k, step := range c.steps {
		for _, to := range c.tree.resolution(step.copath, step.copathLeaf, added) {
			list = append(list, sealing{
				name:      "path secret for " + nodeName(to.node),
				key:       []byte(to.key),
				info:      info,
				plaintext: c.secrets[k].Bytes(),
			})
		}
		ends[k] = len(list)
	}
	sealed, err := s.sealAll(rand, list)
	if err != nil {
		return nil, err
	}
	p := &updatePath{leaf: c.leaf, nodes: make([]updatePathNode, len(c.steps))}
	start := 0
	for k, end := range ends {
		p.nodes[k] = updatePathNode{c.keys[k], sealed[start:end]}
		start = end
	}
	return p, nil
}

// secretFor returns the path secret of the lowest node that leaf j shares with the sender at i.
func (c *createdPath) secretFor(i, j LeafIndex) (Secret, bool) {
	level := commonLevel(i, j)
	for k, step := range c.steps {
		if step.level == level {
			return c.secrets[k], true
		}
	}
	return Secret{}, false
}

// receivedPath is a path as a receiver has merged it.
type receivedPath struct {
	tree  *ratchetTree
	steps []pathStep
	path  *updatePath
	leaf  LeafIndex
	added []LeafIndex
}

// mergePath checks the form of an UpdatePath from leaf i and sets it in a new tree (§7.5, §12.4.2). The caller must
// validate the leaf itself.
func (t *ratchetTree) mergePath(i LeafIndex, p *updatePath, added []LeafIndex) (*receivedPath, error) {
	s := t.suite
	const object = "update path"
	steps := t.filteredPath(i)
	if len(p.nodes) != len(steps) {
		return nil, fail(ErrInvalid, "§7.6", object, "%d nodes, the filtered direct path has %d", len(p.nodes), len(steps))
	}
	keys := make([][]byte, len(steps))
	seen := map[string]bool{}
	fresh := func(at nodeIndex, key []byte) error {
		if other, used := t.otherNode(noNode, key); used {
			return fail(ErrInvalid, "§12.4.2", object, "key of %s is not new: it is used at %s", nodeName(at), nodeName(other))
		}
		if seen[string(key)] {
			return fail(ErrInvalid, "§12.4.2", object, "key of %s is in the path twice", nodeName(at))
		}
		seen[string(key)] = true
		return nil
	}
	if err := fresh(i.node(), p.leaf.EncryptionKey); err != nil {
		return nil, err
	}
	for k, n := range p.nodes {
		at := nodeAt(i, steps[k].level)
		if err := s.validatePublicKey(n.key); err != nil {
			return nil, within(object+", "+nodeName(at), ErrInvalid, err)
		}
		if err := fresh(at, n.key); err != nil {
			return nil, err
		}
		keys[k] = n.key
		want := len(t.resolution(steps[k].copath, steps[k].copathLeaf, added))
		if len(n.secrets) != want {
			return nil, fail(ErrInvalid, "§7.6", object, "%d ciphertexts at %s, the copath's resolution has %d", len(n.secrets), nodeName(at), want)
		}
	}
	parents, leafHash := s.pathHashes(steps, keys)
	if string(leafHash) != string(p.leaf.ParentHash) {
		return nil, fail(ErrForged, "§7.9.2", object, "parent hash of %s is not that of the path", leafName(i))
	}
	body, err := p.leaf.marshal()
	if err != nil {
		return nil, err
	}
	e := t.edit()
	if err := e.setPath(newPath{leafChange{i, string(body)}, steps, parents}); err != nil {
		return nil, err
	}
	return &receivedPath{tree: e.finish(), steps: steps, path: p, leaf: i, added: added}, nil
}

// open decrypts the path secret for leaf me and derives all secrets above it (§7.5): the private keys by level, and
// the commit secret.
func (r *receivedPath) open(me LeafIndex, keys pathKeys, context []byte) (pathKeys, Secret, error) {
	k, secret, err := r.decrypt(me, keys, context)
	if err != nil {
		return nil, Secret{}, err
	}
	return r.derive(k, secret)
}

// decrypt returns the path secret for leaf me, and the step to which it belongs.
func (r *receivedPath) decrypt(me LeafIndex, keys pathKeys, context []byte) (k int, secret Secret, err error) {
	s := r.tree.suite
	level := commonLevel(r.leaf, me)
	for k < len(r.steps) && r.steps[k].level != level {
		k++
	}
	if k == len(r.steps) {
		return 0, Secret{}, fail(ErrInvalid, "§7.5", "update path", "has no node above %s", leafName(me))
	}
	step := r.steps[k]
	for at, to := range r.tree.resolution(step.copath, step.copathLeaf, r.added) {
		if !to.node.covers(me) {
			continue
		}
		key := keys.at(to.node.level())
		if key.Len() == 0 {
			continue
		}
		c := r.path.nodes[k].secrets[at]
		secret, err := s.decryptLabelled(key.Bytes(), []byte(to.key), "UpdatePathNode", context, c.kemOutput, c.ciphertext)
		if err != nil {
			return 0, Secret{}, because(err, ErrForged, "§7.6", "update path", "path secret for %s does not decrypt", nodeName(to.node))
		}
		if err := s.checkSecretLen("path secret", len(secret)); err != nil {
			return 0, Secret{}, within("update path", ErrInvalid, err)
		}
		return k, ownSecret(secret), nil
	}
	return 0, Secret{}, fail(ErrMissing, "§7.5", "update path", "%s holds no private key of the copath's resolution", leafName(me))
}

// checkSecretLen refuses a secret from another member that does not have the length of a hash (§7.4).
func (s *suite) checkSecretLen(what string, n int) error {
	if n != s.hashLen() {
		return fail(ErrInvalid, "§7.4", what, "%d bytes, not %d", n, s.hashLen())
	}
	return nil
}

// derive derives the chain from the path secret of step k to the root and compares each public key.
func (r *receivedPath) derive(k int, secret Secret) (pathKeys, Secret, error) {
	chain := pathSecrets{r.tree.suite, secret}
	var keys pathKeys
	for ; k < len(r.steps); k++ {
		used, priv, pub, err := chain.step()
		used.Erase()
		if err != nil {
			return nil, Secret{}, err
		}
		if string(pub) != string(r.path.nodes[k].key) {
			keys.erase()
			return nil, Secret{}, fail(ErrForged, "§7.5", "update path",
				"key of %s is not the one that its path secret gives", nodeName(nodeAt(r.leaf, r.steps[k].level)))
		}
		keys.set(r.steps[k].level, priv)
	}
	return keys, chain.secret, nil
}

// keysFromWelcome derives a new member's private keys from the path secret in its Welcome (§12.4.3.1): the keys of
// the lowest common ancestor with the committer, and of all non-blank nodes above.
func (t *ratchetTree) keysFromWelcome(me, committer LeafIndex, secret Secret) (pathKeys, error) {
	chain := pathSecrets{t.suite, secret.Clone()}
	defer func() { chain.secret.Erase() }()
	var keys pathKeys
	start := commonLevel(me, committer)
	first := true
	for level := start; level <= t.height(); level++ {
		n := t.nodeAbove(me, level)
		if n == nil || n.blank() {
			if first {
				return nil, fail(ErrInvalid, "§12.4.3.1", "Welcome", "path secret for blank %s", nodeName(nodeAt(me, level)))
			}
			continue
		}
		first = false
		used, priv, pub, err := chain.step()
		used.Erase()
		if err != nil {
			return nil, err
		}
		if string(pub) != n.encryptionKey() {
			return nil, fail(ErrForged, "§12.4.3.1", "Welcome", "path secret does not give the key of %s", nodeName(nodeAt(me, level)))
		}
		keys.set(level, priv)
	}
	return keys, nil
}
