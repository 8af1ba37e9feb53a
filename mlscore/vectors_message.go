package mlscore

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// protectionCase is a case of the format "Message Protection".
type protectionCase struct {
	Suite            CipherSuite `json:"cipher_suite"`
	GroupID          hexData     `json:"group_id"`
	Epoch            uint64      `json:"epoch"`
	TreeHash         hexData     `json:"tree_hash"`
	Confirmed        hexData     `json:"confirmed_transcript_hash"`
	SignaturePrivate hexData     `json:"signature_priv"`
	SignaturePublic  hexData     `json:"signature_pub"`
	Encryption       hexData     `json:"encryption_secret"`
	SenderData       hexData     `json:"sender_data_secret"`
	Membership       hexData     `json:"membership_key"`
	Proposal         hexData     `json:"proposal"`
	ProposalPublic   hexData     `json:"proposal_pub"`
	ProposalPrivate  hexData     `json:"proposal_priv"`
	Commit           hexData     `json:"commit"`
	CommitPublic     hexData     `json:"commit_pub"`
	CommitPrivate    hexData     `json:"commit_priv"`
	Application      hexData     `json:"application"`
	AppPrivate       hexData     `json:"application_priv"`
}

// protection is the state that two members share in a case of message protection. The sender is leaf 1.
type protection struct {
	suite      *suite
	groupID    []byte
	epoch      uint64
	context    []byte
	signer     Secret
	public     []byte
	encryption []byte
	senderData Secret
	membership Secret
}

const protectionSender LeafIndex = 1

func (c *protectionCase) shared(s *suite) (*protection, error) {
	context := GroupContext{
		Version:                 MLS10,
		CipherSuite:             s.id,
		GroupID:                 c.GroupID,
		Epoch:                   c.Epoch,
		TreeHash:                c.TreeHash,
		ConfirmedTranscriptHash: c.Confirmed,
	}
	senderData, err := s.secretOf("sender_data_secret", c.SenderData)
	if err != nil {
		return nil, err
	}
	if _, err := s.secretOf("encryption_secret", c.Encryption); err != nil {
		return nil, err
	}
	return &protection{
		suite:      s,
		groupID:    c.GroupID,
		epoch:      c.Epoch,
		context:    context.marshal(),
		signer:     NewSecret(s.privateKeyOf(c.SignaturePrivate)),
		public:     c.SignaturePublic,
		encryption: c.Encryption,
		senderData: senderData,
		membership: NewSecret(c.Membership),
	}, nil
}

func (c *protectionCase) verify(s *suite) error {
	p, err := c.shared(s)
	if err != nil {
		return err
	}
	pub, err := s.signaturePublicKey(p.signer.Bytes())
	if err := cmp.Or(err, same("public key of signature_priv", pub, c.SignaturePublic)); err != nil {
		return err
	}
	for _, k := range []struct {
		name            string
		kind            ContentType
		raw             []byte
		public, private []byte
	}{
		{name: "proposal", kind: ContentProposal, raw: c.Proposal, public: c.ProposalPublic, private: c.ProposalPrivate},
		{name: "commit", kind: ContentCommit, raw: c.Commit, public: c.CommitPublic, private: c.CommitPrivate},
		{name: "application", kind: ContentApplication, raw: c.Application, private: c.AppPrivate},
	} {
		if err := p.verify(k.kind, k.raw, k.public, k.private); err != nil {
			return within(k.name, ErrInvalid, err)
		}
	}
	return nil
}

// verify opens the messages of a case, and other messages that it makes with the same content.
func (p *protection) verify(kind ContentType, raw, public, private []byte) error {
	tag := p.suite.mac(p.membership.Bytes(), raw) // used as the confirmation tag, which nothing here checks
	if kind == ContentApplication {
		if err := p.refusesPublic(raw); err != nil {
			return err
		}
	} else {
		if err := p.openPublic(kind, raw, public); err != nil {
			return within("pub", ErrInvalid, err)
		}
		again, err := p.protectPublic(kind, raw, tag)
		if err := cmp.Or(err, p.openPublic(kind, raw, again)); err != nil {
			return within("PublicMessage made here", ErrInvalid, err)
		}
	}
	if err := p.openPrivate(kind, raw, private); err != nil {
		return within("priv", ErrInvalid, err)
	}
	again, err := p.protectPrivate(rand.Reader, kind, raw, tag)
	return within("PrivateMessage made here", ErrInvalid, cmp.Or(err, p.openPrivate(kind, raw, again)))
}

