package mlscore

import (
	"fmt"
	"io"
)

// fabricate makes a group of n members, at least 2, at once instead of commit by commit: see mlsbench.Fabricate.
func fabricate(n int, clients [2]*Client, ids [2]Identity, groupID []byte, opts GroupOptions) (first, last *Group, err error) {
	if n < 2 || n > maxLeaves {
		return nil, nil, fail(ErrMisuse, "", "fabricated group", "%d members, from 2 to %d are possible", n, maxLeaves)
	}
	s, err := suiteOf(ids[0].CipherSuite)
	if err != nil {
		return nil, nil, err
	}
	f := &fabricator{
		suite: s, n: n, clients: clients, ids: ids, groupID: groupID, rand: clients[0].cfg.Rand,
		nodes: make([]fabricatedNode, 2*n-1),
	}
	if err := f.generate(); err != nil {
		return nil, nil, err
	}
	f.hasher = s.kdf.get()
	defer s.kdf.put(f.hasher)
	if _, err := f.build(heightFor(n), 0, nil); err != nil {
		return nil, nil, err
	}
	return f.groups(opts)
}

type fabricator struct {
	suite   *suite
	hasher  *hasher
	n       int
	clients [2]*Client
	ids     [2]Identity
	groupID []byte
	rand    io.Reader
	nodes   []fabricatedNode
	keys    [2]pathKeys
	signers []Secret
}

type fabricatedNode struct {
	key  []byte
	leaf LeafNode
	body string
}

// real returns 0 or 1 for the leaf of a real member, and -1 for the others.
func (f *fabricator) real(i LeafIndex) int {
	switch int(i) {
	case 0:
		return 0
	case f.n - 1:
		return 1
	}
	return -1
}

// generate makes the keys of all nodes, and keeps the private ones of the real members' paths.
func (f *fabricator) generate() error {
	last := LeafIndex(f.n - 1)
	for at := range f.nodes {
		n := nodeIndex(at)
		priv, pub, err := f.suite.generateKeyPair(f.rand)
		if err != nil {
			return err
		}
		f.nodes[at].key = pub
		for who, leaf := range [2]LeafIndex{0, last} {
			if n.covers(leaf) {
				f.keys[who].set(n.level(), priv)
			}
		}
	}
	f.signers = make([]Secret, f.n)
	for i := range f.signers {
		leaf, err := f.newLeaf(LeafIndex(i))
		if err != nil {
			return err
		}
		leaf.EncryptionKey, leaf.Source = f.nodes[2*i].key, SourceCommit
		f.nodes[2*i].leaf = leaf
	}
	return nil
}

func (f *fabricator) newLeaf(i LeafIndex) (LeafNode, error) {
	if who := f.real(i); who >= 0 {
		f.signers[i] = f.ids[who].SignatureKey
		return f.clients[who].leafFor(f.suite, f.ids[who], nil, nil)
	}
	priv, pub, err := f.suite.generateSignatureKey(f.rand)
	if err != nil {
		return LeafNode{}, err
	}
	f.signers[i] = priv
	caps, err := f.clients[0].capabilities(f.suite, CredentialBasic, nil)
	credential := BasicCredential(fmt.Appendf(nil, "member %d", i))
	return LeafNode{SignatureKey: pub, Credential: credential, Capabilities: caps}, err
}

// build sets the parent hash of every parent below a node and the signature of every leaf, and returns the node's
// tree hash. The left child vouches for its parent (RFC 9420 §7.9), so the right child is built first.
func (f *fabricator) build(level int, first LeafIndex, parentHash []byte) (string, error) {
	at := nodeAt(first, level)
	if int(first) >= f.n {
		return f.hasher.blankHash(level, first), nil
	}
	if level == 0 {
		return f.buildLeaf(first, parentHash)
	}
	middle := first + 1<<(level-1)
	if int(middle) >= f.n { // no member on the right: a blank parent, that the left child skips
		left, err := f.build(level-1, first, parentHash)
		return f.hasher.parentTreeHash("", left, f.hasher.blankHash(level-1, middle)), err
	}
	right, err := f.build(level-1, middle, nil)
	if err != nil {
		return "", err
	}
	n := &f.nodes[at]
	n.body = parentBody(n.key, parentHash, nil)
	left, err := f.build(level-1, first, f.suite.parentHashOf(string(n.key), string(parentHash), right))
	return f.hasher.parentTreeHash(n.body, left, right), err
}

func (f *fabricator) buildLeaf(i LeafIndex, parentHash []byte) (string, error) {
	n := &f.nodes[i.node()]
	n.leaf.ParentHash = parentHash
	if err := n.leaf.sign(f.suite, f.signers[i], f.groupID, i); err != nil {
		return "", err
	}
	body, err := n.leaf.marshal()
	n.body, n.leaf = string(body), LeafNode{}
	return f.hasher.leafTreeHash(i, n.body), err
}

// groups makes the two real members' views of the group, in one epoch.
func (f *fabricator) groups(opts GroupOptions) (first, last *Group, err error) {
	bodies := make([]string, len(f.nodes))
	for i := range f.nodes {
		bodies[i] = f.nodes[i].body
	}
	f.nodes = nil
	seed := make([]byte, f.suite.hashLen())
	if _, err := io.ReadFull(f.rand, seed); err != nil {
		return nil, nil, fmt.Errorf("read randomness for an epoch secret: %w", err)
	}
	epoch := ownSecret(seed)
	defer epoch.Erase()
	for who, group := range [2]**Group{&first, &last} {
		c := f.clients[who]
		t, err := buildTree(f.suite, c.cfg.Auth, bodies)
		if err != nil {
			return nil, nil, err
		}
		p := &PublicState{rules: c.rules(f.suite), limits: c.cfg.Limits, tree: t, context: GroupContext{
			Version: MLS10, CipherSuite: f.suite.id, GroupID: f.groupID, Epoch: 1,
			TreeHash: t.hash(), ConfirmedTranscriptHash: f.suite.hash(seed),
		}}
		p.encoded = p.context.marshal()
		st := &memberState{public: p, signer: f.ids[who].SignatureKey.Clone(), keys: f.keys[who], secrets: f.suite.deriveEpoch(epoch)}
		st.self = [2]LeafIndex{0, LeafIndex(f.n - 1)}[who]
		st.confirm(f.suite)
		p.interim = f.suite.interimTranscript(p.context.ConfirmedTranscriptHash, st.confirmationTag)
		g := &Group{client: c, suite: f.suite, options: opts, updates: map[string]*ownUpdate{}}
		g.enter(st)
		var b Batch
		if err := g.writeFounding(&b); err != nil {
			return nil, nil, err
		}
		err = applyBatch(c.cfg.Store, b)
		b.erase()
		if err != nil {
			return nil, nil, err
		}
		*group = g
	}
	return first, last, nil
}
