package mlscore

import (
	"bytes"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// fiveNames are the members of a tree in which leaf 0 has three parents above it.
var fiveNames = both("alice", "bob", "carol", "dave", "erin")

// commitCase is a commit by alice with one fault outside its proposals.
type commitCase struct {
	name  string
	want  want
	forge func(l *lab, f *forgery)
}

// run makes the commit once alone and once with a Remove of erin: a removed member verifies everything that needs no
// keys of the next epoch (§12.4.2).
func (c commitCase) run(t *testing.T) {
	bothWays(t, c.name, func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: fiveNames})
		f := &forgery{by: l.people[0]}
		c.forge(l, f)
		l.refuse(l.people[0], f.message(t), c.want)
		if !c.want.keyed {
			f = (&forgery{by: l.people[0]}).value(RemoveProposal(4))
			c.forge(l, f)
			l.refuse(l.people[0], f.message(t), c.want)
		}
		l.goesOn()
	})
}

// TestRulesPathRequired checks which commits need a path (§12.4).
func TestRulesPathRequired(t *testing.T) {
	missing := want{kind: ErrInvalid, clause: "§12.4", say: "has no path"}
	for _, c := range []struct {
		name string
		list func(l *lab) []Proposal
	}{
		{"§12.4 an empty commit without a path", func(*lab) []Proposal { return nil }},
		{"§12.4 a Remove without a path", func(*lab) []Proposal { return []Proposal{RemoveProposal(2)} }},
		{"§12.4 a GroupContextExtensions proposal without a path", func(*lab) []Proposal { return []Proposal{ExtensionsProposal(nil)} }},
		{"§12.4 an Update without a path", func(l *lab) []Proposal {
			l.proposeUpdate(l.people[1])
			return nil
		}},
		{"§12.4 an Add and a Remove without a path", func(l *lab) []Proposal {
			return []Proposal{AddProposal(l.person("dave").keyPackage(l.TB)), RemoveProposal(2)}
		}},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, labOptions{})
			list := c.list(l)
			f := (&forgery{by: l.people[0], noPath: true}).value(list...).reference()
			l.refuse(l.people[0], f.message(t), missing)
			// The commit has a path if the rules require one, even with OmitPath.
			done := l.commit(l.people[0], CommitOptions{Proposals: list, OmitPath: true})
			if leaf, _ := done.Staged.Public().tree.leaf(0); leaf.Source != SourceCommit {
				t.Fatal("the committer's leaf is not new")
			}
			l.goesOn()
		})
	}
	bothWays(t, "§12.4 Add, PSK, ReInit and custom proposals without a path", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(_ string, c *Config) { c.Proposals, c.PathlessProposals = both(testProposal), both(testProposal) }})
		alice := l.people[0]
		before := alice.group.public().tree.leafBody(0)
		add := []Proposal{AddProposal(l.person("dave").keyPackage(t)), CustomProposal(testProposal, nil), pskProposal(l.psk("a", l.people...))}
		l.commit(alice, CommitOptions{Proposals: add, OmitPath: true})
		l.commit(alice, CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite})}, OmitPath: true})
		if alice.group.public().tree.leafBody(0) != before {
			t.Fatal("there was a path")
		}
	})
	bothWays(t, "§12.4 a path with custom proposals, unless the application says otherwise", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(_ string, c *Config) {
			c.Proposals, c.PathlessProposals = both(testProposal, otherProposal), both(otherProposal)
		}})
		alice := l.people[0]
		for _, c := range []struct {
			types []ProposalType
			path  bool
		}{{both(testProposal), true}, {both(otherProposal), false}, {both(otherProposal, testProposal), true}} {
			var list []Proposal
			for _, kind := range c.types {
				list = append(list, CustomProposal(kind, []byte("?")))
			}
			before := alice.group.public().tree.leafBody(0)
			l.commit(alice, CommitOptions{Proposals: list, OmitPath: true})
			if path := alice.group.public().tree.leafBody(0) != before; path != c.path {
				t.Fatalf("proposals %v: path %v", c.types, path)
			}
		}
		// Commits of others need no path.
		l.takes(alice, (&forgery{by: alice, noPath: true}).value(CustomProposal(testProposal, nil)).message(t))
	})
}

