package mlscore

import (
	"fmt"
	"slices"
)

// MessageOptions are the options of an application message.
type MessageOptions struct {
	AuthenticatedData []byte // authenticated, not encrypted: servers read it
	// DespiteProposals sends although proposals wait for a commit. The RFC requires to commit them first, so that a
	// member who is about to be removed reads nothing more (§12.4); an application may have to send while no commit
	// is possible.
	DespiteProposals bool
}

// Protect encrypts an application message for the group (RFC 9420 §6.3). The key of the message is consumed before
// Protect returns. Errors: ErrGroupEnded; ErrMisuse if proposals wait for a commit, unless opts.DespiteProposals is set
// (§12.4); ErrStore.
func (g *Group) Protect(data []byte, opts MessageOptions) ([]byte, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	if g.public().waits() && !opts.DespiteProposals {
		return nil, fail(ErrMisuse, "§12.4", "application message", "%d proposals wait for a commit, which must come first", len(g.public().Pending()))
	}
	c := g.content(ContentApplication, opts.AuthenticatedData)
	c.application = data
	return g.sendPrivate(c, nil)
}

// content returns the common fields of a message of this member in the present epoch.
func (g *Group) content(kind ContentType, authenticatedData []byte) *framedContent {
	p := g.public()
	return &framedContent{
		groupID:           p.context.GroupID,
		epoch:             p.context.Epoch,
		sender:            member(g.state.self),
		authenticatedData: authenticatedData,
		kind:              kind,
	}
}

// sendPrivate signs and encrypts content, and stores that the key is used, together with the writes of more.
func (g *Group) sendPrivate(c *framedContent, more func(*authenticatedContent, *Batch) error) ([]byte, error) {
	ac := &authenticatedContent{format: WireFormatPrivateMessage, content: c}
	k, err := g.state.signing(g.suite)
	if err == nil {
		err = ac.signWith(k, g.public().encoded)
	}
	if err != nil {
		return nil, err
	}
	var b Batch
	msg, step, err := g.seal(ac, &b)
	if err != nil {
		return nil, err
	}
	if more != nil {
		err = more(ac, &b)
	}
	if err == nil {
		b.Output = msg
		err = applyBatch(g.client.cfg.Store, b)
	}
	b.erase()
	if err != nil {
		step.discard()
		return nil, err
	}
	g.state.messages.apply(step)
	step.key.erase()
	return msg, nil
}

// seal encrypts signed content under the next key of this member's ratchet, and adds to b the write that consumes the
// key.
func (g *Group) seal(ac *authenticatedContent, b *Batch) ([]byte, *treeStep, error) {
	t := g.state.messages
	name := ratchetFor(g.state.self, ac.content.kind)
	step, err := t.peek(name, t.next(name), g.client.cfg.Limits.Ratchet)
	if err != nil {
		return nil, nil, err
	}
	msg, err := g.suite.protectPrivate(g.client.cfg.Rand, ac, g.state.secrets.senderData, step.key, g.options.Padding)
	if err != nil {
		step.discard()
		return nil, nil, err
	}
	t.writeStep(b, g.name(), g.Epoch(), step)
	return msg, step, nil
}

// sendHandshake signs a proposal and frames it in the form in which this member sends handshakes.
func (g *Group) sendHandshake(c *framedContent, more func(*authenticatedContent, *Batch) error) ([]byte, error) {
	if !g.options.PublicHandshakes {
		return g.sendPrivate(c, more)
	}
	ac := &authenticatedContent{format: WireFormatPublicMessage, content: c}
	k, err := g.state.signing(g.suite)
	if err == nil {
		err = ac.signWith(k, g.public().encoded)
	}
	if err != nil {
		return nil, err
	}
	msg, err := g.suite.protectPublic(ac, g.state.secrets.membership, g.public().encoded)
	if err != nil {
		return nil, err
	}
	b := Batch{Output: msg}
	defer b.erase()
	if err := more(ac, &b); err != nil {
		return nil, err
	}
	return msg, applyBatch(g.client.cfg.Store, b)
}

// ProposeOptions are the options of a proposal message.
type ProposeOptions struct {
	AuthenticatedData []byte
}

// Propose makes a proposal message for the group (§12.1). The proposal then waits in this group too, and this
// member's next commit can contain it. Errors: ErrGroupEnded; ErrMisuse for an incomplete proposal, an Update or an
// ExternalInit; the error of a commit for a proposal that no member could commit; ErrLimit if Limits.Proposals
// proposals wait; ErrStore.
func (g *Group) Propose(p Proposal, opts ProposeOptions) ([]byte, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	if p.complete() && p.Type == ProposalUpdate {
		return nil, fail(ErrMisuse, "§12.1.2", "proposal", "an Update needs private keys: see ProposeUpdate")
	}
	if !p.complete() || p.Type.row().keyed {
		return nil, fail(ErrMisuse, "§12.1", "proposal", "type %v cannot be proposed like this", p.Type)
	}
	return g.propose(p, nil, opts)
}

