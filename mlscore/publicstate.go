package mlscore

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// PublicState is what can be known of a group without its keys: who is in it, what they agreed on, and
// which proposals wait for a commit. A server that sees a group's handshakes as PublicMessages follows
// them with it and refuses what members would refuse, by the same code: a Group has one inside.
//
// What it cannot check needs a key: membership tags, confirmation tags, and whether path secrets
// decrypt.
//
// A PublicState does not change. Process returns the next one.
type PublicState struct {
	rules     *rules
	limits    Limits
	context   GroupContext
	encoded   []byte // of context
	tree      *ratchetTree
	interim   []byte // interim transcript hash
	proposals []cachedProposal
	reinit    *ReInit // the group is closed
}

// cachedProposal is a proposal received in this epoch, which a commit may refer to.
type cachedProposal struct {
	sentProposal
	content []byte // the AuthenticatedContent that ref hashes
	dropped bool   // this member does not commit it; others may
}

// PublicConfig says by which rules a PublicState judges. They must be those of the members.
type PublicConfig struct {
	Auth        Authenticator
	Policy      Policy        // may be nil
	MaxLifetime time.Duration // Config.MaxLifetimeReceived of the members; zero for no bound
	Intake      Intake
	// Suites are the cipher suites whose groups are followed; nil for all.
	Suites []CipherSuite
	Limits Limits
}

// suite finds the description of a cipher suite that is followed.
func (c PublicConfig) suite(id CipherSuite) (*suite, error) {
	if c.Suites != nil && !slices.Contains(c.Suites, id) {
		return nil, fail(ErrUnsupported, "§17.1", id.String(), "%#04x is not among the cipher suites that are followed", uint16(id))
	}
	return c.Intake.suite(id)
}

func (c PublicConfig) rules(s *suite) *rules {
	return &rules{suite: s, auth: c.Auth, policy: c.Policy, maxLifetime: c.MaxLifetime, maxOwnLifetime: c.MaxLifetime, intake: c.Intake}
}

// NewPublicState begins with a GroupInfo (an MLSMessage) and the ratchet tree, which may be nil if the
// GroupInfo holds it. Both are validated in full, as by a member who joins (RFC 9420 §12.4.3.1).
func NewPublicState(groupInfo, tree []byte, cfg PublicConfig) (*PublicState, error) {
	if cfg.Auth == nil {
		return nil, fail(ErrMisuse, "", "PublicConfig", "Auth is missing")
	}
	limits := cfg.Limits.orDefault()
	g, err := parseGroupInfo(groupInfo, limits.Codec)
	if err != nil {
		return nil, err
	}
	s, err := cfg.suite(g.context.CipherSuite)
	if err != nil {
		return nil, err
	}
	data, err := g.treeFor(tree)
	if err != nil {
		return nil, err
	}
	return openPublicState(g, data, cfg.rules(s), limits)
}

// openPublicState validates a GroupInfo with its tree (§12.4.3.1).
func openPublicState(g *groupInfo, tree []byte, r *rules, limits Limits) (*PublicState, error) {
	if g.context.Version != MLS10 {
		return nil, fail(ErrUnsupported, "§12.4.3.1", "GroupInfo", "protocol version %d", g.context.Version)
	}
	t, err := parseTree(r.suite, r.auth, tree, limits.Codec)
	if err != nil {
		return nil, err
	}
	if err := g.verify(r.suite, t); err != nil {
		return nil, err
	}
	if !bytes.Equal(t.hash(), g.context.TreeHash) {
		return nil, fail(ErrForged, "§12.4.3.1", "ratchet tree", "its hash is not the one in the GroupInfo")
	}
	p := &PublicState{
		rules:   r,
		limits:  limits,
		context: g.context,
		tree:    t,
		interim: r.suite.interimTranscript(g.context.ConfirmedTranscriptHash, g.confirmationTag),
	}
	p.context = p.context.clone()
	p.encoded = p.context.marshal()
	return p, p.validateTree()
}

// clone copies everything that may share memory with a message.
func (c GroupContext) clone() GroupContext {
	r := codec.NewReader(c.marshal(), codec.Limits{})
	return decodeGroupContext(r)
}

// GroupID is the group's name.
func (p *PublicState) GroupID() []byte { return slices.Clone(p.context.GroupID) }

// Epoch is the current one.
func (p *PublicState) Epoch() uint64 { return p.context.Epoch }

// Context is the current GroupContext.
func (p *PublicState) Context() GroupContext { return p.context.clone() }

// CipherSuite is the group's.
func (p *PublicState) CipherSuite() CipherSuite { return p.context.CipherSuite }