// TestRulesPath checks the rules on the form of an UpdatePath, its keys and hashes (§7.4 to §7.6, §7.9.2, §12.4.2).
func TestRulesPath(t *testing.T) {
	count := want{kind: ErrInvalid, clause: "§7.6", say: "the filtered direct path has"}
	ciphertexts := want{kind: ErrInvalid, clause: "§7.6", say: "the copath's resolution has"}
	used := func(where string) want {
		return want{kind: ErrInvalid, clause: "§12.4.2", say: "is not new: it is used at " + where}
	}
	twice := want{kind: ErrInvalid, clause: "§12.4.2", say: "is in the path twice"}
	hash := want{kind: ErrForged, clause: "§7.9.2", say: "parent hash of leaf 0"}
	length := want{kind: ErrInvalid, clause: "§7.4", say: "path secret", keyed: true}
	sealed := want{kind: ErrForged, clause: "§7.6", say: "does not decrypt", keyed: true}
	for _, c := range []commitCase{
		{"§7.6 a path with a node too few", count, func(_ *lab, f *forgery) {
			f.path = func(p *updatePath) { p.nodes = p.nodes[:len(p.nodes)-1] }
		}},
		{"§7.6 a path with a node too many", count, func(_ *lab, f *forgery) {
			f.path = func(p *updatePath) { p.nodes = append(p.nodes, p.nodes[0]) }
		}},
		{"§7.6 a path without nodes", count, func(_ *lab, f *forgery) {
			f.path = func(p *updatePath) { p.nodes = nil }
		}},
		{"§7.6 a node with a ciphertext too few", ciphertexts, func(_ *lab, f *forgery) {
			f.path = func(p *updatePath) { p.nodes[1].secrets = p.nodes[1].secrets[1:] }
		}},
		{"§7.6 a node with a ciphertext too many", ciphertexts, func(_ *lab, f *forgery) {
			f.path = func(p *updatePath) { p.nodes[0].secrets = append(p.nodes[0].secrets, p.nodes[1].secrets...) }
		}},
		{"§5.1.1 a path key that is none of the suite", want{kind: ErrMalformed, clause: "§5.1.1", say: "node 1"}, func(_ *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[0] = keys[0][1:] }
		}},
		{"§5.1.1 a path key of small order", want{kind: ErrInvalid, clause: "§5.1.1", say: "small order"}, func(_ *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[1] = make([]byte, 32) }
		}},
		{"§12.4.2 two nodes of a path with one key", twice, func(_ *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[1] = keys[0] }
		}},
		{"§12.4.2 a path node with the key of the path's leaf", twice, func(_ *lab, f *forgery) {
			f.keys = func(keys [][]byte, leaf *LeafNode) { keys[0] = leaf.EncryptionKey }
		}},
		{"§12.4.2 a path key that another member's leaf has", used("leaf 2"), func(l *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[0] = []byte(l.nodeKey(LeafIndex(2).node())) }
		}},
		{"§12.4.2 a path key that another parent has", used("node 5"), func(l *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[1] = []byte(l.nodeKey(5)) }
		}},
		{"§12.4.2 a path that keeps the key of a node", used("node 1"), func(l *lab, f *forgery) {
			f.keys = func(keys [][]byte, _ *LeafNode) { keys[0] = []byte(l.nodeKey(1)) }
		}},
		{"§12.4.2 a path whose leaf takes the key of a parent that it replaces", used("node 1"), func(l *lab, f *forgery) {
			f.keys = func(_ [][]byte, leaf *LeafNode) { leaf.EncryptionKey = []byte(l.nodeKey(1)) }
		}},
		{"§12.4.2 a path whose leaf takes another member's key", used("leaf 3"), func(l *lab, f *forgery) {
			f.keys = func(_ [][]byte, leaf *LeafNode) { leaf.EncryptionKey = []byte(l.nodeKey(LeafIndex(3).node())) }
		}},
		{"§7.9.2 the leaf's parent hash is not that of the path", hash, func(_ *lab, f *forgery) {
			f.leaf = func(leaf *LeafNode) { leaf.ParentHash = flip(leaf.ParentHash) }
		}},
		{"§7.9.2 the leaf's parent hash is empty", hash, func(_ *lab, f *forgery) {
			f.leaf = func(leaf *LeafNode) { leaf.ParentHash = nil }
		}},
		{"§7.9.2 the leaf's parent hash is that of the path before", hash, func(l *lab, f *forgery) {
			before, _ := l.people[0].group.public().tree.leaf(0)
			f.leaf = func(leaf *LeafNode) { leaf.ParentHash = before.ParentHash }
		}},
		{"§7.2 a path's leaf signed for another place", want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"}, func(l *lab, f *forgery) {
			f.signed = func(leaf *LeafNode) { l.resign(leaf, l.people[0].group.GroupID(), 1) }
		}},
		{"§7.2 a path's leaf signed for another group", want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"}, func(l *lab, f *forgery) {
			f.signed = func(leaf *LeafNode) { l.resign(leaf, []byte("another"), 0) }
		}},
		{"§7.5 path secrets that do not give the path's keys", want{kind: ErrForged, clause: "§7.5", say: "is not the one that its path secret gives", keyed: true}, func(_ *lab, f *forgery) {
			f.secrets = func(_ int, s []byte) []byte { return flip(s) }
		}},
		{"§7.4 a path secret that is empty", length, func(_ *lab, f *forgery) {
			f.secrets = func(int, []byte) []byte { return nil }
		}},
		{"§7.4 a path secret that is too short", length, func(_ *lab, f *forgery) {
			f.secrets = func(_ int, s []byte) []byte { return s[1:] }
		}},
		{"§7.4 a path secret that is too long", length, func(_ *lab, f *forgery) {
			f.secrets = func(_ int, s []byte) []byte { return append(bytes.Clone(s), 0) }
		}},
		{"§7.6 a path secret that does not decrypt", sealed, func(_ *lab, f *forgery) {
			f.path = eachSecret(func(c *hpkeCiphertext) { c.ciphertext = flip(c.ciphertext) })
		}},
		{"§7.6 a KEM output that is none", sealed, func(_ *lab, f *forgery) {
			f.path = eachSecret(func(c *hpkeCiphertext) { c.kemOutput = c.kemOutput[1:] })
		}},
		{"§7.6 path secrets encrypted in another context", sealed, func(l *lab, f *forgery) {
			f.provisional = func(c *GroupContext) { c.Epoch-- }
		}},
	} {
		c.run(t)
	}
	bothWays(t, "§7.6 a path secret encrypted to a leaf that the same commit adds", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{names: fiveNames})
		dave := AddProposal(l.person("frank").keyPackage(t))
		f := (&forgery{by: l.people[0], added: func([]LeafIndex) []LeafIndex { return nil }}).value(dave)
		l.refuse(l.people[0], f.message(t), ciphertexts)
		l.goesOn()
	})
	bothWays(t, "§7.6 leaves that the same commit adds are left out of the resolutions", func(t *testing.T, public bool) {
		// Frank joins at leaf 5, below parents that have keys; gina and hal fill the tree, ida extends it.
		l := newLab(t, public, labOptions{names: fiveNames})
		l.commit(l.people[0], CommitOptions{}, l.person("frank"))
		l.commit(l.people[4], CommitOptions{}, l.person("gina"), l.person("hal"), l.person("ida"))
		if got := l.people[0].group.public().Size(); got != 9 || l.people[0].group.public().tree.height() != 4 {
			t.Fatalf("%d members", got)
		}
		for _, p := range l.others(nil) {
			l.commit(p, CommitOptions{})
		}
		l.goesOn()
	})
	bothWays(t, "§12.4.2 path secrets are encrypted in the new GroupContext, its new extensions included", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{config: func(_ string, c *Config) { c.Extensions = both(testExtension) }})
		x := ExtensionsProposal(Extensions{{testExtension, []byte("new")}})
		l.commit(l.people[1], CommitOptions{Proposals: []Proposal{x, RemoveProposal(0)}}, l.person("dave"), l.person("erin"))
		l.goesOn()
	})
}

