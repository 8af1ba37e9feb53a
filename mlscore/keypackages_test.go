package mlscore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// TestMoveKeyPackage10 checks that a KeyPackage moves to another store with its private keys and can be used there to
// join.
func TestMoveKeyPackage10(t *testing.T) {
	forAllSuites(t, func(t *testing.T, cs CipherSuite) {
		alice, old, next := newPerson(t, "alice", cs), newPerson(t, "bob", cs), newPerson(t, "bob", cs)
		ref := must[[]byte](t)(old.keyPackage(t).Ref())
		kp, keys, err := old.ExportKeyPackage(ref)
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string]KeyPackageKeys{
			"init_key":      {keys.Leaf, keys.Leaf, keys.Signature},
			"leaf":          {keys.Init, keys.Init, keys.Signature},
			"signature_key": {keys.Init, keys.Leaf, alice.id.SignatureKey},
			"all":           {},
		} {
			if err := next.ImportKeyPackage(kp, bad); !errors.Is(err, ErrMisuse) {
				t.Errorf("another %s: %v", name, err)
			}
		}
		if err := next.ImportKeyPackage(kp, keys); err != nil {
			t.Fatal(err)
		}
		if err := old.DeleteKeyPackage(ref); err != nil {
			t.Fatal(err)
		}
		if _, _, err := old.ExportKeyPackage(ref); !errors.Is(err, ErrMissing) {
			t.Errorf("exported after its deletion: %v", err)
		}
		alice.create(t, CreateOptions{})
		c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}, WelcomeInfo: GroupInfoOptions{Tree: true}}))
		if err := alice.group.Merge(c.Staged); err != nil {
			t.Fatal(err)
		}
		if _, err := old.Join(c.Welcome, JoinOptions{}); !errors.Is(err, ErrNotForUs) {
			t.Errorf("the old store joins: %v", err)
		}
		next.group = must[*Group](t)(next.Join(c.Welcome, JoinOptions{}))
		next.commit(t, CommitOptions{}, []*person{alice})
		agree(t, alice, next)
	})
}

// TestGroupIdentity checks that Identity returns this member's identity in the group, also after a restart and a
// change of its key.
func TestGroupIdentity(t *testing.T) {
	alice, bob := newPerson(t, "alice", labSuite), newPerson(t, "bob", labSuite)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	check := func(want Identity) {
		t.Helper()
		alice.group = must[*Group](t)(alice.LoadGroup(alice.group.GroupID()))
		id := must[Identity](t)(alice.group.Identity())
		if id.CipherSuite != want.CipherSuite || !id.Credential.equal(want.Credential) || !id.SignatureKey.Equal(want.SignatureKey) {
			t.Errorf("another identity")
		}
		id.SignatureKey.Erase() // a copy
		must[[]byte](t)(alice.group.Protect(nil, MessageOptions{}))
	}
	check(alice.id)
	next := must[Identity](t)(NewIdentity(nil, labSuite, alice.id.Credential))
	alice.commit(t, CommitOptions{Leaf: LeafUpdate{Identity: &next}}, []*person{bob})
	check(next)
	c := bob.commit(t, CommitOptions{Proposals: []Proposal{RemoveProposal(alice.group.Self())}}, nil)
	alice.receive(t, c.Message)
	if _, err := alice.group.Identity(); !errors.Is(err, ErrGroupEnded) {
		t.Errorf("after the removal: %v", err)
	}
	if _, err := NewIdentity(nil, noSuite, alice.id.Credential); !errors.Is(err, ErrUnsupported) {
		t.Errorf("of an unknown suite: %v", err)
	}
}

