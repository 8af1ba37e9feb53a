package mlscore

import (
	"bytes"
	"testing"
)

// lineageLab has an old group with bob and a new group that alice has created: the statement of each test makes the
// commit to epoch 1, which adds the others.
type lineageLab struct {
	*lab
	old   PreSharedKeyID // the resumption PSK that ties the two groups
	alice *person        // in the new group
	kps   map[string]*KeyPackage
	all   statement // adds bob and carol
}

var nextExtensions = Extensions{{testExtension, []byte("next")}}

func newLineageLab(t *testing.T, usage ResumptionUsage, r *ReInit) *lineageLab {
	t.Helper()
	l := &lineageLab{lab: newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Extensions = both(testExtension) }}), kps: map[string]*KeyPackage{}}
	if r != nil {
		l.commitAnyway(l.people[0], ReInitProposal(*r))
	}
	l.old = l.resumption(usage)
	l.found("next", labSuite, nextExtensions)
	for _, p := range l.people[1:] {
		l.kps[string(p.id.Credential.Identity)] = p.keyPackage(t)
	}
	l.all = statement{by: l.alice, added: l.kps["bob"], also: []*KeyPackage{l.kps["carol"]}, psks: []PreSharedKeyID{l.old}}
	return l
}

// commitAnyway commits a proposal without the rules for makers, as another implementation may; all members merge the
// commit.
func (l *lab) commitAnyway(by *person, p Proposal) {
	l.Helper()
	g := by.group
	w := &committing{client: g.client, suite: g.suite, options: g.options, base: g.state, sender: member(g.state.self)}
	var err error
	if w.plan, err = g.public().planList([]sentProposal{{Proposal: p, sender: w.sender}}, w.sender, 0); err != nil {
		l.Fatal(err)
	}
	if w.leaf, w.signer, err = g.newLeaf(LeafUpdate{}); err != nil {
		l.Fatal(err)
	}
	if err := w.build(); err != nil {
		l.Fatal(err)
	}
	c := must[*Commit](l.TB)(g.dispatch(w))
	l.deliver(by, c.Message)
	if err := g.Merge(c.Staged); err != nil {
		l.Fatal(err)
	}
	l.agree()
}

// found makes alice create another new group.
func (l *lineageLab) found(groupID string, cs CipherSuite, x Extensions) {
	l.Helper()
	alice := *l.people[0]
	alice.id.CipherSuite = cs
	g := must[*Group](l.TB)(alice.CreateGroup(alice.id, []byte(groupID), CreateOptions{Extensions: x}))
	alice.group = g
	l.alice = &alice
}

func nextReInit() *ReInit {
	return &ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite, Extensions: nextExtensions}
}

