package mlscore

import (
	"errors"
	"testing"
)

// TestCommitSuccessor checks that the successor's first commit can be made together with the ReInit, before the
// ReInit has been accepted, and survives a restart of its maker; a server follows both groups (RFC 9420 §11.2).
func TestCommitSuccessor(t *testing.T) {
	const to = MLS128MLKEM768X25519AES128Ed25519
	for _, public := range []bool{false, true} {
		opts := GroupOptions{PublicHandshakes: public}
		alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
		alice.create(t, CreateOptions{GroupOptions: opts})
		alice.commit(t, CommitOptions{}, nil, bob)
		id := Identity{to, alice.id.Credential, alice.id.SignatureKey}
		next, err := alice.CreateGroup(id, []byte("next"), CreateOptions{GroupOptions: opts})
		if err != nil {
			t.Fatal(err)
		}
		info, err := next.GroupInfo(GroupInfoOptions{Tree: true})
		if err != nil {
			t.Fatal(err)
		}
		server, err := NewPublicState(info, nil, PublicConfig{Auth: TrustBasic{}})
		if err != nil {
			t.Fatal(err)
		}
		closing, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: to})}})
		if err != nil {
			t.Fatal(err)
		}
		bob.id = Identity{to, bob.id.Credential, bob.id.SignatureKey}
		first := CommitOptions{Proposals: []Proposal{AddProposal(bob.keyPackage(t))}, WelcomeInfo: GroupInfoOptions{Tree: true}}
		c, err := next.CommitSuccessor(closing.Staged, first)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bob.Join(c.Welcome, JoinOptions{}); !errors.Is(err, ErrMissing) {
			t.Errorf("joining before the ReInit was taken in: %v", err)
		}
		if err := alice.group.Merge(closing.Staged); err != nil {
			t.Fatal(err)
		}
		bob.receive(t, closing.Message)
		if next, err = alice.LoadGroup([]byte("next")); err != nil { // a restart
			t.Fatal(err)
		}
		r, err := next.Process(c.Message)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Merge(r.Commit); err != nil {
			t.Fatal(err)
		}
		alice.group = next
		if bob.group, err = bob.Join(c.Welcome, JoinOptions{GroupOptions: opts}); err != nil {
			t.Fatal(err)
		}
		agree(t, alice, bob)
		if public {
			if server, _, err = server.Process(c.Message); err != nil || server.Epoch() != 1 {
				t.Fatalf("the server does not follow: %v", err)
			}
		}
		bob.commit(t, CommitOptions{}, []*person{alice})
		agree(t, alice, bob)
	}
}

// TestCommitSuccessorRefuses checks that a group that differs from the ReInit's description is refused.
func TestCommitSuccessorRefuses(t *testing.T) {
	const to = MLS128MLKEM768X25519AES128Ed25519
	alice, bob, carol := newPerson(t, "alice", 1), newPerson(t, "bob", 1), newPerson(t, "carol", 1)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	plain, err := alice.group.Commit(CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	group := func(name string, cs CipherSuite) *Group {
		g, err := alice.CreateGroup(Identity{cs, alice.id.Credential, alice.id.SignatureKey}, []byte(name), CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	next, other, old := group("next", to), group("other", to), group("old suite", 1)
	if _, err := next.CommitSuccessor(plain.Staged, CommitOptions{}); !errors.Is(err, ErrMisuse) {
		t.Errorf("after a commit without a ReInit: %v", err)
	}
	if _, err := next.CommitSuccessor(nil, CommitOptions{}); !errors.Is(err, ErrMisuse) {
		t.Errorf("after no commit: %v", err)
	}
	closing, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: to})}})
	if err != nil {
		t.Fatal(err)
	}
	dave := func(cs CipherSuite, x ...Extension) *Group { // a new client for each group: a client has at most one group of an id
		p := newPerson(t, "dave", cs)
		return must[*Group](t)(p.CreateGroup(p.id, []byte("next"), CreateOptions{Extensions: x}))
	}
	founded := dave(to)
	if err := founded.Merge(must[*Commit](t)(founded.Commit(CommitOptions{})).Staged); err != nil {
		t.Fatal(err)
	}
	required := RequiredCapabilities{}.Extension()
	for name, g := range map[string]*Group{
		"another id": other, "another suite and id": old, "another suite": dave(1), "another extension": dave(to, required), "a later epoch": founded,
	} {
		if _, err := g.CommitSuccessor(closing.Staged, CommitOptions{}); !errors.Is(err, ErrMisuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	package0 := func(p *person) Proposal {
		p.id = Identity{to, p.id.Credential, p.id.SignatureKey}
		return AddProposal(p.keyPackage(t))
	}
	for name, list := range map[string][]Proposal{"nobody else": nil, "somebody else": {package0(carol)}, "too many": {package0(bob), package0(carol)}} {
		if _, err := next.CommitSuccessor(closing.Staged, CommitOptions{Proposals: list}); !errors.Is(err, ErrInvalid) {
			t.Errorf("with %s: %v", name, err)
		}
		if _, waits := next.Pending(); waits {
			t.Errorf("with %s: a commit waits that was refused", name)
		}
	}
	if _, err := next.CommitSuccessor(closing.Staged, CommitOptions{Proposals: []Proposal{package0(bob), RemoveProposal(9)}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("with a proposal that is invalid: %v", err)
	}
	if _, err := next.CommitSuccessor(closing.Staged, CommitOptions{Proposals: []Proposal{package0(bob)}}); err != nil {
		t.Error(err)
	}
	if err := alice.group.Abandon(); err != nil {
		t.Fatal(err)
	}
	if _, err := next.CommitSuccessor(closing.Staged, CommitOptions{}); !errors.Is(err, ErrMisuse) {
		t.Errorf("after a commit that was abandoned: %v", err)
	}
	if !to.SignsLike(1) || to.SignsLike(2) || CipherSuite(0).SignsLike(0) {
		t.Error("SignsLike is wrong")
	}
}
