package mlscore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"testing"
)

// sameReInit returns a ReInit that keeps the lab's group id.
func (l *lab) sameReInit(cs CipherSuite) Proposal {
	return ReInitProposal(ReInit{GroupID: l.people[0].group.GroupID(), Version: MLS10, CipherSuite: cs})
}

// packagesOf makes a KeyPackage for each person and a cipher suite.
func packagesOf(t *testing.T, cs CipherSuite, people ...*person) (list []*KeyPackage) {
	for _, p := range people {
		id := p.id
		id.CipherSuite = cs
		list = append(list, must[*KeyPackage](t)(p.NewKeyPackage(id, KeyPackageOptions{})))
	}
	return list
}

// TestRulesReInitKeepsID checks a ReInit in favour of a group of the same id (§11.2). Old and new group exist at the
// same time, in memory and in the store.
func TestRulesReInitKeepsID(t *testing.T) {
	bothWays(t, "§11.2 a ReInit that keeps the group id", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, bob, carol := l.people[0], l.people[1], l.people[2]
		id := alice.group.GroupID()
		late := must[[]byte](t)(carol.group.Protect([]byte("late"), MessageOptions{}))
		later := must[[]byte](t)(carol.group.Protect([]byte("later"), MessageOptions{}))
		l.commit(alice, CommitOptions{Proposals: []Proposal{l.sameReInit(MLS128X25519ChaCha20Ed25519)}})
		oldEpoch, oldSecret := alice.group.Epoch(), alice.group.EpochAuthenticator()

		// A group of another origin cannot have the id.
		taken := want{kind: ErrInvalid, clause: "§12.4.3.1", say: "has a group of that id already"}
		_, err := alice.CreateGroup(alice.id, id, CreateOptions{})
		taken.match(t, err)
		_, err = l.person("dave").CreateGroup(l.person("dave").id, id, CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stranger := l.person("stranger")
		stranger.group = must[*Group](t)(stranger.CreateGroup(stranger.id, id, CreateOptions{}))
		other := must[*Commit](t)(stranger.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(bob.keyPackage(t))}, WelcomeInfo: GroupInfoOptions{Tree: true}}))
		_, err = bob.Join(other.Welcome, JoinOptions{})
		taken.match(t, err)

		founder := alice.id
		founder.CipherSuite = MLS128X25519ChaCha20Ed25519
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{
			Identity: &founder, KeyPackages: packagesOf(t, founder.CipherSuite, bob, carol), WelcomeInfo: GroupInfoOptions{Tree: true},
		}))
		_, err = alice.group.Successor(FoundOptions{Identity: &founder, KeyPackages: packagesOf(t, founder.CipherSuite, bob, carol)})
		taken.match(t, err)
		next := map[*person]*Group{alice: f.Group}
		for _, p := range []*person{bob, carol} {
			next[p] = must[*Group](t)(p.Join(f.Welcome, JoinOptions{}))
			_, err := p.Join(f.Welcome, JoinOptions{})
			want{kind: ErrNotForUs, clause: "§12.4.3.1", say: "none of which is in the store"}.match(t, err)
		}
		// The new groups work. The old groups have not changed, and read late messages.
		for p, g := range next {
			if !bytes.Equal(g.GroupID(), id) || g.Epoch() != 1 || !bytes.Equal(g.EpochAuthenticator(), f.Group.EpochAuthenticator()) {
				t.Fatalf("%s: group %x at epoch %d", p.id.Credential.Identity, g.GroupID(), g.Epoch())
			}
			again := must[*Group](t)(p.LoadGroup(id))
			if !bytes.Equal(again.EpochAuthenticator(), g.EpochAuthenticator()) {
				t.Fatalf("%s: the newest group is not loaded", p.id.Credential.Identity)
			}
			old := must[*Group](t)(again.Predecessor())
			if old.Epoch() != oldEpoch || !bytes.Equal(old.EpochAuthenticator(), oldSecret) {
				t.Fatalf("%s: the old group is at epoch %d", p.id.Credential.Identity, old.Epoch())
			}
			_, err := old.Predecessor()
			want{kind: ErrMissing, clause: "§11.2", say: "succeeded no group of the same id"}.match(t, err)
			if p == carol {
				continue
			}
			if r := must[*Received](t)(old.Process(late)); string(r.Application.Data) != "late" {
				t.Fatalf("read %q", r.Application.Data)
			}
			old = must[*Group](t)(again.Predecessor())
			_, err = old.Process(late)
			want{kind: ErrReplay, clause: "§9.2", say: "its key was used"}.match(t, err)
			if r := must[*Received](t)(old.Process(later)); string(r.Application.Data) != "later" {
				t.Fatalf("read %q", r.Application.Data)
			}
		}
		if ids := must[[][]byte](t)(alice.Groups()); len(ids) != 1 || !bytes.Equal(ids[0], id) {
			t.Fatalf("groups %x", ids)
		}
		msg := must[[]byte](t)(next[bob].Protect([]byte("hello"), MessageOptions{}))
		if r := must[*Received](t)(next[alice].Process(msg)); string(r.Application.Data) != "hello" {
			t.Fatalf("read %q", r.Application.Data)
		}
		// A commit in the new group, a restart, and a second ReInit that keeps the id.
		c := must[*Commit](t)(next[bob].Commit(CommitOptions{Proposals: []Proposal{must[Proposal](t)(next[bob].ResumptionPSK(id, oldEpoch))}}))
		for p, g := range next {
			staged := c.Staged
			if p != bob {
				staged = must[*Received](t)(g.Process(c.Message)).Commit
			}
			if err := g.Merge(staged); err != nil {
				t.Fatal(err)
			}
		}
		again := must[*Group](t)(alice.LoadGroup(id))
		if !bytes.Equal(again.EpochAuthenticator(), next[bob].EpochAuthenticator()) {
			t.Fatal("the loaded group has another epoch")
		}
		c = must[*Commit](t)(again.Commit(CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: id, Version: MLS10, CipherSuite: labSuite})}}))
		if err := again.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		third := must[*Founding](t)(again.Successor(FoundOptions{Identity: &alice.id, KeyPackages: packagesOf(t, labSuite, bob, carol)}))
		second := must[*Group](t)(third.Group.Predecessor())
		if first := must[*Group](t)(second.Predecessor()); first.Epoch() != oldEpoch {
			t.Fatalf("the first group is at epoch %d", first.Epoch())
		}
		// Erase deletes the group and its predecessors.
		if err := third.Group.Erase(); err != nil {
			t.Fatal(err)
		}
		_, err = alice.LoadGroup(id)
		want{kind: ErrMissing, say: "is not in the store"}.match(t, err)
		if n := len(alice.store.records); n != 0 {
			t.Fatalf("%d records are left", n)
		}
	})
	t.Run("§11.2 the old group alone is erased", func(t *testing.T) {
		l := newLab(t, false, labOptions{names: []string{"alice"}})
		alice := l.people[0]
		l.commit(alice, CommitOptions{Proposals: []Proposal{l.sameReInit(labSuite)}})
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{}))
		if err := alice.group.Erase(); err != nil {
			t.Fatal(err)
		}
		g := must[*Group](t)(alice.LoadGroup(f.Group.GroupID()))
		if g.Epoch() != 1 {
			t.Fatalf("epoch %d", g.Epoch())
		}
		_, err := g.Predecessor()
		want{kind: ErrMissing, say: "is not in the store"}.match(t, err)
	})
	t.Run("§11.2 a lost Welcome: the successor is joined externally", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		alice, bob, carol := l.people[0], l.people[1], l.people[2]
		l.commit(alice, CommitOptions{Proposals: []Proposal{l.sameReInit(labSuite)}})
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{KeyPackages: packagesOf(t, labSuite, bob, carol)}))
		info := must[[]byte](t)(f.Group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		x := must[*ExternalCommit](t)(carol.ExternalJoin(carol.id, info, ExternalOptions{Resync: true}))
		r := must[*Received](t)(f.Group.Process(x.Message))
		if err := f.Group.Merge(r.Commit); err != nil {
			t.Fatal(err)
		}
		g := must[*Group](t)(x.Complete())
		if old := must[*Group](t)(g.Predecessor()); !bytes.Equal(old.EpochAuthenticator(), carol.group.EpochAuthenticator()) {
			t.Fatal("the old group is another")
		}
	})
	t.Run("§11.2 devices of one identity, with another signature scheme", func(t *testing.T) {
		devices := func(c *Config) { c.Auth = TrustBasicDevices{} }
		alice, phone, laptop := newPerson(t, "alice", labSuite, devices), newPerson(t, "bob", labSuite, devices), newPerson(t, "bob", labSuite, devices)
		alice.create(t, CreateOptions{})
		alice.commit(t, CommitOptions{}, nil, phone, laptop)
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{
			ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: MLS128P256AES128P256}),
		}}))
		r := must[*Received](t)(phone.group.Process(c.Message))
		if err := cmp.Or(alice.group.Merge(c.Staged), phone.group.Merge(r.Commit)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*person{alice, phone, laptop} {
			key, _, err := GenerateSignatureKey(nil, MLS128P256AES128P256)
			if err != nil {
				t.Fatal(err)
			}
			p.id.CipherSuite, p.id.SignatureKey = MLS128P256AES128P256, key
		}
		other := newPerson(t, "carol", MLS128P256AES128P256, devices)
		_, err := alice.group.Successor(FoundOptions{Identity: &alice.id, KeyPackages: []*KeyPackage{phone.keyPackage(t), other.keyPackage(t)}})
		want{kind: ErrInvalid, clause: "§11.2", say: "lacks the old one's leaf"}.match(t, err)
		f := must[*Founding](t)(alice.group.Successor(FoundOptions{
			Identity: &alice.id, KeyPackages: []*KeyPackage{phone.keyPackage(t), laptop.keyPackage(t)}, WelcomeInfo: GroupInfoOptions{Tree: true},
		}))
		must[*Group](t)(phone.Join(f.Welcome, JoinOptions{}))
	})
}

