package mlscore

import (
	"errors"
	"testing"
)

// TestPSKProposal12_1_4 checks that PSKProposal makes a nonce of the suite's length if there is none, and a different
// nonce for each use.
func TestPSKProposal12_1_4(t *testing.T) {
	forAllSuites(t, func(t *testing.T, cs CipherSuite) {
		id := PreSharedKeyID{Type: PSKExternal, ID: []byte("id")}
		a, b := must[Proposal](t)(PSKProposal(nil, cs, id)), must[Proposal](t)(PSKProposal(nil, cs, id))
		s := must[*suite](t)(suiteOf(cs))
		if len(a.PSK.Nonce) != s.hashLen() || string(a.PSK.Nonce) == string(b.PSK.Nonce) || id.Nonce != nil {
			t.Errorf("nonces %x, %x", a.PSK.Nonce, b.PSK.Nonce)
		}
		id.Nonce = []byte("given")
		if c := must[Proposal](t)(PSKProposal(nil, cs, id)); string(c.PSK.Nonce) != "given" {
			t.Errorf("nonce %x", c.PSK.Nonce)
		}
	})
	if _, err := PSKProposal(nil, noSuite, PreSharedKeyID{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("of an unknown suite: %v", err)
	}
}

// TestExternalCommitResumption12_4_3_2 checks that a client that comes back by an external commit can prove with the
// resumption PSK of an earlier epoch that it was a member, and that another client cannot.
func TestExternalCommitResumption12_4_3_2(t *testing.T) {
	l := newLab(t, true, labOptions{})
	alice, bob := l.who("alice"), l.who("bob")
	psk := PreSharedKeyID{Type: PSKResumption, Usage: UsageApplication, GroupID: alice.group.GroupID(), Epoch: alice.group.Epoch()}
	l.commit(alice, CommitOptions{})
	info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	opts := ExternalOptions{PSKs: []PreSharedKeyID{psk}}
	if _, err := l.person("dave").ExternalJoin(l.person("dave").id, info, opts); !errors.Is(err, ErrMissing) {
		t.Errorf("a stranger shows the PSK: %v", err)
	}
	opts.Resync = true
	x := must[*ExternalCommit](t)(bob.ExternalJoin(bob.id, info, opts))
	if e := x.Effects; len(e.Proposals) != 3 || e.Proposals[2].PSK == nil || e.Proposals[2].PSK.Epoch != psk.Epoch {
		t.Errorf("the commit holds %+v", e.Proposals)
	}
	bob.group.state.removed = true // bob's old state is not used any more
	l.deliver(bob, x.Message)
	bob.group = must[*Group](t)(x.Complete())
	l.agree()
	l.goesOn()
	psk.Usage = UsageReInit
	info = must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	if _, err := bob.ExternalJoin(bob.id, info, ExternalOptions{Resync: true, PSKs: []PreSharedKeyID{psk}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a PSK with usage reinit: %v", err)
	}
}

// TestFoundOptions11_2 checks that the first commit of a successor or a branch can lack a path, change the founder's
// leaf and inject further PSKs.
func TestFoundOptions11_2(t *testing.T) {
	for _, reinit := range []bool{false, true} {
		alice, bob := newPerson(t, "alice", labSuite), newPerson(t, "bob", labSuite)
		alice.create(t, CreateOptions{})
		alice.commit(t, CommitOptions{}, nil, bob)
		found := alice.group.Branch
		if reinit {
			r := ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: labSuite}
			alice.commit(t, CommitOptions{Proposals: []Proposal{ReInitProposal(r)}}, []*person{bob})
			found = func(_ []byte, opts FoundOptions) (*Founding, error) { return alice.group.Successor(opts) }
		}
		opts := FoundOptions{
			PSKs:        []PreSharedKeyID{{Type: PSKExternal, ID: []byte("psk")}},
			KeyPackages: []*KeyPackage{bob.keyPackage(t)},
			WelcomeInfo: GroupInfoOptions{Tree: true},
			OmitPath:    true,
		}
		if _, err := found([]byte("next"), opts); !errors.Is(err, ErrMissing) {
			t.Errorf("without the PSK: %v", err)
		}
		for _, p := range []*person{alice, bob} {
			if err := p.StorePSK([]byte("psk"), NewSecret([]byte("secret"))); err != nil {
				t.Fatal(err)
			}
		}
		f := must[*Founding](t)(found([]byte("next"), opts))
		if l, _ := f.Group.public().tree.leaf(0); l.Source != SourceKeyPackage {
			t.Errorf("reinit=%v: the first commit has a path", reinit)
		}
		w := must[*StagedWelcome](t)(bob.OpenWelcome(f.Welcome, JoinOptions{}))
		if len(w.PSKs()) != 2 {
			t.Errorf("the Welcome has the PSKs %v", w.PSKs())
		}
		w.Drop()
		if err := f.Group.Erase(); err != nil {
			t.Fatal(err)
		}
		opts.KeyPackages, opts.PSKs = []*KeyPackage{bob.keyPackage(t)}, nil
		opts.Leaf = LeafUpdate{Extensions: &Extensions{{0xf0a1, []byte("x")}}}
		f = must[*Founding](t)(found([]byte("next"), opts))
		if l, _ := f.Group.public().tree.leaf(0); l.Source != SourceCommit || len(l.Extensions) != 1 {
			t.Errorf("reinit=%v: the founder's leaf is %+v", reinit, l)
		}
		alice.group, bob.group = f.Group, must[*Group](t)(bob.Join(f.Welcome, JoinOptions{}))
		agree(t, alice, bob)
	}
}
