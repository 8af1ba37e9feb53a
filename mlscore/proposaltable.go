package mlscore

import "github.com/mlsfed/mlsfed/mlscore/codec"

// proposalRow is the row of a proposal type: all rules and functions that depend on the type alone. A new type needs
// its row here, and in proposal.go its number, its field of Proposal and a function that makes the proposal. The rules
// about external commits and about proposals for the same leaf are not in the table: see checkTypes, checkConflicts and
// picker.prefer (RFC 9420 §12.2).
type proposalRow struct {
	name string // in the registry (§17.4)

	encode func(p *Proposal, w *codec.Writer) // the content, which follows the type (§12.1)
	decode func(r *codec.Reader) Proposal     // the content; the caller sets Type
	// complete reports whether a proposal that a caller made has its content; nil: every value is a content.
	complete func(p *Proposal) bool
	// keyed: the content belongs to private keys of its sender, so that Propose and Commit accept none from a caller.
	keyed bool
	// leaf returns the leaf node in the proposal; nil: the proposal has none.
	leaf func(p *Proposal) *LeafNode

	senders senders // may send the proposal (§6.1, §12.1.8)
	path    pathNeed
	listed  bool // a member that supports the type lists it in its capabilities; all members must support it (§7.2, §12.2)

	once  bool // a commit holds at most one (§12.2)
	alone bool // a commit with it holds no other proposal (§12.2)

	// plan checks a proposal by itself (§12.1) and adds its change to the plan of a list.
	plan func(s *PublicState, sp *sentProposal, p *plan) error
	// change returns the change of a leaf that is in the tree before the commit (§12.3); nil: there is none.
	change func(sp *sentProposal) (leafChange, error)
	// checkMade applies the rules for makers that no receiver checks to an own proposal; nil: there are none.
	checkMade func(g *Group, p *Proposal) error
	// checkWaiting applies the rules for committers that no receiver checks to a waiting proposal; nil: there are none.
	checkWaiting func(g *Group, p *Proposal) error
}

// senders is a set of types of senders.
type senders uint8

const (
	fromMember    = senders(1 << SenderMember)
	fromExternal  = senders(1 << SenderExternal)
	fromNewMember = senders(1 << SenderNewMemberProposal)
	fromJoiner    = senders(1 << SenderNewMemberCommit) // in an external commit
)

func (s senders) has(t SenderType) bool { return s&(1<<t) != 0 }

// pathNeed is the part of a type in the decision whether a commit has a path (§12.4).
type pathNeed uint8

const (
	pathOptional pathNeed = iota
	pathRequired
	// pathUnknown: the specification of the type decides, which this package does not know. Receivers require no path;
	// this client's own commits have one, unless Config.PathlessProposals names the type.
	pathUnknown
)

// proposalRows is the table of the types, by number. init fills it, because functions of the rows use the table.
var proposalRows []proposalRow

func init() {
	proposalRows = []proposalRow{
		ProposalAdd: { // §12.1.1
			name:         "add",
			encode:       func(p *Proposal, w *codec.Writer) { p.Add.encode(w) },
			decode:       func(r *codec.Reader) Proposal { return Proposal{Add: decodeKeyPackage(r)} },
			complete:     func(p *Proposal) bool { return p.Add != nil },
			leaf:         func(p *Proposal) *LeafNode { return p.Add.LeafNode },
			senders:      fromMember | fromExternal | fromNewMember,
			plan:         (*PublicState).planAdd,
			checkWaiting: (*Group).checkWaitingAdd,
		},
		ProposalUpdate: { // §12.1.2
			name:     "update",
			encode:   func(p *Proposal, w *codec.Writer) { p.Update.encode(w) },
			decode:   func(r *codec.Reader) Proposal { return Proposal{Update: decodeLeafNode(r)} },
			complete: func(p *Proposal) bool { return p.Update != nil },
			keyed:    true,
			leaf:     func(p *Proposal) *LeafNode { return p.Update },
			senders:  fromMember,
			path:     pathRequired,
			plan:     (*PublicState).planUpdate,
			change:   updatedLeaf,
		},
		ProposalRemove: { // §12.1.3
			name:    "remove",
			encode:  func(p *Proposal, w *codec.Writer) { w.Uint32(uint32(p.Remove)) },
			decode:  func(r *codec.Reader) Proposal { return Proposal{Remove: LeafIndex(r.Uint32())} },
			senders: fromMember | fromExternal | fromJoiner,
			path:    pathRequired,
			plan:    (*PublicState).planRemove,
			change:  func(sp *sentProposal) (leafChange, error) { return leafChange{sp.Remove, ""}, nil },
		},
		ProposalPSK: { // §12.1.4
			name:   "psk",
			encode: func(p *Proposal, w *codec.Writer) { p.PSK.encode(w) },
			decode: func(r *codec.Reader) Proposal {
				id := decodePSKID(r)
				return Proposal{PSK: &id}
			},
			complete: func(p *Proposal) bool { return p.PSK != nil },
			senders:  fromMember | fromExternal | fromJoiner,
			plan:     (*PublicState).planPSK,
		},
		ProposalReInit: { // §12.1.5
			name:         "reinit",
			encode:       func(p *Proposal, w *codec.Writer) { p.ReInit.encode(w) },
			decode:       func(r *codec.Reader) Proposal { return Proposal{ReInit: decodeReInit(r)} },
			complete:     func(p *Proposal) bool { return p.ReInit != nil },
			senders:      fromMember | fromExternal,
			alone:        true,
			plan:         (*PublicState).planReInit,
			checkMade:    func(g *Group, p *Proposal) error { return g.checkFoundable(p.ReInit) },
			checkWaiting: func(g *Group, p *Proposal) error { return g.checkFoundable(p.ReInit) },
		},
		ProposalExternalInit: { // §12.1.6
			name:    "external_init",
			encode:  func(p *Proposal, w *codec.Writer) { w.Bytes(p.ExternalInit) },
			decode:  func(r *codec.Reader) Proposal { return Proposal{ExternalInit: r.Bytes()} },
			keyed:   true,
			senders: fromMember | fromJoiner, // checkTypes refuses the commit of a member's
			path:    pathRequired,
			plan:    (*PublicState).planExternalInit,
		},
		ProposalGroupContextExtensions: { // §12.1.7
			name:      "group_context_extensions",
			encode:    func(p *Proposal, w *codec.Writer) { p.Extensions.encode(w) },
			decode:    func(r *codec.Reader) Proposal { return Proposal{Extensions: decodeExtensions(r)} },
			senders:   fromMember | fromExternal,
			path:      pathRequired,
			once:      true,
			plan:      (*PublicState).planExtensions,
			checkMade: func(g *Group, p *Proposal) error { return g.public().checkMadeExtensions(p.Extensions) },
		},
	}
}

