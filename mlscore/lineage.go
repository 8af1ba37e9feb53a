package mlscore

import (
	"bytes"
	"errors"
	"fmt"
)

// Founding is a new group with all its members, made from an old one: its first commit has been merged,
// and the Welcome is for the others.
type Founding struct {
	Group     *Group
	Welcome   []byte
	GroupInfo []byte
}

// FoundOptions shape the group that succeeds or branches off another.
type FoundOptions struct {
	CreateOptions
	// Identity is this member's in the new group; by default the one in the old group, where the
	// cipher suites agree.
	Identity *Identity
	// KeyPackages are those of the other members.
	KeyPackages []*KeyPackage
	// PSKs are injected in addition to the one that ties the groups together, as in ExternalOptions.
	PSKs []PreSharedKeyID
	// OmitPath leaves the path out of the first commit: cheaper, and this member's keys stay those of
	// epoch 0, which nobody else was in.
	OmitPath bool
	// Leaf changes this member's leaf with the first commit.
	Leaf        LeafUpdate
	WelcomeInfo GroupInfoOptions
	GroupInfo   GroupInfoOptions
}

// Successor founds the group in favour of which this one was closed by a ReInit (RFC 9420 §11.2): with
// its parameters and the same members, tied to it by a resumption PSK. Any member may; only one should.
func (g *Group) Successor(opts FoundOptions) (*Founding, error) {
	r := g.public().reinit
	if r == nil {
		return nil, fail(ErrMisuse, "§11.2", "group", "was not closed by a ReInit")
	}
	if r.Version != MLS10 {
		return nil, fail(ErrUnsupported, "§11.2", "ReInit", "protocol version %d", r.Version)
	}
	opts.Extensions = r.Extensions
	f, err := g.found(r.CipherSuite, r.GroupID, UsageReInit, opts)
	if err != nil {
		return nil, err
	}
	if err := g.public().sameMembers(f.Group.public()); err != nil {
		f.Group.forget()
		return nil, err
	}
	return f.store(g.client)
}

// CommitSuccessor makes the first commit of this group, which has one member and is in epoch 0, as the
// successor of the one that closing closes by a ReInit: closing may be an own commit that has not been
// accepted yet, so that both go out together, and whoever takes in the ReInit can join the successor. The
// group must have the id, the cipher suite and the extensions that the ReInit names. opts.Proposals add
// the other members; the resumption PSK is added here (§11.2).
func (g *Group) CommitSuccessor(closing *StagedCommit, opts CommitOptions) (*Commit, error) {
	if closing == nil || closing.next == nil || closing.effects.ReInit == nil {
		return nil, fail(ErrMisuse, "§11.2", "closing commit", "is none by a ReInit, or has been abandoned")
	}
	r, now, old := closing.effects.ReInit, g.public().context, closing.next.public
	switch {
	case g.Epoch() != 0:
		return nil, fail(ErrMisuse, "§11.2", "group", "is in epoch %d: it is founded already", g.Epoch())
	case !bytes.Equal(now.GroupID, r.GroupID), now.Version != r.Version, now.CipherSuite != r.CipherSuite, !now.Extensions.equal(r.Extensions):
		return nil, fail(ErrMisuse, "§11.2", "group", "is not the one that the ReInit describes")
	}
	psk, err := g.pskProposal(PreSharedKeyID{Type: PSKResumption, Usage: UsageReInit, GroupID: old.context.GroupID, Epoch: old.context.Epoch})
	if err != nil {
		return nil, err
	}
	opts.Proposals = append([]Proposal{psk}, opts.Proposals...)
	opts.usage, opts.closing = UsageReInit, closing
	c, err := g.Commit(opts)
	if err != nil {
		return nil, err
	}
	if err := old.sameMembers(c.Staged.Public()); err != nil {
		return nil, errors.Join(err, g.Abandon())
	}
	return c, nil
}

// begins reports whether a resumption PSK is that of the epoch that a commit leads to.
func (s *StagedCommit) begins(id PreSharedKeyID) bool {
	if s == nil || s.next == nil || id.Type != PSKResumption {
		return false
	}
	c := &s.next.public.context
	return id.Epoch == c.Epoch && bytes.Equal(id.GroupID, c.GroupID)
}

