package mlscore

import (
	"github.com/mlsfed/mlsfed/mlscore/codec"
)

func makeProtection(m *vectorMaker) (cases []any, err error) {
	s := m.suite
	key, pub, err := s.generateSignatureKey(m.rand)
	if err != nil {
		return nil, err
	}
	c := &protectionCase{
		Suite:            s.id,
		GroupID:          m.bytes(20),
		Epoch:            uint64(m.below(1 << 30)),
		TreeHash:         m.hash(),
		Confirmed:        m.hash(),
		SignaturePrivate: key.Bytes(),
		SignaturePublic:  pub,
		Encryption:       m.hash(),
		SenderData:       m.hash(),
		Membership:       m.hash(),
		Application:      m.bytes(m.below(200)),
	}
	var proposal, commit codec.Writer
	remove := RemoveProposal(LeafIndex(m.below(2)))
	remove.encode(&proposal)
	t, err := newKEMTree(m, c.GroupID, 2)
	if err != nil {
		return nil, err
	}
	content, err := t.commitContent(protectionSender)
	if err != nil {
		return nil, err
	}
	content.encode(&commit)
	c.Proposal, c.Commit = proposal.Buffer(), commit.Buffer()
	return []any{c}, c.protect(m)
}

// protect fills in the messages.
func (c *protectionCase) protect(m *vectorMaker) error {
	p, err := c.shared(m.suite)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		kind            ContentType
		raw             []byte
		public, private *hexData
	}{
		{kind: ContentProposal, raw: c.Proposal, public: &c.ProposalPublic, private: &c.ProposalPrivate},
		{kind: ContentCommit, raw: c.Commit, public: &c.CommitPublic, private: &c.CommitPrivate},
		{kind: ContentApplication, raw: c.Application, private: &c.AppPrivate},
	} {
		tag := m.hash()
		if k.public != nil {
			if *k.public, err = p.protectPublic(k.kind, k.raw, tag); err != nil {
				return err
			}
		}
		if *k.private, err = p.protectPrivate(m.rand, k.kind, k.raw, tag); err != nil {
			return err
		}
	}
	return nil
}

func makeWelcomes(m *vectorMaker) (cases []any, err error) {
	s, err := m.newScene(3, 0, false)
	if err != nil {
		return nil, err
	}
	by := s.actors[1]
	if err := s.admit(by, admission{path: true}); err != nil {
		return nil, err
	}
	signer, err := m.suite.signaturePublicKey(by.id.SignatureKey.Bytes())
	c := &welcomeCase{Suite: m.suite.id, InitKey: s.c.Init, Signer: signer, KeyPackage: s.c.KeyPackage, Welcome: s.c.Welcome}
	return []any{c}, err
}

// makeMessages makes cases with one object of each kind from a live group.
func makeMessages(m *vectorMaker) (cases []any, err error) {
	s, err := m.newScene(3, 1, true)
	if err != nil {
		return nil, err
	}
	if err := s.admit(s.actors[0], admission{path: true, psk: true}); err != nil {
		return nil, err
	}
	c := &messagesCase{Welcome: s.c.Welcome, KeyPackage: s.c.KeyPackage}
	for _, step := range []func(*scene) error{c.takeState, c.takeProposals, c.takeMessages} {
		if err := step(s); err != nil {
			return nil, err
		}
	}
	return []any{c}, nil
}

func (c *messagesCase) takeState(s *scene) (err error) {
	g := s.actors[0].group
	if c.GroupInfo, err = g.GroupInfo(GroupInfoOptions{Tree: true, External: true}); err != nil {
		return err
	}
	if c.RatchetTree, err = g.Public().tree.encoded(); err != nil {
		return err
	}
	path := NewSecret(s.m.hash())
	psk := PreSharedKeyID{Type: PSKResumption, Usage: UsageBranch, GroupID: g.GroupID(), Epoch: g.Epoch(), Nonce: s.m.hash()}
	c.GroupSecrets = (&groupSecrets{NewSecret(s.m.hash()), &path, []PreSharedKeyID{psk}}).marshal()
	return nil
}

func (c *messagesCase) takeProposals(s *scene) error {
	g := s.actors[0].group
	kp, err := s.keyPackage()
	if err != nil {
		return err
	}
	psk, err := g.ExternalPSK(s.psks[0].ID)
	if err != nil {
		return err
	}
	_, pub, err := s.m.suite.generateKeyPair(s.m.rand)
	if err != nil {
		return err
	}
	kem, _, err := s.m.suite.exportTo(s.m.rand, pub, nil, externalInitLabel, s.m.suite.hashLen())
	if err != nil {
		return err
	}
	update, err := s.updateOf(s.actors[1])
	if err != nil {
		return err
	}
	required := RequiredCapabilities{Credentials: []CredentialType{CredentialBasic}}
	for _, p := range []struct {
		to *hexData
		Proposal
	}{
		{&c.Add, AddProposal(kp)},
		{&c.Update, update},
		{&c.Remove, RemoveProposal(2)},
		{&c.PSK, psk},
		{&c.ReInit, *reInitOf(s)},
		{&c.ExternalInit, Proposal{Type: ProposalExternalInit, ExternalInit: kem}},
		{&c.Extensions, ExtensionsProposal(Extensions{required.Extension()})},
	} {
		var w codec.Writer
		p.encodeBody(&w)
		*p.to = w.Buffer()
	}
	return nil
}

func reInitOf(s *scene) *Proposal {
	required := RequiredCapabilities{Extensions: []ExtensionType{ExtensionLastResort}}
	p := ReInitProposal(ReInit{
		GroupID:     s.m.bytes(16),
		Version:     MLS10,
		CipherSuite: s.m.suite.id,
		Extensions:  Extensions{required.Extension()},
	})
	return &p
}

// updateOf makes an actor propose an Update.
func (s *scene) updateOf(a *actor) (Proposal, error) {
	if err := s.proposeUpdate(a); err != nil {
		return Proposal{}, err
	}
	list := a.group.Public().Pending()
	return list[len(list)-1].Proposal, nil
}

// takeMessages fills in a proposal, a commit of it, and application data in both frames. The public frame is
// well-formed, although no group accepts it.
func (c *messagesCase) takeMessages(s *scene) (err error) {
	a := s.actors[2]
	c.PublicProposal = s.waiting[len(s.waiting)-1]
	if err := s.commit(a, CommitOptions{Proposals: []Proposal{RemoveProposal(s.actors[0].group.Self())}}); err != nil {
		return err
	}
	c.PublicCommit = s.c.Epochs[0].Commit
	m, err := parseMessage(c.PublicCommit, codec.DefaultLimits)
	if err != nil {
		return err
	}
	var w codec.Writer
	m.public.content.commit.encode(&w)
	c.Commit = w.Buffer()
	if c.PrivateProposal, err = a.group.Protect(s.m.bytes(50), MessageOptions{AuthenticatedData: s.m.bytes(5)}); err != nil {
		return err
	}
	content := a.group.content(ContentApplication, s.m.bytes(5))
	content.application = s.m.bytes(50)
	public := &publicMessage{authenticatedContent: authenticatedContent{format: WireFormatPublicMessage, content: content}}
	context := a.group.public().encoded
	if err := public.sign(s.m.suite, a.id.SignatureKey, context); err != nil {
		return err
	}
	public.membershipTag = public.tag(s.m.suite, a.group.state.secrets.membership, context)
	c.PublicAppData, err = encodeMessage(WireFormatPublicMessage, public.encode)
	return err
}