// customProposal is the row of all types that the table does not have. The application defines their content.
var customProposal = proposalRow{
	encode:   func(p *Proposal, w *codec.Writer) { w.Bytes(p.Custom) },
	decode:   func(r *codec.Reader) Proposal { return Proposal{Custom: r.Bytes()} },
	complete: func(p *Proposal) bool { return p.Type != 0 }, // 0 is reserved (§17.4)
	senders:  fromMember,
	path:     pathUnknown,
	listed:   true,
	plan:     func(*PublicState, *sentProposal, *plan) error { return nil },
}

// row returns the row of a type.
func (t ProposalType) row() *proposalRow {
	if int(t) < len(proposalRows) && proposalRows[t].name != "" {
		return &proposalRows[t]
	}
	return &customProposal
}

// planAdd adds a member; verifyPackages has verified the KeyPackage (§12.1.1).
func (s *PublicState) planAdd(sp *sentProposal, p *plan) error {
	p.packages = append(p.packages, sp.Add)
	return nil
}

// planUpdate checks an Update and its leaf (§12.1.2).
func (s *PublicState) planUpdate(sp *sentProposal, p *plan) error {
	leaf, _ := sp.sender.Leaf()
	if sp.sender == p.committer {
		return fail(ErrInvalid, "§12.2", "", "made by the committer itself")
	}
	p.updated = append(p.updated, leaf)
	return s.checkUpdate(leaf, sp.Update)
}

// updatedLeaf returns the leaf of an Update in its encoded form.
func updatedLeaf(sp *sentProposal) (leafChange, error) {
	body, err := sp.Update.marshal()
	return leafChange{LeafIndex(sp.sender.Index), string(body)}, err
}

// planRemove checks that a Remove is of a member other than the committer (§12.1.3, §12.2).
func (s *PublicState) planRemove(sp *sentProposal, p *plan) error {
	if s.tree.leafBody(sp.Remove) == "" {
		return fail(ErrInvalid, "§12.1.3", "", "%s is not a member", leafName(sp.Remove))
	}
	if sp.Remove == LeafIndex(p.committer.Index) && p.committer.Type == SenderMember {
		return fail(ErrInvalid, "§12.2", "", "removes the committer, %s", leafName(sp.Remove))
	}
	p.removed = append(p.removed, sp.Remove)
	return nil
}

// planPSK checks a PreSharedKey proposal (§12.1.4).
func (s *PublicState) planPSK(sp *sentProposal, p *plan) error {
	id := sp.PSK
	p.psks = append(p.psks, *id)
	if len(id.Nonce) != s.rules.suite.hashLen() {
		return fail(ErrInvalid, "§12.1.4", id.String(), "nonce of %d bytes, not %d", len(id.Nonce), s.rules.suite.hashLen())
	}
	if id.Type == PSKResumption && id.Usage != UsageApplication && id.Usage != p.founding {
		return fail(ErrInvalid, "§12.1.4", id.String(), "usage %d belongs to the founding of a group only", id.Usage)
	}
	return nil
}

// planReInit checks a ReInit (§12.1.5).
func (s *PublicState) planReInit(sp *sentProposal, p *plan) error {
	p.reinit = sp.ReInit
	if sp.ReInit.Version < s.context.Version {
		return fail(ErrInvalid, "§12.1.5", "", "version %d is below the group's %d", sp.ReInit.Version, s.context.Version)
	}
	return sp.ReInit.Extensions.checkUnique()
}

// planExternalInit takes the KEM output of an external commit (§12.1.6).
func (s *PublicState) planExternalInit(sp *sentProposal, p *plan) error {
	p.kemOutput = sp.ExternalInit
	return nil
}

// planExtensions checks the extensions that replace those of the GroupContext (§12.1.7).
func (s *PublicState) planExtensions(sp *sentProposal, p *plan) error {
	p.extensions = sp.Extensions
	return s.checkExtensions(sp.Extensions)
}

// checkWaitingAdd refuses a KeyPackage whose lifetime is over, or too long (§7.3).
func (g *Group) checkWaitingAdd(p *Proposal) error {
	if p.Add.LeafNode.Source != SourceKeyPackage {
		return nil
	}
	return p.Add.LeafNode.Lifetime.verify(g.client.cfg.Now(), g.client.cfg.MaxLifetime)
}
