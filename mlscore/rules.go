package mlscore

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Policy holds an application's rules for proposals in addition to those of RFC 9420 (§12.2: "an application may
// extend the above procedure by additional rules"). All members, and servers that follow the group, must decide in
// the same way, so the result may depend only on the argument.
type Policy interface {
	// AllowProposal returns an error to refuse a proposal that is about to be committed.
	AllowProposal(ProposalContext) error
}

// ProposalContext is a proposal with all data on which a Policy may base its decision.
type ProposalContext struct {
	Group         GroupContext // of the epoch in which it was made
	Proposal      Proposal
	Sender        Sender
	SenderLeaf    *LeafNode // nil if the sender is no member
	Committer     Sender
	CommitterLeaf *LeafNode // nil in an external commit
}

// rules are the rules that members and servers apply to a group.
type rules struct {
	suite          *suite
	auth           Authenticator
	policy         Policy        // may be nil
	maxLifetime    time.Duration // of leaves that others made; zero for no bound
	maxOwnLifetime time.Duration // of KeyPackages that this client makes, verifies, proposes or commits
	intake         Intake
}

// keyPackageRules returns the rules for leaves that others committed or that a tree holds: the present time is not
// compared.
func (r *rules) keyPackageRules() KeyPackageRules {
	return KeyPackageRules{Auth: r.auth, MaxLifetime: r.maxLifetime, Intake: r.intake}
}

// ownKeyPackageRules returns the rules for KeyPackages that this client is about to use at the time now.
func (r *rules) ownKeyPackageRules(now time.Time) KeyPackageRules {
	return KeyPackageRules{Auth: r.auth, Now: now, MaxLifetime: r.maxOwnLifetime, Intake: r.intake}
}

// sentProposal is a proposal of a commit's list.
type sentProposal struct {
	Proposal
	sender  Sender
	ref     []byte // nil if the commit holds the proposal by value
	checked bool   // an Add whose KeyPackage has been verified
}

func (p *sentProposal) name(at int) string { return fmt.Sprintf("proposal %d (%v)", at, p.Type) }

// plan is the effect of a list of proposals on a group, before any path.
type plan struct {
	list       []sentProposal
	committer  Sender
	external   bool
	founding   ResumptionUsage // the usage of resumption PSKs that belongs to the founding of a group by reinit or branch
	extensions Extensions
	tree       *ratchetTree
	changed    []LeafIndex // new and updated leaves
	updated    []LeafIndex
	removed    []LeafIndex
	added      []LeafIndex
	packages   []*KeyPackage // of added, in the same order
	psks       []PreSharedKeyID
	reinit     *ReInit
	kemOutput  []byte
	needsPath  bool
}

// planList checks a list of proposals and applies it (RFC 9420 §12.2, §12.3). founding is 0 but in the first commit of a
// group that is founded by reinit or branch.
func (s *PublicState) planList(list []sentProposal, committer Sender, founding ResumptionUsage) (*plan, error) {
	p := &plan{
		list:       list,
		committer:  committer,
		external:   committer.Type == SenderNewMemberCommit,
		founding:   founding,
		extensions: s.context.Extensions,
	}
	if err := s.checkTypes(p); err != nil {
		return nil, err
	}
	if err := s.verifyPackages(list); err != nil {
		return nil, err
	}
	for at := range list {
		if err := s.checkProposal(&list[at], p); err != nil {
			return nil, within(list[at].name(at), ErrInvalid, err)
		}
		if err := s.checkPolicy(&list[at], committer); err != nil {
			return nil, within(list[at].name(at), ErrPolicy, err)
		}
	}
	if err := s.checkConflicts(p); err != nil {
		return nil, err
	}
	return p, s.applyList(p)
}

// verifyPackages verifies the KeyPackages of all Adds (§12.1.1), on all processors.
func (s *PublicState) verifyPackages(list []sentProposal) error {
	packages := make([]*KeyPackage, len(list))
	for at := range list {
		if sp := &list[at]; sp.Type == ProposalAdd && !sp.checked {
			packages[at] = sp.Add
		}
	}
	errs := verifyKeyPackages(s.rules.suite, s.rules.keyPackageRules(), packages)
	for at, k := range packages {
		if k != nil {
			errs[at] = within(list[at].name(at), ErrInvalid, errs[at])
			list[at].checked = errs[at] == nil
		}
	}
	return cmp.Or(errs...)
}

