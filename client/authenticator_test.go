package client

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// certified makes a certificate of a device under a root.
func certified(t *testing.T, root *x509.Certificate, signer ed25519.PrivateKey, device string, serial int64) (mlscore.Credential, ed25519.PublicKey) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	check(t, err)
	uri, err := url.Parse(device)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: root.NotBefore, NotAfter: root.NotAfter, URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(nil, template, root, public, signer)
	check(t, err)
	return mlscore.X509Credential(der), public
}

func rootOf(t *testing.T, domain string) (*x509.Certificate, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	check(t, err)
	root, err := x509.ParseCertificate(der)
	check(t, err)
	return root, private
}

// TestVerifiedCredentials checks that the cache of verified credentials holds for the credential's own key, and under
// the same roots only.
func TestVerifiedCredentials(t *testing.T) {
	root, signer := rootOf(t, "a.example")
	other, _ := rootOf(t, "a.example")
	pool := func(c *x509.Certificate) *rootSet {
		p := x509.NewCertPool()
		p.AddCert(c)
		return &rootSet{pools: map[string]*x509.CertPool{"a.example": p}}
	}
	d := new(Device)
	d.roots.Store(pool(root))
	a := d.authenticator()
	credential, key := certified(t, root, signer, "mimi://a.example/d/alice/phone", 2)
	second, secondKey := certified(t, root, signer, "mimi://a.example/d/alice/tablet", 3)
	for range 2 {
		check(t, a.ValidateCredential(credential, key, mlscore.UseMember))
		if err := a.ValidateCredential(credential, secondKey, mlscore.UseMember); err == nil {
			t.Error("accepted with another key")
		}
	}
	check(t, a.ValidateCredential(second, secondKey, mlscore.UseKeyPackage))
	longer := mlscore.X509Credential(credential.Certificates[0], second.Certificates[0])
	if sumOf(longer, key) == sumOf(credential, key) {
		t.Error("a longer chain has the same name")
	}
	d.roots.Store(pool(other))
	if err := a.ValidateCredential(credential, key, mlscore.UseMember); err == nil {
		t.Error("accepted under roots that do not vouch for it")
	}
	d.roots.Store(pool(root))
	check(t, a.ValidateCredential(credential, key, mlscore.UseMember))
	set := d.roots.Load()
	for i := range maxVerified + 10 {
		var sum [32]byte
		sum[0], sum[1] = byte(i), byte(i>>8)
		set.add(sum)
	}
	if n := len(set.verified); n > maxVerified {
		t.Errorf("%d credentials are remembered", n)
	}
}

// TestHolders checks that the holder of a certificate is read once, and that the cache is bounded.
func TestHolders(t *testing.T) {
	root, signer := rootOf(t, "a.example")
	credential, _ := certified(t, root, signer, "mimi://a.example/d/alice/phone", 2)
	for range 2 {
		device, _, err := holderOf(credential)
		if err != nil || device != "mimi://a.example/d/alice/phone" {
			t.Errorf("%v, %v", device, err)
		}
	}
	bad := mlscore.X509Credential(append([]byte{}, credential.Certificates[0][1:]...))
	if _, _, err := holderOf(bad); err == nil {
		t.Error("no certificate, and it names somebody")
	}
	if _, _, err := holderOf(mlscore.Credential{Type: mlscore.CredentialBasic, Certificates: credential.Certificates}); err == nil {
		t.Error("a basic credential names a device")
	}
	for i := range maxHolders + 10 {
		holder{device: wire.DeviceID("x")}.remember(string(rune(i)))
	}
	holders.mu.Lock()
	defer holders.mu.Unlock()
	if n := len(holders.known); n > maxHolders {
		t.Errorf("%d holders are remembered", n)
	}
	clear(holders.known)
}