// Tree encodes the ratchet tree as joiners need it (§12.4.3.3).
func (p *PublicState) Tree() ([]byte, error) { return p.tree.marshal() }

// AllSupport reports whether the capabilities of all members list an extension, without a pass over the members.
func (p *PublicState) AllSupport(x ExtensionType) bool {
	all := true
	p.tree.indexed().people.all(func(c Capabilities) bool {
		all = slices.Contains(c.Extensions, x)
		return all
	})
	return all
}

// Member is one leaf of a group.
type Member struct {
	Leaf         LeafIndex
	SignatureKey []byte
	Credential   Credential
	Capabilities Capabilities
	Extensions   Extensions
}

func memberOf(i LeafIndex, l *LeafNode) Member {
	return Member{i, l.SignatureKey, l.Credential, l.Capabilities, l.Extensions}
}

// Size is the number of members.
func (p *PublicState) Size() int { return p.tree.members() }

// Member gives the member at a leaf.
func (p *PublicState) Member(i LeafIndex) (Member, bool) {
	l, ok := p.tree.leaf(i)
	if !ok {
		return Member{}, false
	}
	return memberOf(i, l), true
}

// Members visits all members from the left until visit says no.
func (p *PublicState) Members(visit func(Member) bool) {
	p.tree.eachLeaf(func(i LeafIndex, body string) bool {
		l, err := parseLeafNode(body)
		return err != nil || visit(memberOf(i, l))
	})
}

// MemberByIdentity finds the member whom the Authenticator knows by an identity.
func (p *PublicState) MemberByIdentity(identity []byte) (Member, bool) {
	i, ok := p.tree.memberByIdentity(string(identity))
	if !ok {
		return Member{}, false
	}
	return p.Member(i)
}

// CheckKeyPackage checks whether the present members could add a KeyPackage at a time, as a commit would
// (RFC 9420 §10.1, §7.3, §12.1.1): signatures, lifetime, credential, the capabilities that the group asks
// for, and that no member has its keys or represents the same client. The Policy, which judges by who
// proposes and commits, is not asked. For the zero time the lifetime's ends are left out.
func (p *PublicState) CheckKeyPackage(kp *KeyPackage, now time.Time) error {
	if err := kp.verify(p.rules.suite, p.rules.ownKeyPackageRules(now)); err != nil {
		return err
	}
	rules, with := *p.rules, *p
	rules.policy = nil
	with.rules = &rules
	committer := Sender{Type: SenderMember, Index: ^uint32(0)} // nobody in particular
	_, err := with.planList([]sentProposal{{Proposal: AddProposal(kp), sender: committer, checked: true}}, committer, 0)
	return err
}

// Process follows one handshake message, a PublicMessage: it returns the next state and what happened.
// On an error the state is as it was.
func (p *PublicState) Process(msg []byte) (*PublicState, *Effects, error) {
	m, err := parseMessage(msg, p.limits.Codec)
	if err != nil {
		return nil, nil, err
	}
	if m.public == nil {
		return nil, nil, fail(ErrUnsupported, "§6", "message", "is a %v: only PublicMessages can be followed without keys", m.format)
	}
	ac := &m.public.authenticatedContent
	if ac.content.kind == ContentApplication {
		return nil, nil, fail(ErrInvalid, "§6", "application message", "must be a PrivateMessage")
	}
	if err := p.checkAddress(ac.content.groupID, ac.content.epoch); err != nil {
		return nil, nil, err
	}
	if err := p.verifySender(ac); err != nil {
		return nil, nil, err
	}
	if p.reinit != nil {
		return nil, nil, closedByReInit(ac)
	}
	if ac.content.kind == ContentProposal {
		next, err := p.cache(ac)
		if err != nil {
			return nil, nil, err
		}
		return next, next.effectsOfProposal(ac), nil
	}
	st, err := p.stage(ac)
	if err != nil {
		return nil, nil, err
	}
	next := p.advance(st, ac)
	return next, st.effects(p, next, ac), nil
}

// closedByReInit refuses a handshake in a group that has ended.
func closedByReInit(ac *authenticatedContent) error {
	return fail(ErrGroupEnded, "§12.4.2", ac.content.kind.String(), "the group is closed by a ReInit")
}

// checkAddress compares group and epoch of a handshake with this state's.
func (p *PublicState) checkAddress(groupID []byte, epoch uint64) error {
	switch {
	case !bytes.Equal(groupID, p.context.GroupID):
		return fail(ErrNotForUs, "§6", "message", "is for group %x, not %x", groupID, p.context.GroupID)
	case epoch < p.context.Epoch:
		return fail(ErrStale, "§12.4.2", "message", "is of epoch %d, the group is at %d", epoch, p.context.Epoch)
	case epoch > p.context.Epoch:
		return fail(ErrFuture, "§12.4.2", "message", "is of epoch %d, the group is at %d", epoch, p.context.Epoch)
	}
	return nil
}