// checkTypes checks which types one list may contain (§12.2) and whether a path is needed (§12.4).
func (s *PublicState) checkTypes(p *plan) error {
	count := map[ProposalType]int{}
	p.needsPath = len(p.list) == 0
	for at := range p.list {
		t := p.list[at].Type
		count[t]++
		p.needsPath = p.needsPath || t.row().path == pathRequired
		if p.external && !t.row().senders.has(SenderNewMemberCommit) {
			return fail(ErrInvalid, "§12.2", p.list[at].name(at), "not allowed in an external commit")
		}
	}
	switch {
	case p.external && count[ProposalExternalInit] != 1:
		return fail(ErrInvalid, "§12.2", "external commit", "%d ExternalInit proposals, exactly one is needed", count[ProposalExternalInit])
	case p.external && count[ProposalRemove] > 1:
		return fail(ErrInvalid, "§12.2", "external commit", "%d Remove proposals, at most one", count[ProposalRemove])
	case !p.external && count[ProposalExternalInit] > 0:
		return fail(ErrInvalid, "§12.2", "proposal list", "ExternalInit in a commit by a member")
	}
	for at := range p.list {
		t := p.list[at].Type
		if t.row().once && count[t] > 1 {
			return fail(ErrInvalid, "§12.2", "proposal list", "%d proposals of type %v, at most one", count[t], t)
		}
		if t.row().alone && len(p.list) > 1 {
			return fail(ErrInvalid, "§12.2", "proposal list", "a proposal of type %v together with others", t)
		}
	}
	return nil
}

// checkProposal checks one proposal of a list by itself (§12.1) and adds its change to the plan.
func (s *PublicState) checkProposal(sp *sentProposal, p *plan) error {
	if err := checkSenderType(sp.sender, sp.Type); err != nil {
		return err
	}
	return sp.Type.row().plan(s, sp, p)
}

// checkSenderType checks that a sender of this type may send a proposal of type t (§6.1, §12.1.8).
func checkSenderType(from Sender, t ProposalType) error {
	if t.row().senders.has(from.Type) {
		return nil
	}
	return fail(ErrMalformed, "§12.1.8", "", "type %v may not come from %v", t, from)
}

func (s *PublicState) checkPolicy(sp *sentProposal, committer Sender) error {
	if s.rules.policy == nil {
		return nil
	}
	c := ProposalContext{Group: s.context, Proposal: sp.Proposal, Sender: sp.sender, Committer: committer}
	if leaf, ok := sp.sender.Leaf(); ok {
		c.SenderLeaf, _ = s.tree.leaf(leaf)
	}
	if leaf, ok := committer.Leaf(); ok {
		c.CommitterLeaf, _ = s.tree.leaf(leaf)
	}
	if err := s.rules.policy.AllowProposal(c); err != nil {
		return &Error{Kind: ErrPolicy, Clause: "§12.2", Detail: "refused by the application", Err: err}
	}
	return nil
}

// checkUpdate checks the leaf of an Update against the one that it replaces (§12.1.2, §7.3).
func (s *PublicState) checkUpdate(i LeafIndex, next *LeafNode) error {
	if next.Source != SourceUpdate {
		return fail(ErrInvalid, "§7.3", "", "leaf node source is %d, not update", next.Source)
	}
	return s.checkReplacement(i, i, next, UseUpdate)
}

// checkReplacement makes the checks that apply to an Update's leaf and to a path's leaf: next becomes leaf i and
// replaces the leaf at old (§7.3, §12.4.2).
func (s *PublicState) checkReplacement(old, i LeafIndex, next *LeafNode, use CredentialUse) error {
	before, ok := s.tree.leaf(old)
	if !ok {
		return fail(ErrInvalid, "§12.1.2", "", "%s is not a member", leafName(old))
	}
	if string(before.EncryptionKey) == string(next.EncryptionKey) {
		return fail(ErrInvalid, "§7.3", leafName(i), "encryption_key is not a new one")
	}
	if err := s.checkNewLeaf(i, next); err != nil {
		return err
	}
	if before.Credential.equal(next.Credential) && s.rules.suite.canonicalKey(string(before.SignatureKey)) == s.rules.suite.canonicalKey(string(next.SignatureKey)) && use != UseExternalJoin {
		return nil
	}
	if err := s.rules.keyPackageRules().validate(s.rules.suite, next, use); err != nil {
		return err
	}
	if err := s.rules.auth.ValidSuccessor(before.Credential, next.Credential); err != nil {
		return &Error{Kind: ErrPolicy, Clause: "§5.3.1", Object: leafName(i), Detail: "credential is no valid successor", Err: err}
	}
	return nil
}

// checkNewLeaf checks a leaf made in this group by itself (§7.3).
func (s *PublicState) checkNewLeaf(i LeafIndex, l *LeafNode) error {
	if err := l.verifyAlone(s.rules.suite, s.rules.keyPackageRules()); err != nil {
		return within(leafName(i), ErrInvalid, err)
	}
	return within(leafName(i), ErrForged, l.verifySignature(s.rules.suite, s.context.GroupID, i))
}

