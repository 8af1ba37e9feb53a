package mlscore

import (
	"bytes"
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
	if err := g.sameMembers(f.Group.public()); err != nil {
		_ = f.Group.Erase() // or there could be no second try under this group id
		return nil, err
	}
	return f, nil
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
	return g.found(g.suite.id, groupID, UsageBranch, opts)
}

// found creates the new group and commits everybody into it.
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
	next, err := g.client.CreateGroup(id, groupID, opts.CreateOptions)
	if err != nil {
		return nil, err
	}
	f, err := g.welcomeAll(next, usage, opts)
	if err != nil {
		_ = next.Erase() // the first error is the one to tell
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
	for _, kp := range opts.KeyPackages {
		proposals = append(proposals, AddProposal(kp))
	}
	c, err := next.Commit(CommitOptions{Proposals: proposals, usage: usage, GroupInfo: opts.GroupInfo, WelcomeInfo: opts.WelcomeInfo})
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
	id, err := g.public().tree.people.identity(l)
	if err != nil {
		return err
	}
	if _, ok := g.ByIdentity([]byte(id)); !ok {
		return fail(ErrInvalid, "§11.3", "credential", "is that of nobody in the old group")
	}
	return nil
}

// sameMembers checks that everybody in this group is in the other one, and nobody else (§11.2).
func (g *Group) sameMembers(other *PublicState) error {
	if other.Size() != g.public().Size() {
		return fail(ErrInvalid, "§11.2", "new group", "%d members, the old one has %d", other.Size(), g.public().Size())
	}
	var first error
	g.public().tree.eachLeaf(func(i LeafIndex, body string) bool {
		_, id, err := g.public().tree.people.identify(body)
		if err != nil {
			first = err
		} else if _, ok := other.tree.memberByIdentity(id); !ok {
			first = fail(ErrInvalid, "§11.2", "new group", "lacks the old one's %s", leafName(i))
		}
		return first == nil
	})
	return first
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
	return old.sameMembers(j.public)
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