// verifySender finds the key for a sender and verifies the signature (§6.1).
func (p *PublicState) verifySender(ac *authenticatedContent) error {
	key, err := p.senderKey(ac)
	if err != nil {
		return err
	}
	return ac.verify(p.rules.suite, key, p.encoded)
}

func (p *PublicState) senderKey(ac *authenticatedContent) ([]byte, error) {
	c := ac.content
	switch c.sender.Type {
	case SenderMember:
		if key := p.tree.signatureKey(LeafIndex(c.sender.Index)); key != "" {
			return []byte(key), nil
		}
		return nil, fail(ErrForged, "§6.1", c.sender.String(), "is not a member")
	case SenderExternal:
		senders, err := p.context.Extensions.ExternalSenders()
		if err != nil {
			return nil, err
		}
		if uint64(c.sender.Index) >= uint64(len(senders)) {
			return nil, fail(ErrForged, "§6.1", c.sender.String(), "the group has %d external senders", len(senders))
		}
		if c.kind != ContentProposal {
			return nil, fail(ErrMalformed, "§6.1", c.sender.String(), "may send proposals only")
		}
		sender := senders[c.sender.Index]
		if err := p.rules.suite.validateSignatureKey(sender.SignatureKey); err != nil {
			return nil, within(c.sender.String(), ErrInvalid, err)
		}
		return sender.SignatureKey, checkSenderType(c.sender, c.proposal.Type)
	case SenderNewMemberProposal:
		if c.kind != ContentProposal || c.proposal.Type != ProposalAdd {
			return nil, fail(ErrMalformed, "§6.1", c.sender.String(), "may send an Add proposal only")
		}
		return c.proposal.Add.LeafNode.SignatureKey, nil
	default: // SenderNewMemberCommit
		if c.kind != ContentCommit || c.commit.path == nil {
			return nil, fail(ErrMalformed, "§6.1", c.sender.String(), "must be a commit with a path")
		}
		return c.commit.path.leaf.SignatureKey, nil
	}
}

// cache keeps a verified proposal for a commit to refer to (§12.1).
func (p *PublicState) cache(ac *authenticatedContent) (*PublicState, error) {
	ref := ac.proposalRef(p.rules.suite)
	if _, known := p.cached(ref); known {
		return nil, fail(ErrReplay, "§12.1", "proposal", "was received before")
	}
	if len(p.proposals) >= p.limits.Proposals {
		return nil, fail(ErrLimit, "", "proposal", "%d are waiting for a commit, at most %d", len(p.proposals), p.limits.Proposals)
	}
	if err := checkSenderType(ac.content.sender, ac.content.proposal.Type); err != nil {
		return nil, err
	}
	if err := p.rules.intake.checkProposal(ac.content.proposal); err != nil {
		return nil, err
	}
	c, err := openCached(p.rules.suite, ac.marshal())
	if err != nil {
		return nil, err
	}
	next := *p
	next.proposals = append(slices.Clip(p.proposals), *c)
	return &next, nil
}

// openCached reads a proposal back from the AuthenticatedContent that it came in.
func openCached(s *suite, content []byte) (*cachedProposal, error) {
	r := codec.NewReader(content, codec.DefaultLimits)
	ac := decodeAuthenticatedContent(r)
	if err := r.Finish(); err != nil {
		return nil, malformed("cached proposal", err)
	}
	if ac.content.kind != ContentProposal {
		return nil, fail(ErrMalformed, "", "cached proposal", "is a %v", ac.content.kind)
	}
	return &cachedProposal{sentProposal: sentProposal{Proposal: *ac.content.proposal, sender: ac.content.sender, ref: ac.proposalRef(s)}, content: content}, nil
}

func (p *PublicState) cached(ref []byte) (*cachedProposal, bool) {
	for i := range p.proposals {
		if bytes.Equal(p.proposals[i].ref, ref) {
			return &p.proposals[i], true
		}
	}
	return nil, false
}

// stagedCommit is a commit that has passed every check that needs no key.
type stagedCommit struct {
	*plan
	leaf    LeafIndex // of the committer, in the new tree
	path    *receivedPath
	context GroupContext // provisional: the confirmed transcript hash is still the old one (§12.4.1)
	tree    *ratchetTree
}

