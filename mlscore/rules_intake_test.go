package mlscore

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// takes checks that all members except the sender, and the server, accept a message.
func (l *lab) takes(from *person, msg []byte) {
	l.Helper()
	for _, p := range l.others(from) {
		if _, err := p.group.Process(msg); err != nil {
			l.Fatalf("%s: %v", p.id.Credential.Identity, err)
		}
	}
	if l.server != nil {
		if _, _, err := l.server.Process(msg); err != nil {
			l.Fatalf("server: %v", err)
		}
	}
}

// taken checks that a leaf with the change is accepted in every place.
func (f leafFault) taken(t *testing.T) {
	run := func(name string, place func(t *testing.T, l *lab)) {
		bothWays(t, name, func(t *testing.T, public bool) { place(t, newLab(t, public, f.lab)) })
	}
	t.Run(f.name, func(t *testing.T) {
		f.takenKeyPackage(t)
		run("Update", func(t *testing.T, l *lab) {
			alice, bob := l.people[0], l.people[1]
			leaf, signer, err := bob.group.newLeaf(LeafUpdate{})
			if err != nil {
				t.Fatal(err)
			}
			if _, leaf.EncryptionKey, err = bob.group.suite.generateKeyPair(bob.cfg.Rand); err != nil {
				t.Fatal(err)
			}
			leaf.Source = SourceUpdate
			f.apply(l, &leaf, signer, bob.group.Self())
			l.deliver(bob, (&forgery{by: bob}).proposal(t, Proposal{Type: ProposalUpdate, Update: &leaf}))
			c := must[*Commit](t)(alice.group.Commit(CommitOptions{}))
			if len(c.Skipped) > 0 {
				t.Fatalf("skipped: %v", c.Skipped)
			}
			if _, err := l.people[2].group.Process(c.Message); err != nil {
				t.Fatal(err)
			}
		})
		run("path", func(t *testing.T, l *lab) {
			alice := l.people[0]
			key := alice.group.state.signer
			forged := &forgery{by: alice}
			forged.leaf = func(leaf *LeafNode) { f.change(l, leaf, &key); forged.leafKey = &key }
			l.takes(alice, forged.message(t))
		})
		run("external", func(t *testing.T, l *lab) {
			alice, dave := l.people[0], l.person("dave")
			info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
			key := dave.id.SignatureKey
			forged := &forgery{by: alice}
			forged.leaf = func(leaf *LeafNode) { f.change(l, leaf, &key); forged.leafKey = &key }
			l.takes(dave, forged.external(t, dave, info))
		})
		t.Run("joined tree", func(t *testing.T) {
			o := f.lab
			o.flat = true
			l := newLab(t, false, o)
			alice, dave := l.people[0], l.person("dave")
			st := statement{by: l.people[1], added: dave.keyPackage(t)}
			st.bodies = func(bodies []string) []string {
				leaf := must[*LeafNode](t)(parseLeafNode(bodies[0]))
				f.apply(l, leaf, alice.group.state.signer, 0)
				bodies[0] = string(must[[]byte](t)(leaf.marshal()))
				return bodies
			}
			welcome, info, tree := st.messages(t)
			must[*Group](t)(dave.Join(welcome, JoinOptions{}))
			must[*PublicState](t)(NewPublicState(info, tree, l.publicConfig()))
		})
	})
}

