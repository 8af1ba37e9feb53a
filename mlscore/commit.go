package mlscore

import (
	"bytes"
	"cmp"
	"slices"
)

// CommitOptions are the options of a commit.
type CommitOptions struct {
	// Proposals are committed by value, in addition to the waiting proposals.
	Proposals []Proposal
	// OnlyThese leaves out the waiting proposals, even those that Refs names.
	OnlyThese bool
	// Refs names the waiting proposals to commit (see WaitingProposal). Each of them must be valid, or the commit
	// fails; a proposal that does not wait gives ErrMissing. Nil means all waiting proposals that are valid.
	Refs [][]byte
	// Leaf changes this member's leaf.
	Leaf LeafUpdate
	// OmitPath leaves out the path where the proposals allow it: the commit is cheaper, and this member gets no new
	// keys (§12.4). Of custom proposals, those of Config.PathlessProposals allow it.
	OmitPath          bool
	AuthenticatedData []byte
	// GroupInfo requests a GroupInfo of the next epoch, which costs a signature, and selects its content. The zero
	// value requests none: Group.GroupInfo makes one with any content once the commit is merged. WelcomeInfo selects
	// the content of the GroupInfo inside the Welcome. Without WelcomeInfo.Tree the Welcome has no ratchet tree: the
	// joiners need it separately, in JoinOptions.Tree, from Commit.Staged.Public().Tree().
	GroupInfo   GroupInfoOptions
	WelcomeInfo GroupInfoOptions

	usage   ResumptionUsage // of a resumption PSK that founds a group
	closing *StagedCommit   // whose resumption PSK that is, where its epoch has not begun
}

// Commit is a commit that has been made and waits to be accepted by the delivery service.
type Commit struct {
	Message   []byte        // for the members
	Welcome   []byte        // for those whom it adds; nil if there are none
	GroupInfo []byte        // the next epoch's; nil unless CommitOptions.GroupInfo asks for it
	Staged    *StagedCommit // the next epoch: merge it when the commit has been accepted
	Skipped   []error       // proposals that waited and cannot be committed, and why
}

// StagedCommit is an epoch that a commit leads to. Group.Merge enters it.
type StagedCommit struct {
	base    *memberState // nil once it is merged or abandoned
	next    *memberState // nil if the commit removes this member
	removes bool
	effects *Effects
	message []byte
	own     bool

	// Merging a received commit consumes the key under which the commit was encrypted.
	used           *ratchetName
	usedGeneration uint32
}

// Effects returns what the commit does.
func (s *StagedCommit) Effects() *Effects { return s.effects }

// Own reports whether this client made the commit.
func (s *StagedCommit) Own() bool { return s.own }

// Message returns the commit as it was sent or received.
func (s *StagedCommit) Message() []byte { return slices.Clone(s.message) }

// RemovesSelf reports whether the commit removes this member.
func (s *StagedCommit) RemovesSelf() bool { return s.removes }

// Public returns the public state of the epoch that begins; nil if the commit removes this member.
func (s *StagedCommit) Public() *PublicState {
	if s.next == nil {
		return nil
	}
	return s.next.public
}

// EpochAuthenticator returns the epoch authenticator of the epoch that begins (RFC 9420 §8.7); nil if Public returns
// nil.
func (s *StagedCommit) EpochAuthenticator() []byte {
	if s.next == nil {
		return nil
	}
	return slices.Clone(s.next.secrets.authenticator.Bytes())
}

// Export derives a secret from the exporter of the epoch that begins (§8.5).
func (s *StagedCommit) Export(label string, context []byte, length int) (Secret, error) {
	if s.next == nil {
		return Secret{}, fail(ErrGroupEnded, "§8.5", "export", "this member has no keys of the next epoch")
	}
	return s.next.public.rules.suite.exportBounded(s.next.secrets.exporter, label, context, length)
}

// abandon erases a next epoch that will not be entered.
func (s *StagedCommit) abandon() {
	s.base = nil
	if s.next != nil {
		s.next.erase()
		s.next.messages.erase()
		s.next = nil
	}
}

