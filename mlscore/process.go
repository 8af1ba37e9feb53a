package mlscore

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrOwnMessage: this member sent the message; sending consumed its key. A member's own proposals and commits take
// effect when they are made.
var ErrOwnMessage = errors.New("own message")

// ErrOwnUnknown: this member made the commit, but this state of the member did not: the Store was replaced by an older
// copy. The keys of the commit's path are lost, so the member cannot follow the group any further.
var ErrOwnUnknown = errors.New("own commit from a later state")

// Received is the result of processing a message: one of its pointers is set.
type Received struct {
	Application *ApplicationMessage
	Proposal    *Effects      // a proposal, which now waits for a commit
	Commit      *StagedCommit // a commit, which the caller may merge
}

// ApplicationMessage is a decrypted application message.
type ApplicationMessage struct {
	Sender            Member
	Epoch             uint64
	Generation        uint32 // counts the sender's messages in this epoch
	Data              []byte
	AuthenticatedData []byte
}

// Process processes any message of the group: an application message of this epoch or of a recent one, a proposal, a
// commit. A commit changes nothing until it is merged. After an error nothing has changed. For ErrFuture the caller
// must hold the message, for ErrStale and ErrReplay drop it, for ErrOwnMessage ignore it, for ErrMissing fetch the
// missing proposal (see MissingProposal) or PSK; ErrGroupEnded and ErrStore are about this member. Any other kind means
// that the message is bad.
//
// A message of this very member whose key was not used here shows that the Store was replaced by an older copy. Process
// verifies it as a message of any member. It returns an application message, with this member as the sender, and a
// proposal; for a commit it returns ErrOwnUnknown. An application message of this member is no proof alone, and its key
// stays unused: see UseOwn.
func (g *Group) Process(msg []byte) (*Received, error) {
	if err := g.usable(); err != nil {
		return nil, err
	}
	if g.isOwnPending(msg) {
		return &Received{Commit: g.pending}, nil
	}
	msg = bytes.Clone(msg) // the decoded message shares its memory
	m, err := parseMessage(msg, g.client.cfg.Limits.Codec)
	if err != nil {
		return nil, err
	}
	switch {
	case m.private != nil:
		return g.processPrivate(m.private, msg)
	case m.public != nil:
		return g.processPublic(m.public, msg)
	}
	return nil, fail(ErrNotForUs, "§6", "message", "a %v is not for a group's members", m.format)
}

func (g *Group) processPublic(m *publicMessage, msg []byte) (*Received, error) {
	public := g.public()
	if err := public.checkAddress(m.content.groupID, m.content.epoch); err != nil {
		return nil, err
	}
	own := m.content.sender == member(g.state.self)
	if own && m.content.kind != ContentCommit {
		if _, known := public.cached(m.proposalRef(g.suite)); known {
			return nil, fail(ErrOwnMessage, "", m.content.kind.String(), "this member sent it")
		}
	}
	ac, err := g.suite.openPublic(m, g.state.secrets.membership, public.encoded)
	if err != nil {
		return nil, err
	}
	if err := public.verifySender(ac); err != nil {
		return nil, err
	}
	if own && m.content.kind == ContentCommit {
		return nil, ownUnknown()
	}
	return g.processHandshake(ac, nil, msg)
}

func ownUnknown() error {
	return fail(ErrOwnUnknown, "", "commit", "this member made it, in a later state than this one")
}

func (g *Group) processPrivate(m *privateMessage, msg []byte) (*Received, error) {
	context := &g.public().context
	if !bytes.Equal(m.groupID, context.GroupID) {
		return nil, fail(ErrNotForUs, "§6", "message", "is for group %x, not %x", m.groupID, context.GroupID)
	}
	if m.epoch == context.Epoch {
		return g.processPresent(m, msg)
	}
	if m.kind == ContentApplication {
		for at, p := range g.past {
			if p.epoch == m.epoch {
				p, err := g.openPast(at)
				if err != nil {
					return nil, err
				}
				return g.processLate(m, p)
			}
		}
	}
	return nil, g.public().checkAddress(m.groupID, m.epoch)
}

// reading holds the data that is needed to read a PrivateMessage of an epoch.
type reading struct {
	suite      *suite
	tree       *ratchetTree
	context    []byte
	senderData Secret
	messages   *secretTree
	self       LeafIndex
	limits     Limits
}

// open decrypts a message and verifies its signature. The caller applies or discards the step that consumes the key.
func (r *reading) open(m *privateMessage) (*authenticatedContent, *treeStep, error) {
	d, err := r.suite.openSenderData(m, r.senderData)
	if err != nil {
		return nil, nil, err
	}
	key := r.tree.signatureKey(d.leaf)
	if key == "" {
		return nil, nil, fail(ErrForged, "§6.3.2", "private message", "sender %s is not a member", leafName(d.leaf))
	}
	step, err := r.messages.peek(ratchetFor(d.leaf, m.kind), d.generation, r.limits.Ratchet)
	if d.leaf == r.self && errors.Is(err, ErrReplay) {
		return nil, nil, fail(ErrOwnMessage, "", m.kind.String(), "this member sent it")
	}
	if err != nil {
		return nil, nil, err
	}
	ac, err := r.suite.openPrivate(m, d, step.key, r.limits.Codec)
	if err == nil {
		err = ac.verify(r.suite, []byte(key), r.context)
	}
	if err != nil {
		step.discard()
		return nil, nil, err
	}
	return ac, step, nil
}

