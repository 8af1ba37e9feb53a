package mlscore

import (
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Code points for private use.
const (
	testExtension  ExtensionType = 0xf001
	testProposal   ProposalType  = 0xf002
	otherExtension ExtensionType = 0xf003
	otherProposal  ProposalType  = 0xf004
)

// leafFault is one fault of a leaf node, in any place.
type leafFault struct {
	name   string // begins with the clause
	want   want
	lab    labOptions
	change func(l *lab, leaf *LeafNode, key *Secret) // before the leaf is signed with key
	signed func(leaf *LeafNode)                      // after it is signed
	only   []string                                  // the places where the fault can occur; all if nil
}

// The places where a member meets a leaf node.
var leafPlaces = map[string]func(t *testing.T, public bool, f leafFault){
	"KeyPackage":  faultInKeyPackage,
	"Add":         faultInAdd,
	"Update":      faultInUpdate,
	"path":        faultInPath,
	"external":    faultInExternal,
	"joined tree": faultInTree,
}

func (f leafFault) run(t *testing.T) {
	t.Run(f.name, func(t *testing.T) {
		for name, place := range leafPlaces {
			switch {
			case f.only != nil && !slices.Contains(f.only, name):
			case name == "KeyPackage" || name == "joined tree":
				t.Run(name, func(t *testing.T) { place(t, false, f) })
			default:
				bothWays(t, name, func(t *testing.T, public bool) { place(t, public, f) })
			}
		}
	})
}

// apply makes the changes before the signature, signs the leaf and makes the changes after the signature.
func (f leafFault) apply(l *lab, leaf *LeafNode, key Secret, i LeafIndex) {
	l.Helper()
	if f.change != nil {
		f.change(l, leaf, &key)
	}
	s := l.people[0].group.suite
	if err := leaf.sign(s, key, l.people[0].group.GroupID(), i); err != nil {
		l.Fatal(err)
	}
	if f.signed != nil {
		f.signed(leaf)
	}
}

// badKeyPackage makes a KeyPackage of p with a fault in its leaf.
func (f leafFault) badKeyPackage(l *lab, p *person) *KeyPackage {
	l.Helper()
	kp := p.keyPackage(l.TB)
	key := p.id.SignatureKey
	if f.change != nil {
		f.change(l, kp.LeafNode, &key)
	}
	g := f
	g.change = nil
	g.apply(l, kp.LeafNode, key, 0)
	signKeyPackage(l, kp, key)
	return kp
}

func signKeyPackage(l *lab, kp *KeyPackage, key Secret) {
	l.Helper()
	var w codec.Writer
	kp.encodeTBS(&w)
	var err error
	if kp.Signature, err = l.people[0].group.suite.signWithLabel(key.Bytes(), "KeyPackageTBS", w.Buffer()); err != nil {
		l.Fatal(err)
	}
}

func faultInKeyPackage(t *testing.T, _ bool, f leafFault) {
	l := newLab(t, false, f.lab)
	p := l.person("dave")
	err := p.VerifyKeyPackage(f.badKeyPackage(l, p))
	if err == nil {
		t.Fatal("the KeyPackage is accepted")
	}
	f.want.match(t, err)
	if err := p.VerifyKeyPackage(p.keyPackage(t)); err != nil {
		t.Fatal(err)
	}
}

// faultInAdd commits an Add of a bad leaf, and also tries it through the API.
func faultInAdd(t *testing.T, public bool, f leafFault) {
	l := newLab(t, public, f.lab)
	alice, dave := l.people[0], l.person("dave")
	kp := f.badKeyPackage(l, dave)
	_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
	f.want.match(t, err)
	forged := &forgery{by: alice, noPath: true}
	l.refuse(alice, forged.value(AddProposal(kp)).message(t), f.want)
	l.commit(alice, CommitOptions{}, dave)
	l.goesOn()
}

// faultInUpdate commits an Update with a bad leaf.
func faultInUpdate(t *testing.T, public bool, f leafFault) {
	l := newLab(t, public, f.lab)
	alice, bob, carol := l.people[0], l.people[1], l.people[2]
	leaf, signer, err := bob.group.newLeaf(LeafUpdate{})
	if err != nil {
		t.Fatal(err)
	}
	_, leaf.EncryptionKey, err = bob.group.suite.generateKeyPair(bob.cfg.Rand)
	if err != nil {
		t.Fatal(err)
	}
	leaf.Source = SourceUpdate
	f.apply(l, &leaf, signer, bob.group.Self())
	proposal := (&forgery{by: bob}).proposal(t, Proposal{Type: ProposalUpdate, Update: &leaf})
	l.deliver(bob, proposal)
	forged := &forgery{by: alice}
	l.refuseAs([]*person{carol}, forged.reference().message(t), f.want)
	// An honest committer leaves the proposal out and reports the reason.
	c := l.commit(alice, CommitOptions{})
	if len(c.Skipped) != 1 {
		t.Fatalf("skipped: %v", c.Skipped)
	}
	f.want.match(t, c.Skipped[0])
	l.goesOn()
}

// faultInPath commits a path with a bad leaf.
func faultInPath(t *testing.T, public bool, f leafFault) {
	l := newLab(t, public, f.lab)
	alice := l.people[0]
	forged := &forgery{by: alice, signed: f.signed}
	if f.change != nil {
		key := alice.group.state.signer
		forged.leaf = func(leaf *LeafNode) { f.change(l, leaf, &key); forged.leafKey = &key }
	}
	l.refuse(alice, forged.message(t), f.want)
	l.goesOn()
}

// faultInExternal makes a client join by an external commit with a bad leaf.
func faultInExternal(t *testing.T, public bool, f leafFault) {
	l := newLab(t, public, f.lab)
	alice, dave := l.people[0], l.person("dave")
	info := must[[]byte](t)(alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	forged := &forgery{by: alice, signed: f.signed}
	if f.change != nil {
		key := dave.id.SignatureKey
		forged.leaf = func(leaf *LeafNode) { f.change(l, leaf, &key); forged.leafKey = &key }
	}
	l.refuse(dave, forged.external(t, dave, info), f.want)
	l.joinExternally(dave, ExternalOptions{})
	l.goesOn()
}

// joinExternally makes an honest external commit that all process.
func (l *lab) joinExternally(p *person, opts ExternalOptions) *ExternalCommit {
	l.Helper()
	by := l.others(p)[0]
	info := must[[]byte](l.TB)(by.group.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	opts.GroupOptions = by.group.options
	x := must[*ExternalCommit](l.TB)(p.ExternalJoin(p.id, info, opts))
	l.deliver(p, x.Message)
	p.group = must[*Group](l.TB)(x.Complete())
	if !slices.Contains(l.people, p) {
		l.people = append(l.people, p)
	}
	l.agree()
	return x
}

// faultInTree makes newcomers join a group in which leaf 0 is bad.
func faultInTree(t *testing.T, _ bool, f leafFault) {
	o := f.lab
	o.flat = true
	l := newLab(t, false, o)
	alice, bob, dave := l.people[0], l.people[1], l.person("dave")
	st := statement{by: bob, added: dave.keyPackage(t)}
	st.bodies = func(bodies []string) []string {
		leaf := must[*LeafNode](t)(parseLeafNode(bodies[0]))
		f.apply(l, leaf, alice.group.state.signer, 0)
		bodies[0] = string(must[[]byte](t)(leaf.marshal()))
		return bodies
	}
	welcome, info, tree := st.messages(t)
	l.refuseJoin(dave, welcome, JoinOptions{}, f.want)
	l.refuseInfo(l.person("erin"), info, tree, f.want)
	l.joins(dave, st)
}

func without[T comparable](list []T, v T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return x == v })
}

func both[T any](list ...T) []T { return list }

// TestRulesLeafNode tests the checks on a leaf node in every place.
func TestRulesLeafNode(t *testing.T) {
	inGroup := both("Add", "Update", "path", "external", "joined tree")
	required := labOptions{
		extensions: Extensions{RequiredCapabilities{both(testExtension), both(testProposal), both(CredentialX509)}.Extension()},
		config: func(_ string, c *Config) {
			c.Extensions, c.Proposals, c.Credentials = both(testExtension), both(testProposal), both(CredentialX509)
		},
	}
	for _, f := range []leafFault{
		{
			name:   "§7.3 the signature does not verify",
			want:   want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"},
			signed: func(leaf *LeafNode) { leaf.Signature = flip(leaf.Signature) },
		},
		{
			name:   "§7.3 the signature is empty",
			want:   want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"},
			signed: func(leaf *LeafNode) { leaf.Signature = nil },
		},
		{
			name:   "§7.3 signed with another key than signature_key",
			want:   want{kind: ErrForged, clause: "§7.3", say: "signature does not verify"},
			change: func(l *lab, _ *LeafNode, key *Secret) { *key = l.person("stranger").id.SignatureKey },
			only:   both("Update", "path", "joined tree"), // in other places another signature would be wrong too
		},
		{
			name:   "§5.1.1 encryption_key is no key of the suite",
			want:   want{kind: ErrMalformed, clause: "§5.1.1", say: "encryption_key"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.EncryptionKey = leaf.EncryptionKey[1:] },
		},
		{
			name:   "§5.1.1 encryption_key is a point of small order",
			want:   want{kind: ErrInvalid, clause: "§5.1.1", say: "small order"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.EncryptionKey = make([]byte, 32) },
		},
		{
			name:   "§5.1.1 signature_key is no key of the suite",
			want:   want{kind: ErrMalformed, clause: "§5.1.1", say: "signature_key"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.SignatureKey = append(leaf.SignatureKey, 0) },
			only:   both("KeyPackage", "Add", "Update", "path", "joined tree"), // an external commit is signed with the same key
		},
		{
			name: "§5.3 an x509 credential certifies another key",
			want: want{kind: ErrForged, clause: "§5.3", say: "certifies another key"},
			change: func(l *lab, leaf *LeafNode, _ *Secret) {
				leaf.Credential = certify(l.TB, "mallory", l.person("mallory").id.SignatureKey)
				leaf.Capabilities.Credentials = append(leaf.Capabilities.Credentials, CredentialX509)
			},
		},
		{
			name: "§5.3 an x509 credential without a certificate",
			want: want{kind: ErrMalformed, clause: "§5.3", say: "no certificate"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Credential = X509Credential()
				leaf.Capabilities.Credentials = append(leaf.Capabilities.Credentials, CredentialX509)
			},
			only: both("KeyPackage"), // in other places the Authenticator, which does not know the type, refuses first
		},
		{
			name: "§5.3.1 the application refuses the credential",
			want: want{kind: ErrPolicy, clause: "§5.3.1", say: "is not welcome"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Credential = BasicCredential([]byte("refused guest"))
			},
		},
		{
			name: "§5.3.1 a credential that is no successor of the one before",
			want: want{kind: ErrPolicy, clause: "§5.3.1", say: "no valid successor"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Credential = BasicCredential([]byte("somebody else"))
			},
			only: both("Update", "path"),
		},
		{
			name: "§7.2 the capabilities lack the credential's own type",
			want: want{kind: ErrInvalid, clause: "§7.2", say: "its own credential type"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Credentials = without(leaf.Capabilities.Credentials, CredentialBasic)
			},
		},
		{
			name: "§7.2 the capabilities lack the protocol version",
			lab:  strict,
			want: want{kind: ErrInvalid, clause: "§7.2", say: "protocol version"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Versions = []ProtocolVersion{2}
			},
		},
		{
			name: "§7.2 the capabilities lack the cipher suite",
			lab:  strict,
			want: want{kind: ErrInvalid, clause: "§7.2", say: "cipher suite"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.CipherSuites = without(leaf.Capabilities.CipherSuites, labSuite)
			},
		},
		{
			name: "§7.2 the capabilities list a default extension type",
			lab:  strict,
			want: want{kind: ErrInvalid, clause: "§7.2", say: "default extension 0x0005"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Extensions = append(leaf.Capabilities.Extensions, ExtensionExternalSenders)
			},
		},
		{
			name: "§7.2 the capabilities list a default proposal type",
			lab:  strict,
			want: want{kind: ErrInvalid, clause: "§7.2", say: "default proposal type remove"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Proposals = append(leaf.Capabilities.Proposals, ProposalRemove)
			},
		},
		{
			name: "§7.3 an extension of the leaf is not in its capabilities",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "extension 0xf003 is not in its capabilities"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Extensions = append(leaf.Extensions, Extension{otherExtension, nil})
			},
		},
		{
			name: "§7.2 the lifetime ends before it begins",
			want: want{kind: ErrInvalid, clause: "§7.2", say: "before it begins"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Lifetime.NotBefore, leaf.Lifetime.NotAfter = leaf.Lifetime.NotAfter, leaf.Lifetime.NotBefore
			},
			only: both("KeyPackage", "Add", "joined tree"),
		},
		{
			name: "§7.2 the lifetime is longer than is accepted",
			want: want{kind: ErrPolicy, clause: "§7.2", say: "at most"},
			lab:  bounded,
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Lifetime.NotAfter = leaf.Lifetime.NotBefore + uint64(labLifetime/time.Second) + 1
			},
			only: both("KeyPackage", "Add", "joined tree"),
		},
		{
			name: "§7.3 signature_key is another member's",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "signature_key is also used at leaf 2"},
			change: func(l *lab, leaf *LeafNode, key *Secret) {
				*key = l.who("carol").id.SignatureKey
				leaf.SignatureKey = must[[]byte](l.TB)(l.people[0].group.suite.signaturePublicKey(key.Bytes()))
			},
			only: inGroup,
		},
		{
			name: "§7.3 encryption_key is another member's",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "encryption_key is also used at leaf"},
			change: func(l *lab, leaf *LeafNode, _ *Secret) {
				carol, _ := l.people[0].group.public().tree.leaf(2)
				leaf.EncryptionKey = carol.EncryptionKey
			},
			only: both("Add", "Update", "joined tree"), // in a path the rule of §12.4.2 applies first
		},
		{
			name: "§12.2 the same client as another member",
			want: want{kind: ErrInvalid, clause: "§12.2", say: "represents the same client as leaf"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Credential = BasicCredential([]byte("carol"))
			},
			only: both("Add", "external", "joined tree"), // in other places the credential is not a successor
		},
		{
			name: "§7.3 a credential type that not all members support",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "credential type 0x0002 is not supported by all members"},
			change: func(l *lab, leaf *LeafNode, key *Secret) {
				name := must[[]byte](l.TB)(labAuth{}.name(leaf.Credential))
				leaf.Credential = certify(l.TB, string(name), *key)
				leaf.Capabilities.Credentials = append(leaf.Capabilities.Credentials, CredentialX509)
			},
			only: inGroup,
		},
		{
			name: "§7.3 no support for a credential type in use",
			lab:  labOptions{config: func(_ string, c *Config) { c.Credentials = both(CredentialX509) }},
			want: want{kind: ErrInvalid, clause: "§7.3", say: "does not support credential type 0x0001, which is in use"},
			change: func(l *lab, leaf *LeafNode, key *Secret) {
				name := must[[]byte](l.TB)(labAuth{}.name(leaf.Credential))
				leaf.Credential = certify(l.TB, string(name), *key)
				leaf.Capabilities.Credentials = both(CredentialX509)
			},
			only: inGroup,
		},
		{
			name: "§11.1 a required extension is not supported",
			lab:  required,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required extension 0xf001"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Extensions = without(leaf.Capabilities.Extensions, testExtension)
			},
			only: inGroup,
		},
		{
			name: "§11.1 a required proposal type is not supported",
			lab:  required,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required proposal type 0xf002"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Proposals = without(leaf.Capabilities.Proposals, testProposal)
			},
			only: inGroup,
		},
		{
			name: "§11.1 a required credential type is not supported",
			lab:  required,
			want: want{kind: ErrInvalid, clause: "§11.1", say: "required credential type 0x0002"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Credentials = without(leaf.Capabilities.Credentials, CredentialX509)
			},
			only: inGroup,
		},
		{
			name: "§13.4 a GroupContext extension is not supported (erratum 8745)",
			lab: labOptions{
				extensions: Extensions{{otherExtension, []byte("x")}},
				config:     func(_ string, c *Config) { c.Extensions = both(otherExtension) },
			},
			want: want{kind: ErrInvalid, clause: "§13.4", say: "GroupContext extension 0xf003 is not supported"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Capabilities.Extensions = without(leaf.Capabilities.Extensions, otherExtension)
			},
			only: inGroup,
		},
		{
			name:   "§7.3 a KeyPackage's leaf has source update",
			want:   want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 2, not key_package"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Source = SourceUpdate },
			only:   both("KeyPackage", "Add"),
		},
		{
			name:   "§7.3 a KeyPackage's leaf has source commit",
			want:   want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 3, not key_package"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Source = SourceCommit },
			only:   both("KeyPackage", "Add"),
		},
		{
			name: "§7.3 an Update's leaf has source key_package",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 1, not update"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Source, leaf.Lifetime = SourceKeyPackage, lifetimeFrom(testTime, time.Hour)
			},
			only: both("Update"),
		},
		{
			name:   "§7.3 an Update's leaf has source commit",
			want:   want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 3, not update"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Source = SourceCommit },
			only:   both("Update"),
		},
		{
			name:   "§7.3 a path's leaf has source update",
			want:   want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 2, not commit"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) { leaf.Source = SourceUpdate },
			only:   both("path"),
		},
		{
			name: "§7.3 a path's leaf has source key_package",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "leaf node source is 1, not commit"},
			change: func(_ *lab, leaf *LeafNode, _ *Secret) {
				leaf.Source, leaf.Lifetime = SourceKeyPackage, lifetimeFrom(testTime, time.Hour)
			},
			only: both("path", "external"),
		},
		{
			name: "§7.3 an Update keeps the encryption_key",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "encryption_key is not a new one"},
			change: func(l *lab, leaf *LeafNode, _ *Secret) {
				bob, _ := l.people[0].group.public().tree.leaf(1)
				leaf.EncryptionKey = bob.EncryptionKey
			},
			only: both("Update"),
		},
		{
			name: "§12.4.2 a path keeps the leaf's encryption_key",
			want: want{kind: ErrInvalid, clause: "§7.3", say: "encryption_key is not a new one"},
			change: func(l *lab, leaf *LeafNode, _ *Secret) {
				alice, _ := l.people[0].group.public().tree.leaf(0)
				leaf.EncryptionKey = alice.EncryptionKey
			},
			only: both("path"),
		},
	} {
		f.run(t)
	}
}