// Commit commits the waiting proposals and those in opts, and gives this member new keys (§12.4.1). The group does
// not change until the commit is merged. An earlier commit that was not merged is abandoned.
//
// A waiting proposal that cannot be committed is left out: see Commit.Skipped. Errors: ErrGroupEnded; ErrMisuse for an
// incomplete proposal, an Update or an ExternalInit in opts.Proposals; ErrInvalid for a list of proposals that members
// would refuse (§12.2), ErrPolicy if the Authenticator or the Policy refuses one; ErrMissing for a PSK that is not in the
// store or a reference that does not wait; ErrStore.
func (g *Group) Commit(opts CommitOptions) (*Commit, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	for _, p := range opts.Proposals {
		if !p.complete() || p.Type.row().keyed {
			return nil, fail(ErrMisuse, "§12.4", "commit", "a proposal of type %v cannot be committed by value", p.Type)
		}
	}
	if err := g.verifyOwnAdds(opts.Proposals); err != nil {
		return nil, err
	}
	list, skipped, err := g.choose(opts)
	if err != nil {
		return nil, err
	}
	w := &committing{
		client:  g.client,
		suite:   g.suite,
		options: g.options,
		base:    g.state,
		sender:  member(g.state.self),
		opts:    opts,
	}
	if w.plan, err = g.public().planList(list, w.sender, opts.usage); err != nil {
		return nil, err
	}
	for i := range opts.Proposals {
		if err := g.checkMade(&opts.Proposals[i]); err != nil {
			return nil, err
		}
	}
	if w.leaf, w.signer, err = g.newLeaf(opts.Leaf); err != nil {
		return nil, err
	}
	if err := w.build(); err != nil {
		w.erase()
		return nil, err
	}
	out, err := g.dispatch(w)
	w.erase()
	if err != nil {
		return nil, err
	}
	out.Skipped = skipped
	return out, nil
}

// verifyOwnAdds verifies KeyPackages that this member is about to use, their lifetimes at present
// included (§7.3).
func (g *Group) verifyOwnAdds(list []Proposal) error {
	rules := g.public().rules.ownKeyPackageRules(g.client.cfg.Now())
	packages := make([]*KeyPackage, len(list))
	for i := range list {
		if list[i].Type == ProposalAdd {
			packages[i] = list[i].Add
		}
	}
	return cmp.Or(verifyKeyPackages(g.suite, rules, packages)...)
}

// choose picks the proposals of a commit: the caller's list, and all waiting proposals that are valid together with
// it (§12.2, §12.4).
func (g *Group) choose(opts CommitOptions) (list []sentProposal, skipped []error, err error) {
	self := member(g.state.self)
	for _, p := range opts.Proposals {
		list = append(list, sentProposal{Proposal: p, sender: self, checked: p.Type == ProposalAdd})
	}
	if opts.Refs != nil && !opts.OnlyThese {
		chosen, err := g.chosen(opts.Refs)
		return append(list, chosen...), nil, err
	}
	if opts.OnlyThese || !g.public().waits() {
		return list, nil, nil
	}
	picker := newPicker(g.public(), self, list)
	for at := range g.public().proposals {
		c := &g.public().proposals[at]
		if c.dropped {
			continue
		}
		if err := g.checkWaiting(&c.sentProposal); err != nil {
			picker.skipped = append(picker.skipped, err)
			continue
		}
		picker.offer(&c.sentProposal)
	}
	return picker.result()
}

// checkWaiting applies the rules for committers that no receiver checks: a proposed KeyPackage may have expired
// meanwhile (§7.3), and it may be impossible to found the group of a ReInit (§11.2).
func (g *Group) checkWaiting(p *sentProposal) error {
	check := p.Type.row().checkWaiting
	if check == nil {
		return nil
	}
	return within("waiting proposal ("+p.Type.String()+" from "+p.sender.String()+")", ErrInvalid, check(g, &p.Proposal))
}

// committing is a commit in the making, by a member or by a joiner.
type committing struct {
	client  *Client
	suite   *suite
	options GroupOptions
	base    *memberState // secrets are nil for a joiner, except init
	sender  Sender
	opts    CommitOptions

	plan   *plan
	leaf   LeafNode // the sender's next
	signer Secret   // and its key
	ready  *signer  // signer, prepared for use

	staged *stagedCommit
	path   *createdPath
	ac     *authenticatedContent
	next   *memberState
	joiner Secret
	member Secret
}

func (w *committing) erase() {
	w.path.erase()
	eraseAll(w.joiner, w.member)
}

