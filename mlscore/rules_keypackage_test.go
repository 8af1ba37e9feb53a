package mlscore

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// keyPackageFault is one fault of a KeyPackage outside its leaf.
type keyPackageFault struct {
	name   string
	want   want
	change func(l *lab, kp *KeyPackage, key *Secret) // before the KeyPackage is signed with key
	signed func(kp *KeyPackage)                      // after it is signed
	alone  *want                                     // result of Verify without a group, if different; nil kind for no error
}

func (f keyPackageFault) make(l *lab, p *person) *KeyPackage {
	l.Helper()
	kp, key := p.keyPackage(l.TB), p.id.SignatureKey
	if f.change != nil {
		f.change(l, kp, &key)
	}
	signKeyPackage(l, kp, key)
	if f.signed != nil {
		f.signed(kp)
	}
	return kp
}

// TestRulesKeyPackage tests the checks on a KeyPackage (§10, §10.1), before it is used and in an Add.
func TestRulesKeyPackage(t *testing.T) {
	for _, f := range []keyPackageFault{
		{
			name:   "§10.1 the signature does not verify",
			want:   want{kind: ErrForged, clause: "§10.1", say: "signature does not verify"},
			signed: func(kp *KeyPackage) { kp.Signature = flip(kp.Signature) },
		},
		{
			name:   "§10.1 the signature is empty",
			want:   want{kind: ErrForged, clause: "§10.1", say: "signature does not verify"},
			signed: func(kp *KeyPackage) { kp.Signature = nil },
		},
		{
			name:   "§10.1 signed with another key than the leaf's",
			want:   want{kind: ErrForged, clause: "§10.1", say: "signature does not verify"},
			change: func(l *lab, _ *KeyPackage, key *Secret) { *key = l.person("mallory").id.SignatureKey },
		},
		{
			name:   "§10.1 another protocol version than the group's",
			want:   want{kind: ErrUnsupported, clause: "§10.1", say: "protocol version 2"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.Version = 2 },
		},
		{
			name:   "§10.1 another cipher suite than the group's",
			want:   want{kind: ErrInvalid, clause: "§10.1", say: "the group has"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.CipherSuite = MLS128X25519ChaCha20Ed25519 },
			alone:  &want{},
		},
		{
			name:   "§10.1 an unknown cipher suite",
			want:   want{kind: ErrInvalid, clause: "§10.1", say: "the group has"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.CipherSuite = 0x7777 },
			alone:  &want{kind: ErrUnsupported, clause: "§17.1", say: "not a cipher suite"},
		},
		{
			name:   "§10.1 init_key is the leaf's encryption_key",
			want:   want{kind: ErrInvalid, clause: "§10.1", say: "init_key equals"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.InitKey = kp.LeafNode.EncryptionKey },
		},
		{
			name:   "§10 init_key is no key of the suite",
			want:   want{kind: ErrMalformed, clause: "§5.1.1", say: "init_key"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.InitKey = kp.InitKey[:31] },
		},
		{
			name:   "§10 init_key is a point of small order",
			want:   want{kind: ErrInvalid, clause: "§5.1.1", say: "init_key"},
			change: func(_ *lab, kp *KeyPackage, _ *Secret) { kp.InitKey = make([]byte, 32) },
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Run("alone", func(t *testing.T) {
				l := newLab(t, false, labOptions{})
				w := f.want
				if f.alone != nil {
					w = *f.alone
				}
				if w.kind != nil {
					w.match(t, l.people[0].VerifyKeyPackage(f.make(l, l.person("dave"))))
				}
			})
			bothWays(t, "in a commit", func(t *testing.T, public bool) { addByValue(t, public, f) })
			bothWays(t, "by reference", func(t *testing.T, public bool) { addByReference(t, public, f) })
		})
	}
	t.Run("§13.4 an extension type twice in one list", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		w := want{kind: ErrMalformed, clause: "§13.4", say: "occurs twice in one list"}
		twice := Extensions{{otherExtension, nil}, {testExtension, nil}, {otherExtension, []byte("again")}}
		kp := l.person("dave").keyPackage(t)
		kp.LeafNode.Capabilities.Extensions = both(testExtension, otherExtension)
		kp.Extensions = twice
		_, err := ParseKeyPackage(must[[]byte](t)(kp.Message()))
		w.match(t, err)
		f := &forgery{by: l.people[0]}
		l.refuse(l.people[0], f.value(AddProposal(kp)).message(t), w)
		kp.Extensions, kp.LeafNode.Extensions = nil, twice
		_, err = ParseKeyPackage(must[[]byte](t)(kp.Message()))
		w.match(t, err)
		l.refuse(l.people[0], f.proposal(t, AddProposal(kp)), w)
		l.goesOn()
	})
	t.Run("§5.3 an unknown credential type", func(t *testing.T) {
		l := newLab(t, true, strict)
		dave := l.person("dave")
		kp := dave.keyPackage(t)
		kp.LeafNode.Credential = Credential{Type: 0xf005, Data: []byte("who")}
		if err := kp.LeafNode.sign(l.people[0].group.suite, dave.id.SignatureKey, nil, 0); err != nil {
			t.Fatal(err)
		}
		signKeyPackage(l, kp, dave.id.SignatureKey)
		w := want{kind: ErrUnsupported, clause: "§5.3", say: "type 0xf005"}
		w.match(t, dave.VerifyKeyPackage(kp))
		l.refuse(l.people[0], (&forgery{by: l.people[0]}).proposal(t, AddProposal(kp)), w)
		l.goesOn()
	})
	t.Run("§7.2 an undefined leaf node source", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		kp := l.person("dave").keyPackage(t)
		kp.LeafNode.Source = 4
		w := want{kind: ErrMalformed, clause: "§7.2", say: "source 4 is not defined"}
		l.refuse(l.people[0], (&forgery{by: l.people[0]}).proposal(t, AddProposal(kp)), w)
		l.goesOn()
	})
}

