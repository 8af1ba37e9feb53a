package mlscore

import (
	"errors"
	"testing"
)

// TestMigrateToPostQuantum checks that a ReInit moves a group from cipher suite 1 to a post-quantum suite (RFC 9420
// §11.2), with the same members, a PSK of the old group, and a server that follows both groups.
func TestMigrateToPostQuantum(t *testing.T) {
	for _, to := range []CipherSuite{MLS128MLKEM768X25519AES128Ed25519, MLS128MLKEM768P256AES256P256, MLS128MLKEM768X25519ChaCha20MLDSA44, MLS256MLKEM1024AES256MLDSA87} {
		for _, public := range []bool{false, true} {
			t.Run(to.String()+map[bool]string{false: ", private", true: ", public"}[public], func(t *testing.T) { migrate(t, to, public) })
		}
	}
}

func migrate(t *testing.T, to CipherSuite, public bool) {
	const from = MLS128X25519AES128Ed25519
	alice, bob, carol := newPerson(t, "alice", from), newPerson(t, "bob", from), newPerson(t, "carol", from)
	all := []*person{alice, bob, carol}
	opts := GroupOptions{PublicHandshakes: public}
	alice.create(t, CreateOptions{GroupOptions: opts})
	alice.commit(t, CommitOptions{}, nil, bob, carol)

	closing := ReInitProposal(ReInit{GroupID: []byte("after the migration"), Version: MLS10, CipherSuite: to})
	bob.commit(t, CommitOptions{Proposals: []Proposal{closing}}, all)
	if _, err := alice.group.Protect([]byte("too late"), MessageOptions{}); !errors.Is(err, ErrGroupEnded) {
		t.Fatalf("sending after the ReInit: %v", err)
	}
	for _, p := range all { // the new suite may have another signature scheme
		key, _, err := GenerateSignatureKey(nil, to)
		if err != nil {
			t.Fatal(err)
		}
		p.id = Identity{to, p.id.Credential, key}
	}
	// Alice restarts between the two groups: her store has everything that she needs of the old group.
	old, err := alice.LoadGroup(alice.group.GroupID())
	if err != nil {
		t.Fatal(err)
	}
	found := FoundOptions{
		CreateOptions: CreateOptions{GroupOptions: opts}, Identity: &alice.id, KeyPackages: []*KeyPackage{bob.keyPackage(t), carol.keyPackage(t)},
		WelcomeInfo: GroupInfoOptions{Tree: true}, GroupInfo: GroupInfoOptions{Tree: true, External: true},
	}
	f, err := old.Successor(found)
	if err != nil {
		t.Fatal(err)
	}
	alice.group = f.Group
	for _, p := range []*person{bob, carol} {
		if p.group, err = p.Join(f.Welcome, JoinOptions{GroupOptions: opts}); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, all...)
	if cs := bob.group.Public().Context().CipherSuite; cs != to {
		t.Fatalf("the new group has %v", cs)
	}
	server, err := NewPublicState(f.GroupInfo, nil, PublicConfig{Auth: TrustBasic{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*person{carol, bob} {
		c := p.commit(t, CommitOptions{}, all)
		agree(t, all...)
		if public {
			if server, _, err = server.Process(c.Message); err != nil {
				t.Fatal(err)
			}
		}
	}
	dave := newPerson(t, "dave", to)
	alice.commit(t, CommitOptions{}, all, dave)
	agree(t, append(all, dave)...)
	msg, err := dave.group.Protect([]byte("hello"), MessageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := bob.receive(t, msg).Application; got == nil || string(got.Data) != "hello" {
		t.Errorf("bob reads %+v", got)
	}
}

// TestMigrationNeedsTheRightIdentity checks that the successor's founder needs an identity for the new suite, and the
// others KeyPackages.
func TestMigrationNeedsTheRightIdentity(t *testing.T) {
	const to = MLS128MLKEM768X25519AES128Ed25519
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	closing := ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: to})
	alice.commit(t, CommitOptions{Proposals: []Proposal{closing}}, []*person{bob})
	_, err := alice.group.Successor(FoundOptions{})
	requireKind(t, err, ErrMisuse)
	_, err = alice.group.Successor(FoundOptions{Identity: &alice.id})
	requireKind(t, err, ErrMisuse)
	hybrid := newPerson(t, "alice", to).id
	if _, err = alice.group.Successor(FoundOptions{Identity: &hybrid, KeyPackages: []*KeyPackage{bob.keyPackage(t)}}); err == nil {
		t.Error("a KeyPackage of the old suite is taken")
	}
}