// nodeKey returns the encryption key of a node in the members' tree.
func (l *lab) nodeKey(n nodeIndex) string {
	l.Helper()
	node := l.people[0].group.public().tree.nodeAbove(n.firstLeaf(), n.level())
	if node == nil || node.blank() {
		l.Fatalf("%s is blank", nodeName(n))
	}
	return node.encryptionKey()
}

// resign signs a leaf of alice's for another group or place.
func (l *lab) resign(leaf *LeafNode, groupID []byte, i LeafIndex) {
	l.Helper()
	if err := leaf.sign(l.people[0].group.suite, l.people[0].group.state.signer, groupID, i); err != nil {
		l.Fatal(err)
	}
}

func eachSecret(change func(*hpkeCiphertext)) func(*updatePath) {
	return func(p *updatePath) {
		for k := range p.nodes {
			for at := range p.nodes[k].secrets {
				change(&p.nodes[k].secrets[at])
			}
		}
	}
}

// TestRulesConfirmation checks the rules on the confirmation tag and the secrets that it covers (§6.1, §8.4,
// §12.4.2).
func TestRulesConfirmation(t *testing.T) {
	bad := want{kind: ErrForged, clause: "§12.4.2", say: "confirmation tag does not verify", keyed: true}
	tag := func(change func([]byte) []byte) func(*lab, *forgery) {
		return func(_ *lab, f *forgery) {
			f.tag = func(ac *authenticatedContent) { ac.confirmationTag = change(ac.confirmationTag) }
		}
	}
	for _, c := range []commitCase{
		{"§12.4.2 the confirmation tag does not verify", bad, tag(flip)},
		{"§12.4.2 the confirmation tag is empty", bad, tag(func([]byte) []byte { return nil })},
		{"§12.4.2 the confirmation tag is cut short", bad, tag(func(b []byte) []byte { return b[:16] })},
		{"§12.4.2 the confirmation tag is too long", bad, tag(func(b []byte) []byte { return append(b, 0) })},
		{"§12.4.2 the confirmation tag is that of the epoch before", bad, func(l *lab, f *forgery) {
			before := l.people[0].group.state.confirmationTag
			f.tag = func(ac *authenticatedContent) { ac.confirmationTag = before }
		}},
		{"§8.4 a PSK that members hold with another value", bad, func(l *lab, f *forgery) {
			id := l.psk("a", l.people...)
			if err := l.people[0].StorePSK([]byte("a"), NewSecret([]byte("another"))); err != nil {
				l.Fatal(err)
			}
			f.value(pskProposal(id))
		}},
		{"§12.4.2 a PSK that members do not hold", want{kind: ErrMissing, clause: "§8.4", say: "is not in the store", keyed: true}, func(l *lab, f *forgery) {
			f.value(pskProposal(l.psk("a", l.people[0])))
		}},
		{"§8.6 a resumption PSK of an epoch that is no longer kept", want{kind: ErrMissing, clause: "§8.4", say: "is not in the store", keyed: true}, func(l *lab, f *forgery) {
			id := l.resumption(UsageApplication)
			id.Epoch += 5
			key := groupKey(groupName{id: id.GroupID}, recordPSK, uint64Bytes(id.Epoch))
			if err := l.people[0].store.Apply(Batch{Writes: []Write{{Key: key, Value: []byte("made up")}}}); err != nil {
				l.Fatal(err)
			}
			f.value(pskProposal(id))
		}},
	} {
		c.run(t)
	}
	bothWays(t, "§8.4 PSKs are chained in the order of the commit", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		list := []Proposal{pskProposal(l.psk("z", l.people...)), pskProposal(l.resumption(UsageApplication)), pskProposal(l.psk("a", l.people...))}
		dave := l.person("dave")
		for _, id := range []string{"z", "a"} {
			l.psk(id, dave)
		}
		// Dave has no resumption PSK of this group: he is added without it.
		l.commit(l.people[0], CommitOptions{Proposals: list})
		l.commit(l.people[1], CommitOptions{Proposals: []Proposal{pskProposal(l.psk("z", l.people...)), pskProposal(l.psk("a", l.people...))}}, dave)
		l.goesOn()
	})
}