// refusesPublic checks that application data cannot be sent in a PublicMessage (§6).
func (p *protection) refusesPublic(raw []byte) error {
	_, err := p.protectPublic(ContentApplication, raw, nil)
	if !errors.Is(err, ErrMisuse) {
		return fail(ErrInvalid, "§6", "PublicMessage", "of application data was not refused: %v", err)
	}
	return nil
}

// content frames the raw content as a message of leaf 1 and signs it.
func (p *protection) content(kind ContentType, format WireFormat, raw, tag []byte) (*authenticatedContent, error) {
	c := &framedContent{groupID: p.groupID, epoch: p.epoch, sender: member(protectionSender), kind: kind}
	if kind == ContentApplication {
		c.application = raw
	} else {
		r := codec.NewReader(raw, codec.DefaultLimits)
		c.decodeBody(r)
		if err := r.Finish(); err != nil {
			return nil, malformed("raw content", err)
		}
	}
	ac := &authenticatedContent{format: format, content: c}
	if kind == ContentCommit {
		ac.confirmationTag = tag
	}
	return ac, ac.sign(p.suite, p.signer, p.context)
}

func (p *protection) protectPublic(kind ContentType, raw, tag []byte) ([]byte, error) {
	ac, err := p.content(kind, WireFormatPublicMessage, raw, tag)
	if err != nil {
		return nil, err
	}
	return p.suite.protectPublic(ac, p.membership, p.context)
}

func (p *protection) protectPrivate(random io.Reader, kind ContentType, raw, tag []byte) ([]byte, error) {
	ac, err := p.content(kind, WireFormatPrivateMessage, raw, tag)
	if err != nil {
		return nil, err
	}
	keys, name := p.keys(), ratchetFor(protectionSender, kind)
	step, err := keys.peek(name, keys.next(name), vectorRatchets)
	if err != nil {
		return nil, err
	}
	return p.suite.protectPrivate(random, ac, p.senderData, step.key, Padding{})
}

func (p *protection) openPublic(kind ContentType, raw, msg []byte) error {
	m, err := parseMessage(msg, codec.DefaultLimits)
	if err != nil {
		return err
	}
	if m.public == nil {
		return fail(ErrInvalid, "§6.2", "message", "is a %v", m.format)
	}
	ac, err := p.suite.openPublic(m.public, p.membership, p.context)
	if err != nil {
		return err
	}
	return p.compare(ac, kind, raw)
}

// keys returns the secret tree of the two members before the first message.
func (p *protection) keys() *secretTree { return newSecretTree(p.suite, 1, NewSecret(p.encryption)) }

func (p *protection) openPrivate(kind ContentType, raw, msg []byte) error {
	m, err := parseMessage(msg, codec.DefaultLimits)
	if err != nil {
		return err
	}
	if m.private == nil {
		return fail(ErrInvalid, "§6.3", "message", "is a %v", m.format)
	}
	d, err := p.suite.openSenderData(m.private, p.senderData)
	if err != nil {
		return err
	}
	step, err := p.keys().peek(ratchetFor(d.leaf, m.private.kind), d.generation, vectorRatchets)
	if err != nil {
		return err
	}
	ac, err := p.suite.openPrivate(m.private, d, step.key, codec.DefaultLimits)
	if err != nil {
		return err
	}
	return p.compare(ac, kind, raw)
}

// compare verifies the signature of an opened message and compares all its fields.
func (p *protection) compare(ac *authenticatedContent, kind ContentType, raw []byte) error {
	c := ac.content
	if c.kind != kind || c.sender != member(protectionSender) {
		return fail(ErrInvalid, "§6", "message", "is a %v from %v, not a %v from %v", c.kind, c.sender, kind, member(protectionSender))
	}
	var w codec.Writer
	if kind == ContentApplication {
		w.Fixed(c.application)
	} else {
		c.encodeBody(&w)
	}
	return cmp.Or(
		ac.verify(p.suite, p.public, p.context),
		same("group_id", c.groupID, p.groupID),
		sameNumber("epoch", c.epoch, p.epoch),
		same("raw content", w.Buffer(), raw),
	)
}

