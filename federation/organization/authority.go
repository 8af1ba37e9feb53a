package organization

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Validity of certificates.
const (
	rootLife = 10 * 365 * 24 * time.Hour // the default of an organization's root
	nodeLife = 90 * 24 * time.Hour       // the default of a node's certificate
	skew     = time.Hour                 // a certificate begins this long before now, because clocks differ
)

// Authority is an organization's certificate authority: its root certificate and key. It signs node certificates here,
// and device certificates and revocation lists for package directory.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// Certificate returns the root certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// Signer returns the root key.
func (a *Authority) Signer() crypto.Signer { return a.key }

func (a *Authority) domain() wire.Domain { return wire.Domain(a.certificate.DNSNames[0]) }

// issueNode makes a certificate, DER, for a node of the organization with the public key. The certificate lives for
// life, nodeLife if that is zero, and not longer than the root. random nil is crypto/rand.
func (a *Authority) issueNode(node wire.NodeID, public crypto.PublicKey, now time.Time, life time.Duration, random io.Reader) ([]byte, error) {
	if err := node.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "issue", "%v", err)
	}
	if node.Organization() != a.domain() {
		return nil, wire.Errorf(wire.Invalid, "issue", "%s is not a node of %s: its name is one label and then the domain", node, a.domain())
	}
	end := now.Add(cmp.Or(life, nodeLife)).Truncate(time.Second)
	if end.After(a.certificate.NotAfter) {
		end = a.certificate.NotAfter
	}
	if !end.After(now) {
		return nil, wire.Errorf(wire.Invalid, "issue", "the root certificate of %s ended on %s: make a new organization root",
			a.domain(), a.certificate.NotAfter.Format(time.DateOnly))
	}
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		DNSNames:     []string{string(node)},
		NotBefore:    now.Add(-skew),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		// BasicConstraints say that this is not an authority.
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(cmp.Or(random, rand.Reader), template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", node, err)
	}
	return der, nil
}

// newAuthority makes a root.
func newAuthority(d wire.Domain, key crypto.Signer, now time.Time, life time.Duration, random io.Reader) (*Authority, error) {
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName(d)},
		DNSNames:              []string{string(d)},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(cmp.Or(life, rootLife)).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs nodes and devices, no further authority
	}
	der, err := x509.CreateCertificate(cmp.Or(random, rand.Reader), template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate of %s: %w", d, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("root certificate of %s: %w", d, err)
	}
	return &Authority{certificate: c, key: key}, nil
}

// commonName returns the domain if it fits: a common name has at most 64 characters (RFC 5280, appendix A). It is for
// people; verification uses the subject's alternative name.
func commonName(d wire.Domain) string {
	if len(d) > 64 {
		return string(d[:61]) + "..."
	}
	return string(d)
}

func newSerial(random io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(cmp.Or(random, rand.Reader), b); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes
	return new(big.Int).SetBytes(b), nil
}
