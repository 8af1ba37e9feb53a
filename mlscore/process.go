package mlscore

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrOwnMessage: this member sent the message; its key was used up by sending. Proposals and commits of
// one's own take effect where they are made.
var ErrOwnMessage = errors.New("own message")

// Received is what came out of a message: one of its pointers is set.
type Received struct {
	Application *ApplicationMessage
	Proposal    *Effects      // waits for a commit now
	Commit      *StagedCommit // to be merged, or not
}

// ApplicationMessage is a decrypted application message.
type ApplicationMessage struct {
	Sender            Member
	Epoch             uint64
	Generation        uint32 // counts the sender's messages in this epoch
	Data              []byte
	AuthenticatedData []byte
}

// Process takes any message of the group in: an application message of this epoch or of a recent one,
// a proposal, a commit. A commit changes nothing until it is merged. On an error nothing has changed,
// and its kind says what to do: ErrFuture to hold the message, ErrStale and ErrReplay to drop it,
// anything else that it is bad.
func (g *Group) Process(msg []byte) (*Received, error) {
	if err := g.usable(); err != nil {
		return nil, err
	}
	if g.isOwnPending(msg) {
		return &Received{Commit: g.pending}, nil
	}
	msg = bytes.Clone(msg) // what is decoded shares its memory
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
	if m.content.sender == member(g.state.self) {
		return nil, fail(ErrOwnMessage, "", m.content.kind.String(), "this member sent it")
	}
	ac, err := g.suite.openPublic(m, g.state.secrets.membership, public.encoded)
	if err != nil {
		return nil, err
	}
	if err := public.verifySender(ac); err != nil {
		return nil, err
	}
	return g.processHandshake(ac, nil, msg)
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

// reading is what it takes to read a PrivateMessage of some epoch.
type reading struct {
	suite      *suite
	tree       *ratchetTree
	context    []byte
	senderData Secret
	messages   *secretTree
	self       LeafIndex
	limits     Limits
}

// open decrypts a message and verifies its signature. The step that uses the key up is the caller's.
func (r *reading) open(m *privateMessage) (*authenticatedContent, *treeStep, error) {
	d, err := r.suite.openSenderData(m, r.senderData)
	if err != nil {
		return nil, nil, err
	}
	if d.leaf == r.self {
		return nil, nil, fail(ErrOwnMessage, "", m.kind.String(), "this member sent it")
	}
	key := r.tree.signatureKey(d.leaf)
	if key == "" {
		return nil, nil, fail(ErrForged, "§6.3.2", "private message", "sender %s is not a member", leafName(d.leaf))
	}
	step, err := r.messages.peek(ratchetFor(d.leaf, m.kind), d.generation, r.limits.Ratchet)
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
	r := reading{g.suite, st.public.tree, st.public.encoded, st.secrets.senderData, st.messages, st.self, g.client.cfg.Limits}
	ac, step, err := r.open(m)
	if err != nil {
		return nil, err
	}
	if m.kind == ContentApplication {
		return g.deliver(ac, step, st.public.tree, st.messages)
	}
	return g.processHandshake(ac, step, msg)
}

// processLate reads an application message of an ended epoch, with the tree of that epoch: its sender's
// leaf may be somebody else's by now.
func (g *Group) processLate(m *privateMessage, p *pastEpoch) (*Received, error) {
	r := reading{g.suite, p.tree, p.context, p.senderData, p.messages, g.state.self, g.client.cfg.Limits}
	ac, step, err := r.open(m)
	if err != nil {
		return nil, err
	}
	return g.deliver(ac, step, p.tree, p.messages)
}

// deliver uses the key of an application message up and hands the content over.
func (g *Group) deliver(ac *authenticatedContent, step *treeStep, tree *ratchetTree, messages *secretTree) (*Received, error) {
	leaf := LeafIndex(ac.content.sender.Index)
	sender, ok := tree.leaf(leaf)
	if !ok {
		step.discard()
		return nil, fail(ErrForged, "§6.3.2", leafName(leaf), "is not a member")
	}
	if err := g.useKey(messages, ac.content.epoch, step, nil); err != nil {
		return nil, err
	}
	return &Received{Application: &ApplicationMessage{
		Sender:            memberOf(leaf, sender),
		Epoch:             ac.content.epoch,
		Generation:        step.key.generation,
		Data:              ac.content.application,
		AuthenticatedData: bytes.Clone(ac.content.authenticatedData),
	}}, nil
}

// useKey stores that a key is used, together with whatever more writes, and erases it.
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

// processHandshake takes a verified proposal or commit in. step is nil for a PublicMessage.
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
		step.discard() // taken again when the commit is merged, from what the ratchet is then
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

// openPath finds this member's private keys in the next epoch, and the commit secret.
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

// takeUpdate puts in the keys of an own Update that the commit covers.
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