func addByValue(t *testing.T, public bool, f keyPackageFault) {
	l := newLab(t, public, labOptions{})
	alice, dave := l.people[0], l.person("dave")
	kp := f.make(l, dave)
	before := alice.snapshot(t)
	_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
	f.want.match(t, err)
	_, err = alice.group.Propose(AddProposal(kp), ProposeOptions{})
	f.want.match(t, err)
	before.requireSame(t, alice)
	l.refuse(alice, (&forgery{by: alice, noPath: true}).value(AddProposal(kp)).message(t), f.want)
	l.commit(alice, CommitOptions{}, dave)
	l.goesOn()
}

func addByReference(t *testing.T, public bool, f keyPackageFault) {
	l := newLab(t, public, labOptions{})
	alice, bob, carol := l.people[0], l.people[1], l.people[2]
	l.deliver(bob, (&forgery{by: bob}).proposal(t, AddProposal(f.make(l, l.person("dave")))))
	l.refuseAs([]*person{carol}, (&forgery{by: alice, noPath: true}).reference().message(t), f.want)
	c := l.commit(alice, CommitOptions{})
	if len(c.Skipped) != 1 {
		t.Fatalf("skipped: %v", c.Skipped)
	}
	f.want.match(t, c.Skipped[0])
	l.goesOn()
}

