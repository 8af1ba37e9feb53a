package mlscore

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// statement makes a Welcome and a GroupInfo of the epoch in which a newcomer is added, with any step changed. Later
// steps use the changed value.
type statement struct {
	by       *person
	added    *KeyPackage
	joiner   *person // the newcomer
	also     []*KeyPackage
	withPath bool
	psks     []PreSharedKeyID
	forged   forgery // hooks for the commit

	bodies   func([]string) []string // the tree's nodes
	tree     func([]byte) []byte     // the tree, encoded
	context  func(*GroupContext)
	info     func(*groupInfo) // before the GroupInfo is signed
	signed   func(*groupInfo) // after it is signed
	key      *Secret          // signs, instead of the committer's key
	secrets  func(*groupSecrets)
	grouped  func([]byte) []byte // GroupSecrets, encoded
	stated   func([]byte) []byte // GroupInfo, encoded
	welcome  func(*welcome)
	outside  bool // leave the tree out
	separate bool // give the tree to the joiner separately
	honest   bool // without the change, the joiner can join

	joinerSigns bool // the joiner signs, with the key of its KeyPackage
}

// nodeBodies lists the encodings of a tree's nodes.
func nodeBodies(t testing.TB, tree *ratchetTree) []string {
	t.Helper()
	data := must[[]byte](t)(tree.marshal())
	return must[[]string](t)(splitTree(data, codec.DefaultLimits))
}

// encodeBodies is ratchetTree.marshal for nodes that need not form a valid tree.
func encodeBodies(bodies []string) []byte {
	var w codec.Writer
	w.Vector(func(w *codec.Writer) {
		for at, body := range bodies {
			w.Optional(body != "")
			if body != "" {
				w.Uint8(uint8(nodeTypeLeaf + at%2))
				w.Fixed([]byte(body))
			}
		}
	})
	return w.Buffer()
}

// staged builds the commit that adds the newcomer.
func (f *statement) staged(t testing.TB) *committing {
	t.Helper()
	forged := f.forged
	forged.by, forged.noPath, forged.list = f.by, !f.withPath, nil
	forged.value(AddProposal(f.added))
	for _, kp := range f.also {
		forged.value(AddProposal(kp))
	}
	return forged.committing(t)
}

// messages makes the Welcome, a separate GroupInfo, and the tree.
func (f *statement) messages(t testing.TB) (welcomeMessage, infoMessage, tree []byte) {
	t.Helper()
	w := f.staged(t)
	s, next := w.suite, w.next
	bodies := nodeBodies(t, next.public.tree)
	if f.bodies != nil {
		bodies = f.bodies(bodies)
	}
	context := next.public.context.clone()
	if built, err := buildTree(s, labAuth{}, bodies); err == nil {
		context.TreeHash = built.hash()
	}
	if f.context != nil {
		f.context(&context)
	}
	tree = encodeBodies(bodies)
	if f.tree != nil {
		tree = f.tree(tree)
	}
	psk := must[Secret](t)(f.by.pskSecret(s, f.psks))
	member := s.memberSecret(w.joiner, psk)
	secrets := s.epochFrom(member, context.marshal())
	_, pub, err := s.deriveKeyPair(secrets.external.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	info := &groupInfo{
		context:         context,
		extensions:      Extensions{externalPubExtension(pub)},
		confirmationTag: s.mac(secrets.confirmation.Bytes(), context.ConfirmedTranscriptHash),
		signer:          next.self,
	}
	if !f.outside {
		info.extensions = append(info.extensions, Extension{ExtensionRatchetTree, tree})
	}
	if f.info != nil {
		f.info(info)
	}
	key := next.signer
	if f.key != nil {
		key = *f.key
	}
	if f.joinerSigns {
		key = f.joiner.id.SignatureKey
	}
	if err := info.sign(s, key); err != nil {
		t.Fatal(err)
	}
	if f.signed != nil {
		f.signed(info)
	}
	infoMessage = must[[]byte](t)(encodeMessage(WireFormatGroupInfo, info.encode))

	group := &groupSecrets{joiner: w.joiner, psks: f.psks}
	if w.path != nil {
		if secret, ok := w.path.secretFor(next.self, w.plan.added[0]); ok {
			group.pathSecret = &secret
		}
	}
	if f.secrets != nil {
		f.secrets(group)
	}
	return f.sealed(t, s, info, group, member), infoMessage, tree
}

// sealed is suite.sealWelcome with hooks.
func (f *statement) sealed(t testing.TB, s *suite, info *groupInfo, group *groupSecrets, member Secret) []byte {
	t.Helper()
	key, nonce := s.welcomeKey(member)
	var plain codec.Writer
	info.encode(&plain)
	encoded := plain.Buffer()
	if f.stated != nil {
		encoded = f.stated(encoded)
	}
	m := &welcome{suite: s.id, encryptedGroupInfo: s.aeadSeal(key.Bytes(), nonce.Bytes(), nil, encoded)}
	secrets := group.marshal()
	if f.grouped != nil {
		secrets = f.grouped(secrets)
	}
	kem, ct, err := s.encryptWithLabel(f.by.cfg.Rand, f.added.InitKey, "Welcome", m.encryptedGroupInfo, secrets)
	if err != nil {
		t.Fatal(err)
	}
	m.secrets = []encryptedGroupSecrets{{must[[]byte](t)(f.added.Ref()), hpkeCiphertext{kem, ct}}}
	if f.welcome != nil {
		f.welcome(m)
	}
	return must[[]byte](t)(encodeMessage(WireFormatWelcome, m.encode))
}

// refuseJoin checks that a newcomer cannot join by a Welcome, and that the newcomer's state does not change.
func (l *lab) refuseJoin(p *person, welcomeMessage []byte, opts JoinOptions, w want) {
	l.Helper()
	before := p.snapshot(l.TB)
	g, err := p.Join(welcomeMessage, opts)
	if err == nil {
		l.Fatalf("%s joins epoch %d", p.id.Credential.Identity, g.Epoch())
	}
	w.match(l.TB, err)
	before.requireSame(l.TB, p)
}

// refuseInfo checks that neither a joiner by external commit nor a server accepts a GroupInfo.
func (l *lab) refuseInfo(p *person, info, tree []byte, w want) {
	l.Helper()
	before := p.snapshot(l.TB)
	_, err := p.ExternalJoin(p.id, info, ExternalOptions{Tree: tree})
	if err == nil {
		l.Fatal("an external commit is made for it")
	}
	w.match(l.TB, err)
	before.requireSame(l.TB, p)
	if _, err = NewPublicState(info, tree, l.publicConfig()); err == nil {
		l.Fatal("a server takes it")
	}
	w.match(l.TB, err)
}

// joins checks that the honest Welcome of the same commit lets the newcomer in.
func (l *lab) joins(p *person, f statement) {
	l.Helper()
	honest := statement{by: f.by, added: f.added, also: f.also, withPath: f.withPath, psks: f.psks}
	msg, info, _ := honest.messages(l.TB)
	if _, err := NewPublicState(info, nil, l.publicConfig()); err != nil {
		l.Fatal(err)
	}
	g, err := p.Join(msg, JoinOptions{})
	if err != nil {
		l.Fatal(err)
	}
	if !bytes.Equal(g.GroupID(), f.by.group.GroupID()) || g.Epoch() != f.by.group.Epoch()+1 {
		l.Fatalf("joined epoch %d", g.Epoch())
	}
}