// TestRulesLineage checks the rules on a Welcome into a group that comes from another one (§11.2, §11.3, §12.4.3.1).
func TestRulesLineage(t *testing.T) {
	other := want{kind: ErrInvalid, clause: "§11.2", say: "is not of the group that the ReInit describes"}
	epoch := want{kind: ErrInvalid, clause: "§12.4.3.1", say: "epoch 2 of a group by reinit or branch, not 1"}
	noReInit := want{kind: ErrInvalid, clause: "§12.4.3.1", say: "its last commit held no ReInit"}
	members := func(say string) want { return want{kind: ErrInvalid, clause: "§11.2", say: say} }
	for _, c := range []struct {
		name   string
		want   want
		usage  ResumptionUsage
		reinit *ReInit
		forge  func(l *lineageLab, f *statement)
		final  bool // the honest Welcome is refused, too
	}{
		{"§11.2 a successor in another epoch than 1", epoch, UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.context = func(c *GroupContext) { c.Epoch = 2 }
		}, false},
		{"§11.2 a successor with another group id", other, UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.context = func(c *GroupContext) { c.GroupID = []byte("other") }
		}, false},
		{"§11.2 a successor with other extensions", other, UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.context = func(c *GroupContext) { c.Extensions = nil }
		}, false},
		{"§11.2 a successor with other content of an extension", other, UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.context = func(c *GroupContext) { c.Extensions = Extensions{{testExtension, []byte("text")}} }
		}, false},
		{
			"§11.2 a successor of another cipher suite", other, UsageReInit,
			&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: MLS128X25519ChaCha20Ed25519, Extensions: nextExtensions},
			func(*lineageLab, *statement) {}, true,
		},
		{
			"§11.2 a successor of another version", other, UsageReInit,
			&ReInit{GroupID: []byte("next"), Version: 2, CipherSuite: labSuite, Extensions: nextExtensions},
			func(*lineageLab, *statement) {}, true,
		},
		{"§11.2 a successor without a member of the old group", members("2 members, the old one has 3"), UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.also = nil
		}, false},
		{"§11.2 a successor with somebody who is new", members("4 members, the old one has 3"), UsageReInit, nextReInit(), func(l *lineageLab, f *statement) {
			f.also = append(f.also, l.person("dave").keyPackage(l.TB))
		}, false},
		{"§11.2 a successor with somebody in the place of a member", members("lacks the old one's leaf 2"), UsageReInit, nextReInit(), func(l *lineageLab, f *statement) {
			f.also = []*KeyPackage{l.person("dave").keyPackage(l.TB)}
		}, false},
		{"§12.4.3.1 a reinit PSK of an epoch before the ReInit", noReInit, UsageReInit, nextReInit(), func(_ *lineageLab, f *statement) {
			f.psks[0].Epoch--
		}, false},
		{"§12.4.3.1 a reinit PSK of a group that was not closed", noReInit, UsageReInit, nil, func(*lineageLab, *statement) {}, true},
		{"§11.3 a branch in another epoch than 1", epoch, UsageBranch, nil, func(_ *lineageLab, f *statement) {
			f.context = func(c *GroupContext) { c.Epoch = 2 }
		}, false},
		{"§11.3 a branch with somebody who is not in the old group", want{kind: ErrInvalid, clause: "§11.3", say: "leaf 2, credential: is that of nobody in the old group"}, UsageBranch, nil, func(l *lineageLab, f *statement) {
			f.also = []*KeyPackage{l.person("dave").keyPackage(l.TB)}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLineageLab(t, c.usage, c.reinit)
			bob := l.people[1]
			f := l.all
			f.psks = []PreSharedKeyID{l.old}
			c.forge(l, &f)
			msg, _, _ := f.messages(t)
			l.refuseJoin(bob, msg, JoinOptions{}, c.want)
			if !c.final {
				l.joins(bob, l.all)
			}
		})
	}
	t.Run("§11.3 a branch of another cipher suite", func(t *testing.T) {
		l := newLineageLab(t, UsageBranch, nil)
		const cs = MLS128X25519ChaCha20Ed25519
		l.found("other suite", cs, nil)
		bob := l.people[1]
		id := bob.id
		id.CipherSuite = cs
		kp := must[*KeyPackage](t)(bob.NewKeyPackage(id, KeyPackageOptions{}))
		f := statement{by: l.alice, added: kp, psks: []PreSharedKeyID{l.old}}
		msg, _, _ := f.messages(t)
		l.refuseJoin(bob, msg, JoinOptions{}, want{kind: ErrInvalid, clause: "§11.3", say: "version or cipher suite is not that of the old group"})
		l.goesOn()
	})
	t.Run("§12.4.3.1 a branch from a group that the joiner is not in", func(t *testing.T) {
		l := newLineageLab(t, UsageBranch, nil)
		dave := l.person("dave")
		f := statement{by: l.alice, added: dave.keyPackage(t), psks: []PreSharedKeyID{l.old}}
		msg, _, _ := f.messages(t)
		l.refuseJoin(dave, msg, JoinOptions{}, want{kind: ErrMissing, clause: "§8.4", say: "is not in the store"})
		l.goesOn()
	})
	t.Run("§11.3 a branch of some of the members", func(t *testing.T) {
		l := newLineageLab(t, UsageBranch, nil)
		f := l.all
		f.also = nil
		msg, _, _ := f.messages(t)
		if g := must[*Group](t)(l.people[1].Join(msg, JoinOptions{})); g.public().Size() != 2 {
			t.Fatalf("%d members", g.public().Size())
		}
		l.goesOn()
	})
}

