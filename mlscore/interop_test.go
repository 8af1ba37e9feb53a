package mlscore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// TestSection12_4_3_1_JoinWithExternalPSK checks that the PSKs that a Welcome names are looked up by their ids.
func TestSection12_4_3_1_JoinWithExternalPSK(t *testing.T) {
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
	alice.create(t, CreateOptions{})
	id, psk := []byte("the id of a psk"), NewSecret([]byte("its value"))
	for _, p := range []*person{alice, bob} {
		if err := p.StorePSK(id, psk); err != nil {
			t.Fatal(err)
		}
	}
	proposal, err := alice.group.ExternalPSK(id)
	if err != nil {
		t.Fatal(err)
	}
	alice.commit(t, CommitOptions{Proposals: []Proposal{proposal}}, nil, bob)
	agree(t, alice, bob)
}

// TestSection12_4_3_1_GroupSecretsOutliveTheirEncoding checks that GroupSecrets stay valid after their encoding is
// erased.
func TestSection12_4_3_1_GroupSecretsOutliveTheirEncoding(t *testing.T) {
	ids := []PreSharedKeyID{
		{Type: PSKExternal, ID: []byte("id"), Nonce: []byte("nonce")},
		{Type: PSKResumption, Usage: UsageBranch, GroupID: []byte("group"), Epoch: 3, Nonce: []byte("nonce")},
	}
	want := (&groupSecrets{joiner: NewSecret([]byte("joiner")), psks: ids}).marshal()
	encoded := bytes.Clone(want)
	g, err := parseGroupSecrets(encoded, codec.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	clear(encoded)
	if got := g.marshal(); !bytes.Equal(got, want) {
		t.Errorf("group secrets are %x after their encoding was erased, not %x", got, want)
	}
}

// TestSection10_UnknownKeyPackageExtensionIsIgnored checks that an unknown extension of a KeyPackage is ignored,
// listed in its capabilities or not (§13.4, §13.5).
func TestSection10_UnknownKeyPackageExtensionIsIgnored(t *testing.T) {
	alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1, func(c *Config) { c.GREASE = GREASENowhere })
	alice.create(t, CreateOptions{})
	s := suites[0]
	rec, err := bob.newKeyPackage(s, bob.id, KeyPackageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kp := rec.keyPackage
	for _, unknown := range []ExtensionType{0x6a6a, 0x7777} {
		if kp.LeafNode.Capabilities.listsExtension(unknown) {
			t.Fatalf("extension %#04x is not unknown", uint16(unknown))
		}
		kp.Extensions = append(kp.Extensions, Extension{unknown, []byte("content")})
	}
	var w codec.Writer
	kp.encodeTBS(&w)
	if kp.Signature, err = s.signWithLabel(bob.id.SignatureKey.Bytes(), "KeyPackageTBS", w.Buffer()); err != nil {
		t.Fatal(err)
	}
	if err := bob.keep(rec); err != nil {
		t.Fatal(err)
	}
	c, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}, WelcomeInfo: GroupInfoOptions{Tree: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.group.Merge(c.Staged); err != nil {
		t.Fatal(err)
	}
	if bob.group, err = bob.Join(c.Welcome, JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	agree(t, alice, bob)
}

// TestSection7_4_PathSecretOfWrongLength checks that a path secret of the wrong length from a member is refused.
func TestSection7_4_PathSecretOfWrongLength(t *testing.T) {
	for _, n := range []int{0, 1, 31, 33} {
		alice, bob := newPerson(t, "alice", 1), newPerson(t, "bob", 1)
		alice.create(t, CreateOptions{})
		alice.commit(t, CommitOptions{}, nil, bob)
		tree, context := alice.group.public().tree, alice.group.public().encoded
		leaf, _ := tree.leaf(0)
		key := must[*signer](t)(suites[0].newSigner(alice.id.SignatureKey.Bytes()))
		created, err := tree.createPath(alice.cfg.Rand, 0, *leaf, key, alice.group.GroupID())
		if err != nil {
			t.Fatal(err)
		}
		created.secrets[0] = NewSecret(make([]byte, n))
		path, err := created.seal(alice.cfg.Rand, context, nil)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := bob.group.public().tree.mergePath(0, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := merged.open(1, bob.group.state.keys, context); !errors.Is(err, ErrInvalid) {
			t.Errorf("path secret of %d bytes in a path: %v", n, err)
		}
	}
}

// TestSection12_4_3_1_GroupSecretsOfWrongLength checks that secrets of the wrong length in a Welcome are refused.
func TestSection12_4_3_1_GroupSecretsOfWrongLength(t *testing.T) {
	s := suites[0]
	priv, pub, err := s.generateKeyPair(seeded("init key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lengths := range [][2]int{{32, 0}, {32, 31}, {0, 32}, {33, 32}} {
		path := NewSecret(make([]byte, lengths[1]))
		plain := (&groupSecrets{joiner: NewSecret(make([]byte, lengths[0])), pathSecret: &path}).marshal()
		w := &welcome{suite: s.id, encryptedGroupInfo: []byte("info")}
		kem, ct, err := s.encryptWithLabel(seeded("welcome"), pub, "Welcome", w.encryptedGroupInfo, plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.openSecrets(w, hpkeCiphertext{kem, ct}, priv, nil, codec.DefaultLimits); !errors.Is(err, ErrInvalid) {
			t.Errorf("joiner and path secret of %v bytes: %v", lengths, err)
		}
	}
}