// TestRulesEpochs checks that epochs count, end and close (§12, §12.4.2, §14).
func TestRulesEpochs(t *testing.T) {
	bothWays(t, "§12 there is no epoch after the last", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		w := want{kind: ErrLimit, clause: "§12", say: "no epoch after 18446744073709551615"}
		last := func(p *PublicState) *PublicState {
			c := *p
			c.context.Epoch = 1<<64 - 1
			c.encoded = c.context.marshal()
			return &c
		}
		for _, p := range l.people {
			p.group.state.public = last(p.group.public())
		}
		if l.server != nil {
			l.server = last(l.server)
		}
		_, err := l.people[0].group.Commit(CommitOptions{})
		w.match(t, err)
		f := &forgery{by: l.people[0]}
		l.refuse(l.people[0], f.message(t), w)
	})
	bothWays(t, "§12.4.2 a commit of the epoch that its merge ended", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, bob, carol := l.people[0], l.people[1], l.people[2]
		lost := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		late := must[*Received](t)(carol.group.Process(lost.Message))
		if got := late.Commit.Effects().Committer; got != bob.group.Self() {
			t.Fatalf("committer %d", got)
		}
		before := carol.snapshot(t)
		before.requireSame(t, carol)
		l.commit(alice, CommitOptions{})
		stale := want{kind: ErrStale, clause: "§12.4.2", say: "is not of the present epoch"}
		stale.match(t, carol.group.Merge(late.Commit))
		stale.match(t, bob.group.Merge(lost.Staged))
		l.refuse(bob, lost.Message, want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"})
		l.goesOn()
	})
	bothWays(t, "§14 making and receiving a commit changes nothing until it is merged", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, bob := l.people[0], l.people[1]
		before := alice.snapshot(t)
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{RemoveProposal(2)}}))
		if after := alice.snapshot(t); after.epoch != before.epoch || after.authenticator != before.authenticator || alice.group.public().Size() != 3 {
			t.Fatal("the epoch changed")
		}
		received := bob.snapshot(t)
		must[*Received](t)(bob.group.Process(c.Message))
		received.requireSame(t, bob)
		// Meanwhile application messages of the present epoch go in both directions.
		msg := must[[]byte](t)(bob.group.Protect([]byte("still here"), MessageOptions{}))
		if got := alice.receive(t, msg).Application; string(got.Data) != "still here" {
			t.Fatalf("got %q", got.Data)
		}
		if err := alice.group.Abandon(); err != nil {
			t.Fatal(err)
		}
		l.goesOn()
	})
	bothWays(t, "§12.4.2 a group that a ReInit has closed", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, bob := l.people[0], l.people[1]
		// Messages that are in transit when the group closes.
		late := must[[]byte](t)(bob.group.Protect([]byte("late"), MessageOptions{}))
		l.commit(alice, CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite})}})
		closed := want{kind: ErrGroupEnded, clause: "§12.4.2", say: "closed by a ReInit"}
		f := &forgery{by: bob}
		l.refuse(bob, f.proposal(t, RemoveProposal(2)), closed)
		l.refuse(bob, f.message(t), closed)
		reloaded := must[*Group](t)(alice.LoadGroup(alice.group.GroupID()))
		for _, g := range []*Group{alice.group, bob.group, reloaded} {
			_, err := g.Protect([]byte("x"), MessageOptions{})
			closed.match(t, err)
			_, err = g.Propose(RemoveProposal(2), ProposeOptions{})
			closed.match(t, err)
			_, err = g.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
			closed.match(t, err)
			_, err = g.Commit(CommitOptions{})
			closed.match(t, err)
			_, err = g.GroupInfo(GroupInfoOptions{})
			closed.match(t, err)
			if r, ok := g.ReInit(); g.Active() || !ok || string(r.GroupID) != "next" {
				t.Fatalf("active %v, ReInit %v", g.Active(), r)
			}
		}
		if got := alice.receive(t, late).Application; string(got.Data) != "late" {
			t.Fatalf("got %q", got.Data)
		}
	})
	bothWays(t, "§12.4.2 a member who was removed", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, carol := l.people[0], l.people[2]
		l.commit(alice, CommitOptions{Proposals: []Proposal{RemoveProposal(2)}})
		removed := want{kind: ErrGroupEnded, clause: "§12.4.2", say: "this member was removed"}
		if carol.group.Active() || len(dump(t, carol.store)) != 0 {
			t.Fatalf("active %v, %d records left", carol.group.Active(), len(dump(t, carol.store)))
		}
		_, err := carol.group.Protect(nil, MessageOptions{})
		removed.match(t, err)
		_, err = carol.group.Commit(CommitOptions{})
		removed.match(t, err)
		_, err = carol.group.Process(must[[]byte](t)(alice.group.Protect(nil, MessageOptions{})))
		removed.match(t, err)
		_, err = carol.group.Export("label", nil, 32)
		removed.match(t, err)
		_, err = carol.LoadGroup(alice.group.GroupID())
		want{kind: ErrMissing, say: "is not in the store"}.match(t, err)
		l.goesOn()
	})
	t.Run("§12.4 no application message while proposals wait", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice := l.people[0]
		l.proposeUpdate(l.people[1])
		before := alice.snapshot(t)
		_, err := alice.group.Protect([]byte("x"), MessageOptions{})
		want{kind: ErrMisuse, clause: "§12.4", say: "1 proposals wait"}.match(t, err)
		before.requireSame(t, alice)
		l.deliver(alice, must[[]byte](t)(alice.group.Protect([]byte("x"), MessageOptions{DespiteProposals: true})))
		l.goesOn()
	})
}

