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

// FoundOptions are the options of a group that succeeds or branches off another.
type FoundOptions struct {
	CreateOptions
	// Identity is this member's identity in the new group. By default it is the identity in the old group, if both
	// groups have the same cipher suite.
	Identity *Identity
	// KeyPackages are the KeyPackages of the other members.
	KeyPackages []*KeyPackage
	// PSKs are injected in addition to the resumption PSK that ties the groups together, as in ExternalOptions.
	PSKs []PreSharedKeyID
	// OmitPath leaves the path out of the first commit: the commit is cheaper, and this member keeps its keys of
	// epoch 0, in which there was no other member.
	OmitPath bool
	// Leaf changes this member's leaf with the first commit.
	Leaf        LeafUpdate
	WelcomeInfo GroupInfoOptions
	GroupInfo   GroupInfoOptions
}

// Successor founds the group in favour of which this one was closed by a ReInit (RFC 9420 §11.2). The new group has
// the parameters of the ReInit and the same members, and is tied to this group by a resumption PSK. Any member may
// call Successor; only one member should. Errors: ErrMisuse if no ReInit has closed the group, ErrInvalid if
// opts.KeyPackages are not those of the other members, ErrStore.
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

// CommitSuccessor makes the first commit of this group, as the successor of the group that closing closes by a
// ReInit. This group must have one member, be in epoch 0, and have the id, the cipher suite and the extensions that
// the ReInit names. closing may be an own commit that is not accepted yet, so that both commits are sent together,
// and each member that processes the ReInit can join the successor. opts.Proposals must add the other members;
// CommitSuccessor adds the resumption PSK (§11.2).
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

// begins reports whether id names the resumption PSK of the epoch that the commit leads to.
func (s *StagedCommit) begins(id PreSharedKeyID) bool {
	if s == nil || s.next == nil || id.Type != PSKResumption {
		return false
	}
	c := &s.next.public.context
	return id.Epoch == c.Epoch && bytes.Equal(id.GroupID, c.GroupID)
}

// foundingUsage returns the allowed usage of a resumption PSK in the first commit of a group that succeeds another.
// Only a server, or the committer after a restart, processes that commit, since all others join by its Welcome
// (§11.2).
func (p *PublicState) foundingUsage(by Sender) ResumptionUsage {
	if p.context.Epoch == 0 && p.Size() == 1 && by.Type == SenderMember {
		return UsageReInit
	}
	return 0
}

// Branch founds a subgroup: a new group of some of this group's members with the same version and cipher
// suite, tied to it by a resumption PSK (§11.3). Errors: ErrGroupEnded; ErrInvalid if a KeyPackage is not that of a member
// of this group, or if the client has a group of that id; ErrStore.
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

// unwritten is a Store that ignores writes.
type unwritten struct{ Store }

// Apply ignores the batch.
func (unwritten) Apply(Batch) error { return nil }

// store writes the new group after its first commit, all at once. A founding that is stored only in part would leave
// a group without other members, and its id could not be used again.
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

// found creates the new group and commits the additions of all members, in memory.
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

// sameMembers checks that both groups have the same members (§11.2).
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

// absent returns the members of p whose identities are not in other.
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

// checkLineage checks a group that is being joined against the group that the Welcome names as its origin (§11.2,
// §11.3, §12.4.3.1).
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
