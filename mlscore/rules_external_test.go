package mlscore

import (
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// service is an external sender of a lab's group.
type service struct {
	key    Secret
	sender ExternalSender
}

func newService(t testing.TB, name string) service {
	t.Helper()
	key, pub, err := GenerateSignatureKey(nil, labSuite)
	if err != nil {
		t.Fatal(err)
	}
	return service{key, ExternalSender{pub, BasicCredential([]byte(name))}}
}

// externalLab has a group with two external senders.
func externalLab(t *testing.T, public bool) (*lab, []service) {
	t.Helper()
	services := []service{newService(t, "first"), newService(t, "second")}
	x := must[Extension](t)(ExternalSendersExtension([]ExternalSender{services[0].sender, services[1].sender}))
	return newLab(t, public, labOptions{
		extensions: Extensions{x},
		config:     func(_ string, c *Config) { c.Proposals = both(testProposal) },
	}), services
}

// TestRulesExternalProposal checks the rules on proposals from outside of the group (§6.1, §12.1.8).
func TestRulesExternalProposal(t *testing.T) {
	as := func(s Sender) func(*framedContent) { return func(c *framedContent) { c.sender = s } }
	forged := want{kind: ErrForged, clause: "§6.1", say: "signature does not verify"}
	unknown := want{kind: ErrForged, clause: "§6.1", say: "the group has 2 external senders"}
	kinds := want{kind: ErrMalformed, clause: "§12.1.8", say: "may not come from external sender"}
	for _, c := range []struct {
		name  string
		want  want
		forge func(l *lab, services []service, f *forgery) []byte
	}{
		{"§6.1 an external sender signs with another sender's key", forged, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.proposal(l.TB, RemoveProposal(1), services[1].key)
		}},
		{"§6.1 a member signs as an external sender", forged, func(l *lab, _ []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.proposal(l.TB, RemoveProposal(1))
		}},
		{"§6.1 an external sender just behind the last", unknown, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 2})
			return f.proposal(l.TB, RemoveProposal(1), services[0].key)
		}},
		{"§6.1 external sender 2^32-1", unknown, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 1<<32 - 1})
			return f.proposal(l.TB, RemoveProposal(1), services[0].key)
		}},
		{"§12.1.8 an Update by an external sender", kinds, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.proposal(l.TB, l.update(l.people[1]), services[0].key)
		}},
		{"§12.1.8 an ExternalInit by an external sender", kinds, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.proposal(l.TB, Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)}, services[0].key)
		}},
		{"§12.1.8 a custom proposal by an external sender", kinds, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.proposal(l.TB, CustomProposal(testProposal, nil), services[0].key)
		}},
		{"§6.1 a commit by an external sender", want{kind: ErrMalformed, clause: "§6.1", say: "may send proposals only"}, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			f.format = WireFormatPublicMessage
			f.sign = func(ac *authenticatedContent) {
				ac.format = WireFormatPublicMessage
				if err := ac.sign(f.by.group.suite, services[0].key, nil); err != nil {
					l.Fatal(err)
				}
			}
			return f.message(l.TB)
		}},
		{"§6 an application message by an external sender", want{kind: ErrInvalid, clause: "§6", say: "must be a PrivateMessage"}, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{SenderExternal, 0})
			return f.application(l.TB, "x", services[0].key)
		}},
		{"§6.1 a new member's Add signed with another key than its KeyPackage's", forged, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{Type: SenderNewMemberProposal})
			return f.proposal(l.TB, AddProposal(l.person("dave").keyPackage(l.TB)), services[0].key)
		}},
		{"§6.1 a new member proposes something else than an Add", want{kind: ErrMalformed, clause: "§6.1", say: "may send an Add proposal only"}, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{Type: SenderNewMemberProposal})
			return f.proposal(l.TB, RemoveProposal(1), services[0].key)
		}},
		{"§6.1 a new member's proposal that is a commit", want{kind: ErrMalformed, clause: "§6.1", say: "may send an Add proposal only"}, func(l *lab, _ []service, f *forgery) []byte {
			f.content = as(Sender{Type: SenderNewMemberProposal})
			f.sign = func(ac *authenticatedContent) { ac.format = WireFormatPublicMessage }
			return f.message(l.TB)
		}},
		{"§6.1 a new member's commit that is a proposal", want{kind: ErrMalformed, clause: "§6.1", say: "must be a commit with a path"}, func(l *lab, services []service, f *forgery) []byte {
			f.content = as(Sender{Type: SenderNewMemberCommit})
			return f.proposal(l.TB, RemoveProposal(1), services[0].key)
		}},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l, services := externalLab(t, public)
			msg := c.forge(l, services, &forgery{by: l.people[0]})
			l.refuse(nil, msg, c.want)
			l.goesOn()
		})
	}
	bothWays(t, "§12.1.8 a group without external senders", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		s := newService(t, "first")
		f := &forgery{by: l.people[0], content: as(Sender{SenderExternal, 0})}
		l.refuse(nil, f.proposal(t, RemoveProposal(1), s.key), want{kind: ErrForged, clause: "§6.1", say: "the group has 0 external senders"})
		l.goesOn()
	})
	bothWays(t, "§12.1.8 an external sender who was taken off the list", func(t *testing.T, public bool) {
		l, services := externalLab(t, public)
		x := must[Extension](t)(ExternalSendersExtension([]ExternalSender{services[1].sender}))
		l.commit(l.people[0], CommitOptions{Proposals: []Proposal{ExtensionsProposal(Extensions{x})}})
		context := l.people[0].group.public().Context()
		old := must[[]byte](t)(ProposeExternally(0, services[0].key, context, RemoveProposal(1)))
		l.refuse(nil, old, forged)
		l.deliver(nil, must[[]byte](t)(ProposeExternally(0, services[1].key, context, RemoveProposal(1))))
		if c := l.commit(l.people[0], CommitOptions{}); len(c.Staged.Effects().Removed) != 1 {
			t.Fatalf("skipped %v", c.Skipped)
		}
		l.goesOn()
	})
	bothWays(t, "§12.1.8 what an external sender may propose", func(t *testing.T, public bool) {
		l, services := externalLab(t, public)
		alice, dave := l.people[0], l.person("dave")
		kp := dave.keyPackage(t)
		extensions := alice.group.public().context.Extensions
		for _, p := range []Proposal{AddProposal(kp), RemoveProposal(1), pskProposal(l.psk("a", l.people...)), ExtensionsProposal(extensions)} {
			l.deliver(nil, must[[]byte](t)(ProposeExternally(1, services[1].key, alice.group.public().Context(), p)))
		}
		c := l.commit(alice, CommitOptions{})
		if e := c.Staged.Effects(); len(e.Proposals) != 4 || len(c.Skipped) != 0 {
			t.Fatalf("%d committed, skipped %v", len(e.Proposals), c.Skipped)
		}
		l.goesOn()
		r := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite})
		l.deliver(nil, must[[]byte](t)(ProposeExternally(0, services[0].key, alice.group.public().Context(), r)))
		if c := l.commit(alice, CommitOptions{}); c.Staged.Effects().ReInit == nil {
			t.Fatalf("skipped %v", c.Skipped)
		}
	})
	bothWays(t, "§12.1.8 a new member asks to be added", func(t *testing.T, public bool) {
		l, _ := externalLab(t, public)
		alice, dave := l.people[0], l.person("dave")
		msg, _, err := dave.ProposeSelf(dave.id, alice.group.public().Context(), KeyPackageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l.deliver(dave, msg)
		c := l.commit(alice, CommitOptions{})
		dave.group = must[*Group](t)(dave.Join(c.Welcome, JoinOptions{GroupOptions: alice.group.options}))
		l.people = append(l.people, dave)
		l.agree()
		l.goesOn()
	})
	t.Run("§12.1.8 a client does not make what may not come from outside", func(t *testing.T) {
		l, services := externalLab(t, true)
		alice := l.people[0]
		_, err := ProposeExternally(0, services[0].key, alice.group.public().Context(), l.update(alice))
		want{kind: ErrMalformed, clause: "§12.1.8", say: "may not come from"}.match(t, err)
	})
}

