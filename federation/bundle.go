package federation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of a bundle.
const (
	MaxBundle     = 64 << 10 // bytes of the file
	MaxSeeds      = 32
	MaxAddress    = 253 + 8 // bytes of "host:port"
	bundleVersion = 1
)

// Bundle is what an organization hands to others so that they can admit it.
type Bundle struct {
	Version int         `json:"version"`
	Domain  wire.Domain `json:"domain"`
	Root    string      `json:"root"` // the root certificate, PEM
	Seeds   []Seed      `json:"seeds"`
}

// Seed is a node and where it was when the bundle was made: one is enough to find the others.
type Seed struct {
	Node    wire.NodeID `json:"node"`
	Address string      `json:"address"` // "host:port"
}

// NewBundle makes the bundle of an organization with this root certificate.
func NewBundle(d wire.Domain, root *x509.Certificate, seeds ...Seed) (*Bundle, error) {
	b := &Bundle{Version: bundleVersion, Domain: d, Root: string(encodeCertificate(root.Raw)), Seeds: seeds}
	return b, b.Check()
}

// ParseBundle reads a bundle file of at most MaxBundle bytes. It refuses unknown fields.
func ParseBundle(b []byte) (*Bundle, error) {
	if len(b) > MaxBundle {
		return nil, wire.Errorf(wire.TooLarge, "bundle", "%d bytes, at most %d", len(b), MaxBundle)
	}
	bundle := new(Bundle)
	switch text := bytes.TrimSpace(b); {
	case len(text) == 0:
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is empty")
	case text[0] != '{':
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is no JSON object: wanted the bundle.json that 'mlsfed init' has written for the other organization")
	}
	if err := decodeStrict(b, bundle); err != nil {
		return nil, wire.Errorf(wire.Malformed, "bundle", "%v", err)
	}
	return bundle, bundle.Check()
}

// ReadBundle reads a bundle file.
func ReadBundle(path string) (*Bundle, error) {
	b, err := readSmall(path, MaxBundle)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	bundle, err := ParseBundle(b)
	if err != nil {
		return nil, fmt.Errorf("%s is no bundle: %w", path, err)
	}
	return bundle, nil
}

// Encode is the bundle as a file.
func (b *Bundle) Encode() ([]byte, error) {
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return append(out, '\n'), nil
}

// Check refuses a bundle whose root is not the certificate authority of its domain, or whose seeds are
// not nodes of it. It does not look at the clock.
func (b *Bundle) Check() error {
	_, err := b.rootChecked()
	return err
}

// rootChecked is Check, and returns the root certificate.
func (b *Bundle) rootChecked() (*x509.Certificate, error) {
	if b.Version != bundleVersion {
		return nil, wire.Errorf(wire.Version, "bundle", "the bundle is of version %d, this node knows %d", b.Version, bundleVersion)
	}
	if err := b.Domain.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "bundle", "%v", err)
	}
	if len(b.Seeds) > MaxSeeds {
		return nil, wire.Errorf(wire.TooLarge, "bundle", "%d seeds, at most %d", len(b.Seeds), MaxSeeds)
	}
	for _, s := range b.Seeds {
		if err := s.check(b.Domain); err != nil {
			return nil, wire.Errorf(wire.Malformed, "bundle", "%v", err)
		}
	}
	return b.Certificate()
}

// Certificate is the root certificate. It refuses one that is not a certificate authority, made by
// itself for exactly the bundle's domain.
func (b *Bundle) Certificate() (*x509.Certificate, error) {
	if len(b.Root) > MaxBundle {
		return nil, wire.Errorf(wire.TooLarge, "bundle", "root certificate of %d bytes", len(b.Root))
	}
	block, rest := pem.Decode([]byte(b.Root))
	if block == nil || block.Type != pemCertificate || len(bytes.TrimSpace(rest)) > 0 {
		return nil, wire.Errorf(wire.Malformed, "bundle", "root is not one certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, wire.Errorf(wire.Malformed, "bundle", "root certificate: %v", err)
	}
	if err := checkRoot(c, b.Domain); err != nil {
		return nil, wire.Errorf(wire.Invalid, "bundle", "root certificate of %s: %v", b.Domain, err)
	}
	return c, nil
}

// checkRoot holds what a root certificate of an organization must be. The domain stands in it as its
// only name, so that a root cannot be admitted for another domain by a changed bundle.
func checkRoot(c *x509.Certificate, d wire.Domain) error {
	if len(c.DNSNames) != 1 || c.DNSNames[0] != string(d) {
		return fmt.Errorf("is for %.200q, wanted %s alone", c.DNSNames, d)
	}
	if !c.BasicConstraintsValid || !c.IsCA {
		return fmt.Errorf("is not a certificate authority")
	}
	if c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("may not sign certificates and revocation lists")
	}
	switch c.PublicKey.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey:
	default:
		return fmt.Errorf("has a key of type %T, wanted Ed25519 or ECDSA", c.PublicKey)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("is not signed by itself: %w", err)
	}
	return nil
}

func (s Seed) check(d wire.Domain) error {
	if err := s.Node.Check(); err != nil {
		return err
	}
	if s.Node.Organization() != d {
		return fmt.Errorf("seed %s is not a node of %s", s.Node, d)
	}
	return checkAddress(s.Address)
}

// checkAddress refuses what is not "host:port" with a host to reach and a port number. The host is an
// IP address or a DNS name.
func checkAddress(a string) error {
	if len(a) > MaxAddress {
		return fmt.Errorf("address of %d bytes, at most %d", len(a), MaxAddress)
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %q: wanted host:port", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %q: port is not a number from 1 to 65535", a)
	}
	if ip := net.ParseIP(host); ip != nil {
		if ip.IsUnspecified() {
			return fmt.Errorf("address %q: names no host that others can reach", a)
		}
		return nil
	}
	if _, err := wire.ParseDomain(strings.ToLower(host)); err != nil {
		return fmt.Errorf("address %q: host is neither an IP address nor a DNS name", a)
	}
	return nil
}

// decodeStrict reads one JSON value with known fields only, and nothing after it.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows after the value")
	}
	return nil
}
