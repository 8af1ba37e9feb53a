package mlscore

import "slices"

// makePassiveWelcomes makes joins with each combination of PSK, path and place of the tree.
func makePassiveWelcomes(m *vectorMaker) (cases []any, err error) {
	for bits := range 8 {
		how := admission{psk: bits&1 != 0, path: bits&2 != 0, tree: bits&4 != 0}
		s, err := m.newScene(2, 1, false)
		if err != nil {
			return nil, err
		}
		if err := s.admit(s.actors[1], how); err != nil {
			return nil, err
		}
		cases = append(cases, s.c)
	}
	return cases, nil
}

// makePassiveCommits makes commits of every kind, in PrivateMessages and in PublicMessages.
func makePassiveCommits(m *vectorMaker) (cases []any, err error) {
	for _, public := range []bool{false, true} {
		s, err := m.newScene(3, 2, public)
		if err != nil {
			return nil, err
		}
		if err := s.admit(s.actors[1], admission{path: true}); err != nil {
			return nil, err
		}
		for _, step := range []func(*scene) error{
			(*scene).commitNothing, (*scene).commitByValue, (*scene).commitByReference, (*scene).commitPSKs, (*scene).commitAdds,
			(*scene).commitExtensions, (*scene).commitFromOutside, (*scene).commitExternally, (*scene).commitResync, (*scene).commitReInit,
		} {
			if err := step(s); err != nil {
				return nil, err
			}
		}
		cases = append(cases, s.c)
	}
	return cases, nil
}

func (s *scene) commitNothing() error { return s.commit(s.actors[0], CommitOptions{}) }

// commitByValue adds and removes in one commit.
func (s *scene) commitByValue() error {
	opts, err := s.invite(CommitOptions{})
	if err != nil {
		return err
	}
	opts.Proposals = append(opts.Proposals, RemoveProposal(s.actors[2].group.Self()))
	return s.commit(s.actors[0], opts)
}

// commitByReference commits an Update and an Add that others proposed.
func (s *scene) commitByReference() error {
	if err := s.proposeUpdate(s.actors[1]); err != nil {
		return err
	}
	kp, err := s.keyPackage()
	if err != nil {
		return err
	}
	if err := s.propose(s.actors[2], AddProposal(kp)); err != nil {
		return err
	}
	return s.commit(s.actors[0], CommitOptions{})
}

// commitPSKs injects external PSKs and the resumption PSK of the last epoch, by value and by reference.
func (s *scene) commitPSKs() error {
	a, b := s.actors[1], s.actors[0]
	first, err := a.group.ExternalPSK(s.psks[0].ID)
	if err != nil {
		return err
	}
	if err := s.propose(a, first); err != nil {
		return err
	}
	second, err := b.group.ExternalPSK(s.psks[1].ID)
	if err != nil {
		return err
	}
	resumption, err := b.group.ResumptionPSK(b.group.GroupID(), b.group.Epoch())
	if err != nil {
		return err
	}
	return s.commit(b, CommitOptions{Proposals: []Proposal{second, resumption}, OmitPath: true})
}

// commitAdds adds without a path.
func (s *scene) commitAdds() error {
	opts, err := s.invite(CommitOptions{OmitPath: true})
	if err != nil {
		return err
	}
	return s.commit(s.actors[1], opts)
}

// commitExtensions admits an external sender.
func (s *scene) commitExtensions() error {
	outside, err := s.enter()
	if err != nil {
		return err
	}
	pub, err := s.m.suite.signaturePublicKey(outside.id.SignatureKey.Bytes())
	if err != nil {
		return err
	}
	x, err := ExternalSendersExtension([]ExternalSender{{pub, outside.id.Credential}})
	if err != nil {
		return err
	}
	required := RequiredCapabilities{Credentials: []CredentialType{CredentialBasic}}
	s.outside = outside
	return s.commit(s.actors[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(Extensions{required.Extension(), x})}})
}

// commitFromOutside commits the proposals of an external sender and of a newcomer.
func (s *scene) commitFromOutside() error {
	context := s.actors[0].group.Public().Context()
	last := s.actors[len(s.actors)-1].group.Self()
	msg, err := ProposeExternally(0, s.outside.id.SignatureKey, context, RemoveProposal(last))
	if err := s.proposed(s.outside, msg, err); err != nil {
		return err
	}
	a, err := s.enter()
	if err != nil {
		return err
	}
	msg, _, err = a.ProposeSelf(a.id, context, KeyPackageOptions{Lifetime: vectorLifetime})
	if err := s.proposed(a, msg, err); err != nil {
		return err
	}
	s.invited = append(s.invited, a)
	return s.commit(s.actors[1], CommitOptions{})
}