// externalCase is an external commit by dave with one fault.
type externalCase struct {
	name  string
	want  want
	forge func(l *lab, f *forgery, dave *person)
	lab   labOptions
}

// TestRulesExternalCommit checks the rules on external commits (§12.2, §12.4.3.2).
func TestRulesExternalCommit(t *testing.T) {
	add := func(list ...Proposal) func(*lab, *forgery, *person) {
		return func(_ *lab, f *forgery, _ *person) {
			for _, p := range list {
				f.list = append(f.list, sentProposal{Proposal: p})
			}
		}
	}
	kind := func(t string) want {
		return want{kind: ErrInvalid, clause: "§12.2", say: "(" + t + "): not allowed in an external commit"}
	}
	kem := Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)}
	stranger := want{kind: ErrPolicy, clause: "§5.3.1", say: "no valid successor"}
	reference := want{kind: ErrInvalid, clause: "§12.4.3.2", say: "cannot refer to proposals"}
	tag := want{kind: ErrForged, clause: "§12.4.2", say: "confirmation tag does not verify", keyed: true}
	signature := want{kind: ErrForged, clause: "§6.1", say: "signature does not verify"}
	for _, c := range []externalCase{
		{name: "§12.2 an external commit without an ExternalInit", want: want{kind: ErrInvalid, clause: "§12.2", say: "0 ExternalInit proposals"}, forge: func(_ *lab, f *forgery, _ *person) {
			f.noInit = true
		}},
		{name: "§12.2 an external commit with two ExternalInits", want: want{kind: ErrInvalid, clause: "§12.2", say: "2 ExternalInit proposals"}, forge: add(kem)},
		{name: "§12.2 an external commit with an Update", want: kind("update"), forge: func(l *lab, f *forgery, _ *person) {
			add(l.update(l.people[0]))(l, f, nil)
		}},
		{name: "§12.2 an external commit with an Add", want: kind("add"), forge: func(l *lab, f *forgery, _ *person) {
			add(AddProposal(l.person("erin").keyPackage(l.TB)))(l, f, nil)
		}},
		{name: "§12.2 an external commit with GroupContextExtensions", want: kind("group_context_extensions"), forge: add(ExtensionsProposal(nil))},
		{name: "§12.2 an external commit with a ReInit", want: kind("reinit"), forge: add(ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite}))},
		{
			name: "§12.2 an external commit with a custom proposal", want: kind("custom 0xf002"), forge: add(CustomProposal(testProposal, nil)),
			lab: labOptions{config: func(_ string, c *Config) { c.Proposals = both(testProposal) }},
		},
		{name: "§12.2 an external commit with two Removes", want: want{kind: ErrInvalid, clause: "§12.2", say: "2 Remove proposals"}, forge: add(RemoveProposal(1), RemoveProposal(2))},
		{name: "§12.2 an external commit that removes somebody else", want: stranger, forge: add(RemoveProposal(1))},
		{name: "§12.2 an external commit that removes leaf 0", want: stranger, forge: add(RemoveProposal(0))},
		{name: "§12.1.3 an external commit that removes a blank leaf", want: want{kind: ErrInvalid, clause: "§12.1.3", say: "is not a member"}, forge: add(RemoveProposal(3))},
		{name: "§12.1.3 an external commit that removes leaf 2^32-1", want: want{kind: ErrInvalid, clause: "§12.1.3", say: "is not a member"}, forge: add(RemoveProposal(1<<32 - 1))},
		{name: "§12.1.4 an external commit with a PSK of usage reinit", want: want{kind: ErrInvalid, clause: "§12.1.4", say: "belongs to the founding"}, forge: func(l *lab, f *forgery, dave *person) {
			id := l.resumption(UsageReInit)
			key := groupKey(groupName{id: id.GroupID}, recordPSK, uint64Bytes(id.Epoch))
			if err := dave.store.Apply(Batch{Writes: []Write{{Key: key, Value: l.people[0].group.state.secrets.resumption.Bytes()}}}); err != nil {
				l.Fatal(err)
			}
			add(pskProposal(id))(l, f, nil)
		}},
		{name: "§12.4.3.2 an external commit that refers to a proposal", want: reference, forge: func(l *lab, f *forgery, _ *person) {
			l.propose(l.people[1], RemoveProposal(2))
			f.list = append(f.list, l.people[0].group.public().proposals[0].sentProposal)
		}},
		{name: "§12.4.3.2 an external commit that refers to an unknown proposal", want: reference, forge: func(_ *lab, f *forgery, _ *person) {
			f.commit = func(c *commitContent) { c.proposals = append(c.proposals, proposalOrRef{ref: make([]byte, 32)}) }
		}},
		{name: "§12.4.3.2 an external commit without a path", want: want{kind: ErrMalformed, clause: "§6.1", say: "must be a commit with a path"}, forge: func(_ *lab, f *forgery, _ *person) {
			f.noPath = true
		}},
		{name: "§12.4.3.2 an external commit signed with another key than its leaf's", want: signature, forge: func(l *lab, f *forgery, _ *person) {
			f.sign = func(ac *authenticatedContent) {
				if err := ac.sign(l.people[0].group.suite, l.people[0].group.state.signer, l.people[0].group.public().encoded); err != nil {
					l.Fatal(err)
				}
			}
		}},
		{name: "§6.1 an external commit signed in another GroupContext", want: signature, forge: func(_ *lab, f *forgery, _ *person) {
			f.context = func(c *GroupContext) { c.TreeHash = flip(c.TreeHash) }
		}},
		{name: "§8.3 a KEM output that is none", want: want{kind: ErrMalformed, clause: "§5.1.1", say: "ExternalInit", keyed: true}, forge: func(_ *lab, f *forgery, _ *person) {
			f.noInit = true
			add(Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 31)})(nil, f, nil)
		}},
		{name: "§8.3 a KEM output for another init secret", want: tag, forge: func(l *lab, f *forgery, _ *person) {
			f.noInit = true
			_, pub, err := l.people[0].group.suite.generateKeyPair(l.people[0].cfg.Rand)
			if err != nil {
				l.Fatal(err)
			}
			add(Proposal{Type: ProposalExternalInit, ExternalInit: pub})(l, f, nil)
		}},
		{name: "§12.4.2 an external commit whose confirmation tag is empty", want: tag, forge: func(_ *lab, f *forgery, _ *person) {
			f.tag = func(ac *authenticatedContent) { ac.confirmationTag = nil }
		}},
		{name: "§8.4 an external commit with a PSK that members do not hold", want: want{kind: ErrMissing, clause: "§8.4", say: "is not in the store", keyed: true}, forge: func(l *lab, f *forgery, dave *person) {
			add(pskProposal(l.psk("a", dave)))(l, f, nil)
		}},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, c.lab)
			dave := l.person("dave")
			f := &forgery{by: l.people[0]}
			c.forge(l, f, dave)
			info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
			l.refuse(dave, f.external(t, dave, info), c.want)
			for _, p := range l.people {
				p.group.dropProposals()
			}
			if l.server != nil {
				l.server = withoutProposals(l.server)
			}
			clear(dave.store.records)
			l.joinExternally(dave, ExternalOptions{})
			l.goesOn()
		})
	}
	bothWays(t, "§8.3 the external key is that of the epoch", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, dave := l.people[0], l.person("dave")
		old := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		l.commit(alice, CommitOptions{})
		late := must[*ExternalCommit](t)(dave.ExternalJoin(dave.id, old, ExternalOptions{}))
		l.refuse(dave, late.Message, want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"})
		// A GroupInfo of this epoch with the external key of the last.
		oldInfo := must[*groupInfo](t)(parseGroupInfo(old, codec.DefaultLimits))
		pub := must[[]byte](t)(oldInfo.externalPub())
		now := must[*groupInfo](t)(parseGroupInfo(must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})), codec.DefaultLimits))
		now.extensions = now.extensions.With(externalPubExtension(pub))
		if err := now.sign(alice.group.suite, alice.group.state.signer); err != nil {
			t.Fatal(err)
		}
		mixed := must[*ExternalCommit](t)(dave.ExternalJoin(dave.id, must[[]byte](t)(encodeMessage(WireFormatGroupInfo, now.encode)), ExternalOptions{}))
		l.refuse(dave, mixed.Message, tag)
		l.joinExternally(dave, ExternalOptions{})
		l.goesOn()
	})
	t.Run("§12.4.3.2 a GroupInfo without an external key, or with a bad one", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, dave := l.people[0], l.person("dave")
		join := func(x Extensions) error {
			m := must[*groupInfo](t)(parseGroupInfo(must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, Extensions: x})), codec.DefaultLimits))
			before := dave.snapshot(t)
			_, err := dave.ExternalJoin(dave.id, must[[]byte](t)(encodeMessage(WireFormatGroupInfo, m.encode)), ExternalOptions{})
			before.requireSame(t, dave)
			return err
		}
		want{kind: ErrMissing, clause: "§12.4.3.2", say: "has no external_pub"}.match(t, join(nil))
		want{kind: ErrMalformed, clause: "§12.4.3.2", say: "external_pub"}.match(t, join(Extensions{{ExtensionExternalPub, append([]byte{32}, make([]byte, 33)...)}}))
		want{kind: ErrMalformed, clause: "§5.1.1", say: "external_pub"}.match(t, join(Extensions{externalPubExtension(make([]byte, 31))}))
		want{kind: ErrInvalid, clause: "§5.1.1", say: "external_pub"}.match(t, join(Extensions{externalPubExtension(make([]byte, 32))}))
	})
	bothWays(t, "§12.4.3.2 a joiner who does not support what the group has or requires", func(t *testing.T, public bool) {
		x := Extensions{RequiredCapabilities{Proposals: both(testProposal)}.Extension(), {otherExtension, nil}}
		l := newLab(t, public, labOptions{extensions: x, config: func(name string, c *Config) {
			if name != "dave" {
				c.Extensions = both(otherExtension)
			}
			if name != "erin" {
				c.Proposals = both(testProposal)
			}
		}})
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		for name, w := range map[string]want{
			"dave": {kind: ErrInvalid, clause: "§13.4", say: "GroupContext extension 0xf003"},
			"erin": {kind: ErrInvalid, clause: "§11.1", say: "required proposal type 0xf002"},
		} {
			p := l.person(name)
			before := p.snapshot(t)
			_, err := p.ExternalJoin(p.id, info, ExternalOptions{})
			w.match(t, err)
			before.requireSame(t, p)
			l.refuse(p, (&forgery{by: l.people[0]}).external(t, p, info), w)
		}
		l.joinExternally(l.person("frank"), ExternalOptions{})
		l.goesOn()
	})
	bothWays(t, "§12.2 the application forbids a resync", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(name string, c *Config) {
			if name != "carol" { // the client that comes back does not check it
				c.Policy = noRemoves{}
			}
		}})
		carol := l.people[2]
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		x := must[*ExternalCommit](t)(carol.ExternalJoin(carol.id, info, ExternalOptions{Resync: true}))
		l.refuse(carol, x.Message, want{kind: ErrPolicy, clause: "§12.2", say: "refused by the application"})
		l.goesOn()
	})
}

