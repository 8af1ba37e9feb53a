package mlscore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// testTime is the present time in tests.
var testTime = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func testNow() time.Time { return testTime }

// person is a client with an identity, for tests.
type person struct {
	*Client
	id    Identity
	store *MemoryStore
	group *Group
}

func newPerson(t testing.TB, name string, cs CipherSuite, change ...func(*Config)) *person {
	t.Helper()
	store := NewMemoryStore()
	cfg := Config{Auth: TrustBasic{}, Store: store, Now: testNow}
	for _, c := range change {
		c(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := GenerateSignatureKey(cfg.Rand, cs)
	if err != nil {
		t.Fatal(err)
	}
	return &person{c, Identity{cs, BasicCredential([]byte(name)), key}, store, nil}
}

func (p *person) keyPackage(t testing.TB) *KeyPackage {
	t.Helper()
	kp, err := p.NewKeyPackage(p.id, KeyPackageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func (p *person) create(t testing.TB, opts CreateOptions) {
	t.Helper()
	g, err := p.CreateGroup(p.id, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	p.group = g
}

// commit makes a commit and merges it; the others process it and newcomers join.
func (p *person) commit(t testing.TB, opts CommitOptions, others []*person, newcomers ...*person) *Commit {
	t.Helper()
	for _, n := range newcomers {
		opts.Proposals = append(opts.Proposals, AddProposal(n.keyPackage(t)))
	}
	opts.WelcomeInfo.Tree = true
	c, err := p.group.Commit(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range others {
		if o.group != nil && o != p {
			o.receive(t, c.Message)
		}
	}
	if err := p.group.Merge(c.Staged); err != nil {
		t.Fatal(err)
	}
	for _, n := range newcomers {
		if n.group, err = n.Join(c.Welcome, JoinOptions{GroupOptions: p.group.options}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// receive processes a message and merges it if it is a commit.
func (p *person) receive(t testing.TB, msg []byte) *Received {
	t.Helper()
	r, err := p.group.Process(msg)
	if err != nil {
		t.Fatalf("%s: %v", p.id.Credential.Identity, err)
	}
	if r.Commit != nil {
		if err := p.group.Merge(r.Commit); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// agree checks that all are in the same epoch of the same group.
func agree(t testing.TB, people ...*person) {
	t.Helper()
	first := people[0].group
	for _, p := range people[1:] {
		if p.group.Epoch() != first.Epoch() || !bytes.Equal(p.group.EpochAuthenticator(), first.EpochAuthenticator()) {
			t.Fatalf("%s is at epoch %d, %x; %s at %d, %x", people[0].id.Credential.Identity, first.Epoch(), first.EpochAuthenticator(),
				p.id.Credential.Identity, p.group.Epoch(), p.group.EpochAuthenticator())
		}
	}
}

func forAllSuites(t *testing.T, f func(t *testing.T, cs CipherSuite)) {
	for _, cs := range append(CipherSuites(), PostQuantumSuites()...) {
		t.Run(cs.String(), func(t *testing.T) { f(t, cs) })
	}
}

// TestGroupOfThree runs the life of a small group with every suite, with private and public handshakes.
func TestGroupOfThree(t *testing.T) {
	forAllSuites(t, func(t *testing.T, cs CipherSuite) {
		for _, public := range []bool{false, true} {
			t.Run(fmt.Sprintf("public=%v", public), func(t *testing.T) { groupOfThree(t, cs, public) })
		}
	})
}

func groupOfThree(t *testing.T, cs CipherSuite, public bool) {
	alice, bob, carol := newPerson(t, "alice", cs), newPerson(t, "bob", cs), newPerson(t, "carol", cs)
	all := []*person{alice, bob, carol}
	alice.create(t, CreateOptions{GroupOptions: GroupOptions{PublicHandshakes: public, Padding: Padme()}})
	alice.commit(t, CommitOptions{}, nil, bob)
	agree(t, alice, bob)
	bob.commit(t, CommitOptions{}, []*person{alice}, carol)
	agree(t, all...)
	for _, from := range all {
		msg, err := from.group.Protect([]byte("hello"), MessageOptions{AuthenticatedData: []byte("ad")})
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range all {
			if to == from {
				if _, err := to.group.Process(msg); !errors.Is(err, ErrOwnMessage) {
					t.Fatalf("own message: %v", err)
				}
				continue
			}
			got := to.receive(t, msg).Application
			if string(got.Data) != "hello" || string(got.AuthenticatedData) != "ad" || got.Sender.Leaf != from.group.Self() {
				t.Fatalf("got %+v", got)
			}
			if _, err := to.group.Process(msg); !errors.Is(err, ErrReplay) {
				t.Fatalf("replay: %v", err)
			}
		}
	}
	// An Update by carol, committed by alice.
	update, err := carol.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alice.receive(t, update)
	bob.receive(t, update)
	c := alice.commit(t, CommitOptions{}, all)
	if n := len(c.Staged.Effects().Updated); n != 1 {
		t.Fatalf("%d updates committed, skipped: %v", n, c.Skipped)
	}
	agree(t, all...)
	carol.commit(t, CommitOptions{}, all)
	agree(t, all...)
	// All restart.
	for _, p := range all {
		g, err := p.LoadGroup(p.group.GroupID())
		if err != nil {
			t.Fatal(err)
		}
		p.group = g
	}
	bob.commit(t, CommitOptions{}, all)
	agree(t, all...)
	// Bob proposes to leave: carol commits his proposal.
	leave, err := bob.group.ProposeLeave(ProposeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alice.receive(t, leave)
	carol.receive(t, leave)
	carol.commit(t, CommitOptions{}, all)
	agree(t, alice, carol)
	if bob.group.Active() {
		t.Fatal("bob was removed and is active")
	}
	// Bob comes back by an external commit.
	info, err := alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
	if err != nil {
		t.Fatal(err)
	}
	x, err := bob.ExternalJoin(bob.id, info, ExternalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alice.receive(t, x.Message)
	carol.receive(t, x.Message)
	if bob.group, err = x.Complete(); err != nil {
		t.Fatal(err)
	}
	agree(t, all...)
	alice.commit(t, CommitOptions{}, all)
	agree(t, all...)
}