func (f leafFault) takenKeyPackage(t *testing.T) {
	bothWays(t, "Add", func(t *testing.T, public bool) {
		l := newLab(t, public, f.lab)
		alice, dave := l.people[0], l.person("dave")
		kp := f.badKeyPackage(l, dave)
		if err := l.people[1].VerifyKeyPackage(kp); err != nil {
			t.Fatal(err)
		}
		l.commit(alice, CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
		if alice.group.public().Size() != 4 {
			t.Fatal("nobody was added")
		}
		l.goesOn()
	})
}

// opaqueType is a credential type for private use, which this library does not know.
const opaqueType CredentialType = 0xf00f

// TestRulesIntake checks content that RFC 9420 does not require a receiver to refuse, and that implementations are
// known to send.
func TestRulesIntake(t *testing.T) {
	capabilities := func(change func(*Capabilities)) func(*lab, *LeafNode, *Secret) {
		return func(_ *lab, leaf *LeafNode, _ *Secret) { change(&leaf.Capabilities) }
	}
	for _, f := range []leafFault{
		{
			name: "§7.2 default extension types in capabilities are ignored",
			change: func(l *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Extensions = []ExtensionType{ExtensionRequiredCapabilities}
				var w codec.Writer
				encodeCodes(&w, leaf.Capabilities.Extensions)
				if !bytes.Equal(w.Buffer(), []byte{2, 0, 3}) {
					l.Fatalf("extensions<V> is %x", w.Buffer())
				}
			},
		},
		{
			name:   "§7.2 default proposal types in capabilities are ignored",
			change: capabilities(func(c *Capabilities) { c.Proposals = []ProposalType{1, 2, 3, 4, 5, 6, 7} }),
		},
		{
			name:   "§7.2 capabilities without the group's protocol version",
			change: capabilities(func(c *Capabilities) { c.Versions = []ProtocolVersion{999} }),
		},
		{
			name:   "§7.2 capabilities without the group's cipher suite",
			change: capabilities(func(c *Capabilities) { c.CipherSuites = []CipherSuite{MLS128P256AES128P256} }),
		},
	} {
		f.taken(t)
	}
	opaque := leafFault{
		name: "§5.3 a credential of a type that the library does not know",
		lab:  labOptions{config: func(_ string, c *Config) { c.Credentials = both(opaqueType) }},
		change: func(l *lab, leaf *LeafNode, _ *Secret) {
			name := must[[]byte](l.TB)(labAuth{}.name(leaf.Credential))
			leaf.Credential = Credential{Type: opaqueType, Data: bytes.Clone(name)}
			var w codec.Writer
			leaf.Credential.encode(&w)
			if want := append([]byte{0xf0, 0x0f, byte(len(name))}, name...); !bytes.Equal(w.Buffer(), want) {
				l.Fatalf("the credential is %x, not %x", w.Buffer(), want)
			}
		},
	}
	opaque.taken(t)
	t.Run("§5.3 a credential of another type goes to the Authenticator", func(t *testing.T) {
		l := newLab(t, false, opaque.lab)
		guest := opaque
		guest.change = func(_ *lab, leaf *LeafNode, _ *Secret) {
			leaf.Credential = Credential{Type: opaqueType, Data: []byte("refused guest")}
		}
		kp := guest.badKeyPackage(l, l.person("dave"))
		want{kind: ErrPolicy, clause: "§5.3.1", say: "is not welcome"}.match(t, l.people[0].VerifyKeyPackage(kp))
		want{kind: ErrPolicy, clause: "§5.3.1", say: "only basic is accepted"}.match(t, kp.Verify(KeyPackageRules{Auth: TrustBasic{}}))
		want{kind: ErrPolicy, clause: "§5.3.1", say: "of type 0xf00f is not accepted"}.match(t, kp.Verify(KeyPackageRules{Auth: ByType{CredentialBasic: TrustBasic{}}}))
		want{kind: ErrPolicy, clause: "§5.3.1", say: "only x509 is accepted"}.match(t, kp.Verify(KeyPackageRules{Auth: &X509Authenticator{}}))
	})
	t.Run("§7.2 this client's leaves list no default types", func(t *testing.T) {
		base := Config{Auth: labAuth{}, Store: NewMemoryStore(), Now: testNow}
		listed, proposed := base, base
		listed.Extensions, proposed.Proposals = both(ExtensionExternalSenders), both(ProposalRemove)
		for _, cfg := range []Config{listed, proposed} {
			_, err := NewClient(cfg)
			want{kind: ErrMisuse, clause: "§7.2", say: "is announced: every client supports it"}.match(t, err)
		}
		p := newPerson(t, "alice", labSuite)
		kp := must[*KeyPackage](t)(p.NewKeyPackage(p.id, KeyPackageOptions{
			LeafExtensions: Extensions{{ExtensionApplicationID, []byte{0}}}, Extensions: Extensions{{ExtensionRequiredCapabilities, []byte{0, 0, 0}}},
		}))
		if err := (Intake{Strict: true}).checkLeaf(must[*suite](t)(suiteOf(labSuite)), kp.LeafNode); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("§7.2 a lifetime of any length, if the application sets no maximum", func(t *testing.T) {
		for _, ends := range []uint64{math.MaxInt64, math.MaxUint64} {
			l := newLab(t, false, labOptions{})
			kp := leafFault{change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Lifetime = Lifetime{0, ends} }}.badKeyPackage(l, l.person("dave"))
			if err := l.people[0].VerifyKeyPackage(kp); err != nil {
				t.Fatal(err)
			}
			l.commit(l.people[0], CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
			l.goesOn()
		}
	})
	t.Run("§7.2 a maximum for what this client adds does not concern what others add", func(t *testing.T) {
		l := newLab(t, true, labOptions{config: func(name string, c *Config) {
			if name == "alice" {
				c.MaxLifetime = labLifetime
			}
		}})
		alice, bob := l.people[0], l.people[1]
		long := leafFault{change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Lifetime.NotAfter += uint64(labLifetime / time.Second) }}
		kp := long.badKeyPackage(l, l.person("dave"))
		w := want{kind: ErrPolicy, clause: "§7.2", say: "at most"}
		w.match(t, alice.VerifyKeyPackage(kp))
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
		w.match(t, err)
		_, err = alice.group.Propose(AddProposal(kp), ProposeOptions{})
		w.match(t, err)
		// bob proposes the same: alice leaves the proposal out of her commit, and processes his commit of it.
		l.deliver(bob, must[[]byte](t)(bob.group.Propose(AddProposal(kp), ProposeOptions{})))
		if c := must[*Commit](t)(alice.group.Commit(CommitOptions{})); len(c.Skipped) != 1 {
			t.Fatalf("skipped: %v", c.Skipped)
		} else {
			w.match(t, c.Skipped[0])
		}
		if err := alice.group.Abandon(); err != nil {
			t.Fatal(err)
		}
		l.commit(bob, CommitOptions{})
		if alice.group.public().Size() != 4 {
			t.Fatal("nobody was added")
		}
		l.goesOn()
	})
	t.Run("§7.2 a negative maximum lifetime is a mistake", func(t *testing.T) {
		_, err := NewClient(Config{Auth: labAuth{}, Store: NewMemoryStore(), Now: testNow, MaxLifetime: -1})
		want{kind: ErrMisuse, clause: "§7.2", say: "zero means no bound"}.match(t, err)
	})
	for _, size := range []int{0, 1, 31, 33, 64} {
		t.Run(fmt.Sprintf("a nonce of %d bytes", size), func(t *testing.T) { takesNonce(t, size) })
	}
	t.Run("§8.4 a PSK nonce of any length in a Welcome", func(t *testing.T) { takesNonce(t, 48) })
}

// takesNonce joins by a Welcome whose GroupSecrets name a PSK with a nonce of that size.
func takesNonce(t *testing.T, size int) {
	l := newLab(t, false, labOptions{})
	dave := l.person("dave")
	id := l.psk("a", append(l.people, dave)...)
	id.Nonce = make([]byte, size)
	st := statement{by: l.people[0], added: dave.keyPackage(t), psks: []PreSharedKeyID{id}}
	welcome, _, _ := st.messages(t)
	must[*Group](t)(dave.Join(welcome, JoinOptions{}))
}

// TestRulesIntakeContext checks extensions of a GroupContext that are in the wrong place or useless.
func TestRulesIntakeContext(t *testing.T) {
	stranger := func(l *lab) []byte {
		_, pub, err := GenerateSignatureKey(nil, MLS128P256AES128P256)
		if err != nil {
			l.Fatal(err)
		}
		return pub
	}
	for _, c := range []struct {
		name string
		list func(l *lab) Extensions
		own  want // the error for a maker
	}{
		{
			"§17.3 application_id, ratchet_tree and external_pub in a GroupContext",
			func(*lab) Extensions {
				return Extensions{{ExtensionApplicationID, []byte("\x02id")}, {ExtensionRatchetTree, nil}, {ExtensionExternalPub, []byte{0}}}
			},
			want{kind: ErrInvalid, clause: "§13.4", say: "does not belong in a GroupContext"},
		},
		{
			"§12.1.8.1 an external sender with a key of another signature scheme",
			func(l *lab) Extensions {
				return Extensions{must[Extension](l.TB)(ExternalSendersExtension([]ExternalSender{{stranger(l), BasicCredential([]byte("service"))}}))}
			},
			want{kind: ErrMalformed, clause: "§5.1.1", say: "external sender 0"},
		},
		{
			"§12.1.8.1 an external sender with a credential of another type",
			func(l *lab) Extensions {
				key := must[[]byte](l.TB)(l.people[0].group.suite.signaturePublicKey(l.person("service").id.SignatureKey.Bytes()))
				return Extensions{must[Extension](l.TB)(ExternalSendersExtension([]ExternalSender{{key, Credential{Type: opaqueType, Data: []byte("service")}}}))}
			},
			want{},
		},
	} {
		bothWays(t, c.name, func(t *testing.T, public bool) {
			l := newLab(t, public, labOptions{})
			alice, dave := l.people[0], l.person("dave")
			x := c.list(l)
			proposal := ExtensionsProposal(x)
			l.takes(alice, (&forgery{by: alice}).value(proposal).message(t))
			l.takes(alice, (&forgery{by: alice}).proposal(t, proposal))
			st := statement{by: alice, added: dave.keyPackage(t)}
			st.context = func(g *GroupContext) { g.Extensions = x }
			welcome, info, tree := st.messages(t)
			must[*Group](t)(dave.Join(welcome, JoinOptions{}))
			must[*PublicState](t)(NewPublicState(info, tree, l.publicConfig()))
			if c.own.kind == nil {
				return
			}
			_, err := l.people[1].group.Commit(CommitOptions{Proposals: []Proposal{proposal}, OnlyThese: true})
			c.own.match(t, err)
			_, err = l.people[1].group.Propose(proposal, ProposeOptions{})
			c.own.match(t, err)
			erin := l.person("erin")
			_, err = erin.CreateGroup(erin.id, nil, CreateOptions{Extensions: x})
			c.own.match(t, err)
		})
	}
	t.Run("§12.1.8.1 an external sender with a key of another scheme can send nothing", func(t *testing.T) {
		l := newLab(t, true, labOptions{})
		x := Extensions{must[Extension](t)(ExternalSendersExtension([]ExternalSender{{stranger(l), BasicCredential([]byte("service"))}}))}
		next := l.people[0].group.public().context.clone()
		next.Extensions = x
		p := *l.people[0].group.public()
		p.context = next
		_, err := p.senderKey(&authenticatedContent{content: &framedContent{sender: Sender{Type: SenderExternal}, kind: ContentProposal, proposal: &Proposal{Type: ProposalRemove}}})
		want{kind: ErrMalformed, clause: "§5.1.1", say: "external sender 0"}.match(t, err)
	})
}

// compressed returns a public key of an ECDSA suite as a compressed point.
func compressed(t testing.TB, e *ecdsaScheme, pub []byte) []byte {
	t.Helper()
	key, err := e.parse(pub)
	if err != nil {
		t.Fatal(err)
	}
	point := must[[]byte](t)(key.Bytes())
	half := point[1 : 1+e.size]
	return append([]byte{2 + point[len(point)-1]&1}, half...)
}

// TestSection5_1_1_CompressedKeys checks signature keys that are compressed points, by default and with the option.
func TestSection5_1_1_CompressedKeys(t *testing.T) {
	for _, cs := range []CipherSuite{MLS128P256AES128P256, MLS256P521AES256P521, MLS256P384AES256P384} {
		t.Run(cs.String(), func(t *testing.T) { compressedKeys(t, cs) })
	}
}

func compressedKeys(t *testing.T, cs CipherSuite) {
	taking := func(c *Config) { c.Intake.CompressedKeys = true }
	s := must[*suite](t)(suiteOf(cs))
	refused := want{kind: ErrMalformed, clause: "§5.1.1", say: "signature"}
	peer := newPerson(t, "peer", cs, taking)
	// compress makes a KeyPackage of the peer with its key as a compressed point.
	compress := func(key Secret) *KeyPackage {
		id := peer.id
		id.SignatureKey = key
		kp := must[*KeyPackage](t)(peer.NewKeyPackage(id, KeyPackageOptions{}))
		kp.LeafNode.SignatureKey = compressed(t, s.signature.(*ecdsaScheme), kp.LeafNode.SignatureKey)
		if err := kp.LeafNode.sign(s, key, nil, 0); err != nil {
			t.Fatal(err)
		}
		var w codec.Writer
		kp.encodeTBS(&w)
		kp.Signature = must[[]byte](t)(s.signWithLabel(key.Bytes(), "KeyPackageTBS", w.Buffer()))
		return kp
	}
	kp := compress(peer.id.SignatureKey)
	strictly, alice, bob := newPerson(t, "strictly", cs), newPerson(t, "alice", cs, taking), newPerson(t, "bob", cs, taking)
	refused.match(t, strictly.VerifyKeyPackage(kp))
	refused.match(t, kp.Verify(KeyPackageRules{Auth: TrustBasic{}}))
	if err := kp.Verify(KeyPackageRules{Auth: TrustBasic{}, Intake: Intake{CompressedKeys: true}}); err != nil {
		t.Fatal(err)
	}
	// A group with such a member: by default a client refuses to join it, with the option it joins.
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{Proposals: []Proposal{AddProposal(kp)}}, nil, bob)
	if got, _ := alice.group.public().Member(1); len(got.SignatureKey) != 1+s.signature.(*ecdsaScheme).size {
		t.Fatalf("the member's key has %d bytes", len(got.SignatureKey))
	}
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(strictly.keyPackage(t))}, GroupInfo: GroupInfoOptions{Tree: true}}))
	_, err := strictly.Join(c.Welcome, JoinOptions{Tree: must[[]byte](t)(c.Staged.Public().Tree())})
	refused.match(t, err)
	_, err = NewPublicState(c.GroupInfo, nil, PublicConfig{Auth: TrustBasic{}})
	refused.match(t, err)
	must[*PublicState](t)(NewPublicState(c.GroupInfo, nil, PublicConfig{Auth: TrustBasic{}, Intake: Intake{CompressedKeys: true}}))
	// One key in two forms counts as one key (§7.3).
	twice := newPerson(t, "twice", cs, taking)
	twice.id.SignatureKey = peer.id.SignatureKey
	_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(twice.keyPackage(t))}, OnlyThese: true})
	want{kind: ErrInvalid, clause: "§7.3", say: "signature_key is also used at leaf 1"}.match(t, err)
	// The group with such a key can be loaded.
	again := must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
	if !bytes.Equal(again.EpochAuthenticator(), bob.group.EpochAuthenticator()) {
		t.Fatal("the loaded group is another")
	}
}

