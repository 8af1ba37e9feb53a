package mlscore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

func foreignCA(t *testing.T, name string, constraint string) (*x509.Certificate, ed25519.PrivateKey) {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if constraint != "" {
		tpl.PermittedURIDomains, tpl.PermittedDNSDomainsCritical = []string{constraint}, true
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := x509.ParseCertificate(der)
	return c, priv
}

// sanURI puts a URI into a certificate unchanged: url.Parse would change it.
func sanURI(uris ...string) pkix.Extension {
	var raw []asn1.RawValue
	for _, u := range uris {
		raw = append(raw, asn1.RawValue{Class: 2, Tag: 6, Bytes: []byte(u)})
	}
	b, _ := asn1.Marshal(raw)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: b}
}

// TestDeviceNamesHaveOneSpelling checks that every spelling of a device's name in a certificate except one is
// refused.
func TestDeviceNamesHaveOneSpelling(t *testing.T) {
	root, key := foreignCA(t, "a.example", "a.example")
	evilRoot, evilKey := foreignCA(t, "mallory.example", "")
	auth := &X509Authenticator{Roots: func(d string) *x509.CertPool {
		p := x509.NewCertPool()
		switch d {
		case "a.example":
			p.AddCert(root)
		case "mallory.example":
			p.AddCert(evilRoot)
		default:
			return nil
		}
		return p
	}}
	leaf := func(ca *x509.Certificate, k ed25519.PrivateKey, isCA bool, uris ...string) (Credential, []byte) {
		pub, _, _ := ed25519.GenerateKey(rand.Reader)
		tpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtraExtensions: []pkix.Extension{sanURI(uris...)}}
		if isCA {
			tpl.IsCA, tpl.BasicConstraintsValid, tpl.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, ca, pub, k)
		if err != nil {
			t.Fatal(err)
		}
		return Credential{Type: CredentialX509, Certificates: [][]byte{der, ca.Raw}}, pub
	}
	good, pub := leaf(root, key, false, "mimi://a.example/d/alice/phone")
	if err := auth.ValidateCredential(good, pub, 0); err != nil {
		t.Fatal(err)
	}
	for _, uris := range [][]string{
		{"mimi://A.example/d/alice/phone"}, {"MIMI://a.example/d/alice/phone"}, {"mimi://a.example./d/alice/phone"}, {"mimi://a.example:80/d/alice/phone"},
		{"mimi://a%2eexample/d/alice/phone"}, {"mimi://a.example/d/alice%2fphone/x"}, {"mimi://a.example/d/al%69ce/phone"}, {"mimi://x@a.example/d/alice/phone"},
		{"mimi://a.example/d/alice/phone?x"}, {"mimi://a.example/d/alice/phone#x"}, {"mimi://a.example/d/alice/phone/"}, {"mimi://a.example//d/alice/phone"},
		{"mimi://a.example/d/../phone"}, {"mimi://a.example/d/\xd0\xb0lice/phone"}, {"mimi://a.example/d/alice/phone", "mimi://a.example/d/bob/phone"}, {"mimi://a.example/u/alice"},
		{"mimi://xn--a.example/d/alice/phone"}, {"mimi://a.example/d/alice/phone\x00"}, {},
	} {
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("%q: PANIC %v", uris, p)
				}
			}()
			c, pub := leaf(root, key, false, uris...)
			err := auth.ValidateCredential(c, pub, 0)
			id, idErr := auth.Identity(c, pub)
			t.Logf("%q: refused %v, identity %q %v", uris, err != nil, id, idErr != nil)
			if err == nil {
				t.Errorf("ACCEPTED %q", uris)
			}
		}()
	}
	c, pub := leaf(evilRoot, evilKey, false, "mimi://a.example/d/alice/phone")
	t.Logf("mallory's root for a device of a.example: %v", auth.ValidateCredential(c, pub, 0))
	c, pub = leaf(root, key, false, "mimi://mallory.example/d/x/y")
	t.Logf("a.example's root for a device of mallory.example: %v", auth.ValidateCredential(c, pub, 0))
	c, pub = leaf(root, key, true, "mimi://a.example/d/alice/phone")
	t.Logf("an authority as a leaf: %v", auth.ValidateCredential(c, pub, 0))
	c, _ = leaf(root, key, false, "mimi://a.example/d/alice/phone")
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	t.Logf("another key than the certified one: %v", auth.ValidateCredential(c, other, 0))
	// an intermediate that mallory made, below a device's certificate and together with the domain's root
	mid, midKey := foreignCA(t, "a.example", "")
	c, pub = leaf(mid, midKey, false, "mimi://a.example/d/alice/phone")
	c.Certificates = append(c.Certificates, root.Raw)
	t.Logf("attacker's own intermediate: %v", auth.ValidateCredential(c, pub, 0))
}

// TestForeignKeysRefused checks that keys that are not points, or are of small order, are refused.
func TestForeignKeysRefused(t *testing.T) {
	for cs := range map[CipherSuite]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true} {
		s, err := suiteOf(cs)
		if err != nil {
			t.Logf("%v: %v", cs, err)
			continue
		}
		_, good, err := s.generateKeyPair(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		bad := map[string][]byte{"zeros": make([]byte, len(good)), "ff": bytes.Repeat([]byte{0xff}, len(good)), "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0)}
		if len(good) > 60 && good[0] == 4 {
			flip := bytes.Clone(good)
			flip[len(flip)-1] ^= 1
			bad["off the curve"], bad["infinity"] = flip, []byte{0}
			bad["compressed"] = append([]byte{2}, good[1:1+(len(good)-1)/2]...)
		}
		for what, pub := range bad {
			_, _, err := s.encryptTo(rand.Reader, pub, s.hashInfo([]byte("x")), []byte("y"))
			v := s.validatePublicKey(pub)
			t.Logf("%v %s: encrypt refused %v, validate refused %v", cs, what, err != nil, v != nil)
			if err == nil && what != "ff" {
				t.Errorf("%v %s ENCRYPTED", cs, what)
			}
		}
		_, sigPub, err := s.generateSignatureKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if s.validateSignatureKey(make([]byte, len(sigPub))) == nil {
			t.Errorf("%v: signature key of zeros ACCEPTED", cs)
		}
	}
	// identity and order-8 points of Ed25519
	s, _ := suiteOf(1)
	for _, p := range [][]byte{append([]byte{1}, make([]byte, 31)...), append([]byte{0xec}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...),
		{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}} {
		t.Logf("Ed25519 point %x: %v", p[:2], s.validateSignatureKey(p))
		if s.validateSignatureKey(p) == nil {
			t.Error("ACCEPTED")
		}
	}
}