// dropProposals drops the waiting proposals, as the end of an epoch does.
func (g *Group) dropProposals() { g.state.public = withoutProposals(g.state.public) }

func withoutProposals(p *PublicState) *PublicState {
	c := *p
	c.proposals = nil
	return &c
}

// TestRulesResync checks that a member comes back by an external commit that removes its earlier appearance (§12.2,
// §12.4.3.2).
func TestRulesResync(t *testing.T) {
	bothWays(t, "§12.4.3.2 a resync takes the leftmost leaf that is blank when the old one is", func(t *testing.T, public bool) {
		for _, c := range []struct {
			gone     []LeafIndex // leaves removed before
			who      LeafIndex
			expected LeafIndex
		}{
			{nil, 0, 0},
			{nil, 2, 2},
			{nil, 4, 4},
			{[]LeafIndex{1}, 3, 1},
			{[]LeafIndex{3}, 1, 1},
			{[]LeafIndex{0, 2}, 4, 0},
			{[]LeafIndex{3, 2}, 4, 2}, // the tree shrinks and does not grow again
			{[]LeafIndex{1, 2, 3}, 4, 1},
		} {
			l := newLab(t, public, labOptions{names: fiveNames})
			who := l.people[c.who]
			var list []Proposal
			for _, i := range c.gone {
				list = append(list, RemoveProposal(i))
			}
			l.commit(who, CommitOptions{Proposals: list})
			old := who.group
			x := l.joinExternally(who, ExternalOptions{Resync: true})
			if who.group.Self() != c.expected || len(x.Effects.Removed) != 1 || x.Effects.Removed[0].Leaf != c.who {
				t.Fatalf("%+v: came to leaf %d, removed %v", c, who.group.Self(), x.Effects.Removed)
			}
			if old == who.group || who.group.public().Size() != 5-len(c.gone) {
				t.Fatalf("%d members", who.group.public().Size())
			}
			l.goesOn()
		}
	})
	bothWays(t, "§12.4.3.2 a full tree is extended for the joiner", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: fiveNames[:4]})
		dave := l.person("frank")
		l.joinExternally(dave, ExternalOptions{})
		if dave.group.Self() != 4 || dave.group.public().tree.height() != 3 {
			t.Fatalf("leaf %d", dave.group.Self())
		}
		l.goesOn()
	})
	bothWays(t, "§12.4.3.2 the earlier appearance is out of the group", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		carol := l.people[2]
		lost := *carol // a copy of carol with the old state
		lost.store = carol.store.Clone()
		cfg := carol.cfg
		cfg.Store = lost.store
		lost.Client = must[*Client](t)(NewClient(cfg))
		lost.group = must[*Group](t)(lost.LoadGroup(carol.group.GroupID()))
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		opts := ExternalOptions{Resync: true, GroupOptions: carol.group.options}
		x := must[*ExternalCommit](t)(carol.ExternalJoin(carol.id, info, opts))
		r := must[*Received](t)(lost.group.Process(x.Message))
		if !r.Commit.RemovesSelf() {
			t.Fatal("the old appearance stays")
		}
		if err := lost.group.Merge(r.Commit); err != nil || lost.group.Active() {
			t.Fatalf("%v", err)
		}
		l.deliver(carol, x.Message)
		carol.group = must[*Group](t)(x.Complete())
		l.agree()
		l.goesOn()
	})
	bothWays(t, "§12.2 a resync with new keys, and with the encryption key of the leaf before", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		carol := l.people[2]
		before, _ := carol.group.public().tree.leaf(2)
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		f := &forgery{by: l.people[0], list: []sentProposal{{Proposal: RemoveProposal(2)}}}
		f.keys = func(_ [][]byte, leaf *LeafNode) { leaf.EncryptionKey = before.EncryptionKey }
		l.refuse(carol, f.external(t, carol, info), want{kind: ErrInvalid, clause: "§7.3", say: "encryption_key is not a new one"})
		carol.id = l.person("carol").id // another signature key
		l.joinExternally(carol, ExternalOptions{Resync: true})
		l.goesOn()
	})
	bothWays(t, "§12.2 a member joins again and does not remove itself", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		carol := l.person("carol")
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		w := want{kind: ErrInvalid, clause: "§12.2", say: "represents the same client as leaf 2"}
		f := &forgery{by: l.people[0]}
		l.refuse(nil, f.external(t, carol, info), w)
		_, err := carol.ExternalJoin(carol.id, info, ExternalOptions{})
		w.match(t, err)
		_, err = l.person("dave").ExternalJoin(l.person("dave").id, info, ExternalOptions{Resync: true})
		want{kind: ErrMissing, clause: "§12.4.3.2", say: "is not a member of the group"}.match(t, err)
		l.goesOn()
	})
	bothWays(t, "§12.4.3.2 an external commit with PSKs", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		dave := l.person("dave")
		l.psk("a", append(l.people, dave)...)
		l.psk("b", append(l.people, dave)...)
		x := l.joinExternally(dave, ExternalOptions{PSKs: []PreSharedKeyID{{Type: PSKExternal, ID: []byte("b")}, {Type: PSKExternal, ID: []byte("a")}}})
		if len(x.Effects.Proposals) != 3 {
			t.Fatalf("%v", x.Effects.Proposals)
		}
		l.goesOn()
	})
}
