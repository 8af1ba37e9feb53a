package mlscore_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

func Example_x509() {
	// An organization's authority.
	authorityKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey))
	roots := x509.NewCertPool()
	roots.AddCert(must(x509.ParseCertificate(der)))

	// A device makes its signature key, and the authority certifies it under the device's name.
	const suite = mlscore.MLS128X25519AES128Ed25519
	enrol := func(name string) mlscore.Identity {
		key, public, err := mlscore.GenerateSignatureKey(nil, suite)
		check(err)
		uri := must(url.Parse("mimi://a.example/d/" + name))
		certificate := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		}, authority, ed25519.PublicKey(public), authorityKey))
		return mlscore.Identity{CipherSuite: suite, Credential: mlscore.X509Credential(certificate), SignatureKey: key}
	}

	// All members trust only this authority for the names of its domain.
	trust := &mlscore.X509Authenticator{Roots: func(domain string) *x509.CertPool {
		if domain == "a.example" {
			return roots
		}
		return nil
	}}
	certified := func(c *mlscore.Config) { c.Auth = trust }
	alice, _ := device("alice", certified)
	bob, _ := device("bob", certified)
	a := must(alice.CreateGroup(enrol("alice/phone"), nil, mlscore.CreateOptions{}))
	b := must(bob.Join(add(a, must(bob.NewKeyPackage(enrol("bob/laptop"), mlscore.KeyPackageOptions{}))).Welcome, mlscore.JoinOptions{}))

	m := receive(b, must(a.Protect([]byte("certified"), mlscore.MessageOptions{}))).Application
	fmt.Printf("%s: %s\n", must(trust.Identity(m.Sender.Credential, nil)), m.Data)

	// Check the expiry of a certificate before its owner is added, never when a message is processed.
	fmt.Println("expired:", trust.Expired(m.Sender.Credential, time.Now()) != nil)
	// Output:
	// mimi://a.example/d/alice/phone: certified
	// expired: false
}
