package mlscore

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
)

// Group is one member's view of a group (RFC 9420 §11, §12). It is not safe for concurrent use.
//
// Process takes the messages of the others; Protect, Propose and Commit make this member's messages. A commit,
// whether made here or received, is a StagedCommit at first: the next epoch, kept apart from the present one. Merge
// makes it the present epoch; a commit that is not merged leaves no trace.
type Group struct {
	client  *Client
	suite   *suite
	options GroupOptions
	state   *memberState
	past    []*pastEpoch          // newest first
	updates map[string]*ownUpdate // ProposalRef → keys of an Update of our own
	pending *StagedCommit         // our own, on its way through the delivery service
	place   uint32                // among the groups of its id in the store; see groupName
	moved   bool                  // out of this store
}

// GroupOptions are a member's own choices; other members may choose differently.
type GroupOptions struct {
	// PublicHandshakes sends proposals and commits as PublicMessages, which servers can read and
	// follow; otherwise they are PrivateMessages (§6).
	PublicHandshakes bool
	// Padding selects the padding of PrivateMessages.
	Padding Padding
}

// memberState is an epoch as a member sees it. It is replaced as a whole.
type memberState struct {
	public          *PublicState
	self            LeafIndex
	signer          Secret
	ready           *signer // signer, prepared at its first use
	keys            pathKeys
	secrets         *epochSecrets // without the encryption secret, which messages holds
	messages        *secretTree
	confirmationTag []byte
	removed         bool      // this member is out
	entered         time.Time // by this member, and the epoch before ended then
}

// erase erases the secrets of an ended epoch, except those that late messages need.
func (s *memberState) erase() {
	s.secrets.erase()
	s.keys.erase()
	s.signer.Erase()
	s.ready = nil
}

// signing returns the signature key prepared for signing; the preparation costs about as much as one signature.
func (s *memberState) signing(su *suite) (*signer, error) {
	if s.ready == nil {
		k, err := su.newSigner(s.signer.Bytes())
		if err != nil {
			return nil, err
		}
		s.ready = k
	}
	return s.ready, nil
}

// succeeds takes over those parts of the previous epoch that this epoch can use too.
func (s *memberState) succeeds(old *memberState) {
	if s.ready == nil && s.signer.Equal(old.signer) {
		s.ready = old.ready
	}
}

// pastEpoch holds what late application messages of an ended epoch need (§15.3).
type pastEpoch struct {
	context    []byte // encoded
	epoch      uint64
	ended      time.Time // for this member
	senderData Secret

	// Of an epoch that was loaded, tree and messages are nil until the first late message (see openPast), and
	// stored has the leaves of the tree until then.
	tree     *ratchetTree
	messages *secretTree
	stored   *pastRecord
}

func (p *pastEpoch) erase() {
	p.senderData.Erase()
	if p.messages != nil {
		p.messages.erase()
	}
}

// ownUpdate holds the private keys of an own Update that waits for another member's commit.
type ownUpdate struct {
	leafKey Secret
	signer  Secret
}

func (u *ownUpdate) erase() { eraseAll(u.leafKey, u.signer) }

// public returns the public state of the present epoch.
func (g *Group) public() *PublicState { return g.state.public }

// Public returns the present epoch's public state: members, context, tree, pending proposals.
func (g *Group) Public() *PublicState { return g.state.public }

// GroupID returns the group's name.
func (g *Group) GroupID() []byte { return g.public().GroupID() }

// Epoch returns the number of the present epoch.
func (g *Group) Epoch() uint64 { return g.public().Epoch() }

// Self returns this member's leaf.
func (g *Group) Self() LeafIndex { return g.state.self }

// Active reports whether messages can be sent: this member has not been removed and the group has not been closed.
func (g *Group) Active() bool { return !g.state.removed && g.public().reinit == nil }

// Identity returns this member's credential and a copy of its signature key, as of the present epoch. It returns
// ErrGroupEnded if this member was removed.
func (g *Group) Identity() (Identity, error) {
	if err := g.usable(); err != nil {
		return Identity{}, err
	}
	leaf, ok := g.public().tree.leaf(g.state.self)
	if !ok {
		return Identity{}, fail(ErrGroupEnded, "", leafName(g.state.self), "is blank")
	}
	return Identity{g.suite.id, leaf.Credential, g.state.signer.Clone()}, nil
}

// ReInit returns the ReInit that closed the group; false if the group is not closed.
func (g *Group) ReInit() (ReInit, bool) {
	if g.public().reinit == nil {
		return ReInit{}, false
	}
	return *g.public().reinit, true
}

// SetOptions sets how this member sends from now on; the change is stored with the next commit that is merged.
func (g *Group) SetOptions(o GroupOptions) { g.options = o }

// EpochAuthenticator returns the epoch authenticator, which is equal for two members exactly if they share the
// epoch's state (§8.7).
func (g *Group) EpochAuthenticator() []byte {
	return slices.Clone(g.state.secrets.authenticator.Bytes())
}