func (g *Group) processPresent(m *privateMessage, msg []byte) (*Received, error) {
	st := g.state
	r := reading{
		suite:      g.suite,
		tree:       st.public.tree,
		context:    st.public.encoded,
		senderData: st.secrets.senderData,
		messages:   st.messages,
		self:       st.self,
		limits:     g.client.cfg.Limits,
	}
	ac, step, err := r.open(m)
	if err != nil {
		return nil, err
	}
	if m.kind == ContentApplication {
		return g.deliver(ac, step, st.public.tree, st.messages)
	}
	if m.kind == ContentCommit && ac.content.sender == member(st.self) {
		step.discard()
		if p := g.pending; p != nil && p.next != nil && bytes.Equal(p.next.confirmationTag, ac.confirmationTag) {
			return &Received{Commit: p}, nil // another member has encrypted the pending commit a second time
		}
		return nil, ownUnknown()
	}
	return g.processHandshake(ac, step, msg)
}

// processLate reads an application message of an ended epoch, with the tree of that epoch: the sender's leaf may
// belong to another member now.
func (g *Group) processLate(m *privateMessage, p *pastEpoch) (*Received, error) {
	r := reading{
		suite:      g.suite,
		tree:       p.tree,
		context:    p.context,
		senderData: p.senderData,
		messages:   p.messages,
		self:       g.state.self,
		limits:     g.client.cfg.Limits,
	}
	ac, step, err := r.open(m)
	if err != nil {
		return nil, err
	}
	return g.deliver(ac, step, p.tree, p.messages)
}

// deliver consumes the key of an application message and returns the content.
func (g *Group) deliver(ac *authenticatedContent, step *treeStep, tree *ratchetTree, messages *secretTree) (*Received, error) {
	leaf := LeafIndex(ac.content.sender.Index)
	sender, ok := tree.leaf(leaf)
	if !ok {
		step.discard()
		return nil, fail(ErrForged, "§6.3.2", leafName(leaf), "is not a member")
	}
	generation := step.key.generation
	if leaf == g.state.self { // see UseOwn
		step.discard()
	} else if err := g.useKey(messages, ac.content.epoch, step, nil); err != nil {
		return nil, err
	}
	return &Received{Application: &ApplicationMessage{
		Sender:            memberOf(leaf, sender),
		Epoch:             ac.content.epoch,
		Generation:        generation,
		Data:              ac.content.application,
		AuthenticatedData: bytes.Clone(ac.content.authenticatedData),
	}}, nil
}

// UseOwn records that this member has sent an application message of the present epoch that Process has returned, so
// that its key and the keys before it are not used again. The caller first looks whether it has sent the same data
// before: every member knows the keys of all senders, and a signature covers no key. So another member can encrypt a
// message of this member a second time, under a key that this member has not used yet. If such repeats used up keys,
// they could carry this member's ratchet so far ahead that others refuse its messages.
func (g *Group) UseOwn(m *ApplicationMessage) error {
	if err := g.usable(); err != nil || m.Epoch != g.Epoch() || m.Sender.Leaf != g.state.self {
		return err
	}
	step, err := g.state.messages.peek(ratchetFor(m.Sender.Leaf, ContentApplication), m.Generation, g.client.cfg.Limits.Ratchet)
	if errors.Is(err, ErrReplay) {
		return nil
	}
	if err != nil {
		return err
	}
	return g.useKey(g.state.messages, m.Epoch, step, nil)
}

// useKey stores that a key is used, together with the writes of more, and erases the key.
func (g *Group) useKey(messages *secretTree, epoch uint64, step *treeStep, more func(*Batch)) error {
	var b Batch
	messages.writeStep(&b, g.name(), epoch, step)
	if more != nil {
		more(&b)
	}
	err := applyBatch(g.client.cfg.Store, b)
	b.erase()
	if err != nil {
		step.discard()
		return err
	}
	messages.apply(step)
	step.key.erase()
	return nil
}

// processHandshake processes a verified proposal or commit. step is nil for a PublicMessage.
func (g *Group) processHandshake(ac *authenticatedContent, step *treeStep, msg []byte) (*Received, error) {
	if g.public().reinit != nil {
		if step != nil {
			step.discard()
		}
		return nil, closedByReInit(ac)
	}
	if ac.content.kind == ContentProposal {
		return g.receiveProposal(ac, step)
	}
	staged, err := g.stage(ac)
	if err == nil && step != nil {
		name := step.name
		staged.used, staged.usedGeneration = &name, step.key.generation
	}
	if step != nil {
		step.discard() // made again when the commit is merged, from the state of the ratchet at that time
	}
	if err != nil {
		return nil, err
	}
	staged.message = msg
	return &Received{Commit: staged}, nil
}