// foundingUsage is what a resumption PSK may be used for in the first commit of a group that succeeds
// another, as a server sees it, or its own maker after a restart: nobody else processes that commit, since
// all others join by its Welcome (§11.2).
func (p *PublicState) foundingUsage(by Sender) pskUsage {
	if p.context.Epoch == 0 && p.Size() == 1 && by.Type == SenderMember {
		return UsageReInit
	}
	return 0
}

// Branch founds a subgroup: a new group of some of this group's members with the same version and cipher
// suite, tied to it by a resumption PSK (§11.3).
func (g *Group) Branch(groupID []byte, opts FoundOptions) (*Founding, error) {
	if err := g.active(); err != nil {
		return nil, err
	}
	for at, kp := range opts.KeyPackages {
		if err := g.knows(kp.LeafNode); err != nil {
			return nil, within(fmt.Sprintf("key package %d", at), ErrInvalid, err)
		}
	}
	f, err := g.found(g.suite.id, groupID, UsageBranch, opts)
	if err != nil {
		return nil, err
	}
	return f.store(g.client)
}

// unwritten is a Store as it is, which takes no writes.
type unwritten struct{ Store }

// Apply forgets the batch.
func (unwritten) Apply(Batch) error { return nil }

// store writes the new group as it is after its first commit, all at once: half of a founding would be
// a group that nobody else is in, under an id that is taken.
func (f *Founding) store(c *Client) (*Founding, error) {
	next := f.Group
	next.client = c
	for _, p := range next.past {
		p.erase()
	}
	next.past = nil // nobody has sent anything in epoch 0
	b := Batch{Output: f.Welcome}
	defer b.erase()
	err := next.writeFounding(&b)
	if err == nil {
		err = applyBatch(c.cfg.Store, b)
	}
	if err != nil {
		next.forget()
		return nil, err
	}
	return f, nil
}

// found creates the new group and commits everybody into it, in memory.
func (g *Group) found(cs CipherSuite, groupID []byte, usage ResumptionUsage, opts FoundOptions) (*Founding, error) {
	id := Identity{CipherSuite: cs}
	switch leaf, ok := g.public().tree.leaf(g.state.self); {
	case opts.Identity != nil:
		id = *opts.Identity
	case cs == g.suite.id && ok:
		id.Credential, id.SignatureKey = leaf.Credential, g.state.signer
	default:
		return nil, fail(ErrMisuse, "§11.2", "identity", "is needed: the new group has %v", cs)
	}
	if id.CipherSuite != cs {
		return nil, fail(ErrMisuse, "§11.2", "identity", "is for %v, the new group has %v", id.CipherSuite, cs)
	}
	newest, found, err := g.client.newest(groupID)
	if err != nil {
		return nil, err
	}
	succeeds := usage == UsageReInit && bytes.Equal(groupID, g.public().context.GroupID) && newest.place == g.place
	if found && !succeeds {
		return nil, taken(groupID)
	}
	c := &Client{g.client.cfg}
	c.cfg.Store = unwritten{g.client.cfg.Store}
	next, err := c.createGroup(id, groupID, opts.CreateOptions)
	if err != nil {
		return nil, err
	}
	f, err := g.welcomeAll(next, usage, opts)
	if err != nil {
		next.forget()
		return nil, err
	}
	return f, nil
}

func (g *Group) welcomeAll(next *Group, usage ResumptionUsage, opts FoundOptions) (*Founding, error) {
	psk, err := next.pskProposal(PreSharedKeyID{Type: PSKResumption, Usage: usage, GroupID: g.public().context.GroupID, Epoch: g.Epoch()})
	if err != nil {
		return nil, err
	}
	proposals := []Proposal{psk}
	for _, id := range opts.PSKs {
		p, err := next.pskProposal(id)
		if err != nil {
			return nil, err
		}
		proposals = append(proposals, p)
	}
	for _, kp := range opts.KeyPackages {
		proposals = append(proposals, AddProposal(kp))
	}
	c, err := next.Commit(CommitOptions{
		Proposals:   proposals,
		usage:       usage,
		OmitPath:    opts.OmitPath,
		Leaf:        opts.Leaf,
		GroupInfo:   opts.GroupInfo,
		WelcomeInfo: opts.WelcomeInfo,
	})
	if err != nil {
		return nil, err
	}
	if err := next.Merge(c.Staged); err != nil {
		return nil, err
	}
	return &Founding{next, c.Welcome, c.GroupInfo}, nil
}