// TestTrustBasicDevices checks that two devices of one identity are two clients, and that one key is one client.
func TestTrustBasicDevices(t *testing.T) {
	devices := func(c *Config) { c.Auth = TrustBasicDevices{} }
	alice, phone, laptop := newPerson(t, "alice", labSuite, devices), newPerson(t, "bob", labSuite, devices), newPerson(t, "bob", labSuite, devices)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, phone, laptop)
	if alice.group.public().Size() != 3 {
		t.Fatal("one of two devices was not added")
	}
	_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(phone.keyPackage(t))}})
	want{kind: ErrInvalid, clause: "§7.3", say: "signature_key is also used at"}.match(t, err)
	// TrustBasic refuses the second device, since it compares only identities.
	one := newPerson(t, "alice", labSuite)
	one.create(t, CreateOptions{})
	_, err = one.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(phone.keyPackage(t)), AddProposal(laptop.keyPackage(t))}})
	want{kind: ErrInvalid, clause: "§12.2", say: "represents the same client"}.match(t, err)
	// A change of the identity is refused, and so is a credential that is not basic.
	if (TrustBasicDevices{}).ValidSuccessor(alice.id.Credential, phone.id.Credential) == nil {
		t.Fatal("the identity may change")
	}
}

// TestRulesWeakKeys checks that keys under which anybody can sign are refused where a signature is verified before
// the leaf is checked, and where there is no leaf (§5.1.1).
func TestRulesWeakKeys(t *testing.T) {
	weak := append([]byte{1}, make([]byte, 31)...) // the neutral point
	small := want{kind: ErrInvalid, clause: "§5.1.1", say: "small order"}
	bothWays(t, "§5.1.1 the leaf of an external commit", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		dave := l.person("dave")
		info := must[[]byte](t)(l.people[0].group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
		f := &forgery{by: l.people[0], leaf: func(leaf *LeafNode) { leaf.SignatureKey = weak }}
		l.refuse(dave, f.external(t, dave, info), small)
		l.joinExternally(dave, ExternalOptions{})
	})
	bothWays(t, "§5.1.1 an external sender", func(t *testing.T, public bool) {
		l := newLab(t, public, labOptions{})
		x := Extensions{must[Extension](t)(ExternalSendersExtension([]ExternalSender{{weak, BasicCredential([]byte("service"))}}))}
		l.refuse(l.people[0], (&forgery{by: l.people[0]}).value(ExtensionsProposal(x)).message(t), small)
		l.goesOn()
	})
	bothWays(t, "§5.3 an Update with a credential of another type, where others are held to the rules for makers", func(t *testing.T, public bool) {
		l := newLab(t, public, strict)
		bob := l.people[1]
		p := l.update(bob)
		p.Update.Credential = Credential{Type: 0xf005, Data: []byte("bob")}
		p.Update.Capabilities.Credentials = append(slices.Clone(p.Update.Capabilities.Credentials), 0xf005)
		if err := p.Update.sign(bob.group.suite, bob.group.state.signer, bob.group.GroupID(), bob.group.Self()); err != nil {
			t.Fatal(err)
		}
		l.refuse(bob, (&forgery{by: bob}).proposal(t, p), want{kind: ErrUnsupported, clause: "§5.3", say: "type 0xf005"})
		l.goesOn()
	})
}
