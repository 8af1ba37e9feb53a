package machine

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// member is a real MLS client.
func member(t *testing.T, name string) (*mlscore.Client, mlscore.Identity) {
	t.Helper()
	const suite = mlscore.MLS128X25519AES128Ed25519
	client, err := mlscore.NewClient(mlscore.Config{Auth: mlscore.TrustBasic{}, Store: mlscore.NewMemoryStore(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := mlscore.GenerateSignatureKey(nil, suite)
	if err != nil {
		t.Fatal(err)
	}
	return client, mlscore.Identity{CipherSuite: suite, Credential: mlscore.BasicCredential([]byte(name)), SignatureKey: key}
}

var publicRules = MLSRules{mlscore.PublicConfig{Auth: mlscore.TrustBasic{}}}

// TestPublicHandshakes follows a real group and checks that the machine refuses everything that members would refuse.
func TestPublicHandshakes(t *testing.T) {
	alice, aliceID := member(t, "alice")
	bob, bobID := member(t, "bob")
	bobPackage, err := bob.NewKeyPackage(bobID, mlscore.KeyPackageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	public := mlscore.CreateOptions{GroupOptions: mlscore.GroupOptions{PublicHandshakes: true}}
	g, err := alice.CreateGroup(aliceID, []byte(testID), public)
	if err != nil {
		t.Fatal(err)
	}
	info, err := g.GroupInfo(mlscore.GroupInfoOptions{Tree: true})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, m: New(testID, publicRules), time: 1000, next: 1}
	create := author.Create(testID, b.id(), wire.Policy{Handshakes: wire.HandshakesPublic}, author.Addresses(1, "a.example"))
	create.Create.Info = info[:len(info)-1]
	b.refuse(author.Sign(create, create.Submission), wire.Invalid)
	create.Create.Info = bytes.Clone(info)
	create.Create.Info[len(info)-1] ^= 1 // in the signature
	b.refuse(author.Sign(create, create.Submission), wire.Forged)
	create.Create.Info = info
	place := author.After(create, b.accept(author.Sign(create, create.Submission)))

	order := func(msg []byte, n wire.SubmissionID) *wire.Envelope {
		e := place.Commit(n, 0, wire.DeliveryChange{})
		e.Commit.Commit, e.Signature = msg, nil
		return e
	}
	commit, err := g.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.AddProposal(bobPackage)}, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
	if err != nil {
		t.Fatal(err)
	}
	for i := 40; i < len(commit.Message)-80; i += 97 { // whichever bit is flipped: the signature or the form is invalid
		forged := bytes.Clone(commit.Message)
		forged[i] ^= 4
		if out := b.apply(order(forged, b.id())); out.Err == nil {
			t.Fatalf("a commit with byte %d changed is accepted", i)
		}
	}
	b.refuse(place.Commit(b.id(), 8, wire.DeliveryChange{}), wire.Invalid) // a PrivateMessage
	first := order(commit.Message, b.id())
	next := author.After(first, b.accept(first))
	if err := g.Merge(commit.Staged); err != nil {
		t.Fatal(err)
	}

	// A restored machine accepts further entries: a proposal by reference, then the commit that includes it.
	var out bytes.Buffer
	if _, err := b.m.Snapshot().WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	before := b.digest()
	if b.m, err = Restore(testID, publicRules, &out); err != nil || b.digest() != before {
		t.Fatalf("restored to another state (%v)", err)
	}
	if err := b.m.Verify(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Image){
		"no group state":                func(i *Image) { i.heads[0].public = nil },
		"no group state of the parent":  func(i *Image) { i.heads[0].parent.public = nil },
		"the group state of the parent": func(i *Image) { i.heads[0].public = i.heads[0].parent.public },
		"the group state of the child":  func(i *Image) { i.heads[0].parent.public = i.heads[0].public },
		"private handshakes":            func(i *Image) { i.header.Policy.Handshakes = wire.HandshakesPrivate },
	} {
		img := copyImage(b.m)
		change(img)
		if _, err := Restore(testID, publicRules, bytes.NewReader(seal(t, img))); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	leaf, ok := g.ByIdentity([]byte("bob"))
	if !ok {
		t.Fatal("bob is not in the group")
	}
	proposal, err := g.Propose(mlscore.RemoveProposal(leaf), mlscore.ProposeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	propose := next.Propose(b.id(), 0)
	propose.Proposal, propose.Signature = proposal, nil
	second, err := g.Commit(mlscore.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	place = next
	b.refuse(order(second.Message, b.id()), wire.Forged) // the commit refers to a proposal that is not in the log
	b.accept(propose)
	b.accept(order(second.Message, b.id()))
	b.refuse(next.Close(b.id()), wire.StaleEpoch)
	if heads := b.m.Heads(); len(heads) != 1 || heads[0].Epoch != 2 {
		t.Fatalf("heads %+v", heads)
	}
	if _, err := Restore(testID, nil, bytes.NewReader(imageBytes(t, b.m))); err == nil {
		t.Fatal("restored without the rules to validate with")
	}
}

func imageBytes(t testing.TB, m *Machine) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestViews(t *testing.T) {
	b, p := newBench(t, wire.Policy{Voters: 3}, "a.example", "b.example")
	b.commit(p)
	ref := wire.BlobRef{Hash: wire.Hash{9}, Size: 4}
	e := p.Contest(b.id(), wire.DeliveryChange{Add: author.Addresses(1, "c.example")})
	e.Commit.Tree = &wire.Payload{Blob: &ref}
	b.accept(author.Sign(e, p.Opener))
	if got := b.m.Delivery(); len(got) != 3 || got[2].Organization != "c.example" {
		t.Fatalf("union of the heads' lists: %v", got)
	}
	if got := b.m.Blobs(); len(got) != 1 || got[0] != ref {
		t.Fatalf("blobs %v", got)
	}
	if got := b.m.Spans(); len(got) != 3 || got[2].Since != 3 || got[0].Until != 0 {
		t.Fatalf("spans %v", got)
	}
	if b.m.ID() != testID || !b.m.Created() || b.m.Policy().Voters != 3 {
		t.Fatal("id, created or policy")
	}
}