// build makes the steps of §12.4.1 up to the next epoch's secrets.
func (w *committing) build() error {
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
	if w.plan.needsPath || w.plan.external || !w.opts.OmitPath || w.opts.Leaf.changes() || w.customPath() {
		if err := w.buildPath(commit); err != nil {
			return err
		}
	}
	if err := w.frame(commit); err != nil {
		return err
	}
	return w.derive()
}

// customPath reports whether a custom proposal may need a path (§12.4): all do but those whose specification is known
// to this client. mls-rs refuses a commit of a custom proposal without a path.
func (w *committing) customPath() bool {
	return slices.ContainsFunc(w.plan.list, func(p sentProposal) bool {
		return p.Type.row().path == pathUnknown && !slices.Contains(w.client.cfg.PathlessProposals, p.Type)
	})
}

// changes reports whether anything but the keys is to change.
func (u LeafUpdate) changes() bool {
	return u.Identity != nil || u.Extensions != nil || u.Capabilities != nil
}

// buildPath makes the sender's new path and encrypts it.
func (w *committing) buildPath(commit *commitContent) (err error) {
	public := w.base.public
	st := w.staged
	base := w.plan.tree
	if w.plan.external {
		if base, err = public.placeJoiner(st); err != nil {
			return err
		}
	}
	if w.ready, err = w.signing(); err != nil {
		return err
	}
	w.path, err = base.createPath(w.client.cfg.Rand, st.leaf, w.leaf, w.ready, public.context.GroupID)
	if err != nil {
		return err
	}
	st.tree = w.path.tree
	if err := w.checkOwnLeaf(); err != nil {
		return within("own leaf", ErrInvalid, err)
	}
	if st.context, err = public.provisional(st); err != nil {
		return err
	}
	commit.path, err = w.path.seal(w.client.cfg.Rand, st.context.marshal(), w.plan.added)
	return err
}

// signing prepares the key of the next leaf for signing: the old key, unless the commit replaces it.
func (w *committing) signing() (*signer, error) {
	if w.signer.Equal(w.base.signer) {
		return w.base.signing(w.suite)
	}
	return w.suite.newSigner(w.signer.Bytes())
}

// checkOwnLeaf makes the checks that the receivers will make.
func (w *committing) checkOwnLeaf() error {
	public := w.base.public
	var err error
	if w.plan.external {
		err = public.checkJoiner(w.staged, w.path.leaf)
	} else {
		err = public.checkReplacement(w.staged.leaf, w.staged.leaf, w.path.leaf, UseUpdate)
	}
	if err != nil {
		return err
	}
	return checkMember(w.staged.tree, w.staged.leaf, w.plan.extensions)
}

// frame signs the commit with the old key, in the old GroupContext (§12.4.1).
func (w *committing) frame(commit *commitContent) (err error) {
	public := w.base.public
	if w.staged.context.GroupID == nil {
		if w.staged.context, err = public.provisional(w.staged); err != nil {
			return err
		}
	}
	w.ac = &authenticatedContent{
		format: WireFormatPrivateMessage,
		content: &framedContent{
			groupID:           public.context.GroupID,
			epoch:             public.context.Epoch,
			sender:            w.sender,
			authenticatedData: w.opts.AuthenticatedData,
			kind:              ContentCommit,
			commit:            commit,
		},
	}
	key := w.ready // of the path's leaf, which every external commit has
	if !w.plan.external {
		if key, err = w.base.signing(w.suite); err != nil {
			return err
		}
	}
	if w.options.PublicHandshakes || w.plan.external {
		w.ac.format = WireFormatPublicMessage
	}
	return w.ac.signWith(key, public.encoded)
}