// messagesCase is a case of the format "Messages".
type messagesCase struct {
	Welcome         hexData `json:"mls_welcome"`
	GroupInfo       hexData `json:"mls_group_info"`
	KeyPackage      hexData `json:"mls_key_package"`
	RatchetTree     hexData `json:"ratchet_tree"`
	GroupSecrets    hexData `json:"group_secrets"`
	Add             hexData `json:"add_proposal"`
	Update          hexData `json:"update_proposal"`
	Remove          hexData `json:"remove_proposal"`
	PSK             hexData `json:"pre_shared_key_proposal"`
	ReInit          hexData `json:"re_init_proposal"`
	ExternalInit    hexData `json:"external_init_proposal"`
	Extensions      hexData `json:"group_context_extensions_proposal"`
	Commit          hexData `json:"commit"`
	PublicAppData   hexData `json:"public_message_application"`
	PublicProposal  hexData `json:"public_message_proposal"`
	PublicCommit    hexData `json:"public_message_commit"`
	PrivateProposal hexData `json:"private_message"`
}

func (c *messagesCase) verify(*suite) error {
	return cmp.Or(
		verifyMessage("mls_welcome", c.Welcome, WireFormatWelcome, 0),
		verifyMessage("mls_group_info", c.GroupInfo, WireFormatGroupInfo, 0),
		verifyMessage("mls_key_package", c.KeyPackage, WireFormatKeyPackage, 0),
		within("ratchet_tree", ErrInvalid, verifyTreeCodec(c.RatchetTree)),
		verifyGroupSecrets(c.GroupSecrets),
		verifyProposal("add_proposal", c.Add, ProposalAdd),
		verifyProposal("update_proposal", c.Update, ProposalUpdate),
		verifyProposal("remove_proposal", c.Remove, ProposalRemove),
		verifyProposal("pre_shared_key_proposal", c.PSK, ProposalPSK),
		verifyProposal("re_init_proposal", c.ReInit, ProposalReInit),
		verifyProposal("external_init_proposal", c.ExternalInit, ProposalExternalInit),
		verifyProposal("group_context_extensions_proposal", c.Extensions, ProposalGroupContextExtensions),
		verifyCommit(c.Commit),
		verifyMessage("public_message_application", c.PublicAppData, WireFormatPublicMessage, ContentApplication),
		verifyMessage("public_message_proposal", c.PublicProposal, WireFormatPublicMessage, ContentProposal),
		verifyMessage("public_message_commit", c.PublicCommit, WireFormatPublicMessage, ContentCommit),
		verifyMessage("private_message", c.PrivateProposal, WireFormatPrivateMessage, 0),
	)
}

// verifyMessage decodes an MLSMessage of a format and encodes it again. kind is the content type of a PublicMessage.
func verifyMessage(object string, data []byte, format WireFormat, kind ContentType) error {
	m, err := parseMessage(data, codec.DefaultLimits)
	if err != nil {
		return within(object, ErrMalformed, err)
	}
	if m.format != format {
		return fail(ErrInvalid, "§6", object, "is a %v", m.format)
	}
	if m.public != nil && m.public.content.kind != kind {
		return fail(ErrInvalid, "§6", object, "holds a %v", m.public.content.kind)
	}
	again, err := m.encodeAgain()
	return within(object, ErrInvalid, cmp.Or(err, same("the second encoding", again, data)))
}

// encodeAgain encodes a message from its fields.
func (m *message) encodeAgain() ([]byte, error) {
	switch {
	case m.public != nil:
		content := *m.public.content
		content.encoded = nil
		public := *m.public
		public.content = &content
		return encodeMessage(m.format, public.encode)
	case m.private != nil:
		return encodeMessage(m.format, m.private.encode)
	case m.welcome != nil:
		return encodeMessage(m.format, m.welcome.encode)
	case m.groupInfo != nil:
		return encodeMessage(m.format, m.groupInfo.encode)
	}
	return encodeMessage(m.format, m.keyPackage.encode)
}

// verifyTreeCodec decodes a ratchet tree and encodes it again. It also encodes each node from its fields, since the
// tree keeps nodes as received bytes.
func verifyTreeCodec(data []byte) error {
	bodies, err := splitTree(data, codec.DefaultLimits)
	if err != nil {
		return err
	}
	for i, body := range bodies {
		switch {
		case body == "":
		case i%2 == 0:
			leaf, err := parseLeafNode(body)
			if err != nil {
				return err
			}
			again, err := leaf.marshal()
			if err := cmp.Or(err, same(nodeName(nodeIndex(i)), again, []byte(body))); err != nil {
				return err
			}
		default:
			n := treeNode{level: uint8(nodeIndex(i).level()), body: body}
			if err := same(nodeName(nodeIndex(i)), []byte(n.withUnmerged(n.unmerged())), []byte(body)); err != nil {
				return err
			}
		}
	}
	t, err := buildTree(suites[0], trustSignatureKey{}, bodies)
	if err != nil {
		return err
	}
	again, err := t.marshal()
	return cmp.Or(err, same("the second encoding", again, data))
}