// checkExtensions checks a new list of GroupContext extensions by itself (§12.1.7, §5.3.1).
func (s *PublicState) checkExtensions(x Extensions) error {
	if err := x.checkUnique(); err != nil {
		return err
	}
	if _, err := x.RequiredCapabilities(); err != nil {
		return err
	}
	senders, err := x.ExternalSenders()
	if err != nil {
		return err
	}
	if s.rules.intake.Strict {
		if err := s.checkMadeExtensions(x); err != nil {
			return err
		}
	}
	for at, sender := range senders {
		object := fmt.Sprintf("external sender %d", at)
		if err := s.rules.suite.checkSenderKey(sender.SignatureKey); err != nil {
			return within(object, ErrInvalid, err)
		}
		if err := s.rules.auth.ValidateCredential(sender.Credential, sender.SignatureKey, UseExternalSender); err != nil {
			return &Error{Kind: ErrPolicy, Clause: "§5.3.1", Object: object, Detail: "refused", Err: err}
		}
	}
	return nil
}

// checkSenderKey refuses a bad key of the suite's scheme (§5.1.1). A key of another scheme, which differs in length
// from all keys of this scheme, is accepted: its owner can sign nothing here.
func (s *suite) checkSenderKey(pub []byte) error {
	if !slices.Contains(s.signature.keyLengths(), len(pub)) {
		return nil
	}
	return s.validateSignatureKey(pub)
}

// checkMadeExtensions checks a list of GroupContext extensions that this client makes. No receiver's rule refuses an
// extension in the wrong place (§17.3), or an external sender that can sign nothing because its key belongs to
// another signature scheme (§12.1.8.1).
func (s *PublicState) checkMadeExtensions(x Extensions) error {
	if err := checkPlaces(x); err != nil {
		return err
	}
	return x.checkExternalSenders(s.rules.suite, s.rules.intake)
}

// checkPlaces refuses extensions that do not belong in a GroupContext (§17.3).
func checkPlaces(x Extensions) error {
	for _, e := range x {
		if e.Type == ExtensionRatchetTree || e.Type == ExtensionExternalPub || e.Type == ExtensionApplicationID {
			return fail(ErrInvalid, "§13.4", fmt.Sprintf("extension %#04x", uint16(e.Type)), "does not belong in a GroupContext")
		}
	}
	return nil
}

// checkExternalSenders checks that external senders can sign in a group of a suite, and that an intake accepts the
// types of their credentials.
func (x Extensions) checkExternalSenders(s *suite, in Intake) error {
	senders, err := x.ExternalSenders()
	if err != nil {
		return err
	}
	for at, sender := range senders {
		object := fmt.Sprintf("external sender %d", at)
		if err := s.validateSignatureKey(sender.SignatureKey); err != nil {
			return within(object, ErrInvalid, err)
		}
		if err := in.checkCredential(sender.Credential); err != nil {
			return within(object, ErrInvalid, err)
		}
	}
	return nil
}

// checkConflicts checks proposals of a list against each other (§12.2).
func (s *PublicState) checkConflicts(p *plan) error {
	leaves := append(slices.Clone(p.updated), p.removed...)
	slices.Sort(leaves)
	for k := 1; k < len(leaves); k++ {
		if leaves[k] == leaves[k-1] {
			return fail(ErrInvalid, "§12.2", "proposal list", "%s is updated or removed more than once", leafName(leaves[k]))
		}
	}
	seen := map[string]bool{}
	for _, id := range p.psks {
		key := fmt.Sprintf("%d %x %d %x %d %x", id.Type, id.ID, id.Usage, id.GroupID, id.Epoch, id.Nonce)
		if seen[key] {
			return fail(ErrInvalid, "§12.2", "proposal list", "%v is injected twice", id)
		}
		seen[key] = true
	}
	return nil
}

// applyList changes the tree in the order of §12.3 and validates the result.
func (s *PublicState) applyList(p *plan) error {
	e := s.tree.edit()
	var changes []leafChange
	for at := range p.list {
		change := p.list[at].Type.row().change
		if change == nil {
			continue
		}
		c, err := change(&p.list[at])
		if err != nil {
			return err
		}
		changes = append(changes, c)
	}
	if err := e.replace(changes); err != nil {
		return err
	}
	if err := checkCustom(p, e); err != nil {
		return err
	}
	e.truncate()
	if err := e.addMembers(p); err != nil {
		return err
	}
	p.tree = e.finish()
	p.changed = append(slices.Clone(p.updated), p.added...)
	for _, i := range p.changed {
		if err := checkMember(p.tree, i, p.extensions); err != nil {
			return err
		}
	}
	return s.checkAllMembers(p)
}

