package lineage

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// start is the time at which the organizations of the tests begin.
var start = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

const exampleDomain wire.Domain = "b.example"

// newKey makes a key from a name, the same in each run.
func newKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// roots are the certificates that newRoot has made, by domain and public key.
var roots sync.Map

// newRoot makes a root certificate of an organization, the same in each run if the key is an Ed25519 key.
func newRoot(t testing.TB, d wire.Domain, key crypto.Signer, edit ...func(*x509.Certificate)) []byte {
	t.Helper()
	made := string(d) + fmt.Sprint(key.Public())
	if der, ok := roots.Load(made); ok && len(edit) == 0 {
		return der.([]byte)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{string(d)},
		NotBefore: start, NotAfter: start.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	for _, e := range edit {
		e(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(edit) == 0 {
		roots.Store(made, der)
	}
	return der
}

// author makes links and statements of one lineage. An organization and a thief of its key are two authors.
type author struct {
	domain   wire.Domain
	chain    [][]byte // as a document has it
	links    []*Link
	root     crypto.Signer // of the last link
	recovery ed25519.PrivateKey
	anchor   int // index of the last link that set the recovery hash
}

func recoveryHash(t testing.TB, key ed25519.PrivateKey) wire.Hash {
	t.Helper()
	h, err := RecoveryHash(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// found makes link 0. The names are those of its keys.
func found(t testing.TB, d wire.Domain, root, recovery string) *author {
	t.Helper()
	a := &author{domain: d, root: newKey(root), recovery: newKey(recovery)}
	l := &Link{Domain: d, Roots: [][]byte{newRoot(t, d, a.root)}, Recovery: recoveryHash(t, a.recovery)}
	return a.add(t, l, a.root)
}

// add signs a link and returns an author who has it.
func (a *author) add(t testing.TB, l *Link, keys ...crypto.Signer) *author {
	t.Helper()
	raw, err := SignLink(l, nil, keys...)
	if err != nil {
		t.Fatal(err)
	}
	next := *a
	next.chain = append(slices.Clone(a.chain), raw)
	next.links = append(slices.Clone(a.links), l)
	return &next
}

func hashOf(t testing.TB, l *Link) *wire.Hash {
	t.Helper()
	b, err := wire.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	h := LinkHash(b)
	return &h
}

func (a *author) last() *Link { return a.links[len(a.links)-1] }

// succeed makes an ordinary link with a new root key.
func (a *author) succeed(t testing.TB, root string) *author {
	t.Helper()
	key := newKey(root)
	next := a.add(t, &Link{
		Domain: a.domain, Previous: hashOf(t, a.last()), Roots: [][]byte{newRoot(t, a.domain, key)}, Recovery: a.last().Recovery,
	}, a.root)
	next.root = key
	return next
}

// recover makes a recovery link with a new root key and a new recovery key.
func (a *author) recover(t testing.TB, root, recovery string) *author {
	t.Helper()
	_, spki, err := keyIDOf(a.recovery.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, after := newKey(root), newKey(recovery)
	next := a.add(t, &Link{
		Domain: a.domain, Previous: hashOf(t, a.links[a.anchor]), Roots: [][]byte{newRoot(t, a.domain, key)},
		Recovery: recoveryHash(t, after), Key: spki,
	}, a.recovery)
	next.root, next.recovery, next.anchor = key, after, len(next.chain)-1
	return next
}

// document publishes the chain with a statement of a time.
func (a *author) document(t testing.TB, at time.Time, edit ...func(*Statement)) *Document {
	t.Helper()
	d, err := NewDocument(a.domain, a.chain, a.statement(t, at, edit...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (a *author) statement(t testing.TB, at time.Time, edit ...func(*Statement)) []byte {
	t.Helper()
	s := &Statement{
		Domain: a.domain, Link: *hashOf(t, a.last()), Serial: uint64(at.UnixMilli()), Issued: wire.TimeOf(at),
		Expires: wire.TimeOf(at.Add(90 * day)), Contacts: []string{"mailto:abuse@" + string(a.domain)},
	}
	for _, e := range edit {
		e(s)
	}
	raw, err := SignStatement(s, nil, a.root)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// mustPin pins a document at first contact.
func mustPin(t testing.TB, d *Document) *Pin {
	t.Helper()
	p, err := First(d, &d.Lineage, start)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stored returns the pin that is read after p was stored.
func stored(t testing.TB, p *Pin) *Pin {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodePin(b)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := again.Encode(); err != nil || !bytes.Equal(c, b) {
		t.Fatalf("a stored pin is encoded otherwise again: %v", err)
	}
	return again
}

// compare compares, expects an outcome, and returns the next pin.
func compare(t testing.TB, p *Pin, d *Document, want Outcome) *Pin {
	t.Helper()
	got, next, err := p.Compare(d, start)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("outcome %s, wanted %s", got, want)
	}
	if !want.Followed() && (next.Link() != p.Link() || next.serial != p.serial) {
		t.Fatalf("outcome %s has changed the pin", want)
	}
	return stored(t, next)
}
