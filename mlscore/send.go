package mlscore

import (
	"fmt"
	"slices"
)

// MessageOptions shape an application message.
type MessageOptions struct {
	AuthenticatedData []byte // authenticated, not encrypted: servers read it
	// DespiteProposals sends although proposals wait for a commit. The RFC wants them committed first,
	// so that whoever is to be removed reads nothing more (§12.4); an application may have to talk
	// on while no commit can be had.
	DespiteProposals bool
}

// Protect encrypts an application message for the group (RFC 9420 §6.3). Its key is used up before it
// is returned.
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

// content begins a message of this member's in the present epoch.
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

// sendPrivate signs and encrypts content, and stores that the key is used, together with whatever more
// writes.
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

// seal encrypts signed content under the next key of this member's ratchet, and adds to b that the key
// is used.
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

// sendHandshake frames a signed proposal as this member sends handshakes.
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

// ProposeOptions shape a proposal message.
type ProposeOptions struct {
	AuthenticatedData []byte
}

// Propose sends a proposal for somebody to commit (§12.1). The proposal waits here too, for a commit of
// this member's own.
func (g *Group) Propose(p Proposal, opts ProposeOptions) ([]byte, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	if !p.complete() || p.Type == ProposalExternalInit {
		return nil, fail(ErrMisuse, "§12.1", "proposal", "type %v cannot be proposed like this", p.Type)
	}
	if p.Type == ProposalUpdate {
		return nil, fail(ErrMisuse, "§12.1.2", "proposal", "an Update needs private keys: see ProposeUpdate")
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

// checkOwn refuses to send a proposal that no commit could hold, whoever commits.
func (g *Group) checkOwn(p Proposal) error {
	sp := sentProposal{Proposal: p, sender: member(g.state.self)}
	pl := &plan{committer: Sender{Type: SenderMember, Index: ^uint32(0)}}
	if err := g.public().checkProposal(&sp, pl, 0); err != nil {
		return within(fmt.Sprintf("proposal (%v)", p.Type), ErrInvalid, err)
	}
	if p.Type == ProposalAdd {
		return p.Add.verify(g.suite, g.public().rules.ownKeyPackageRules(g.client.cfg.Now()))
	}
	return g.checkMade(&p)
}

// checkMade applies the rules for makers that no receiver checks to a proposal that this member makes.
func (g *Group) checkMade(p *Proposal) error {
	var err error
	switch p.Type {
	case ProposalGroupContextExtensions:
		err = g.public().checkMadeExtensions(p.Extensions)
	case ProposalReInit:
		err = g.checkFoundable(p.ReInit)
	}
	return within(fmt.Sprintf("proposal (%v)", p.Type), ErrInvalid, err)
}

// checkFoundable refuses a ReInit in favour of a group that nobody can found, since this member could not
// be in it (§11.2): its commit would end the group for nothing.
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

// LeafUpdate says what changes in this member's leaf beside its keys; nil fields stay.
type LeafUpdate struct {
	Identity   *Identity   // another credential or signature key
	Extensions *Extensions // of the leaf
	// Capabilities are announced in place of what the Config announces. They do not stay: nil means the
	// Config's, which may have changed since the last leaf was made.
	Capabilities *Capabilities
}

// newLeaf begins this member's next leaf.
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

// ProposeUpdate proposes new keys for this member, and whatever u says (§12.1.2). They are used once
// another member has committed the proposal.
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

// ProposeLeave asks the others to remove this member: nobody can commit its own removal (§12.2).
func (g *Group) ProposeLeave(opts ProposeOptions) ([]byte, error) {
	return g.Propose(RemoveProposal(g.state.self), opts)
}

// ExternalPSK makes a proposal that injects a PSK which all members have stored under id (§12.1.4).
func (g *Group) ExternalPSK(id []byte) (Proposal, error) {
	return g.pskProposal(PreSharedKeyID{Type: PSKExternal, ID: id})
}

// ResumptionPSK makes a proposal that injects the resumption PSK of an epoch of some group that all
// members have been in (§8.6).
func (g *Group) ResumptionPSK(groupID []byte, epoch uint64) (Proposal, error) {
	return g.pskProposal(PreSharedKeyID{Type: PSKResumption, Usage: UsageApplication, GroupID: groupID, Epoch: epoch})
}

func (g *Group) pskProposal(id PreSharedKeyID) (Proposal, error) {
	return g.suite.pskProposal(g.client.cfg.Rand, id)
}
