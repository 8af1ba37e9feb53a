package mlscore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// noSuite is a cipher suite that does not exist.
const noSuite = CipherSuite(0xff00)

// refusal is a call that must be refused, with the kind of its error.
type refusal struct {
	what string
	kind error
	err  error
}

func requireRefused(t *testing.T, list []refusal) {
	t.Helper()
	for _, r := range list {
		if r.err == nil || !errors.Is(r.err, r.kind) {
			t.Errorf("%s: %v, want %v", r.what, r.err, r.kind)
		}
	}
}

// failure drops a value, so that a list can contain calls that return a value and an error.
func failure[T any](_ T, err error) error { return err }

// TestMisuse checks that unusable arguments of a caller are refused before anything is changed.
func TestMisuse(t *testing.T) {
	l := newLab(t, true, labOptions{})
	alice := l.people[0]
	g := alice.group
	elsewhere := alice.id
	elsewhere.CipherSuite = MLS128P256AES128P256
	unknown := alice.id
	unknown.CipherSuite = noSuite
	keyless := alice.id
	keyless.SignatureKey = Secret{}
	context := g.Public().Context()
	strange := context
	strange.CipherSuite = noSuite
	strangeInfo := must[[]byte](t)(encodeMessage(WireFormatGroupInfo, (&groupInfo{context: strange}).encode))
	kp := *alice.keyPackage(t)
	before := alice.snapshot(t)
	kp.CipherSuite = noSuite
	info := must[[]byte](t)(g.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	person := l.person("dave")
	_, _, keyErr := GenerateSignatureKey(nil, noSuite)
	_, _, selfErr := person.ProposeSelf(unknown, context, KeyPackageOptions{})
	requireRefused(t, []refusal{
		{"a client without an Authenticator", ErrMisuse, failure(NewClient(Config{Store: NewMemoryStore(), Now: testNow}))},
		{"a client without a Store", ErrMisuse, failure(NewClient(Config{Auth: labAuth{}, Now: testNow}))},
		{"a client without a clock", ErrMisuse, failure(NewClient(Config{Auth: labAuth{}, Store: NewMemoryStore()}))},
		{"a maximum lifetime below zero", ErrMisuse, failure(NewClient(Config{Auth: labAuth{}, Store: NewMemoryStore(), Now: testNow, MaxLifetime: -1}))},
		{"a maximum lifetime of others below zero", ErrMisuse, failure(NewClient(Config{Auth: labAuth{}, Store: NewMemoryStore(), Now: testNow, MaxLifetimeReceived: -1}))},
		{"a server without an Authenticator", ErrMisuse, failure(NewPublicState(info, nil, PublicConfig{}))},
		{"a signature key of an unknown suite", ErrUnsupported, keyErr},
		{"primitives of an unknown suite", ErrUnsupported, failure(newPrimitives(noSuite))},
		{"a KeyPackage of an unknown suite", ErrUnsupported, failure(alice.NewKeyPackage(unknown, KeyPackageOptions{}))},
		{"a KeyPackage without a signature key", ErrMisuse, failure(alice.NewKeyPackage(keyless, KeyPackageOptions{}))},
		{"the reference of a KeyPackage of an unknown suite", ErrUnsupported, failure(kp.Ref())},
		{"a KeyPackage of an unknown suite is verified", ErrUnsupported, kp.Verify(KeyPackageRules{Auth: labAuth{}})},
		{"a KeyPackage of an unknown suite is imported", ErrUnsupported, alice.ImportKeyPackage(&kp, KeyPackageKeys{})},
		{"a group of an unknown suite", ErrUnsupported, failure(alice.CreateGroup(unknown, []byte("id"), CreateOptions{}))},
		{"an external commit by an identity of an unknown suite", ErrMisuse, failure(person.ExternalJoin(unknown, info, ExternalOptions{}))},
		{"an external commit to a group of an unknown suite", ErrUnsupported, failure(person.ExternalJoin(unknown, strangeInfo, ExternalOptions{}))},
		{"an external commit by an identity of another suite", ErrMisuse, failure(person.ExternalJoin(elsewhere, info, ExternalOptions{}))},
		{"an external commit without a signature key", ErrMisuse, failure(person.ExternalJoin(keyless, info, ExternalOptions{}))},
		{"a newcomer's Add of an unknown suite", ErrUnsupported, selfErr},
		{"a proposal from outside to a group of an unknown suite", ErrUnsupported, failure(ProposeExternally(0, alice.id.SignatureKey, strange, RemoveProposal(1)))},
		{"a proposal from outside without a body", ErrMisuse, failure(ProposeExternally(0, alice.id.SignatureKey, context, Proposal{Type: ProposalAdd}))},
		{"a proposal without a body", ErrMisuse, failure(g.Propose(Proposal{Type: ProposalAdd}, ProposeOptions{}))},
		{"an ExternalInit by a member", ErrMisuse, failure(g.Propose(Proposal{Type: ProposalExternalInit, ExternalInit: make([]byte, 32)}, ProposeOptions{}))},
		{"an Update without private keys", ErrMisuse, failure(g.Propose(Proposal{Type: ProposalUpdate, Update: kp.LeafNode}, ProposeOptions{}))},
		{"an Update to an identity of another suite", ErrMisuse, failure(g.ProposeUpdate(LeafUpdate{Identity: &elsewhere}, ProposeOptions{}))},
		{"a GroupInfo that is none", ErrMalformed, failure(ParseGroupInfo([]byte("no")))},
	})
	if _, err := g.Propose(Proposal{Type: ProposalUpdate, Update: kp.LeafNode}, ProposeOptions{}); !strings.Contains(fmt.Sprint(err), "ProposeUpdate") {
		t.Errorf("an Update without private keys: %v; want the name of the method that makes the keys", err)
	}
	before.requireSame(t, alice)
	l.goesOn()
}

// TestOutOfGroup checks that a removed member can make no message for the group.
func TestOutOfGroup(t *testing.T) {
	l := newLab(t, false, labOptions{})
	alice, bob := l.people[0], l.people[1]
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{RemoveProposal(bob.group.Self())}}))
	r := must[*Received](t)(bob.group.Process(c.Message))
	requireRefused(t, []refusal{
		{"a secret of the epoch that begins without one", ErrGroupEnded, failure(r.Commit.Export("label", nil, 32))},
	})
	if err := bob.group.Merge(r.Commit); err != nil {
		t.Fatal(err)
	}
	requireRefused(t, []refusal{
		{"a branch", ErrGroupEnded, failure(bob.group.Branch([]byte("branch"), FoundOptions{}))},
	})
}

// TestTrustBasic checks that TrustBasic accepts only basic credentials and no change of identity.
func TestTrustBasic(t *testing.T) {
	a, b := BasicCredential([]byte("a")), BasicCredential([]byte("b"))
	requireRefused(t, []refusal{
		{"an x509 credential", ErrPolicy, TrustBasic{}.ValidateCredential(X509Credential([]byte("?")), nil, UseMember)},
		{"another identity", ErrPolicy, TrustBasic{}.ValidSuccessor(a, b)},
	})
	for _, err := range []error{TrustBasic{}.ValidateCredential(a, nil, UseMember), TrustBasic{}.ValidSuccessor(a, a)} {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestExportBounds checks that HPKE exports up to 255 times the hash length, as HKDF does, and not one byte more.
func TestExportBounds(t *testing.T) {
	s := must[*suite](t)(suiteOf(labSuite))
	for n, ok := range map[int]bool{-1: false, 0: true, s.maxExpand(): true, s.maxExpand() + 1: false} {
		if err := s.exportable(n); (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