// checkCustom checks that all members who will process the commit support those of its proposals that capabilities
// list. Members that the commit adds or removes do not count (§12.2).
func checkCustom(p *plan, e *treeEdit) error {
	for at := range p.list {
		t := p.list[at].Type
		if t.row().listed && !e.people.all(func(c Capabilities) bool { return c.SupportsProposal(t) }) {
			return fail(ErrInvalid, "§12.2", p.list[at].name(at), "not supported by all members")
		}
	}
	return nil
}

// addMembers puts the leaves of the plan's KeyPackages into the tree.
func (e *treeEdit) addMembers(p *plan) error {
	if len(p.packages) == 0 {
		return nil
	}
	places, err := e.places(len(p.packages))
	if err != nil {
		return err
	}
	changes := make([]leafChange, len(places))
	for k, kp := range p.packages {
		body, err := kp.LeafNode.marshal()
		if err != nil {
			return err
		}
		changes[k] = leafChange{places[k], string(body)}
	}
	p.added = places
	return e.add(changes)
}

// checkMember checks a leaf against the rest of its tree: keys and identity are unique, and leaf and group support
// each other (§7.3, §13.4).
func checkMember(t *ratchetTree, i LeafIndex, extensions Extensions) error {
	l, ok := t.leaf(i)
	if !ok {
		return fail(ErrInvalid, "§7.3", leafName(i), "is blank")
	}
	return checkMemberLeaf(t, i, l, extensions)
}

func checkMemberLeaf(t *ratchetTree, i LeafIndex, l *LeafNode, extensions Extensions) error {
	if err := checkUnique(t, i, l); err != nil {
		return err
	}
	return checkSupport(t, i, l, extensions)
}

// checkSupport checks that a leaf and the group support each other (§7.3, §13.4).
func checkSupport(t *ratchetTree, i LeafIndex, l *LeafNode, extensions Extensions) error {
	if err := compatible(l.Capabilities, extensions); err != nil {
		return within(leafName(i), ErrInvalid, err)
	}
	people := &t.indexed().people
	for credential := range people.credentials {
		if !l.Capabilities.SupportsCredential(credential) {
			return fail(ErrInvalid, "§7.3", leafName(i), "does not support credential type %#04x, which is in use", uint16(credential))
		}
	}
	if !people.all(func(c Capabilities) bool { return c.SupportsCredential(l.Credential.Type) }) {
		return fail(ErrInvalid, "§7.3", leafName(i), "credential type %#04x is not supported by all members", uint16(l.Credential.Type))
	}
	return nil
}

// checkUnique checks that no other node has one of a leaf's keys, and that no other member has its identity (§7.3,
// §12.2).
func checkUnique(t *ratchetTree, i LeafIndex, l *LeafNode) error {
	if at, found := t.otherNode(i.node(), l.EncryptionKey); found {
		return fail(ErrInvalid, "§7.3", leafName(i), "encryption_key is also used at %s", nodeName(at))
	}
	people := &t.indexed().people
	key := t.suite.canonicalKey(string(l.SignatureKey))
	if at, found := t.otherMember(people.signatures, i, key, func(o *LeafNode) bool {
		return t.suite.canonicalKey(string(o.SignatureKey)) == key
	}); found {
		return fail(ErrInvalid, "§7.3", leafName(i), "signature_key is also used at %s", leafName(at))
	}
	id, err := t.identity(l)
	if err != nil {
		return err
	}
	if at, found := t.otherMember(people.identities, i, id, func(o *LeafNode) bool {
		other, err := t.identity(o)
		return err == nil && other == id
	}); found {
		return fail(ErrInvalid, "§12.2", leafName(i), "represents the same client as %s", leafName(at))
	}
	return nil
}

// compatible checks capabilities against a group's extensions (§11.1, §13.4; erratum 8745).
func compatible(c Capabilities, extensions Extensions) error {
	required, err := extensions.RequiredCapabilities()
	if err != nil {
		return err
	}
	if err := c.satisfies(required); err != nil {
		return err
	}
	for _, x := range extensions {
		if !c.SupportsExtension(x.Type) {
			return fail(ErrInvalid, "§13.4", "", "GroupContext extension %#04x is not supported", uint16(x.Type))
		}
	}
	return nil
}

// checkAllMembers checks all members against extensions that the commit replaces (§12.1.7).
func (s *PublicState) checkAllMembers(p *plan) error {
	for at := range p.list {
		if p.list[at].Type != ProposalGroupContextExtensions {
			continue
		}
		var first error
		p.tree.indexed().people.all(func(c Capabilities) bool {
			first = compatible(c, p.extensions)
			return first == nil
		})
		if first != nil {
			return within(p.list[at].name(at)+", for some members", ErrInvalid, first)
		}
	}
	return nil
}
