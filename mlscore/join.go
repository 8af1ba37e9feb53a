package mlscore

import (
	"bytes"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// JoinOptions are the options of a join.
type JoinOptions struct {
	GroupOptions
	// Tree is the ratchet tree, if the Welcome does not hold it: see CommitOptions.WelcomeInfo and PublicState.Tree.
	Tree []byte
}

// Join enters a group by a Welcome that was made for one of this client's KeyPackages (RFC 9420 §12.4.3.1). Join
// erases the KeyPackage's private keys, unless the KeyPackage is a last resort. To inspect a Welcome before joining,
// use OpenWelcome.
func (c *Client) Join(msg []byte, opts JoinOptions) (*Group, error) {
	w, err := c.OpenWelcome(msg, opts)
	if err != nil {
		return nil, err
	}
	g, err := w.Join()
	if err != nil {
		w.Drop()
	}
	return g, err
}

// joining is a join in progress, with one method for each group of steps in §12.4.3.1.
type joining struct {
	client  *Client
	suite   *suite
	welcome *welcome
	opts    JoinOptions

	ref     []byte
	record  *keyPackageRecord
	sealed  hpkeCiphertext
	secrets *groupSecrets
	member  Secret
	info    *groupInfo
	public  *PublicState
	self    LeafIndex
	state   *memberState
	place   uint32
}

func (j *joining) erase() {
	if j.record != nil {
		eraseAll(j.record.initKey, j.record.leafKey, j.record.signer)
	}
	if j.secrets != nil {
		j.secrets.erase()
	}
	j.member.Erase()
}

// findKeyPackage looks for an entry that one of our KeyPackages can open.
func (j *joining) findKeyPackage() error {
	for _, entry := range j.welcome.secrets {
		v, ok, err := j.client.cfg.Store.Get(keyPackageKey(entry.newMember))
		if err != nil {
			return storeError("KeyPackages", err)
		}
		if !ok {
			continue
		}
		rec, err := parseKeyPackageRecord(v)
		if err != nil {
			return err
		}
		if rec.keyPackage.CipherSuite != j.suite.id {
			return fail(ErrInvalid, "§12.4.3.1", "Welcome", "is for %v, the KeyPackage for %v", j.suite.id, rec.keyPackage.CipherSuite)
		}
		j.ref, j.record, j.sealed = bytes.Clone(entry.newMember), rec, entry.secrets
		return nil
	}
	return fail(ErrNotForUs, "§12.4.3.1", "Welcome", "is for %d KeyPackages, none of which is in the store", len(j.welcome.secrets))
}

// openSecrets decrypts the group secrets and, with the PSKs that they name, the GroupInfo.
func (j *joining) openSecrets() (err error) {
	s := j.suite
	if j.secrets, err = s.openSecrets(j.welcome, j.sealed, j.record.initKey, j.record.keyPackage.InitKey, j.client.cfg.Limits.Codec); err != nil {
		return err
	}
	founding := 0
	for _, id := range j.secrets.psks {
		if id.Type == PSKResumption && id.Usage != UsageApplication {
			founding++
		}
	}
	if founding > 1 {
		return fail(ErrInvalid, "§12.4.3.1", "Welcome", "%d PSKs with usage reinit or branch, at most one", founding)
	}
	psk, err := j.client.pskSecret(s, j.secrets.psks)
	if err != nil {
		return err
	}
	defer psk.Erase()
	j.member = s.memberSecret(j.secrets.joiner, psk)
	j.info, err = s.openInfo(j.welcome, j.member, j.client.cfg.Limits.Codec)
	return err
}

// openState validates the GroupInfo and the ratchet tree, and finds our leaf.
func (j *joining) openState() error {
	if j.info.context.CipherSuite != j.suite.id {
		return fail(ErrInvalid, "§12.4.3.1", "GroupInfo", "is for %v, the Welcome for %v", j.info.context.CipherSuite, j.suite.id)
	}
	var err error
	if j.place, err = j.client.unused(j.info.context.GroupID); err != nil {
		return err
	}
	if j.place > 0 && !j.succeeds() {
		return taken(j.info.context.GroupID)
	}
	tree, err := j.info.treeFor(j.opts.Tree)
	if err != nil {
		return err
	}
	if j.public, err = openPublicState(j.info, tree, j.client.rules(j.suite), j.client.cfg.Limits); err != nil {
		return err
	}
	return j.findLeaf()
}

// succeeds reports whether the Welcome names a PSK of a group of the same id that the new group succeeds;
// checkLineage decides whether the new group is a valid successor.
func (j *joining) succeeds() bool {
	return slices.ContainsFunc(j.secrets.psks, func(id PreSharedKeyID) bool {
		return id.Type == PSKResumption && id.Usage == UsageReInit && bytes.Equal(id.GroupID, j.info.context.GroupID)
	})
}

func (j *joining) findLeaf() error {
	body, err := j.record.keyPackage.LeafNode.marshal()
	if err != nil {
		return err
	}
	t := j.public.tree
	at, ok := t.otherNode(noNode, j.record.keyPackage.LeafNode.EncryptionKey)
	if !ok || at.level() > 0 || t.leafBody(at.firstLeaf()) != string(body) {
		return fail(ErrInvalid, "§12.4.3.1", "ratchet tree", "has no leaf identical to that of our KeyPackage")
	}
	j.self = at.firstLeaf()
	if j.self == j.info.signer {
		return fail(ErrInvalid, "§12.4.3.1", "GroupInfo", "is signed by ourselves")
	}
	return nil
}

// derive computes the epoch and our private keys, and checks the confirmation tag.
func (j *joining) derive() error {
	s := j.suite
	st := &memberState{public: j.public, self: j.self, signer: j.record.signer.Clone()}
	if j.secrets.pathSecret != nil {
		keys, err := j.public.tree.keysFromWelcome(j.self, j.info.signer, *j.secrets.pathSecret)
		if err != nil {
			return err
		}
		st.keys = keys
	}
	st.keys.set(0, j.record.leafKey.Clone())
	if at, missing := st.keys.missing(j.public.tree, j.self); missing {
		return fail(ErrInvalid, "§12.4.3.1", "Welcome", "gives no path secret for %s", nodeName(at))
	}
	st.secrets = s.epochFrom(j.member, j.public.encoded)
	if !s.verifyMAC(st.secrets.confirmation.Bytes(), j.public.context.ConfirmedTranscriptHash, j.info.confirmationTag) {
		return fail(ErrForged, "§12.4.3.1", "GroupInfo", "confirmation tag does not verify")
	}
	st.confirmationTag = bytes.Clone(j.info.confirmationTag)
	j.state = st
	return nil
}

// ExternalOptions are the options of an external commit.
type ExternalOptions struct {
	GroupOptions
	// Tree is the ratchet tree, if the GroupInfo does not hold it.
	Tree []byte
	// Resync removes this client's earlier appearance in the same commit (§12.4.3.2), and replaces the state that
	// this client has of the group. Without Resync the client must have no state of the group. Resync gives up the
	// group's security against an attacker who has the client's signature key, so the user must decide about it.
	Resync bool
	// PSKs are the PSKs to inject: external PSKs and resumption PSKs with UsageApplication. A PSK without a Nonce
	// gets a new nonce.
	PSKs              []PreSharedKeyID
	LeafExtensions    Extensions
	AuthenticatedData []byte
	GroupInfo         GroupInfoOptions // as in CommitOptions: the zero value asks for none
}

// ExternalJoin makes a commit by which this client adds itself to a group (§12.4.3.2). groupInfo is an MLSMessage
// with an external_pub in it. The caller enters the group with Complete, once the delivery service has accepted the
// commit. Nothing is stored before Complete. Errors: ErrMissing if the GroupInfo has no external_pub, if the ratchet tree
// is neither in it nor in opts, or if a PSK is not in the store; ErrMisuse for an identity of another cipher suite;
// ErrInvalid if the client has a group of that id and opts.Resync is not set; ErrMalformed, ErrForged, ErrInvalid and
// ErrPolicy for a bad GroupInfo or tree.
func (c *Client) ExternalJoin(id Identity, groupInfo []byte, opts ExternalOptions) (*ExternalCommit, error) {
	info, err := parseGroupInfo(groupInfo, c.cfg.Limits.Codec)
	if err != nil {
		return nil, err
	}
	if id.CipherSuite != info.context.CipherSuite {
		return nil, fail(ErrMisuse, "§5.1.2", "identity", "is for %v, the group has %v", id.CipherSuite, info.context.CipherSuite)
	}
	if !opts.Resync {
		if _, err := c.unused(info.context.GroupID); err != nil {
			return nil, err
		}
	}
	s, err := c.suite(id.CipherSuite)
	if err != nil {
		return nil, err
	}
	tree, err := info.treeFor(opts.Tree)
	if err != nil {
		return nil, err
	}
	public, err := openPublicState(info, tree, c.rules(s), c.cfg.Limits)
	if err != nil {
		return nil, err
	}
	w := &committing{
		client:  c,
		suite:   s,
		options: opts.GroupOptions,
		base:    &memberState{public: public, secrets: &epochSecrets{}},
		sender:  Sender{Type: SenderNewMemberCommit},
		opts:    CommitOptions{AuthenticatedData: opts.AuthenticatedData, GroupInfo: opts.GroupInfo},
	}
	defer w.erase()
	if err := w.external(id, info, opts); err != nil {
		return nil, err
	}
	return w.finishExternal()
}

// external plans and builds the commit.
func (w *committing) external(id Identity, info *groupInfo, opts ExternalOptions) error {
	pub, err := info.externalPub()
	if err != nil {
		return err
	}
	kem, init, err := w.suite.exportTo(w.client.cfg.Rand, pub, nil, externalInitLabel, w.suite.hashLen())
	if err != nil {
		return within("external_pub", ErrInvalid, err)
	}
	defer init.Erase()
	w.base.secrets.init = init
	list := []sentProposal{{Proposal: Proposal{Type: ProposalExternalInit, ExternalInit: kem}, sender: w.sender}}
	if w.leaf, err = w.client.leafFor(w.suite, id, opts.LeafExtensions, nil); err != nil {
		return err
	}
	w.signer = id.SignatureKey.Clone()
	if opts.Resync {
		old, err := w.base.public.earlierSelf(&w.leaf)
		if err != nil {
			return err
		}
		list = append(list, sentProposal{Proposal: RemoveProposal(old), sender: w.sender})
	}
	for _, id := range opts.PSKs {
		p, err := w.suite.pskProposal(w.client.cfg.Rand, id)
		if err != nil {
			return err
		}
		list = append(list, sentProposal{Proposal: p, sender: w.sender})
	}
	if w.plan, err = w.base.public.planList(list, w.sender, 0); err != nil {
		return err
	}
	return w.build()
}

// earlierSelf returns the earlier leaf of a client that comes back.
func (p *PublicState) earlierSelf(leaf *LeafNode) (LeafIndex, error) {
	id, err := p.tree.identity(leaf)
	if err != nil {
		return 0, err
	}
	i, ok := p.tree.memberByIdentity(id)
	if !ok {
		return 0, fail(ErrMissing, "§12.4.3.2", "resync", "this client is not a member of the group")
	}
	return i, nil
}

// ExternalCommit is an external commit that has been made and waits to be accepted.
type ExternalCommit struct {
	Message   []byte // for the members
	GroupInfo []byte // the next epoch's; nil unless ExternalOptions.GroupInfo asks for it
	Effects   *Effects
	group     *Group
}

func (w *committing) finishExternal() (*ExternalCommit, error) {
	info, _, err := w.outputs()
	if err != nil {
		return nil, err
	}
	msg, err := w.suite.protectPublic(w.ac, Secret{}, nil)
	if err != nil {
		return nil, err
	}
	g := &Group{client: w.client, suite: w.suite, options: w.options, updates: map[string]*ownUpdate{}, state: w.next}
	return &ExternalCommit{
		Message:   msg,
		GroupInfo: info,
		Effects:   w.staged.effects(w.base.public, w.next.public, w.ac),
		group:     g,
	}, nil
}

// Complete enters the group of an accepted external commit. It replaces an earlier state of the same group. Errors:
// ErrStore, after which Complete can be tried again; ErrMisuse if it has been completed.
func (x *ExternalCommit) Complete() (*Group, error) {
	g := x.group
	if g == nil {
		return nil, fail(ErrMisuse, "", "external commit", "was completed before")
	}
	b := Batch{}
	var err error
	if g.place, _, err = g.client.placeFor(g.public().context.GroupID); err != nil {
		return nil, err
	}
	if err := g.writeFounding(&b); err != nil {
		return nil, err
	}
	defer b.erase()
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return nil, err
	}
	x.group = nil
	return g, nil
}