// Export derives a secret for the application from the epoch (§8.5). length is at most 255 times the length of the
// suite's hash.
func (g *Group) Export(label string, context []byte, length int) (Secret, error) {
	if err := g.usable(); err != nil {
		return Secret{}, err
	}
	return g.suite.exportBounded(g.state.secrets.exporter, label, context, length)
}

func (s *suite) exportBounded(exporter Secret, label string, context []byte, length int) (Secret, error) {
	if exporter.Len() == 0 {
		return Secret{}, fail(ErrStale, "§8.5", "export", "the epoch has ended and its secrets are erased")
	}
	if length < 0 || length > s.maxExpand() {
		return Secret{}, fail(ErrMisuse, "§8.5", "export", "%d bytes, at most %d", length, s.maxExpand())
	}
	return s.export(exporter, label, context, length), nil
}

// usable returns an error if this member was removed from the group.
func (g *Group) usable() error {
	if g.moved {
		return fail(ErrGroupEnded, "", "group", "was moved to another store")
	}
	if g.state.removed {
		return fail(ErrGroupEnded, "§12.4.2", "group", "this member was removed")
	}
	return nil
}

// active returns an error if the group has ended, so that nothing can be sent.
func (g *Group) active() error {
	if err := g.usable(); err != nil {
		return err
	}
	if g.public().reinit != nil {
		return fail(ErrGroupEnded, "§12.4.2", "group", "closed by a ReInit in favour of group %x", g.public().reinit.GroupID)
	}
	return nil
}

// CreateOptions are the options of a new group.
type CreateOptions struct {
	GroupOptions
	Extensions     Extensions // of the GroupContext
	LeafExtensions Extensions // of the creator's leaf
}

// CreateGroup founds a group with one member (§11). An empty group id is replaced by a random one. The id of a group
// that this client has is refused with ErrInvalid, even if that group is closed: see Group.Successor. Other errors:
// ErrUnsupported for an unknown cipher suite, ErrInvalid for extensions that the creator does not support, ErrStore.
func (c *Client) CreateGroup(id Identity, groupID []byte, opts CreateOptions) (*Group, error) {
	if _, found, err := c.newest(groupID); err != nil {
		return nil, err
	} else if found {
		return nil, taken(groupID)
	}
	return c.createGroup(id, groupID, opts)
}

// createGroup is CreateGroup for a group id that may be the id of the group that this one succeeds.
func (c *Client) createGroup(id Identity, groupID []byte, opts CreateOptions) (*Group, error) {
	s, err := c.suite(id.CipherSuite)
	if err != nil {
		return nil, err
	}
	if len(groupID) == 0 {
		groupID = make([]byte, s.hashLen())
		if _, err := io.ReadFull(c.cfg.Rand, groupID); err != nil {
			return nil, fmt.Errorf("read randomness for a group id: %w", err)
		}
	}
	place, err := c.unused(groupID)
	if err != nil {
		return nil, err
	}
	rec, err := c.newKeyPackage(s, id, KeyPackageOptions{LeafExtensions: opts.LeafExtensions})
	if err != nil {
		return nil, err
	}
	defer rec.initKey.Erase()
	public, err := c.foundingState(s, rec.keyPackage.LeafNode, groupID, opts.Extensions)
	if err != nil {
		return nil, err
	}
	seed := make([]byte, s.hashLen())
	if _, err := io.ReadFull(c.cfg.Rand, seed); err != nil {
		return nil, fmt.Errorf("read randomness for an epoch secret: %w", err)
	}
	epoch := ownSecret(seed)
	defer epoch.Erase()
	st := &memberState{public: public, signer: rec.signer, secrets: s.deriveEpoch(epoch)}
	st.keys.set(0, rec.leafKey)
	st.confirm(s)
	public.interim = s.interimTranscript(nil, st.confirmationTag)
	g := &Group{client: c, suite: s, options: opts.GroupOptions, updates: map[string]*ownUpdate{}, place: place}
	g.enter(st)
	var b Batch
	if err := g.writeFounding(&b); err != nil {
		return nil, err
	}
	defer b.erase()
	if err := applyBatch(c.cfg.Store, b); err != nil {
		g.forget()
		return nil, err
	}
	return g, nil
}

// foundingState returns the public state of epoch 0 (§11).
func (c *Client) foundingState(s *suite, leaf *LeafNode, groupID []byte, x Extensions) (*PublicState, error) {
	body, err := leaf.marshal()
	if err != nil {
		return nil, err
	}
	t, err := buildTree(s, c.cfg.Auth, []string{string(body)})
	if err != nil {
		return nil, err
	}
	p := &PublicState{
		rules:  c.rules(s),
		limits: c.cfg.Limits,
		tree:   t,
		context: GroupContext{
			Version:                 MLS10,
			CipherSuite:             s.id,
			GroupID:                 groupID,
			TreeHash:                t.hash(),
			ConfirmedTranscriptHash: []byte{},
			Extensions:              x,
		},
	}
	p.context = p.context.clone()
	p.encoded = p.context.marshal()
	if err := cmp.Or(p.checkExtensions(x), p.checkMadeExtensions(x)); err != nil {
		return nil, err
	}
	return p, checkMember(t, 0, x)
}

