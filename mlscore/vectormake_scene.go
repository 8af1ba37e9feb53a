package mlscore

import (
	"errors"
	"fmt"
	"slices"
)

// scene is a live group with one passive member, who sends nothing: the messages that this member receives are the
// case.
type scene struct {
	m       *vectorMaker
	actors  []*actor // the group's members, without the passive one
	passive *actor
	psks    []externalPSK
	people  int // so far

	c       *passiveCase
	waiting []hexData // proposals of the present epoch that the passive client has received
	invited []*actor  // actors who wait for a Welcome
	outside *actor    // an external sender, once the group has one
}

type actor struct {
	*Client
	id    Identity
	group *Group
}

// enter makes a new client that knows all PSKs.
func (s *scene) enter() (*actor, error) {
	client, id, err := s.m.client(fmt.Sprintf("client %d", s.people))
	if err != nil {
		return nil, err
	}
	s.people++
	for _, psk := range s.psks {
		if err := client.StorePSK(psk.ID, NewSecret(psk.PSK)); err != nil {
			return nil, err
		}
	}
	return &actor{Client: client, id: id}, nil
}

// newScene founds a group of n members.
func (m *vectorMaker) newScene(n, psks int, public bool) (*scene, error) {
	s := &scene{m: m, psks: []externalPSK{}}
	for range psks {
		s.psks = append(s.psks, externalPSK{m.bytes(12), m.hash()})
	}
	founder, err := s.enter()
	if err != nil {
		return nil, err
	}
	opts := CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public}}
	if founder.group, err = founder.CreateGroup(founder.id, m.bytes(16), opts); err != nil {
		return nil, err
	}
	s.actors = []*actor{founder}
	// The founder's own leaf lasts as long as a KeyPackage; a path replaces it.
	if err := s.commit(founder, CommitOptions{}); err != nil {
		return nil, err
	}
	for len(s.actors) < n {
		opts, err := s.invite(CommitOptions{})
		if err != nil {
			return nil, err
		}
		if err := s.commit(s.actors[len(s.actors)-1], opts); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// keyPackage makes a new client that publishes a KeyPackage and waits for a Welcome.
func (s *scene) keyPackage() (*KeyPackage, error) {
	a, err := s.enter()
	if err != nil {
		return nil, err
	}
	s.invited = append(s.invited, a)
	return a.NewKeyPackage(a.id, KeyPackageOptions{Lifetime: vectorLifetime})
}

// invite adds the addition of a new client to a commit.
func (s *scene) invite(opts CommitOptions) (CommitOptions, error) {
	kp, err := s.keyPackage()
	if err != nil {
		return opts, err
	}
	opts.Proposals = append(opts.Proposals, AddProposal(kp))
	return opts, nil
}

// everybody returns all actors, the passive client included.
func (s *scene) everybody() []*actor {
	if s.passive == nil {
		return s.actors
	}
	return append(slices.Clone(s.actors), s.passive)
}

// hear makes all actors except the sender process a message.
func (s *scene) hear(from *actor, msg []byte) error {
	for _, a := range s.everybody() {
		if a == from {
			continue
		}
		r, err := a.group.Process(msg)
		if err != nil {
			return err
		}
		if r.Commit != nil {
			if err := a.group.Merge(r.Commit); err != nil {
				return err
			}
		}
	}
	return nil
}

// proposed delivers a proposal to all.
func (s *scene) proposed(from *actor, msg []byte, err error) error {
	if err != nil {
		return err
	}
	if s.passive != nil {
		s.waiting = append(s.waiting, msg)
	}
	return s.hear(from, msg)
}

func (s *scene) propose(from *actor, p Proposal) error {
	msg, err := from.group.Propose(p, ProposeOptions{})
	return s.proposed(from, msg, err)
}

func (s *scene) proposeUpdate(from *actor) error {
	msg, err := from.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	return s.proposed(from, msg, err)
}

// plainInfo requests a GroupInfo that nobody reads. Making it draws randomness, and the stored sets depend on that.
var plainInfo = GroupInfoOptions{Extensions: Extensions{}}

// commit makes a commit, and all actors enter its epoch.
func (s *scene) commit(by *actor, opts CommitOptions) error {
	opts.WelcomeInfo.Tree, opts.GroupInfo = true, plainInfo
	c, err := by.group.Commit(opts)
	if err != nil {
		return err
	}
	if err := s.hear(by, c.Message); err != nil {
		return err
	}
	if err := by.group.Merge(c.Staged); err != nil {
		return err
	}
	return s.turn(by, c.Message, c.Welcome)
}

// turn ends an epoch: removed actors leave, invited actors join, and the passive client's case gets the epoch.
func (s *scene) turn(by *actor, commit, welcome []byte) error {
	s.actors = slices.DeleteFunc(s.actors, func(a *actor) bool { return a.group.state.removed })
	if welcome != nil {
		for _, a := range s.invited {
			g, err := a.Join(welcome, JoinOptions{GroupOptions: by.group.options})
			if errors.Is(err, ErrNotForUs) {
				continue // the actor's KeyPackage was proposed but not committed
			}
			if err != nil {
				return err
			}
			a.group = g
			s.actors = append(s.actors, a)
		}
	}
	s.invited = nil
	if s.passive == nil {
		return nil
	}
	e := passiveEpoch{Proposals: s.waiting, Commit: commit, Authenticator: by.group.EpochAuthenticator()}
	if e.Proposals == nil {
		e.Proposals = []hexData{}
	}
	s.waiting = nil
	s.c.Epochs = append(s.c.Epochs, e)
	return same("epoch authenticator of the passive client", s.passive.group.EpochAuthenticator(), e.Authenticator)
}

// admission is the way in which the passive client joins.
type admission struct {
	psk  bool // the commit injects a PSK
	tree bool // the ratchet tree is not in the Welcome
	path bool // the commit has a path
}

// admit adds the passive client and begins its case.
func (s *scene) admit(by *actor, how admission) error {
	a, err := s.enter()
	if err != nil {
		return err
	}
	rec, err := a.newKeyPackage(s.m.suite, a.id, KeyPackageOptions{Lifetime: vectorLifetime})
	if err != nil {
		return err
	}
	if err := a.keep(rec); err != nil {
		return err
	}
	s.c = &passiveCase{
		Suite:      s.m.suite.id,
		PSKs:       s.psks,
		Signature:  slices.Clone(rec.signer.Bytes()),
		Encryption: slices.Clone(rec.leafKey.Bytes()),
		Init:       slices.Clone(rec.initKey.Bytes()),
		Epochs:     []passiveEpoch{},
	}
	if s.c.KeyPackage, err = rec.keyPackage.encodedMessage(); err != nil {
		return err
	}
	opts := CommitOptions{Proposals: []Proposal{AddProposal(rec.keyPackage)}, OmitPath: !how.path}
	opts.WelcomeInfo.Tree, opts.GroupInfo = !how.tree, plainInfo
	if how.psk {
		for _, psk := range s.psks {
			p, err := by.group.ExternalPSK(psk.ID)
			if err != nil {
				return err
			}
			opts.Proposals = append(opts.Proposals, p)
		}
	}
	return s.welcomePassive(by, a, opts, how)
}

func (s *scene) welcomePassive(by, a *actor, opts CommitOptions, how admission) error {
	c, err := by.group.Commit(opts)
	if err != nil {
		return err
	}
	if err := s.hear(by, c.Message); err != nil {
		return err
	}
	if err := by.group.Merge(c.Staged); err != nil {
		return err
	}
	var join JoinOptions
	if how.tree {
		tree, err := by.group.Public().tree.encoded()
		if err != nil {
			return err
		}
		s.c.Tree, join.Tree = &tree, tree
	}
	s.c.Welcome, s.c.Authenticator = c.Welcome, by.group.EpochAuthenticator()
	if a.group, err = a.Join(c.Welcome, join); err != nil {
		return err
	}
	s.passive = a
	return same("epoch authenticator of the passive client", a.group.EpochAuthenticator(), s.c.Authenticator)
}

// encodedMessage is Message for a field of a case.
func (k *KeyPackage) encodedMessage() (hexData, error) {
	b, err := k.Message()
	return b, err
}

// joinExternally makes a client join by an external commit: a new client, or a member.
func (s *scene) joinExternally(a *actor, opts ExternalOptions) error {
	info, err := s.actors[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
	if err != nil {
		return err
	}
	opts.GroupInfo = plainInfo
	x, err := a.ExternalJoin(a.id, info, opts)
	if err != nil {
		return err
	}
	s.actors = slices.DeleteFunc(s.actors, func(have *actor) bool { return have == a })
	if err := s.hear(a, x.Message); err != nil {
		return err
	}
	if a.group, err = x.Complete(); err != nil {
		return err
	}
	s.actors = append(s.actors, a)
	return s.turn(a, x.Message, nil)
}

// setPublic makes all members send handshakes as PublicMessages or as PrivateMessages.
func (s *scene) setPublic(public bool) {
	for _, a := range s.actors {
		a.group.SetOptions(GroupOptions{PublicHandshakes: public})
	}
}