// ProposeSelf makes a proposal from outside of the group to add this client (§12.1.8): an Add of a new KeyPackage,
// which a member must commit. The context is that of the present epoch: see GroupInfo.Context. It returns the message
// and the KeyPackage, for which the Welcome will be. Its errors are those of NewKeyPackage.
func (c *Client) ProposeSelf(id Identity, context GroupContext, opts KeyPackageOptions) ([]byte, *KeyPackage, error) {
	kp, err := c.NewKeyPackage(id, opts)
	if err != nil {
		return nil, nil, err
	}
	msg, err := proposeFromOutside(Sender{Type: SenderNewMemberProposal}, id.CipherSuite, id.SignatureKey, context, AddProposal(kp))
	return msg, kp, err
}

// ProposeExternally makes a proposal as the external sender at index in the group's external_senders (§12.1.8), for
// the epoch of context: see GroupInfo.Context and PublicState.Context. It needs no Client. It returns ErrMisuse for a
// proposal without content, ErrMalformed for a type that no external sender may propose.
func ProposeExternally(index uint32, signatureKey Secret, context GroupContext, p Proposal) ([]byte, error) {
	if !p.complete() {
		return nil, fail(ErrMisuse, "§12.1", "proposal", "of type %v has no content", p.Type)
	}
	return proposeFromOutside(Sender{SenderExternal, index}, context.CipherSuite, signatureKey, context, p)
}

func proposeFromOutside(from Sender, cs CipherSuite, key Secret, context GroupContext, p Proposal) ([]byte, error) {
	s, err := suiteOf(cs)
	if err != nil {
		return nil, err
	}
	if err := checkSenderType(from, p.Type); err != nil {
		return nil, err
	}
	ac := &authenticatedContent{
		format: WireFormatPublicMessage,
		content: &framedContent{
			groupID:  slices.Clone(context.GroupID),
			epoch:    context.Epoch,
			sender:   from,
			kind:     ContentProposal,
			proposal: &p,
		},
	}
	if err := ac.sign(s, key, nil); err != nil {
		return nil, err
	}
	return s.protectPublic(ac, Secret{}, nil)
}

func externalPubExtension(pub []byte) Extension {
	return Extension{ExtensionExternalPub, codec.AppendBytes(nil, pub)}
}