// unused refuses a group id that a group of this client has (§12.4.3, §12.4.3.1), unless that group was closed in
// favour of a group of the same id. It returns the place at which the new group is to be stored.
func (c *Client) unused(groupID []byte) (place uint32, err error) {
	place, used, err := c.placeFor(groupID)
	if err == nil && used {
		err = taken(groupID)
	}
	return place, err
}

func taken(groupID []byte) error {
	return fail(ErrInvalid, "§12.4.3.1", fmt.Sprintf("group %x", groupID), "this client has a group of that id already")
}

// confirm computes the confirmation tag of the state's own transcript (§6.1).
func (s *memberState) confirm(su *suite) {
	s.confirmationTag = su.mac(s.secrets.confirmation.Bytes(), s.public.context.ConfirmedTranscriptHash)
}

// enter makes st the present state. The encryption secret becomes the root of the secret tree.
func (g *Group) enter(st *memberState) {
	st.messages = newSecretTree(g.suite, st.public.tree.height(), st.secrets.encryption)
	st.secrets.encryption = Secret{}
	g.state = st
}

// GroupInfoOptions select what a GroupInfo holds in addition to the GroupContext.
type GroupInfoOptions struct {
	Tree       bool       // the ratchet tree
	External   bool       // external_pub: its holders may join by an external commit
	Extensions Extensions // others
}

// asks reports whether a GroupInfo is requested.
func (o GroupInfoOptions) asks() bool { return o.Tree || o.External || o.Extensions != nil }

// GroupInfo returns a signed GroupInfo of the present epoch, as an MLSMessage (§12.4.3). It returns ErrGroupEnded if the
// group has ended, ErrInvalid if opts.Extensions holds a type twice.
func (g *Group) GroupInfo(opts GroupInfoOptions) ([]byte, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	info, err := g.client.groupInfo(g.suite, g.state, opts)
	if err != nil {
		return nil, err
	}
	return encodeMessage(WireFormatGroupInfo, info.encode)
}

func (c *Client) groupInfo(s *suite, st *memberState, opts GroupInfoOptions) (*groupInfo, error) {
	x := slices.Clone(opts.Extensions)
	if opts.External {
		_, pub, err := s.deriveKeyPair(st.secrets.external.Bytes())
		if err != nil {
			return nil, err
		}
		x = x.With(externalPubExtension(pub))
	}
	if opts.Tree {
		tree, err := st.public.tree.marshal()
		if err != nil {
			return nil, err
		}
		x = x.With(Extension{ExtensionRatchetTree, tree})
	}
	if c.cfg.GREASE != GREASENowhere {
		grease, err := c.greaseExtension()
		if err != nil {
			return nil, err
		}
		x = x.With(grease)
	}
	if err := x.checkUnique(); err != nil {
		return nil, within("GroupInfo", ErrMisuse, err)
	}
	info := &groupInfo{context: st.public.context, extensions: x, confirmationTag: st.confirmationTag, signer: st.self}
	k, err := st.signing(s)
	if err != nil {
		return nil, err
	}
	return info, info.signWith(k)
}

// ByIdentity returns the leaf of the member to whom the Authenticator gives an identity; false if there is none.
func (g *Group) ByIdentity(identity []byte) (LeafIndex, bool) {
	return g.public().tree.memberByIdentity(string(identity))
}

// Pending returns this member's commit that is neither merged nor overtaken, if there is one.
func (g *Group) Pending() (*StagedCommit, bool) { return g.pending, g.pending != nil }

// isOwnPending reports whether msg is this member's pending commit, as it comes back from the delivery service.
func (g *Group) isOwnPending(msg []byte) bool {
	return g.pending != nil && bytes.Equal(g.pending.message, msg)
}

// Erase deletes the group from the store, with all its secrets, resumption PSKs included. It also deletes the groups
// of the same id that this group succeeded (see Predecessor); the successor of this group stays.
func (g *Group) Erase() error {
	var b Batch
	id := g.public().context.GroupID
	newest, _, err := g.client.newest(id)
	if err != nil {
		return err
	}
	if newest.place == g.place {
		b.deleteGroups(id)
	} else {
		b.deleteAll(groupPrefix(g.name()))
	}
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return err
	}
	g.forget()
	return nil
}

// forget erases the secrets in memory.
func (g *Group) forget() {
	g.state.erase()
	g.state.messages.erase()
	g.state.removed = true
	for _, p := range g.past {
		p.erase()
	}
	g.past = nil
	g.dropUpdates()
	if g.pending != nil {
		g.pending.abandon()
		g.pending = nil
	}
}

func (g *Group) dropUpdates() {
	for _, u := range g.updates {
		u.erase()
	}
	g.updates = map[string]*ownUpdate{}
}