func (s *scene) commitExternally() error {
	a, err := s.enter()
	if err != nil {
		return err
	}
	return s.joinExternally(a, ExternalOptions{PSKs: []PreSharedKeyID{{Type: PSKExternal, ID: s.psks[0].ID}}})
}

// commitResync makes a member that is still in the group join again by an external commit.
func (s *scene) commitResync() error {
	return s.joinExternally(s.actors[1], ExternalOptions{Resync: true})
}

func (s *scene) commitReInit() error {
	p := ReInit{GroupID: s.m.bytes(16), Version: MLS10, CipherSuite: s.m.suite.id}
	if err := s.propose(s.actors[0], ReInitProposal(p)); err != nil {
		return err
	}
	return s.commit(s.actors[1], CommitOptions{})
}

// The random walk of makePassiveRandom.
const (
	randomEpochs  = 12
	randomLargest = 7 // approximate number of members
)

// makePassiveRandom makes cases of a random walk.
func makePassiveRandom(m *vectorMaker) (cases []any, err error) {
	s, err := m.newScene(3, 2, false)
	if err != nil {
		return nil, err
	}
	how := admission{psk: m.below(2) == 0, path: m.below(2) == 0, tree: m.below(2) == 0}
	if err := s.admit(s.actors[m.below(len(s.actors))], how); err != nil {
		return nil, err
	}
	for range randomEpochs {
		if err := s.wander(); err != nil {
			return nil, err
		}
	}
	return []any{s.c}, nil
}

// wander advances by one epoch: a few proposals by any members, and a commit by any member, sometimes an external
// commit.
func (s *scene) wander() error {
	s.setPublic(s.m.below(2) == 0)
	switch s.m.below(8) {
	case 0:
		if len(s.actors) < randomLargest {
			return s.commitExternally()
		}
	case 1:
		return s.joinExternally(s.someone(), ExternalOptions{Resync: true})
	}
	by := s.someone()
	for range s.m.below(3) {
		if err := s.proposeSomething(by); err != nil {
			return err
		}
	}
	opts := CommitOptions{OmitPath: s.m.below(3) == 0}
	for range s.m.below(3) {
		if err := s.addSomething(by, &opts); err != nil {
			return err
		}
	}
	return s.commit(by, opts)
}

func (s *scene) someone() *actor { return s.actors[s.m.below(len(s.actors))] }

// proposeSomething makes a random member propose a change that by commits, or leaves out if it conflicts.
func (s *scene) proposeSomething(by *actor) error {
	from := s.someone()
	switch s.m.below(4) {
	case 0:
		return s.proposeUpdate(from)
	case 1:
		p, err := from.group.ExternalPSK(s.psks[s.m.below(len(s.psks))].ID)
		if err != nil {
			return err
		}
		return s.propose(from, p)
	case 2:
		victim := s.someone()
		p := RemoveProposal(victim.group.Self())
		if victim != by && len(s.actors) > 3 && !waitsRemoval(by.group, p.Remove) {
			return s.propose(from, p)
		}
	default:
		if len(s.actors)+len(s.invited) < randomLargest {
			kp, err := s.keyPackage()
			if err != nil {
				return err
			}
			return s.propose(from, AddProposal(kp))
		}
	}
	return nil
}

// addSomething adds one more proposal to a commit.
func (s *scene) addSomething(by *actor, opts *CommitOptions) (err error) {
	switch s.m.below(3) {
	case 0:
		if len(s.actors)+len(s.invited) < randomLargest && !resumes(opts.Proposals) {
			*opts, err = s.invite(*opts)
		}
	case 1:
		victim := s.someone()
		if p := RemoveProposal(victim.group.Self()); victim != by && len(s.actors) > 3 && !removes(opts.Proposals, p.Remove) {
			opts.Proposals = append(opts.Proposals, p)
		}
	default:
		if len(s.invited) > 0 {
			return nil // a newcomer has no resumption PSK
		}
		p, err := by.group.ResumptionPSK(by.group.GroupID(), by.group.Epoch())
		if err != nil {
			return err
		}
		opts.Proposals = append(opts.Proposals, p)
	}
	return err
}

// resumes reports whether a resumption PSK is among proposals of addSomething, which have no other PSK.
func resumes(list []Proposal) bool {
	return slices.ContainsFunc(list, func(p Proposal) bool { return p.Type == ProposalPSK })
}

// waitsRemoval reports whether a proposal to remove a leaf waits.
func waitsRemoval(g *Group, leaf LeafIndex) bool {
	return slices.ContainsFunc(g.Public().Pending(), func(p WaitingProposal) bool { return p.Type == ProposalRemove && p.Remove == leaf })
}

func removes(list []Proposal, leaf LeafIndex) bool {
	return slices.ContainsFunc(list, func(p Proposal) bool { return p.Type == ProposalRemove && p.Remove == leaf })
}