// stage checks a commit whose signature has been verified (§12.4.2).
func (p *PublicState) stage(ac *authenticatedContent) (*stagedCommit, error) {
	c := ac.content.commit
	list, err := p.resolve(c, ac.content.sender)
	if err != nil {
		return nil, err
	}
	pl, err := p.planList(list, ac.content.sender, p.foundingUsage(ac.content.sender))
	if err != nil {
		return nil, err
	}
	if c.path == nil && (pl.needsPath || pl.external) {
		return nil, fail(ErrInvalid, "§12.4", "commit", "has no path, and its proposals require one")
	}
	st := &stagedCommit{plan: pl, tree: pl.tree, leaf: LeafIndex(ac.content.sender.Index)}
	if c.path != nil {
		if err := p.stagePath(st, c.path); err != nil {
			return nil, err
		}
	}
	st.context, err = p.provisional(st)
	return st, err
}

// provisional is the GroupContext of the next epoch but for the transcript (§12.4.1).
func (p *PublicState) provisional(st *stagedCommit) (GroupContext, error) {
	c := p.context
	if c.Epoch == 1<<64-1 {
		return c, fail(ErrLimit, "§12", "group", "has no epoch after %d", c.Epoch)
	}
	c.Epoch++
	c.TreeHash = st.tree.hash()
	c.Extensions = st.extensions
	return c, nil
}

// resolve replaces a commit's references by the proposals that they name (§12.4; erratum 8815).
func (p *PublicState) resolve(c *commitContent, committer Sender) ([]sentProposal, error) {
	list := make([]sentProposal, 0, len(c.proposals))
	for at, entry := range c.proposals {
		if entry.proposal != nil {
			list = append(list, sentProposal{Proposal: *entry.proposal, sender: committer})
			continue
		}
		if committer.Type == SenderNewMemberCommit {
			return nil, fail(ErrInvalid, "§12.4.3.2", fmt.Sprintf("entry %d", at), "an external commit cannot refer to proposals")
		}
		known, ok := p.cached(entry.ref)
		if !ok {
			return nil, &Error{Kind: ErrMissing, Clause: "§12.2", Object: "commit",
				Detail: "proposal was not received", Err: &MissingProposal{at, slices.Clone(entry.ref)}}
		}
		list = append(list, known.sentProposal)
	}
	return list, nil
}

// stagePath validates a path's leaf and merges the path (§12.4.2).
func (p *PublicState) stagePath(st *stagedCommit, path *updatePath) error {
	base := st.plan.tree
	if path.leaf.Source != SourceCommit {
		return fail(ErrInvalid, "§7.3", "update path", "leaf node source is %d, not commit", path.leaf.Source)
	}
	if st.external {
		var err error
		if base, err = p.placeJoiner(st); err != nil {
			return err
		}
		if err := p.checkJoiner(st, path.leaf); err != nil {
			return within("update path", ErrInvalid, err)
		}
	} else if err := p.checkReplacement(st.leaf, st.leaf, path.leaf, UseUpdate); err != nil {
		return within("update path", ErrInvalid, err)
	}
	merged, err := base.mergePath(st.leaf, path, st.added)
	if err != nil {
		return err
	}
	if err := checkMember(merged.tree, st.leaf, st.extensions); err != nil {
		return within("update path", ErrInvalid, err)
	}
	st.path, st.tree = merged, merged.tree
	return nil
}

// placeJoiner finds the leaf for an external committer: the leftmost blank one, in a tree that is
// extended if it has none (§12.4.2).
func (p *PublicState) placeJoiner(st *stagedCommit) (*ratchetTree, error) {
	e := st.plan.tree.edit()
	places, err := e.places(1)
	if err != nil {
		return nil, err
	}
	st.leaf = places[0]
	return e.finish(), nil
}

// checkJoiner checks the leaf of an external commit: whoever it removes must be an earlier appearance
// of the same client (§12.2).
func (p *PublicState) checkJoiner(st *stagedCommit, leaf *LeafNode) error {
	if len(st.removed) > 0 {
		return p.checkReplacement(st.removed[0], st.leaf, leaf, UseExternalJoin)
	}
	if err := p.checkNewLeaf(st.leaf, leaf); err != nil {
		return err
	}
	return p.rules.keyPackageRules().validate(p.rules.suite, leaf, UseExternalJoin)
}

// advance enters the next epoch (§8.2, §12.4.2). The confirmation tag is taken from the commit.
func (p *PublicState) advance(st *stagedCommit, ac *authenticatedContent) *PublicState {
	s := p.rules.suite
	next := &PublicState{rules: p.rules, limits: p.limits, context: st.context.clone(), tree: st.tree, reinit: st.reinit}
	next.context.ConfirmedTranscriptHash = s.confirmedTranscript(p.interim, ac)
	next.encoded = next.context.marshal()
	next.interim = s.interimTranscript(next.context.ConfirmedTranscriptHash, ac.confirmationTag)
	return next
}