// knows checks that a leaf represents a member of this group (§11.3).
func (g *Group) knows(l *LeafNode) error {
	id, err := g.public().tree.identity(l)
	if err != nil {
		return err
	}
	if _, ok := g.ByIdentity([]byte(id)); !ok {
		return fail(ErrInvalid, "§11.3", "credential", "is that of nobody in the old group")
	}
	return nil
}

// sameMembers checks that everybody in this group is in the other one, and nobody else (§11.2).
func (p *PublicState) sameMembers(other *PublicState) error {
	if other.Size() != p.Size() {
		return fail(ErrInvalid, "§11.2", "new group", "%d members, the old one has %d", other.Size(), p.Size())
	}
	gone, err := p.absent(other)
	if err != nil || len(gone) == 0 {
		return err
	}
	// Where a signature key is a part of the identity, a change of the signature scheme changes identities:
	// a member is then the one with the same credential, if the application takes it for the successor.
	come, err := other.absent(p)
	if err != nil {
		return err
	}
	byCredential := map[string][]*LeafNode{}
	for _, leaf := range come {
		key := leaf.Credential.key()
		byCredential[key] = append(byCredential[key], leaf)
	}
	for i, leaf := range gone {
		key := leaf.Credential.key()
		list := byCredential[key]
		if len(list) == 0 || p.rules.suite.id == other.rules.suite.id || p.rules.auth.ValidSuccessor(leaf.Credential, list[0].Credential) != nil {
			return fail(ErrInvalid, "§11.2", "new group", "lacks the old one's %s", leafName(i))
		}
		byCredential[key] = list[1:]
	}
	return nil
}

// absent gives the members whose identities are not in another group.
func (p *PublicState) absent(other *PublicState) (gone map[LeafIndex]*LeafNode, err error) {
	p.tree.eachLeaf(func(i LeafIndex, body string) bool {
		var leaf *LeafNode
		var id string
		if leaf, id, err = p.tree.identify(body); err != nil {
			return false
		}
		if _, ok := other.tree.memberByIdentity(id); !ok {
			if gone == nil {
				gone = map[LeafIndex]*LeafNode{}
			}
			gone[i] = leaf
		}
		return true
	})
	return gone, err
}

// checkLineage checks a group that is being joined against the one it claims to come from (§11.2, §11.3,
// §12.4.3.1).
func (j *joining) checkLineage() error {
	for _, id := range j.secrets.psks {
		if id.Type != PSKResumption || id.Usage == UsageApplication {
			continue
		}
		if j.info.context.Epoch != 1 {
			return fail(ErrInvalid, "§12.4.3.1", "GroupInfo", "epoch %d of a group by reinit or branch, not 1", j.info.context.Epoch)
		}
		old, err := j.client.LoadGroup(id.GroupID)
		if err != nil {
			return within("group that this one comes from", ErrMissing, err)
		}
		if id.Usage == UsageReInit {
			return j.checkReInit(old, id)
		}
		return j.checkBranch(old)
	}
	return nil
}

func (j *joining) checkReInit(old *Group, id PreSharedKeyID) error {
	r, now := old.public().reinit, j.info.context
	switch {
	case r == nil || old.Epoch() != id.Epoch:
		return fail(ErrInvalid, "§12.4.3.1", "old group", "its last commit held no ReInit that began epoch %d", id.Epoch)
	case !bytes.Equal(now.GroupID, r.GroupID), now.Version != r.Version, now.CipherSuite != r.CipherSuite, !now.Extensions.equal(r.Extensions):
		return fail(ErrInvalid, "§11.2", "GroupInfo", "is not of the group that the ReInit describes")
	}
	return old.public().sameMembers(j.public)
}

func (j *joining) checkBranch(old *Group) error {
	was, now := old.public().context, j.info.context
	if was.Version != now.Version || was.CipherSuite != now.CipherSuite {
		return fail(ErrInvalid, "§11.3", "GroupInfo", "version or cipher suite is not that of the old group")
	}
	var first error
	j.public.tree.eachLeaf(func(i LeafIndex, body string) bool {
		l, err := parseLeafNode(body)
		if err == nil {
			err = old.knows(l)
		}
		first = within(leafName(i), ErrInvalid, err)
		return first == nil
	})
	return first
}