func verifyGroupSecrets(data []byte) error {
	g, err := parseGroupSecrets(data, codec.DefaultLimits)
	if err != nil {
		return within("group_secrets", ErrMalformed, err)
	}
	return within("group_secrets", ErrInvalid, same("the second encoding", g.marshal(), data))
}

// verifyProposal verifies the encoding of a proposal's content without its type.
func verifyProposal(object string, data []byte, t ProposalType) error {
	_, err := reencodes(object, data,
		func(r *codec.Reader) Proposal { return decodeProposalBody(r, t) },
		func(p Proposal, w *codec.Writer) { p.encodeBody(w) })
	return err
}

func verifyCommit(data []byte) error {
	_, err := reencodes("commit", data, decodeCommit, (*commitContent).encode)
	return err
}

// welcomeCase is a case of the format "Welcome".
type welcomeCase struct {
	Suite      CipherSuite `json:"cipher_suite"`
	InitKey    hexData     `json:"init_priv"`
	Signer     hexData     `json:"signer_pub"`
	KeyPackage hexData     `json:"key_package"`
	Welcome    hexData     `json:"welcome"`
}

func (c *welcomeCase) verify(s *suite) error {
	kp, err := ParseKeyPackage(c.KeyPackage)
	if err != nil {
		return within("key_package", ErrMalformed, err)
	}
	m, err := parseMessage(c.Welcome, codec.DefaultLimits)
	if err != nil {
		return within("welcome", ErrMalformed, err)
	}
	if m.welcome == nil || m.welcome.suite != s.id || kp.CipherSuite != s.id {
		return fail(ErrInvalid, "§12.4.3.1", "welcome", "is a %v, with a KeyPackage for %v", m.format, kp.CipherSuite)
	}
	pub, err := s.publicKeyOf(s.privateKeyOf(c.InitKey))
	if err := cmp.Or(err, same("public key of init_priv", pub, kp.InitKey)); err != nil {
		return err
	}
	ref, err := kp.Ref()
	if err != nil {
		return err
	}
	sealed, ok := m.welcome.find(ref)
	if !ok {
		return fail(ErrNotForUs, "§12.4.3.1", "welcome", "has no entry for the KeyPackage")
	}
	secrets, err := s.openSecrets(m.welcome, sealed, NewSecret(s.privateKeyOf(c.InitKey)), nil, codec.DefaultLimits)
	if err != nil {
		return err
	}
	if n := len(secrets.psks); n > 0 {
		return fail(ErrInvalid, "§12.4.3.1", "welcome", "names %d PSKs, the format has none", n)
	}
	return c.verifyInfo(s, m.welcome, secrets)
}

// verifyInfo opens the GroupInfo and checks its signature and its confirmation tag.
func (c *welcomeCase) verifyInfo(s *suite, w *welcome, secrets *groupSecrets) error {
	none, err := s.pskSecret(nil, nil)
	if err != nil {
		return err
	}
	secret := s.memberSecret(secrets.joiner, none)
	info, err := s.openInfo(w, secret, codec.DefaultLimits)
	if err != nil {
		return err
	}
	if !s.verifyWithLabel(c.Signer, "GroupInfoTBS", info.tbs(), info.signature) {
		return fail(ErrForged, "§12.4.3", "GroupInfo", "signature does not verify")
	}
	epoch := s.epochFrom(secret, info.context.marshal())
	if !s.verifyMAC(epoch.confirmation.Bytes(), info.context.ConfirmedTranscriptHash, info.confirmationTag) {
		return fail(ErrForged, "§12.4.3.1", "GroupInfo", "confirmation tag does not verify")
	}
	return nil
}

// trustSignatureKey is the Authenticator of the vectors: it accepts any credential and uses the signature key as the
// identity.
type trustSignatureKey struct{}

// ValidateCredential accepts all credentials.
func (trustSignatureKey) ValidateCredential(Credential, []byte, CredentialUse) error { return nil }

// Identity returns the signature key.
func (trustSignatureKey) Identity(_ Credential, signatureKey []byte) ([]byte, error) {
	if len(signatureKey) == 0 {
		return nil, fmt.Errorf("%w: no signature key", ErrPolicy)
	}
	return signatureKey, nil
}

// ValidSuccessor accepts all credentials.
func (trustSignatureKey) ValidSuccessor(_, _ Credential) error { return nil }