// TestKeyPackageLifetime7_2 checks that a KeyPackage can be made for later, and that the maximum lifetime counts from
// its beginning.
func TestKeyPackageLifetime7_2(t *testing.T) {
	alice := newPerson(t, "alice", labSuite, func(c *Config) { c.MaxLifetime = 24 * time.Hour })
	in := func(d time.Duration) time.Time { return testTime.Add(d) }
	for _, c := range []struct {
		name string
		opts KeyPackageOptions
		want Lifetime
		kind error
	}{
		{"from now", KeyPackageOptions{Lifetime: time.Hour}, Lifetime{unixSeconds(in(-time.Hour)), unixSeconds(in(time.Hour))}, nil},
		{"from tomorrow", KeyPackageOptions{Lifetime: time.Hour, NotBefore: in(24 * time.Hour)}, Lifetime{unixSeconds(in(24 * time.Hour)), unixSeconds(in(25 * time.Hour))}, nil},
		{"begun already", KeyPackageOptions{Lifetime: 2 * time.Hour, NotBefore: in(-time.Hour)}, Lifetime{unixSeconds(in(-time.Hour)), unixSeconds(in(time.Hour))}, nil},
		{"the longest", KeyPackageOptions{Lifetime: 24 * time.Hour, NotBefore: in(time.Hour)}, Lifetime{unixSeconds(in(time.Hour)), unixSeconds(in(25 * time.Hour))}, nil},
		{"too long", KeyPackageOptions{Lifetime: 24*time.Hour + time.Second, NotBefore: in(time.Hour)}, Lifetime{}, ErrPolicy},
		{"over", KeyPackageOptions{Lifetime: time.Hour, NotBefore: in(-2 * time.Hour)}, Lifetime{}, ErrInvalid},
	} {
		kp, err := alice.NewKeyPackage(alice.id, c.opts)
		if c.kind != nil {
			if !errors.Is(err, c.kind) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || kp.LeafNode.Lifetime != c.want {
			t.Errorf("%s: %v, %v, not %v", c.name, err, kp.LeafNode.Lifetime, c.want)
		}
	}
}

// TestKeyPackageCapabilities7_2 checks that a KeyPackage can announce its own capabilities, which always include
// those that it needs itself.
func TestKeyPackageCapabilities7_2(t *testing.T) {
	alice := newPerson(t, "alice", labSuite, func(c *Config) { c.Extensions, c.GREASE = []ExtensionType{0xf0a0}, GREASENowhere })
	for name, bad := range map[string]Capabilities{
		"default extension":   {Extensions: []ExtensionType{ExtensionRequiredCapabilities}},
		"default proposal":    {Proposals: []ProposalType{ProposalAdd}},
		"reserved credential": {Credentials: []CredentialType{0}},
	} {
		if _, err := alice.NewKeyPackage(alice.id, KeyPackageOptions{Capabilities: &bad}); !errors.Is(err, ErrMisuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	given := Capabilities{Proposals: []ProposalType{0xf0b0}, CipherSuites: []CipherSuite{MLS256X448AES256Ed448}}
	kp := must[*KeyPackage](t)(alice.NewKeyPackage(alice.id, KeyPackageOptions{Capabilities: &given, LeafExtensions: Extensions{{0xf0a1, nil}}}))
	got := kp.LeafNode.Capabilities
	if !slices.Equal(got.Proposals, given.Proposals) || !slices.Equal(got.CipherSuites, []CipherSuite{MLS256X448AES256Ed448, labSuite}) ||
		!slices.Equal(got.Extensions, []ExtensionType{0xf0a1}) || !slices.Equal(got.Versions, []ProtocolVersion{MLS10}) || !slices.Equal(got.Credentials, []CredentialType{CredentialBasic}) {
		t.Errorf("announced %+v", got)
	}
	if len(given.Versions)+len(given.Credentials)+len(given.Extensions) > 0 {
		t.Errorf("the caller's own list changed: %+v", given)
	}
	// In a group the next leaf announces the Config's capabilities, or those of its LeafUpdate.
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{Leaf: LeafUpdate{Capabilities: &given}}, nil)
	if m, _ := alice.group.Public().Member(0); !slices.Equal(m.Capabilities.Proposals, given.Proposals) {
		t.Errorf("announced %+v", m.Capabilities)
	}
	alice.commit(t, CommitOptions{}, nil)
	if m, _ := alice.group.Public().Member(0); len(m.Capabilities.Proposals) > 0 || !slices.Equal(m.Capabilities.Extensions, []ExtensionType{0xf0a0}) {
		t.Errorf("announced %+v", m.Capabilities)
	}
}

// TestCheckKeyPackage10_1 checks that a server and a member accept or refuse a KeyPackage for a group in the same way
// as a commit of it.
func TestCheckKeyPackage10_1(t *testing.T) {
	required := RequiredCapabilities{Proposals: []ProposalType{0xf0b0}}
	l := newLab(t, true, labOptions{extensions: Extensions{required.Extension()}, config: func(name string, c *Config) {
		if name != "dave" {
			c.Proposals = []ProposalType{0xf0b0}
		}
	}})
	erin, dave, bob := l.person("erin"), l.person("dave"), l.who("bob")
	other := newPerson(t, "frank", MLS128P256AES128P256)
	good := erin.keyPackage(t)
	forged := *good
	forged.Signature = bytes.Clone(good.Signature)
	forged.Signature[0] ^= 1
	for _, c := range []struct {
		name string
		kp   *KeyPackage
		now  time.Time
		kind error
	}{
		{"good", good, testTime, nil},
		{"at any time", good, time.Time{}, nil},
		{"expired", good, testTime.Add(31 * 24 * time.Hour), ErrInvalid},
		{"forged", &forged, testTime, ErrForged},
		{"without a required capability", dave.keyPackage(t), testTime, ErrInvalid},
		{"of a member", bob.keyPackage(t), testTime, ErrInvalid},
		{"of another suite", other.keyPackage(t), testTime, ErrInvalid},
		{"of somebody who is refused", l.person("refused").keyPackageOf(t), testTime, ErrPolicy},
	} {
		for _, p := range []*PublicState{l.server, bob.group.Public()} {
			if err := p.CheckKeyPackage(c.kp, c.now); c.kind == nil && err != nil || !errors.Is(err, c.kind) {
				t.Errorf("%s: %v, not %v", c.name, err, c.kind)
			}
		}
	}
	l.goesOn()
}

// keyPackageOf makes a KeyPackage that this client's own Authenticator would refuse.
func (p *person) keyPackageOf(t *testing.T) *KeyPackage {
	t.Helper()
	return newPerson(t, string(p.id.Credential.Identity), p.id.CipherSuite, func(c *Config) { c.Proposals = []ProposalType{0xf0b0} }).keyPackage(t)
}

// TestKeyPackageFaults checks that a failure of the store or of randomness is an error when a KeyPackage is made or
// read.
func TestKeyPackageFaults(t *testing.T) {
	store := &failingStore{MemoryStore: NewMemoryStore()}
	alice := newPerson(t, "alice", labSuite, func(c *Config) { c.Store = store })
	ref := must[[]byte](t)(alice.keyPackage(t).Ref())
	kp, keys, err := alice.ExportKeyPackage(ref)
	if err != nil {
		t.Fatal(err)
	}
	store.fails = true
	if err := alice.ImportKeyPackage(kp, keys); !errors.Is(err, ErrStore) {
		t.Errorf("imported without a disk: %v", err)
	}
	store.fails = false
	var b Batch
	b.put(keyPackageKey(ref), []byte{stateVersion})
	if err := store.Apply(b); err != nil {
		t.Fatal(err)
	}
	if _, _, err := alice.ExportKeyPackage(ref); !errors.Is(err, ErrMalformed) {
		t.Errorf("exported a damaged one: %v", err)
	}
	for n := int64(0); ; n++ {
		bob := newPerson(t, "bob", labSuite)
		cfg := bob.cfg
		cfg.GREASE, cfg.Rand = GREASEEverywhere, io.LimitReader(rand.Reader, n)
		if _, err := must[*Client](t)(NewClient(cfg)).NewKeyPackage(bob.id, KeyPackageOptions{}); err == nil {
			if n < 77 { // two keys and the randomness of GREASE
				t.Errorf("a KeyPackage of %d random bytes", n)
			}
			return
		}
	}
}