// TestRulesOvertaken checks what a member does with messages while its own commit is in transit.
func TestRulesOvertaken(t *testing.T) {
	both := func(t *testing.T, name string, run func(t *testing.T, l *lab, reload func(p *person))) {
		bothWays(t, name, func(t *testing.T, public bool) {
			for _, restart := range []bool{false, true} {
				run(t, newLab(t, public, labOptions{}), func(p *person) {
					if restart {
						p.group = must[*Group](t)(p.LoadGroup(p.group.GroupID()))
					}
				})
			}
		})
	}
	both(t, "§12.4.2 removed while an own commit is pending", func(t *testing.T, l *lab, reload func(p *person)) {
		alice, bob := l.people[0], l.people[1]
		mine := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		reload(bob)
		l.commit(alice, CommitOptions{Proposals: []Proposal{RemoveProposal(1)}})
		if _, pending := bob.group.Pending(); pending || bob.group.Active() {
			t.Fatal("bob is still there")
		}
		want{kind: ErrGroupEnded, clause: "§12.4.2", say: "this member was removed"}.match(t, bob.group.Merge(mine.Staged))
		l.goesOn()
	})
	both(t, "§12.4.3.2 an external commit while an own commit is pending", func(t *testing.T, l *lab, reload func(p *person)) {
		alice, bob, dave := l.people[0], l.people[1], l.person("dave")
		mine := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		reload(bob)
		info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		x := must[*ExternalCommit](t)(dave.ExternalJoin(dave.id, info, ExternalOptions{GroupOptions: alice.group.options}))
		l.deliver(dave, x.Message)
		dave.group = must[*Group](t)(x.Complete())
		l.people = append(l.people, dave)
		if _, pending := bob.group.Pending(); pending {
			t.Fatal("bob's commit is still pending")
		}
		l.refuse(bob, mine.Message, want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"})
		l.goesOn()
	})
	both(t, "§12.4.2 another member's commit while an own commit is pending", func(t *testing.T, l *lab, reload func(p *person)) {
		alice, bob := l.people[0], l.people[1]
		mine := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		reload(bob)
		l.commit(alice, CommitOptions{})
		if _, pending := bob.group.Pending(); pending {
			t.Fatal("bob's commit is still pending")
		}
		l.refuse(bob, mine.Message, want{kind: ErrStale, clause: "§12.4.2", say: "the group is at"})
		l.goesOn()
	})
	both(t, "§14 an own commit that was abandoned", func(t *testing.T, l *lab, reload func(p *person)) {
		bob := l.people[1]
		stale := want{kind: ErrStale, clause: "§12.4.2", say: "was abandoned"}
		refused := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		reload(bob)
		if err := bob.group.Abandon(); err != nil {
			t.Fatal(err)
		}
		before := bob.snapshot(t)
		stale.match(t, bob.group.Merge(refused.Staged))
		before.requireSame(t, bob)
		first := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		second := must[*Commit](t)(bob.group.Commit(CommitOptions{})) // abandons the first
		before = bob.snapshot(t)
		stale.match(t, bob.group.Merge(first.Staged))
		before.requireSame(t, bob)
		if first.Staged.RemovesSelf() || !bob.group.Active() {
			t.Fatal("bob is out")
		}
		l.deliver(bob, second.Message)
		if err := bob.group.Merge(second.Staged); err != nil {
			t.Fatal(err)
		}
		stale.match(t, bob.group.Merge(second.Staged))
		l.agree()
		l.goesOn()
	})
	both(t, "§12.4.2 the own commit comes back", func(t *testing.T, l *lab, reload func(p *person)) {
		bob := l.people[1]
		mine := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
		reload(bob)
		l.deliver(bob, mine.Message)
		r := must[*Received](t)(bob.group.Process(mine.Message))
		if !r.Commit.Own() {
			t.Fatal("it is not bob's own")
		}
		if err := bob.group.Merge(r.Commit); err != nil {
			t.Fatal(err)
		}
		l.agree()
		l.goesOn()
	})
}

// TestRulesOwnLeaf checks what a creator, a committer and the sender of an Update may put into their own leaves and
// groups (§7.3, §11, §12.4.1).
func TestRulesOwnLeaf(t *testing.T) {
	t.Run("§11 a group whose extensions its creator does not support", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		p := l.person("dave")
		s := newService(t, "refused service")
		senders := must[Extension](t)(ExternalSendersExtension([]ExternalSender{s.sender}))
		before := p.snapshot(t)
		for _, c := range []struct {
			x    Extension
			want want
		}{
			{Extension{otherExtension, nil}, want{kind: ErrInvalid, clause: "§13.4", say: "extension 0xf003 is not supported"}},
			{RequiredCapabilities{Proposals: both(testProposal)}.Extension(), want{kind: ErrInvalid, clause: "§11.1", say: "required proposal type"}},
			{Extension{ExtensionRatchetTree, nil}, want{kind: ErrInvalid, clause: "§13.4", say: "does not belong"}},
			{Extension{ExtensionRequiredCapabilities, nil}, want{kind: ErrMalformed, say: "required_capabilities"}},
			{Extension{0x3a3a, nil}, want{kind: ErrInvalid, clause: "§13.4", say: "extension 0x3a3a is not supported"}},
			{senders, want{kind: ErrPolicy, clause: "§5.3.1", say: "external sender 0"}},
		} {
			_, err := p.CreateGroup(p.id, []byte("new"), CreateOptions{Extensions: Extensions{c.x}})
			c.want.match(t, err)
			before.requireSame(t, p)
		}
		twice := want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice"}
		list := Extensions{RequiredCapabilities{}.Extension(), RequiredCapabilities{}.Extension()}
		_, err := p.CreateGroup(p.id, []byte("new"), CreateOptions{Extensions: list})
		twice.match(t, err)
		_, err = p.CreateGroup(p.id, []byte("new"), CreateOptions{LeafExtensions: list})
		twice.match(t, err)
		_, err = p.NewKeyPackage(p.id, KeyPackageOptions{Extensions: list})
		twice.match(t, err)
		for _, opts := range []CommitOptions{
			{Proposals: []Proposal{ExtensionsProposal(list)}},
			{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite, Extensions: list})}},
			{GroupInfo: GroupInfoOptions{Extensions: list}},
		} {
			_, err = l.people[0].group.Commit(opts)
			twice.match(t, err)
		}
		before.requireSame(t, p)
		must[*Group](t)(p.CreateGroup(p.id, []byte("new"), CreateOptions{}))
	})
	bothWays(t, "§7.3 a leaf of one's own that the others would refuse", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice := l.people[0]
		stranger, refused, twin := l.person("stranger").id, l.person("refused").id, l.people[1].id
		twin.Credential = alice.id.Credential
		before := alice.snapshot(t)
		for _, c := range []struct {
			update LeafUpdate
			want   want
		}{
			{LeafUpdate{Identity: &stranger}, want{kind: ErrPolicy, clause: "§5.3.1", say: "no valid successor"}},
			{LeafUpdate{Identity: &refused}, want{kind: ErrPolicy, clause: "§5.3.1", say: "not welcome"}},
			{LeafUpdate{Identity: &twin}, want{kind: ErrInvalid, clause: "§7.3", say: "signature_key is also used at leaf 1"}},
			{LeafUpdate{Extensions: &Extensions{{otherExtension, nil}, {otherExtension, nil}}}, want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice"}},
		} {
			_, err := alice.group.Commit(CommitOptions{Leaf: c.update})
			c.want.match(t, err)
			before.requireSame(t, alice)
		}
		for _, u := range []LeafUpdate{{Identity: &stranger}, {Identity: &refused}} {
			_, err := alice.group.ProposeUpdate(u, ProposeOptions{})
			requireKind(t, err, ErrPolicy)
			before.requireSame(t, alice)
		}
		l.goesOn()
		x := Extensions{{otherExtension, []byte("mine")}}
		l.commit(alice, CommitOptions{Leaf: LeafUpdate{Extensions: &x}})
		if m, _ := l.people[1].group.public().Member(0); !m.Extensions.equal(x) {
			t.Fatalf("extensions %v", m.Extensions)
		}
		l.goesOn()
	})
}