// derive computes the next epoch (§8, §12.4.1).
func (w *committing) derive() error {
	s := w.suite
	commit := ownSecret(make([]byte, s.hashLen()))
	if w.path != nil {
		commit = w.path.commit
	}
	psk, err := w.client.pskSecretWith(s, w.plan.psks, w.opts.closing)
	if err != nil {
		return err
	}
	defer psk.Erase()
	public := w.base.public.advance(w.staged, w.ac)
	w.joiner = s.joinerSecret(w.base.secrets.init, commit, public.encoded)
	w.member = s.memberSecret(w.joiner, psk)
	st := &memberState{
		public:  public,
		self:    w.staged.leaf,
		signer:  w.signer,
		ready:   w.ready,
		secrets: s.epochFrom(w.member, public.encoded),
	}
	st.confirm(s)
	w.ac.confirmationTag = st.confirmationTag
	public.interim = s.interimTranscript(public.context.ConfirmedTranscriptHash, st.confirmationTag)
	if w.path != nil {
		st.keys = w.path.private
	} else {
		st.keys = w.base.keys.carryOver(w.base.public.tree, st.public.tree, st.self)
		// Without a path the leaf stays, and so does its signature key.
		w.signer.Erase()
		st.signer = w.base.signer.Clone()
		st.succeeds(w.base)
	}
	st.messages = newSecretTree(s, public.tree.height(), st.secrets.encryption)
	st.secrets.encryption = Secret{}
	w.next = st
	return nil
}

// pskSecret looks up and chains the PSKs of a commit (§8.4).
func (c *Client) pskSecret(s *suite, ids []PreSharedKeyID) (Secret, error) {
	return c.pskSecretWith(s, ids, nil)
}

// pskSecretWith is pskSecret for ids that may include the resumption PSK of the epoch that closing leads to.
func (c *Client) pskSecretWith(s *suite, ids []PreSharedKeyID, closing *StagedCommit) (Secret, error) {
	psks, err := c.psks(ids, closing)
	if err != nil {
		return Secret{}, err
	}
	defer eraseAll(psks...)
	return s.pskSecret(ids, psks)
}

// outputs makes the GroupInfo of the next epoch, if it is requested, and the Welcome.
func (w *committing) outputs() (info, welcome []byte, err error) {
	if w.opts.GroupInfo.asks() {
		g, err := w.client.groupInfo(w.suite, w.next, w.opts.GroupInfo)
		if err != nil {
			return nil, nil, err
		}
		if info, err = encodeMessage(WireFormatGroupInfo, g.encode); err != nil {
			return nil, nil, err
		}
	}
	if len(w.plan.added) == 0 {
		return info, nil, nil
	}
	inside, err := w.client.groupInfo(w.suite, w.next, w.opts.WelcomeInfo)
	if err != nil {
		return nil, nil, err
	}
	to := make([]newcomer, len(w.plan.added))
	for k, leaf := range w.plan.added {
		to[k].keyPackage = w.plan.packages[k]
		if w.path == nil {
			continue
		}
		if secret, ok := w.path.secretFor(w.staged.leaf, leaf); ok {
			to[k].pathSecret = &secret
		}
	}
	welcome, err = w.suite.sealWelcome(w.client.cfg.Rand, inside, w.joiner, w.member, w.plan.psks, to)
	return info, welcome, err
}

// dispatch frames a built commit, stores it as pending and returns it.
func (g *Group) dispatch(w *committing) (*Commit, error) {
	out := &Commit{}
	var err error
	if out.GroupInfo, out.Welcome, err = w.outputs(); err != nil {
		return nil, err
	}
	staged := &StagedCommit{base: g.state, next: w.next, own: true, effects: w.staged.effects(g.public(), w.next.public, w.ac)}
	var b Batch
	var step *treeStep
	if w.ac.format == WireFormatPublicMessage {
		out.Message, err = g.suite.protectPublic(w.ac, g.state.secrets.membership, g.public().encoded)
	} else {
		out.Message, step, err = g.seal(w.ac, &b)
	}
	if err != nil {
		return nil, err
	}
	staged.message = bytes.Clone(out.Message)
	err = g.storePending(&b, staged, w.ac)
	if err == nil {
		b.Output = out.Message
		err = applyBatch(g.client.cfg.Store, b)
	}
	b.erase()
	if err != nil {
		if step != nil {
			step.discard()
		}
		staged.abandon()
		return nil, err
	}
	if step != nil {
		g.state.messages.apply(step)
		step.key.erase()
	}
	if g.pending != nil {
		g.pending.abandon()
	}
	g.pending = staged
	out.Staged = staged
	return out, nil
}

// Abandon discards this member's pending commit, after the delivery service refused it. Merging another member's
// commit does the same. Without a pending commit nothing happens. It returns ErrStore if the store refuses the write.
func (g *Group) Abandon() error {
	if g.pending == nil {
		return nil
	}
	var b Batch
	b.delete(groupKey(g.name(), recordPending))
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return err
	}
	g.pending.abandon()
	g.pending = nil
	return nil
}