// TestRulesReInitFoundable checks that this library makes no ReInit in favour of a group that nobody can found, and
// accepts one from others (§11.2, §12.1.5).
func TestRulesReInitFoundable(t *testing.T) {
	service := func(l *lab) Extensions {
		key := must[[]byte](l.TB)(l.people[0].group.suite.signaturePublicKey(l.person("service").id.SignatureKey.Bytes()))
		return Extensions{must[Extension](l.TB)(ExternalSendersExtension([]ExternalSender{{key, BasicCredential([]byte("service"))}}))}
	}
	none := func(*lab) Extensions { return nil }
	for _, c := range []struct {
		name       string
		version    ProtocolVersion
		suite      CipherSuite
		extensions func(*lab) Extensions
		want       want
	}{
		{"§11.2 a ReInit to a version that is not known", 2, labSuite, none, want{kind: ErrUnsupported, clause: "§12.1.5", say: "protocol version 2"}},
		{"§11.2 a ReInit to a suite that is not known", MLS10, 0x7777, none, want{kind: ErrUnsupported, clause: "§17.1", say: "not a cipher suite"}},
		{
			"§11.2 a ReInit to extensions that the maker does not support", MLS10, labSuite,
			func(*lab) Extensions { return Extensions{{otherExtension, nil}} },
			want{kind: ErrInvalid, clause: "§13.4", say: "GroupContext extension 0xf003"},
		},
		{
			"§11.2 a ReInit with an extension that does not belong in a GroupContext", MLS10, labSuite,
			func(*lab) Extensions { return Extensions{{ExtensionApplicationID, []byte("id")}} },
			want{kind: ErrInvalid, clause: "§13.4", say: "does not belong in a GroupContext"},
		},
		{
			"§11.2 a ReInit to capabilities that the maker lacks", MLS10, labSuite,
			func(*lab) Extensions {
				return Extensions{RequiredCapabilities{Proposals: both(otherProposal)}.Extension()}
			},
			want{kind: ErrInvalid, clause: "§11.1", say: "required proposal type 0xf004"},
		},
		{
			"§11.2 a ReInit that keeps external senders across signature schemes", MLS10, MLS128P256AES128P256, service,
			want{kind: ErrMalformed, clause: "§5.1.1", say: "external sender 0"},
		},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, labOptions{})
			alice, bob := l.people[0], l.people[1]
			p := ReInitProposal(ReInit{GroupID: []byte("next"), Version: c.version, CipherSuite: c.suite, Extensions: c.extensions(l)})
			_, err := alice.group.Propose(p, ProposeOptions{})
			c.want.match(t, err)
			_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{p}})
			c.want.match(t, err)
			// Such a ReInit by another member is left out of a commit, and processed when it is committed.
			l.deliver(bob, (&forgery{by: bob}).proposal(t, p))
			done := must[*Commit](t)(alice.group.Commit(CommitOptions{}))
			if len(done.Skipped) != 1 {
				t.Fatalf("skipped: %v", done.Skipped)
			}
			c.want.match(t, done.Skipped[0])
			if err := alice.group.Abandon(); err != nil {
				t.Fatal(err)
			}
			second := uint32(1) // message of bob's ratchet
			l.takes(bob, (&forgery{by: bob, generation: &second}).value(p).message(t))
		})
	}
	t.Run("§12.1.8.1 a ReInit with external senders that do not decode", func(t *testing.T) {
		l := newLab(t, false, labOptions{})
		p := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite, Extensions: Extensions{{ExtensionExternalSenders, []byte{5, 1}}}})
		_, err := l.people[0].group.Propose(p, ProposeOptions{})
		if !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
	})
}