// TestRulesLifetime checks that the sender of an Add checks whether a KeyPackage is valid now, and the receiver does
// not (§7.3).
func TestRulesLifetime(t *testing.T) {
	expired := want{kind: ErrInvalid, clause: "§7.3", say: "is outside of"}
	begin := testTime.Add(-time.Hour) // the beginning of a KeyPackage's lifetime
	clock := testTime
	var options labOptions
	options.config = func(_ string, c *Config) { c.Now = func() time.Time { return clock } }
	at := func(t *testing.T, now time.Time, run func()) {
		t.Helper()
		clock = now
		defer func() { clock = testTime }()
		run()
	}
	end := testTime.Add(30 * 24 * time.Hour)
	for _, c := range []struct {
		name string
		now  time.Time
	}{
		{"§7.3 a KeyPackage that has expired is not sent", end.Add(time.Second)},
		{"§7.3 a KeyPackage that is not valid yet is not sent", begin.Add(-time.Second)},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, options)
			alice, bob, dave := l.people[0], l.people[1], l.person("dave")
			kp := dave.keyPackage(t)
			at(t, c.now, func() {
				expired.match(t, alice.VerifyKeyPackage(kp))
				before := alice.snapshot(t)
				_, err := alice.group.Propose(AddProposal(kp), ProposeOptions{})
				expired.match(t, err)
				_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
				expired.match(t, err)
				before.requireSame(t, alice)
			})
			// A KeyPackage that was proposed in time is not committed after it expired.
			l.deliver(bob, must[[]byte](t)(bob.group.Propose(AddProposal(kp), ProposeOptions{})))
			at(t, c.now, func() {
				done := l.commit(alice, CommitOptions{})
				if len(done.Skipped) != 1 || len(done.Staged.Effects().Added) != 0 {
					t.Fatalf("skipped %v, added %v", done.Skipped, done.Staged.Effects().Added)
				}
				expired.match(t, done.Skipped[0])
			})
			l.goesOn()
		})
	}
	bothWays(t, "§7.3 a KeyPackage out of its lifetime is received all the same", func(t *testing.T, public bool) {
		for _, now := range []time.Time{end.Add(time.Second), begin.Add(-time.Second)} {
			l := newLab(t, public, options)
			alice, dave := l.people[0], l.person("dave")
			c := must[*Commit](t)(alice.group.Commit(CommitOptions{
				Proposals:   []Proposal{AddProposal(dave.keyPackage(t))},
				WelcomeInfo: GroupInfoOptions{Tree: true},
			}))
			at(t, now, func() {
				l.deliver(alice, c.Message)
				if err := alice.group.Merge(c.Staged); err != nil {
					t.Fatal(err)
				}
				dave.group = must[*Group](t)(dave.Join(c.Welcome, JoinOptions{GroupOptions: alice.group.options}))
				l.people = append(l.people, dave)
				l.agree()
			})
			l.goesOn()
		}
	})
	t.Run("§7.3 the first and the last second of a lifetime", func(t *testing.T) {
		l := newLab(t, false, options)
		kp := l.person("dave").keyPackage(t)
		for _, now := range []time.Time{begin, end} {
			at(t, now, func() {
				if err := l.people[0].VerifyKeyPackage(kp); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	t.Run("§7.2 the shortest lifetime, of one second", func(t *testing.T) {
		if err := (Lifetime{NotBefore: 5, NotAfter: 5}).verify(time.Unix(5, 0), 0); err != nil {
			t.Fatal(err)
		}
		want{kind: ErrInvalid, clause: "§7.2", say: "before it begins"}.match(t, Lifetime{NotBefore: 6, NotAfter: 5}.verify(time.Time{}, 0))
	})
	t.Run("§7.2 the longest lifetime that is accepted", func(t *testing.T) {
		l := newLab(t, false, bounded)
		dave := l.person("dave")
		longest := labLifetime - time.Hour // a lifetime begins an hour before now
		kp := must[*KeyPackage](t)(dave.NewKeyPackage(dave.id, KeyPackageOptions{Lifetime: longest}))
		if err := l.people[0].VerifyKeyPackage(kp); err != nil {
			t.Fatal(err)
		}
		_, err := dave.NewKeyPackage(dave.id, KeyPackageOptions{Lifetime: longest + time.Second})
		want{kind: ErrPolicy, clause: "§7.2", say: "at most"}.match(t, err)
	})
}

// TestRulesUnknownValues checks that values that a client does not know and need not know are ignored (§7.2, §13.4,
// §13.5).
func TestRulesUnknownValues(t *testing.T) {
	bothWays(t, "§13.4 unknown capabilities and extensions of a newcomer are ignored", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		alice, dave := l.people[0], l.person("dave")
		kp, key := dave.keyPackage(t), dave.id.SignatureKey
		c := &kp.LeafNode.Capabilities
		c.Versions = append(c.Versions, 77)
		c.CipherSuites = append(c.CipherSuites, 0x7777, 0x1a1a)
		c.Extensions = append(c.Extensions, otherExtension, testExtension, 0x2a2a)
		c.Proposals = append(c.Proposals, otherProposal, 0x3a3a)
		c.Credentials = append(c.Credentials, 0x4a4a, 0xf005)
		kp.LeafNode.Extensions = Extensions{{otherExtension, []byte("?")}, {0x2a2a, nil}, {ExtensionApplicationID, []byte("\x03app")}}
		kp.Extensions = append(kp.Extensions, Extension{testExtension, []byte("!")}, Extension{0xf006, []byte("not in the capabilities")})
		if err := kp.LeafNode.sign(alice.group.suite, key, nil, 0); err != nil {
			t.Fatal(err)
		}
		signKeyPackage(l, kp, key)
		before := alice.group.public().Size()
		l.commit(alice, CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
		if alice.group.public().Size() != before+1 {
			t.Fatal("nobody was added")
		}
		l.goesOn()
	})
	t.Run("§13.5 GREASE is sent where it is ignored and nowhere else", func(t *testing.T) {
		isGREASEType := func(x Extension) bool { return isGREASE(uint16(x.Type)) }
		for _, level := range []GREASE{GREASEListed, GREASEEverywhere, GREASENowhere} {
			l := newLab(t, false, labOptions{config: func(_ string, c *Config) { c.GREASE = level }})
			g := l.people[0].group
			kp := l.person("dave").keyPackage(t)
			info := must[*GroupInfo](t)(ParseGroupInfo(must[[]byte](t)(g.GroupInfo(GroupInfoOptions{}))))
			c := kp.LeafNode.Capabilities
			for name, sent := range map[string]bool{
				"cipher suites":         slices.ContainsFunc(c.CipherSuites, func(v CipherSuite) bool { return isGREASE(uint16(v)) }),
				"extensions":            slices.ContainsFunc(c.Extensions, func(v ExtensionType) bool { return isGREASE(uint16(v)) }),
				"proposals":             slices.ContainsFunc(c.Proposals, func(v ProposalType) bool { return isGREASE(uint16(v)) }),
				"credentials":           slices.ContainsFunc(c.Credentials, func(v CredentialType) bool { return isGREASE(uint16(v)) }),
				"KeyPackage.extensions": slices.ContainsFunc(kp.Extensions, isGREASEType),
				"GroupInfo.extensions":  slices.ContainsFunc(info.Extensions(), isGREASEType),
			} {
				want := level == GREASEEverywhere || level == GREASEListed && name != "KeyPackage.extensions"
				if sent != want {
					t.Errorf("level %d, %s: GREASE %v", level, name, sent)
				}
			}
			if slices.ContainsFunc(info.Context().Extensions, isGREASEType) {
				t.Error("GREASE in the GroupContext")
			}
		}
	})
	t.Run("§13.5 a credential type of GREASE is supported by nobody, even if listed", func(t *testing.T) {
		c := Capabilities{Credentials: both(CredentialBasic, CredentialType(0x0a0a))}
		if c.SupportsCredential(0x0a0a) || !c.SupportsCredential(CredentialBasic) || c.SupportsCredential(CredentialX509) {
			t.Error("of basic and 0x0a0a, basic alone is supported")
		}
	})
	t.Run("§13.4 a client announces no credential type that is reserved", func(t *testing.T) {
		for _, reserved := range []CredentialType{0, 0x0a0a} {
			_, err := NewClient(Config{Auth: labAuth{}, Store: NewMemoryStore(), Now: testNow, Credentials: both(CredentialX509, reserved)})
			want{kind: ErrMisuse, clause: "§13.4", say: "is reserved"}.match(t, err)
		}
	})
	t.Run("§13.4 unknown extensions of a GroupInfo are ignored", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		dave := l.person("dave")
		st := statement{by: l.people[0], added: dave.keyPackage(t)}
		st.info = func(g *groupInfo) {
			g.extensions = append(g.extensions, Extension{otherExtension, []byte("?")}, Extension{0x5a5a, nil})
		}
		msg, info, _ := st.messages(t)
		if _, err := NewPublicState(info, nil, l.publicConfig()); err != nil {
			t.Fatal(err)
		}
		g := must[*Group](t)(dave.Join(msg, JoinOptions{}))
		if !bytes.Equal(g.GroupID(), l.people[0].group.GroupID()) {
			t.Fatal("another group")
		}
	})
}
