package mlscore

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// PublicState is the state of a group that is known without its keys: the members, the GroupContext, and the
// proposals that wait for a commit. A server that sees a group's handshakes as PublicMessages follows the group with
// a PublicState and refuses messages that members would refuse. Members use the same code: a Group contains a
// PublicState.
//
// A PublicState cannot check the parts that need a key: membership tags, confirmation tags, and whether path secrets
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
	dropped bool   // this member does not commit the proposal; others may
}

// PublicConfig holds the rules of a PublicState. They must be the rules of the members.
type PublicConfig struct {
	Auth        Authenticator
	Policy      Policy        // may be nil
	MaxLifetime time.Duration // Config.MaxLifetimeReceived of the members; zero for no bound
	Intake      Intake
	// Suites are the cipher suites whose groups are followed; nil for all.
	Suites []CipherSuite
	Limits Limits
}

// suite returns the description of a cipher suite whose groups are followed.
func (c PublicConfig) suite(id CipherSuite) (*suite, error) {
	if c.Suites != nil && !slices.Contains(c.Suites, id) {
		return nil, fail(ErrUnsupported, "§17.1", id.String(), "%#04x is not among the cipher suites that are followed", uint16(id))
	}
	return c.Intake.suite(id)
}

func (c PublicConfig) rules(s *suite) *rules {
	return &rules{suite: s, auth: c.Auth, policy: c.Policy, maxLifetime: c.MaxLifetime, maxOwnLifetime: c.MaxLifetime, intake: c.Intake}
}

// NewPublicState makes a PublicState from a GroupInfo (an MLSMessage) and the ratchet tree, which may be nil if the
// GroupInfo holds the tree. Both are validated in full, as a joining member does (RFC 9420 §12.4.3.1). Errors: ErrMissing
// without a tree; ErrUnsupported for a cipher suite that is not in cfg.Suites; ErrMalformed, ErrForged, ErrInvalid and
// ErrPolicy for a bad GroupInfo or tree; ErrLimit.
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

// clone copies all fields that may share memory with a message.
func (c GroupContext) clone() GroupContext {
	r := codec.NewReader(c.marshal(), codec.Limits{})
	return decodeGroupContext(r)
}

// GroupID returns the group's name.
func (p *PublicState) GroupID() []byte { return slices.Clone(p.context.GroupID) }

// Epoch returns the number of the current epoch.
func (p *PublicState) Epoch() uint64 { return p.context.Epoch }

// Context returns the current GroupContext.
func (p *PublicState) Context() GroupContext { return p.context.clone() }

// CipherSuite returns the group's cipher suite.
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
	return Member{
		Leaf:         i,
		SignatureKey: l.SignatureKey,
		Credential:   l.Credential,
		Capabilities: l.Capabilities,
		Extensions:   l.Extensions,
	}
}

// Size returns the number of members.
func (p *PublicState) Size() int { return p.tree.members() }

// Member returns the member at a leaf.
func (p *PublicState) Member(i LeafIndex) (Member, bool) {
	l, ok := p.tree.leaf(i)
	if !ok {
		return Member{}, false
	}
	return memberOf(i, l), true
}

// Members visits all members from the left until visit returns false.
func (p *PublicState) Members(visit func(Member) bool) {
	p.tree.eachLeaf(func(i LeafIndex, body string) bool {
		l, err := parseLeafNode(body)
		return err != nil || visit(memberOf(i, l))
	})
}

// MemberByIdentity returns the member to whom the Authenticator gives an identity; false if there is none.
func (p *PublicState) MemberByIdentity(identity []byte) (Member, bool) {
	i, ok := p.tree.memberByIdentity(string(identity))
	if !ok {
		return Member{}, false
	}
	return p.Member(i)
}

// CheckKeyPackage checks that the present members could add a KeyPackage at the time now, with the checks of a commit
// (RFC 9420 §10.1, §7.3, §12.1.1): signatures, lifetime, credential, the capabilities that the group requires, and
// that no member has the same keys or is the same client. It does not call the Policy, which depends on proposer and
// committer. If now is zero, now is not compared with the lifetime.
func (p *PublicState) CheckKeyPackage(kp *KeyPackage, now time.Time) error {
	if err := kp.verify(p.rules.suite, p.rules.ownKeyPackageRules(now)); err != nil {
		return err
	}
	rules, with := *p.rules, *p
	rules.policy = nil
	with.rules = &rules
	committer := Sender{Type: SenderMember, Index: ^uint32(0)} // not a member of the group
	_, err := with.planList([]sentProposal{{Proposal: AddProposal(kp), sender: committer, checked: true}}, committer, 0)
	return err
}

// Process processes one handshake message, a PublicMessage: it returns the next state and the message's effects. p
// does not change. Errors are those of Group.Process; ErrUnsupported for a message that is not a PublicMessage;
// ErrGroupEnded after a ReInit.
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

// verifySender verifies the signature with the key of the sender (§6.1).
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

// cache adds a verified proposal, which a commit can refer to (§12.1).
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

// openCached decodes a cached proposal from its AuthenticatedContent.
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

// stagedCommit is a commit that has passed all checks that need no key.
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

// provisional returns the GroupContext of the next epoch, with the old transcript hash (§12.4.1).
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

// stagePath validates the leaf of a path and merges the path (§12.4.2).
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

// placeJoiner chooses the leaf for an external committer: the leftmost blank leaf, in a tree that is extended if it
// has no blank leaf (§12.4.2).
func (p *PublicState) placeJoiner(st *stagedCommit) (*ratchetTree, error) {
	e := st.plan.tree.edit()
	places, err := e.places(1)
	if err != nil {
		return nil, err
	}
	st.leaf = places[0]
	return e.finish(), nil
}

// checkJoiner checks the leaf of an external commit: a member that the commit removes must be an earlier appearance
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