func (g *Group) receiveProposal(ac *authenticatedContent, step *treeStep) (*Received, error) {
	next, err := g.public().cache(ac)
	if err != nil {
		if step != nil {
			step.discard()
		}
		return nil, err
	}
	write := func(b *Batch) { g.writeProposal(b, next) }
	if step != nil {
		err = g.useKey(g.state.messages, ac.content.epoch, step, write)
	} else {
		var b Batch
		write(&b)
		err = applyBatch(g.client.cfg.Store, b)
	}
	if err != nil {
		return nil, err
	}
	g.state.public = next
	return &Received{Proposal: next.effectsOfProposal(ac)}, nil
}

// stage computes the epoch that a received commit leads to (RFC 9420 §12.4.2).
func (g *Group) stage(ac *authenticatedContent) (*StagedCommit, error) {
	public := g.public()
	st, err := public.stage(ac)
	if err != nil {
		return nil, err
	}
	nextPublic := public.advance(st, ac)
	out := &StagedCommit{base: g.state, effects: st.effects(public, nextPublic, ac)}
	if containsUnsorted(st.removed, g.state.self) {
		out.removes = true
		return out, nil
	}
	next, commit, err := g.openPath(st)
	if err != nil {
		return nil, err
	}
	defer commit.Erase()
	if err := g.deriveNext(st, ac, next, nextPublic, commit); err != nil {
		next.erase()
		return nil, err
	}
	out.next = next
	return out, nil
}

func containsUnsorted(list []LeafIndex, i LeafIndex) bool {
	for _, have := range list {
		if have == i {
			return true
		}
	}
	return false
}

// openPath returns this member's private keys in the next epoch, and the commit secret.
func (g *Group) openPath(st *stagedCommit) (*memberState, Secret, error) {
	next := &memberState{self: g.state.self, signer: g.state.signer.Clone()}
	next.keys = g.state.keys.carryOver(g.public().tree, st.plan.tree, g.state.self)
	if err := g.takeUpdate(st, next); err != nil {
		return nil, Secret{}, err
	}
	if st.path == nil {
		return next, ownSecret(make([]byte, g.suite.hashLen())), nil
	}
	keys, commit, err := st.path.open(next.self, next.keys, st.context.marshal())
	if err != nil {
		next.erase()
		return nil, Secret{}, err
	}
	merged := next.keys.carryOver(st.plan.tree, st.tree, next.self)
	next.keys.erase()
	for level, key := range keys {
		if key.Len() > 0 {
			merged.set(level, key)
		}
	}
	next.keys = merged
	return next, commit, nil
}

// takeUpdate adopts the keys of an own Update that the commit covers.
func (g *Group) takeUpdate(st *stagedCommit, next *memberState) error {
	for at := range st.list {
		p := &st.list[at]
		if p.Type != ProposalUpdate || p.sender != member(g.state.self) {
			continue
		}
		u, ok := g.updates[string(p.ref)]
		if !ok {
			return fail(ErrMissing, "§12.1.2", p.name(at), "the private keys of this member's Update are not here")
		}
		next.keys.set(0, u.leafKey.Clone())
		next.signer.Erase()
		next.signer = u.signer.Clone()
	}
	return nil
}

// deriveNext computes the next epoch's secrets and checks the confirmation tag (§12.4.2).
func (g *Group) deriveNext(st *stagedCommit, ac *authenticatedContent, next *memberState, public *PublicState, commit Secret) error {
	s := g.suite
	init := g.state.secrets.init
	if st.external {
		var err error
		if init, err = g.externalInit(st.kemOutput); err != nil {
			return err
		}
		defer init.Erase()
	}
	psk, err := g.client.pskSecret(s, st.psks)
	if err != nil {
		return err
	}
	joiner := s.joinerSecret(init, commit, public.encoded)
	secret := s.memberSecret(joiner, psk)
	defer eraseAll(psk, joiner, secret)
	next.public = public
	next.secrets = s.epochFrom(secret, public.encoded)
	if !s.verifyMAC(next.secrets.confirmation.Bytes(), public.context.ConfirmedTranscriptHash, ac.confirmationTag) {
		return fail(ErrForged, "§12.4.2", fmt.Sprintf("commit from %v", ac.content.sender), "confirmation tag does not verify")
	}
	next.confirmationTag = bytes.Clone(ac.confirmationTag)
	next.messages = newSecretTree(s, public.tree.height(), next.secrets.encryption)
	next.secrets.encryption = Secret{}
	return nil
}

// externalInit derives the init secret that an external committer chose (§8.3).
func (g *Group) externalInit(kemOutput []byte) (Secret, error) {
	priv, pub, err := g.suite.deriveKeyPair(g.state.secrets.external.Bytes())
	if err != nil {
		return Secret{}, err
	}
	defer priv.Erase()
	secret, err := g.suite.exportFor(priv.Bytes(), pub, kemOutput, nil, externalInitLabel, g.suite.hashLen())
	if err != nil {
		return Secret{}, within("ExternalInit", ErrForged, err)
	}
	return secret, nil
}

// externalInitLabel is the exporter context of §8.3.
const externalInitLabel = "MLS 1.0 external init secret"