// TestRulesRotatedSignatureKey checks that a committer's new signature key signs the GroupInfo of the new epoch, and
// the old key signs the commit (§12.4.1, §12.4.3).
func TestRulesRotatedSignatureKey(t *testing.T) {
	bothWays(t, "§12.4.3 a GroupInfo is signed with the key in the new tree", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, dave := l.people[0], l.person("dave")
		next := l.person("alice").id
		kp := dave.keyPackage(t)
		old := alice.group.state.signer.Clone()
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{
			Proposals:   []Proposal{AddProposal(kp)},
			Leaf:        LeafUpdate{Identity: &next},
			WelcomeInfo: GroupInfoOptions{Tree: true},
			GroupInfo:   GroupInfoOptions{Tree: true, External: true},
		}))
		l.deliver(alice, c.Message)
		if err := alice.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		if !alice.group.state.signer.Equal(next.SignatureKey) || alice.group.state.signer.Equal(old) {
			t.Fatal("alice signs with the old key")
		}
		if _, err := NewPublicState(c.GroupInfo, nil, l.publicConfig()); err != nil {
			t.Fatal(err)
		}
		dave.group = must[*Group](t)(dave.Join(c.Welcome, JoinOptions{GroupOptions: alice.group.options}))
		l.people = append(l.people, dave)
		l.agree()
		// A signature by the old key is refused now.
		f := &forgery{by: alice}
		l.refuse(alice, f.proposal(t, RemoveProposal(1), old), want{kind: ErrForged, clause: "§6.1", say: "signature does not verify"})
		m := must[*message](t)(parseMessage(c.GroupInfo, codec.DefaultLimits)).groupInfo
		if err := m.sign(alice.group.suite, old); err != nil {
			t.Fatal(err)
		}
		forged := must[[]byte](t)(encodeMessage(WireFormatGroupInfo, m.encode))
		l.refuseInfo(l.person("erin"), forged, nil, want{kind: ErrForged, clause: "§12.4.3.1", say: "signature by leaf 0"})
		l.goesOn()
		l.commit(alice, CommitOptions{})
	})
	bothWays(t, "§12.1.2 an Update may bring a new signature key", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		bob := l.people[1]
		next := l.person("bob").id
		l.deliver(bob, must[[]byte](t)(bob.group.ProposeUpdate(LeafUpdate{Identity: &next}, ProposeOptions{})))
		l.commit(l.people[0], CommitOptions{})
		if !bob.group.state.signer.Equal(next.SignatureKey) {
			t.Fatal("bob signs with the old key")
		}
		l.commit(bob, CommitOptions{})
		l.goesOn()
	})
}
