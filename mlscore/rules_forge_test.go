package mlscore

import (
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// forgery makes a commit in the way of a member, without checking any rule and with any step changed. Later steps use
// the changed value: a fault is signed, hashed and tagged like valid content.
type forgery struct {
	by       *person
	list     []sentProposal
	noPath   bool
	noInit   bool      // an external commit without ExternalInit
	identity *Identity // the committer's next identity
	leafKey  *Secret   // signs the committer's next leaf, instead of its own key

	leaf    func(*LeafNode)                  // before the leaf is signed
	signed  func(*LeafNode)                  // after the leaf is signed
	keys    func([][]byte, *LeafNode)        // public keys of the path, from the leaf upwards, and its leaf
	secrets func(level int, s []byte) []byte // the plaintext for a level
	added   func([]LeafIndex) []LeafIndex    // the added leaves, which the path leaves out
	path    func(*updatePath)                // after the path is encrypted

	provisional func(*GroupContext) // the context for encrypting the path
	commit      func(*commitContent)
	content     func(*framedContent)        // before the content is signed
	context     func(*GroupContext)         // the context that the signature covers
	sign        func(*authenticatedContent) // after the signature
	tag         func(*authenticatedContent) // after the confirmation tag
	public      func(*publicMessage)        // after the membership tag
	format      WireFormat                  // instead of the maker's
	plain       func([]byte) []byte         // the plaintext of a PrivateMessage
	sender      func(*senderData)
	data        func([]byte) []byte   // the sender data, encoded
	private     func(*privateMessage) // after the encryption

	generation *uint32 // instead of the next
}

// value adds proposals by value.
func (f *forgery) value(list ...Proposal) *forgery {
	for _, p := range list {
		f.list = append(f.list, sentProposal{Proposal: p, sender: member(f.by.group.Self())})
	}
	return f
}

// reference adds all waiting proposals by reference.
func (f *forgery) reference() *forgery {
	for _, c := range f.by.group.public().proposals {
		f.list = append(f.list, c.sentProposal)
	}
	return f
}

// forcePlan applies a list of proposals as far as possible, even if it is invalid.
func forcePlan(t testing.TB, s *PublicState, list []sentProposal, committer Sender) *plan {
	t.Helper()
	p := &plan{list: list, committer: committer, external: committer.Type == SenderNewMemberCommit, extensions: s.context.Extensions}
	var changes []leafChange
	change := func(i LeafIndex, body string) bool {
		known := func(c leafChange) bool { return c.index == i }
		if s.tree.leafBody(i) == "" || slices.ContainsFunc(changes, known) {
			return false
		}
		changes = append(changes, leafChange{i, body})
		return true
	}
	for _, sp := range list {
		switch sp.Type {
		case ProposalAdd:
			p.packages = append(p.packages, sp.Add)
		case ProposalUpdate:
			body, err := sp.Update.marshal()
			if err != nil {
				t.Fatal(err)
			}
			if change(LeafIndex(sp.sender.Index), string(body)) {
				p.updated = append(p.updated, LeafIndex(sp.sender.Index))
			}
		case ProposalRemove:
			if member(sp.Remove) != committer && change(sp.Remove, "") {
				p.removed = append(p.removed, sp.Remove)
			}
		case ProposalPSK:
			p.psks = append(p.psks, *sp.PSK)
		case ProposalReInit:
			p.reinit = sp.ReInit
		case ProposalExternalInit:
			p.kemOutput = sp.ExternalInit
		case ProposalGroupContextExtensions:
			p.extensions = sp.Extensions
		}
	}
	e := s.tree.edit()
	if err := e.replace(changes); err != nil {
		t.Fatal(err)
	}
	e.truncate()
	if err := e.addMembers(p); err != nil {
		t.Fatal(err)
	}
	p.tree = e.finish()
	return p
}

// message makes the commit.
func (f *forgery) message(t testing.TB) []byte {
	t.Helper()
	w := f.committing(t)
	return f.protect(t, w.base, w.ac)
}

// committing makes the steps up to the next epoch.
func (f *forgery) committing(t testing.TB) *committing {
	t.Helper()
	g := f.by.group
	w := &committing{client: g.client, suite: g.suite, options: g.options, base: g.state, sender: member(g.state.self)}
	w.plan = forcePlan(t, g.public(), f.list, w.sender)
	var err error
	if w.leaf, w.signer, err = g.newLeaf(LeafUpdate{Identity: f.identity}); err != nil {
		t.Fatal(err)
	}
	f.build(t, w)
	return w
}

// external makes an external commit by p from a GroupInfo, with an ExternalInit before the proposals of the list.
func (f *forgery) external(t testing.TB, p *person, info []byte) []byte {
	t.Helper()
	g := must[*groupInfo](t)(parseGroupInfo(info, p.cfg.Limits.Codec))
	s := must[*suite](t)(suiteOf(g.context.CipherSuite))
	tree := must[[]byte](t)(g.treeFor(nil))
	public := must[*PublicState](t)(openPublicState(g, tree, p.rules(s), p.cfg.Limits))
	pub := must[[]byte](t)(g.externalPub())
	kem, init, err := s.exportTo(p.cfg.Rand, pub, nil, externalInitLabel, s.hashLen())
	if err != nil {
		t.Fatal(err)
	}
	w := &committing{client: p.Client, suite: s, sender: Sender{Type: SenderNewMemberCommit}}
	w.base = &memberState{public: public, secrets: &epochSecrets{init: init}}
	list := f.list
	if !f.noInit {
		list = append([]sentProposal{{Proposal: Proposal{Type: ProposalExternalInit, ExternalInit: kem}}}, list...)
	}
	for at := range list {
		if list[at].ref == nil {
			list[at].sender = w.sender
		}
	}
	w.plan = forcePlan(t, public, list, w.sender)
	if w.leaf, err = p.leafFor(s, p.id, nil, nil); err != nil {
		t.Fatal(err)
	}
	w.signer = p.id.SignatureKey.Clone()
	f.build(t, w)
	return f.protect(t, w.base, w.ac)
}

// build makes the steps of committing.build.
func (f *forgery) build(t testing.TB, w *committing) {
	t.Helper()
	public := w.base.public
	w.staged = &stagedCommit{plan: w.plan, tree: w.plan.tree, leaf: LeafIndex(w.sender.Index)}
	commit := &commitContent{}
	for at := range w.plan.list {
		p := &w.plan.list[at]
		if p.ref != nil {
			commit.proposals = append(commit.proposals, proposalOrRef{ref: p.ref})
		} else {
			commit.proposals = append(commit.proposals, proposalOrRef{proposal: &p.Proposal})
		}
	}
	if !f.noPath {
		base := w.plan.tree
		if w.plan.external {
			base = must[*ratchetTree](t)(public.placeJoiner(w.staged))
		}
		w.path = f.createPath(t, w, base)
		w.staged.tree = w.path.tree
	}
	w.staged.context = public.context
	w.staged.context.Epoch++ // wraps around, where provisional returns an error
	w.staged.context.TreeHash = w.staged.tree.hash()
	w.staged.context.Extensions = w.plan.extensions
	if !f.noPath {
		commit.path = f.seal(t, w)
	}
	if f.commit != nil {
		f.commit(commit)
	}
	w.ac = &authenticatedContent{
		format: WireFormatPrivateMessage,
		content: &framedContent{
			groupID: public.context.GroupID,
			epoch:   public.context.Epoch,
			sender:  w.sender,
			kind:    ContentCommit,
			commit:  commit,
		},
	}
	if w.options.PublicHandshakes || w.plan.external {
		w.ac.format = WireFormatPublicMessage
	}
	if f.content != nil {
		f.content(w.ac.content)
	}
	key := w.base.signer
	if w.plan.external {
		key = w.signer
		if f.leafKey != nil {
			key = *f.leafKey
		}
	}
	if err := w.ac.sign(w.suite, key, f.signedContext(public)); err != nil {
		t.Fatal(err)
	}
	if f.sign != nil {
		f.sign(w.ac)
	}
	if err := w.derive(); err != nil {
		t.Fatal(err)
	}
	if f.tag != nil {
		f.tag(w.ac)
	}
}

func (f *forgery) signedContext(p *PublicState) []byte {
	c := p.context.clone()
	if f.context != nil {
		f.context(&c)
	}
	return c.marshal()
}

// createPath is ratchetTree.createPath with hooks.
func (f *forgery) createPath(t testing.TB, w *committing, tree *ratchetTree) *createdPath {
	t.Helper()
	s, i := tree.suite, w.staged.leaf
	leaf := w.leaf
	c := &createdPath{leaf: &leaf, steps: tree.filteredPath(i)}
	first := drawn(t, w.client.cfg.Rand, s.hashLen())
	leafPriv, leafPub, err := s.generateKeyPair(w.client.cfg.Rand)
	if err != nil {
		t.Fatal(err)
	}
	c.private.set(0, leafPriv)
	chain := pathSecrets{s, ownSecret(first)}
	for _, step := range c.steps {
		used, priv, pub, err := chain.step()
		if err != nil {
			t.Fatal(err)
		}
		c.secrets = append(c.secrets, used)
		c.keys = append(c.keys, pub)
		c.private.set(step.level, priv)
	}
	c.commit = chain.secret
	leaf.EncryptionKey, leaf.Source = leafPub, SourceCommit
	if f.keys != nil {
		f.keys(c.keys, &leaf)
	}
	var parents []string
	parents, leaf.ParentHash = s.pathHashes(c.steps, c.keys)
	if f.leaf != nil {
		f.leaf(&leaf)
	}
	signer := w.signer
	if f.leafKey != nil {
		signer = *f.leafKey
	}
	if err := leaf.sign(s, signer, w.base.public.context.GroupID, i); err != nil {
		t.Fatal(err)
	}
	if f.signed != nil {
		f.signed(&leaf)
	}
	body := must[[]byte](t)(leaf.marshal())
	e := tree.edit()
	if err := e.setPath(newPath{leafChange{i, string(body)}, c.steps, parents}); err != nil {
		t.Fatal(err)
	}
	c.tree = e.finish()
	return c
}

// seal is createdPath.seal with hooks. If a key is invalid, the ciphertext for it is arbitrary.
func (f *forgery) seal(t testing.TB, w *committing) *updatePath {
	t.Helper()
	c, added := w.path, w.plan.added
	if f.added != nil {
		added = f.added(added)
	}
	context := w.staged.context
	if f.provisional != nil {
		f.provisional(&context)
	}
	info := w.suite.sealInfo("UpdatePathNode", context.marshal())
	p := &updatePath{leaf: c.leaf}
	for k, step := range c.steps {
		n := updatePathNode{key: c.keys[k]}
		secret := c.secrets[k].Bytes()
		if f.secrets != nil {
			secret = f.secrets(step.level, secret)
		}
		for _, to := range c.tree.resolution(step.copath, step.copathLeaf, added) {
			kem, ct, err := w.suite.encryptTo(w.client.cfg.Rand, []byte(to.key), info, secret)
			if err != nil {
				kem, ct = []byte("no"), []byte("key")
			}
			n.secrets = append(n.secrets, hpkeCiphertext{kem, ct})
		}
		p.nodes = append(p.nodes, n)
	}
	if f.path != nil {
		f.path(p)
	}
	return p
}

// protect frames signed content in the form of the maker's handshakes.
func (f *forgery) protect(t testing.TB, st *memberState, ac *authenticatedContent) []byte {
	t.Helper()
	s := f.by.group.suite
	if ac.format == WireFormatPublicMessage {
		m := &publicMessage{authenticatedContent: *ac}
		if ac.content.sender.Type == SenderMember {
			m.membershipTag = m.tag(s, st.secrets.membership, f.signedContext(st.public))
		}
		if f.public != nil {
			f.public(m)
		}
		return must[[]byte](t)(encodeMessage(WireFormatPublicMessage, m.encode))
	}
	name := ratchetFor(st.self, ac.content.kind)
	generation := st.messages.next(name)
	if f.generation != nil {
		generation = *f.generation
	}
	step := must[*treeStep](t)(st.messages.peek(name, generation, RatchetLimits{Ahead: 1 << 30}))
	defer step.discard()
	return f.encrypt(t, st.secrets.senderData, ac, step.key)
}

// encrypt is suite.protectPrivate with hooks.
func (f *forgery) encrypt(t testing.TB, secret Secret, ac *authenticatedContent, key messageKey) []byte {
	t.Helper()
	s, c := f.by.group.suite, ac.content
	var plain codec.Writer
	c.encodeBody(&plain)
	ac.encodeAuth(&plain)
	m := &privateMessage{groupID: c.groupID, epoch: c.epoch, kind: c.kind, authenticatedData: c.authenticatedData}
	d := senderData{leaf: LeafIndex(c.sender.Index), generation: key.generation}
	copy(d.guard[:], drawn(t, f.by.cfg.Rand, 4))
	var header, aad, data codec.Writer
	m.encodeHeader(&header)
	aad.Fixed(header.Buffer())
	aad.Bytes(m.authenticatedData)
	content := plain.Buffer()
	if f.plain != nil {
		content = f.plain(content)
	}
	m.ciphertext = s.aeadSeal(key.key.Bytes(), d.guard.apply(key.nonce.Bytes()), aad.Buffer(), content)
	if f.sender != nil {
		f.sender(&d)
	}
	data.Uint32(uint32(d.leaf))
	data.Uint32(d.generation)
	data.Fixed(d.guard[:])
	sealed := data.Buffer()
	if f.data != nil {
		sealed = f.data(sealed)
	}
	dataKey, dataNonce := s.senderDataKey(secret, m.ciphertext)
	m.encryptedSenderData = s.aeadSeal(dataKey.Bytes(), dataNonce.Bytes(), header.Buffer(), sealed)
	if f.private != nil {
		f.private(m)
	}
	return must[[]byte](t)(encodeMessage(WireFormatPrivateMessage, m.encode))
}

// proposal makes a proposal message. The sender is the forger unless the content hook changes it. The key is the
// forger's unless another key is given.
func (f *forgery) proposal(t testing.TB, p Proposal, key ...Secret) []byte {
	t.Helper()
	g := f.by.group
	c := g.content(ContentProposal, nil)
	c.proposal = &p
	return f.frame(t, c, key...)
}

// application makes an application message.
func (f *forgery) application(t testing.TB, data string, key ...Secret) []byte {
	t.Helper()
	c := f.by.group.content(ContentApplication, []byte("readable"))
	c.application = []byte(data)
	return f.frame(t, c, key...)
}

func (f *forgery) frame(t testing.TB, c *framedContent, key ...Secret) []byte {
	t.Helper()
	g := f.by.group
	ac := &authenticatedContent{format: WireFormatPrivateMessage, content: c}
	if f.content != nil {
		f.content(c)
	}
	if c.sender.Type != SenderMember || g.options.PublicHandshakes && c.kind != ContentApplication {
		ac.format = WireFormatPublicMessage
	}
	if f.format != 0 {
		ac.format = f.format
	}
	signer := g.state.signer
	if len(key) > 0 {
		signer = key[0]
	}
	if err := ac.sign(g.suite, signer, f.signedContext(g.public())); err != nil {
		t.Fatal(err)
	}
	if f.sign != nil {
		f.sign(ac)
	}
	return f.protect(t, g.state, ac)
}