func (g *Group) propose(p Proposal, keys *ownUpdate, opts ProposeOptions) ([]byte, error) {
	if err := g.checkOwn(p); err != nil {
		return nil, err
	}
	c := g.content(ContentProposal, opts.AuthenticatedData)
	c.proposal = &p
	var next *PublicState
	msg, err := g.sendHandshake(c, func(ac *authenticatedContent, b *Batch) error {
		var err error
		if next, err = g.public().cache(ac); err != nil {
			return err
		}
		g.writeProposal(b, next)
		if keys != nil {
			b.put(groupKey(g.name(), recordUpdate, ac.proposalRef(g.suite)), keys.marshal())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if keys != nil {
		g.updates[string(next.proposals[len(next.proposals)-1].ref)] = keys
	}
	g.state.public = next
	return msg, nil
}

// checkOwn refuses a proposal of this member that no member could commit.
func (g *Group) checkOwn(p Proposal) error {
	sp := sentProposal{Proposal: p, sender: member(g.state.self)}
	pl := &plan{committer: Sender{Type: SenderMember, Index: ^uint32(0)}}
	if err := g.public().checkProposal(&sp, pl); err != nil {
		return within(fmt.Sprintf("proposal (%v)", p.Type), ErrInvalid, err)
	}
	if p.Type == ProposalAdd {
		return p.Add.verify(g.suite, g.public().rules.ownKeyPackageRules(g.client.cfg.Now()))
	}
	return g.checkMade(&p)
}

// checkMade applies to a proposal of this member the rules for makers that no receiver checks.
func (g *Group) checkMade(p *Proposal) error {
	check := p.Type.row().checkMade
	if check == nil {
		return nil
	}
	return within(fmt.Sprintf("proposal (%v)", p.Type), ErrInvalid, check(g, p))
}

// checkFoundable refuses a ReInit in favour of a group that nobody can found, because this member could not be in it
// (§11.2). A commit of such a ReInit would end the group without a successor.
func (g *Group) checkFoundable(r *ReInit) error {
	if r.Version != MLS10 {
		return fail(ErrUnsupported, "§12.1.5", "new group", "protocol version %d", r.Version)
	}
	s, err := g.client.suite(r.CipherSuite)
	if err != nil {
		return within("new group", ErrUnsupported, err)
	}
	if err := checkPlaces(r.Extensions); err != nil {
		return err
	}
	if err := r.Extensions.checkExternalSenders(s, g.client.cfg.Intake); err != nil {
		return within("new group", ErrInvalid, err)
	}
	own := Capabilities{Extensions: g.client.cfg.Extensions, Proposals: g.client.cfg.Proposals, Credentials: g.client.cfg.Credentials}
	if leaf, ok := g.public().tree.leaf(g.state.self); ok {
		own.Credentials = append(slices.Clone(own.Credentials), leaf.Credential.Type)
	}
	return within("new group", ErrInvalid, compatible(own, r.Extensions))
}

// LeafUpdate lists the changes of this member's leaf in addition to its keys; a nil field changes nothing.
type LeafUpdate struct {
	Identity   *Identity   // another credential or signature key
	Extensions *Extensions // of the leaf
	// Capabilities are announced instead of the Config's capabilities, by this leaf only. nil means the Config's
	// capabilities, which may have changed since the last leaf was made.
	Capabilities *Capabilities
}

// newLeaf returns this member's next leaf, without new keys and signature, and its signature key.
func (g *Group) newLeaf(u LeafUpdate) (LeafNode, Secret, error) {
	old, ok := g.public().tree.leaf(g.state.self)
	if !ok {
		return LeafNode{}, Secret{}, fail(ErrGroupEnded, "", leafName(g.state.self), "is blank")
	}
	id := Identity{g.suite.id, old.Credential, g.state.signer}
	if u.Identity != nil {
		if id = *u.Identity; id.CipherSuite != g.suite.id {
			return LeafNode{}, Secret{}, fail(ErrMisuse, "§5.1.2", "identity", "is for %v, the group has %v", id.CipherSuite, g.suite.id)
		}
	}
	x := old.Extensions
	if u.Extensions != nil {
		x = *u.Extensions
	}
	if u.Identity == nil {
		leaf, err := g.client.leafWith(g.suite, id.Credential, old.SignatureKey, x, u.Capabilities)
		return leaf, id.SignatureKey.Clone(), err
	}
	leaf, err := g.client.leafFor(g.suite, id, x, u.Capabilities)
	return leaf, id.SignatureKey.Clone(), err
}

// ProposeUpdate proposes new keys for this member and the changes in u (§12.1.2). They take effect when another
// member has committed the proposal.
func (g *Group) ProposeUpdate(u LeafUpdate, opts ProposeOptions) ([]byte, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	leaf, signer, err := g.newLeaf(u)
	if err != nil {
		return nil, err
	}
	leafKey, pub, err := g.suite.generateKeyPair(g.client.cfg.Rand)
	if err != nil {
		return nil, err
	}
	leaf.EncryptionKey, leaf.Source = pub, SourceUpdate
	if err := leaf.sign(g.suite, signer, g.public().context.GroupID, g.state.self); err != nil {
		return nil, err
	}
	return g.propose(Proposal{Type: ProposalUpdate, Update: &leaf}, &ownUpdate{leafKey, signer}, opts)
}

// ProposeLeave proposes to remove this member; another member must commit the proposal, since no member can commit
// its own removal (§12.2).
func (g *Group) ProposeLeave(opts ProposeOptions) ([]byte, error) {
	return g.Propose(RemoveProposal(g.state.self), opts)
}

// ExternalPSK makes a proposal that injects a PSK which all members have stored under id (§12.1.4).
func (g *Group) ExternalPSK(id []byte) (Proposal, error) {
	return g.pskProposal(PreSharedKeyID{Type: PSKExternal, ID: id})
}

// ResumptionPSK makes a proposal that injects the resumption PSK of an epoch in which all members were in the group
// groupID (§8.6).
func (g *Group) ResumptionPSK(groupID []byte, epoch uint64) (Proposal, error) {
	return g.pskProposal(PreSharedKeyID{Type: PSKResumption, Usage: UsageApplication, GroupID: groupID, Epoch: epoch})
}

func (g *Group) pskProposal(id PreSharedKeyID) (Proposal, error) {
	return g.suite.pskProposal(g.client.cfg.Rand, id)
}