// changed is an Authenticator that refuses every successor of the credentials that it names.
type changed struct {
	TrustBasicDevices
	name string
}

// ValidSuccessor implements Authenticator.
func (c changed) ValidSuccessor(old, next Credential) error {
	if string(old.Identity) == c.name {
		return fmt.Errorf("%w: %s has left", ErrPolicy, c.name)
	}
	return c.TrustBasicDevices.ValidSuccessor(old, next)
}

// TestRulesSuccessorsOfDevices checks that where the signature key is a part of the identity, the members of a
// successor count as those of the old group if the signature scheme changes and the application accepts each as the
// successor of the old one (§11.2).
func TestRulesSuccessorsOfDevices(t *testing.T) {
	for _, c := range []struct {
		name  string
		suite CipherSuite
		left  string
		ok    bool
	}{
		{"§11.2 keys of another signature scheme", MLS128P256AES128P256, "", true},
		{"§11.2 keys of another signature scheme, and a member that the application does not take for the old one", MLS128P256AES128P256, "carol", false},
		{"§11.2 another key of the same signature scheme", labSuite, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, false, labOptions{config: func(_ string, cfg *Config) { cfg.Auth = changed{name: c.left} }})
			alice, bob, carol := l.people[0], l.people[1], l.people[2]
			l.commit(alice, CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: c.suite})}})
			changes := both(carol)
			if c.suite != labSuite {
				changes = l.people
			}
			for _, p := range changes {
				p.id = must[Identity](t)(NewIdentity(p.cfg.Rand, c.suite, p.id.Credential))
			}
			opts := FoundOptions{Identity: &alice.id, KeyPackages: both(bob.keyPackage(t), carol.keyPackage(t)), WelcomeInfo: GroupInfoOptions{Tree: true}}
			f, err := alice.group.Successor(opts)
			if !c.ok {
				want{kind: ErrInvalid, clause: "§11.2", say: "lacks the old one's leaf 2"}.match(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range both(bob, carol) {
				must[*Group](t)(p.Join(f.Welcome, JoinOptions{}))
			}
		})
	}
}
