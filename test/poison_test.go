package test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// levelTwo waits until an entry raises the rules of the circle's conversation to level 2.
func (k *circle) levelTwo(r *rogue) {
	k.t.Helper()
	if err := cluster.Await(k.ctx, k.alice, func() (bool, error) {
		var a wire.EntriesAnswer
		if err := r.ask(k.ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: k.id}, &a); err != nil {
			return false, err
		}
		return slices.ContainsFunc(a.Entries, func(c wire.Committed) bool {
			e, err := c.Open()
			if err != nil || e.Replicas == nil {
				return false
			}
			level, ok := e.Replicas.RaisesTo(0)
			return ok && level >= 2
		}), nil
	}); err != nil {
		k.t.Fatal(err)
	}
}

// TestLongChainOfPoisonOverNodes checks several commits in a row that no other member can process, also with
// aggravating conditions: they remove all others from the delivery list, close the conversation, or are in a
// conversation with public handshakes. The others continue without an act of a person, and no member is left out.
func TestLongChainOfPoisonOverNodes(t *testing.T) {
	for name, c := range map[string]struct {
		length  int
		removes bool // all others, from the delivery list
		closes  bool
	}{
		"two in a row": {length: 2}, "a chain": {length: 20}, "a close at the end": {length: 2, closes: true},
		"all others removed": {length: 2, removes: true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newCircle(t)
			k.say(k.alice, "before", k.bob, k.carol, k.dave)
			carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
			k.levelTwo(carol)
			e, _ := carol.commit(t)
			key := submitter()
			e.Commit.Key = wire.SubmissionKey(key.Public().(ed25519.PublicKey))
			message := e.Commit.Commit
			if c.removes {
				e.Commit.Delivery.Remove = k.others(carol)
			}
			receipt, err := carol.update(k.ctx, t, e)
			if err != nil {
				t.Fatal(err)
			}
			for range c.length - 1 {
				receipt = k.chain(carol, receipt, message, key, e.Commit.Key)
			}
			if c.closes {
				end := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: k.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindClose, Epoch: receipt.Epoch, Parent: receipt.Sequence}
				if err := end.Sign(key); err != nil {
					t.Fatal(err)
				}
				if err := carol.ask(k.ctx, wire.MethodUpdate, end, new(wire.Receipt)); err != nil {
					t.Fatal(err)
				}
			}
			k.goOn(carol, receipt.Sequence)
		})
	}
}

// goOn restarts carol's honest device with her earlier state, and checks that all members have processed entry last, are
// in one epoch after carol's, and receive each other's messages. The commit that leads there can come before entry last:
// a member can contest the first commit while others are still added to its branch. It returns carol's device.
func (k *circle) goOn(carol *rogue, last wire.SequenceNumber) *client.Device {
	k.t.Helper()
	honest, err := k.Resume("c.example", "carol", "phone") // with what she knew before
	if err != nil {
		k.t.Fatal(err)
	}
	rest := []*client.Device{k.alice, k.bob, k.dave, honest}
	for _, d := range rest { // by themselves
		if err := cluster.Await(k.ctx, d, func() (bool, error) {
			v, err := d.Conversation(k.ctx, k.id)
			return err == nil && v.Sequence >= last && v.State == client.StateActive && v.Epoch > wire.Epoch(carol.group.Epoch()), err
		}); err != nil {
			v, _ := d.Conversation(k.t.Context(), k.id)
			k.t.Fatalf("%v: %+v", err, v)
		}
	}
	if err := k.bob.UpdateKeys(k.ctx, k.id); err != nil {
		k.t.Fatal(err)
	}
	k.share(k.alice, k.bob, k.dave, honest)
	for i, d := range rest {
		others := slices.DeleteFunc(slices.Clone(rest), func(o *client.Device) bool { return o == d })
		k.say(d, fmt.Sprint("on we go ", i), others...)
	}
	return honest
}