// TestRulesFounding checks the rules on founding a group that comes from another one (§11.2, §11.3).
func TestRulesFounding(t *testing.T) {
	packages := func(t *testing.T, people ...*person) (list []*KeyPackage) {
		for _, p := range people {
			list = append(list, p.keyPackage(t))
		}
		return list
	}
	enter := func(t *testing.T, f *Founding, others ...*person) {
		t.Helper()
		g := f.Group
		for _, p := range others {
			joined := must[*Group](t)(p.Join(f.Welcome, JoinOptions{}))
			if joined.Epoch() != 1 || !bytes.Equal(joined.EpochAuthenticator(), g.EpochAuthenticator()) {
				t.Fatalf("%s is at epoch %d", p.id.Credential.Identity, joined.Epoch())
			}
		}
		if _, err := g.Protect([]byte("hello"), MessageOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	tree := GroupInfoOptions{Tree: true}
	t.Run("§11.2 the successor of a group, by any member", func(t *testing.T) {
		for _, by := range []int{0, 2} {
			l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Extensions = both(testExtension) }})
			l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ReInitProposal(*nextReInit())}})
			founder, others := l.people[by], l.others(l.people[by])
			f := must[*Founding](t)(founder.group.Successor(FoundOptions{KeyPackages: packages(t, others...), WelcomeInfo: tree}))
			if c := f.Group.public().Context(); string(c.GroupID) != "next" || !c.Extensions.equal(nextExtensions) {
				t.Fatalf("context %+v", c)
			}
			enter(t, f, others...)
		}
	})
	t.Run("§11.2 a successor with another cipher suite", func(t *testing.T) {
		l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Extensions = both(testExtension) }})
		r := nextReInit()
		r.CipherSuite = MLS128X25519ChaCha20Ed25519
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ReInitProposal(*r)}})
		alice := l.people[0]
		_, err := alice.group.Successor(FoundOptions{})
		want{kind: ErrMisuse, clause: "§11.2", say: "is needed"}.match(t, err)
		for _, p := range l.people {
			p.id.CipherSuite = r.CipherSuite
		}
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{Identity: &alice.id, KeyPackages: packages(t, l.people[1:]...), WelcomeInfo: tree}))
		enter(t, f, l.people[1:]...)
	})
	t.Run("§11.2 a successor without all members is not made, and may be made again", func(t *testing.T) {
		l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.Extensions = both(testExtension) }})
		alice := l.people[0]
		_, err := alice.group.Successor(FoundOptions{})
		want{kind: ErrMisuse, clause: "§11.2", say: "was not closed by a ReInit"}.match(t, err)
		l.commit(alice, CommitOptions{Proposals: []Proposal{ReInitProposal(*nextReInit())}})
		before := alice.snapshot(t)
		for _, list := range [][]*KeyPackage{packages(t, l.people[1]), packages(t, l.people[1], l.people[2], l.person("dave")), packages(t, l.people[1], l.person("dave"))} {
			_, err = alice.group.Successor(FoundOptions{KeyPackages: list, WelcomeInfo: tree})
			want{kind: ErrInvalid, clause: "§11.2", say: "new group"}.match(t, err)
			before.requireSame(t, alice)
		}
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{KeyPackages: packages(t, l.people[1:]...), WelcomeInfo: tree}))
		enter(t, f, l.people[1:]...)
	})
	t.Run("§11.3 a branch of a group", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, bob := l.people[0], l.people[1]
		before := alice.snapshot(t)
		_, err := alice.group.Branch([]byte("branch"), FoundOptions{KeyPackages: packages(t, bob, l.person("dave")), WelcomeInfo: tree})
		want{kind: ErrInvalid, clause: "§11.3", say: "is that of nobody in the old group"}.match(t, err)
		before.requireSame(t, alice)
		f := must[*Founding](t)(alice.group.Branch([]byte("branch"), FoundOptions{KeyPackages: packages(t, bob), WelcomeInfo: tree}))
		enter(t, f, bob)
		l.goesOn()
	})
}

// TestRulesResumption checks how long resumption PSKs are kept (§8.6).
func TestRulesResumption(t *testing.T) {
	bothWays(t, "§8.6 the resumption PSKs of as many epochs as are configured", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(_ string, c *Config) { c.Limits.Resumption = 3 }})
		alice := l.people[0]
		now := alice.group.Epoch()
		inject := func(epoch uint64) error {
			p := must[Proposal](t)(alice.group.ResumptionPSK(alice.group.GroupID(), epoch))
			c, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{p}})
			if err != nil {
				return err
			}
			l.deliver(alice, c.Message)
			err = alice.group.Merge(c.Staged)
			l.agree()
			return err
		}
		missing := want{kind: ErrMissing, clause: "§8.4", say: "is not in the store"}
		missing.match(t, inject(now-3))
		missing.match(t, inject(now+1))
		if err := inject(now - 2); err != nil {
			t.Fatal(err)
		}
		if err := inject(now + 1); err != nil {
			t.Fatal(err)
		}
		missing.match(t, inject(now-1))
		l.goesOn()
	})
}