// TestLongPublicPoisonByAnOutsider checks that an outsider with a self-made certificate cannot stop a conversation
// with public handshakes, in which servers validate everything except trust. The outsider enters by external commits,
// and continues from there.
func TestLongPublicPoisonByAnOutsider(t *testing.T) {
	k := newCircleWith(t, client.CreateOptions{Name: "Circle", PublicHandshakes: true})
	k.say(k.alice, "before", k.bob, k.carol, k.dave)
	carol := k.takeOver(k.share(k.alice, k.bob, k.carol, k.dave))
	k.levelTwo(carol)
	var a wire.GroupInfoAnswer
	if err := carol.ask(k.ctx, wire.MethodGroupInfo, &wire.GroupInfoRequest{Conversation: k.id}, &a); err != nil {
		t.Fatal(err)
	}
	h := a.Heads[0]
	eve, id := outsider(t, k.Cluster)
	entry, err := eve.ExternalJoin(id, h.Info.Inline, mlscore.ExternalOptions{
		GroupOptions: mlscore.GroupOptions{PublicHandshakes: true}, Tree: h.Tree.Inline, LeafExtensions: mlscore.Extensions{{Type: 0xf0a2, Data: make([]byte, 16)}},
		GroupInfo: mlscore.GroupInfoOptions{External: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := entry.Complete()
	if err != nil {
		t.Fatal(err)
	}
	on := &wire.Receipt{Epoch: h.Epoch, Sequence: h.Parent}
	order := func(message []byte) {
		t.Helper()
		key := wire.SubmissionKey(submitter().Public().(ed25519.PublicKey))
		e := &wire.Envelope{Version: wire.EnvelopeVersion, Conversation: k.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCommit, Epoch: on.Epoch, Parent: on.Sequence,
			Commit: &wire.CommitBundle{Commit: message, Key: key}}
		next := new(wire.Receipt)
		if err := carol.ask(k.ctx, wire.MethodUpdate, e, next); err != nil {
			t.Fatal(err)
		}
		on = next
	}
	order(entry.Message)
	for range 3 {
		made, err := g.Commit(mlscore.CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		order(made.Message)
		if err := g.Merge(made.Staged); err != nil {
			t.Fatal(err)
		}
	}
	k.goOn(carol, on.Sequence)
}

// outsider returns an MLS client with a certificate that no organization has issued.
func outsider(t *testing.T, c *cluster.Cluster) (*mlscore.Client, mlscore.Identity) {
	t.Helper()
	key, public, err := mlscore.GenerateSignatureKey(nil, mlscore.MLS128X25519AES128Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse("mimi://c.example/d/eve/phone")
	if err != nil {
		t.Fatal(err)
	}
	between := func(c x509.Certificate) *x509.Certificate {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		return &c
	}
	caPublic, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := between(x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "c.example"}, KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true})
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, caPublic, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := between(x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature})
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, ed25519.PublicKey(public), caKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mlscore.NewClient(mlscore.Config{
		Auth: &mlscore.X509Authenticator{Roots: func(domain string) *x509.CertPool {
			pool := rootsOf(t, c, wire.Domain(domain))
			pool.AddCert(own)
			return pool
		}},
		Store: mlscore.NewMemoryStore(), Now: time.Now, Extensions: []mlscore.ExtensionType{0xf0a0, 0xf0a2}, Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, mlscore.Identity{CipherSuite: mlscore.MLS128X25519AES128Ed25519, Credential: mlscore.Credential{Type: mlscore.CredentialX509, Certificates: [][]byte{der, root}}, SignatureKey: key}
}

// chain orders another commit that no member can process, on top of one.
func (k *circle) chain(r *rogue, on *wire.Receipt, message []byte, key ed25519.PrivateKey, next wire.SubmissionKey) *wire.Receipt {
	k.t.Helper()
	e := &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: k.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCommit, Epoch: on.Epoch, Parent: on.Sequence,
		Commit: &wire.CommitBundle{Commit: atEpoch(k.t, message, on.Epoch), Key: next},
	}
	if err := e.Sign(key); err != nil {
		k.t.Fatal(err)
	}
	receipt := new(wire.Receipt)
	if err := r.ask(k.ctx, wire.MethodUpdate, e, receipt); err != nil {
		k.t.Fatal(err)
	}
	return receipt
}

// others returns the addresses of all members except the rogue's device, sorted.
func (k *circle) others(r *rogue) []wire.Address {
	k.t.Helper()
	var list []wire.Address
	r.group.Public().Members(func(m mlscore.Member) bool {
		if m.Leaf == r.group.Self() {
			return true
		}
		token, ok := m.Extensions.Find(0xf0a2)
		cert, err := x509.ParseCertificate(m.Credential.Certificates[0])
		if !ok || err != nil {
			k.t.Fatalf("a leaf without an address (%v)", err)
		}
		name, err := mlscore.DeviceURI(cert)
		if err != nil {
			k.t.Fatal(err)
		}
		list = append(list, wire.Address{Organization: wire.DeviceID(name.Identity).Organization(), Token: wire.Token(token)})
		return true
	})
	slices.SortFunc(list, wire.Address.Compare)
	return list
}

// atEpoch writes another epoch into the plaintext header of a PrivateMessage (RFC 9420 §6.3).
func atEpoch(t *testing.T, message []byte, epoch wire.Epoch) []byte {
	t.Helper()
	h, err := mlscore.Peek(message)
	if err != nil {
		t.Fatal(err)
	}
	message = bytes.Clone(message)
	binary.BigEndian.PutUint64(message[bytes.Index(message, h.GroupID)+len(h.GroupID):], uint64(epoch))
	return message
}
