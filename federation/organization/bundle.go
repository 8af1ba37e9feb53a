package organization

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/mlsfed/mlsfed/federation/internal/atomicfile"
	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of a bundle.
const (
	maxBundle     = 64 << 10 // bytes of the file
	maxSeeds      = 32
	maxAddress    = 253 + 8 // bytes of "host:port"
	bundleVersion = 1
)

// Bundle has what other organizations need to admit an organization.
type Bundle struct {
	Version int         `json:"version"`
	Domain  wire.Domain `json:"domain"`
	Root    string      `json:"root"` // the root certificate, PEM
	Seeds   []Seed      `json:"seeds"`
}

// Seed has the address of a node when the bundle was made. One reachable seed is enough to find all other nodes.
type Seed struct {
	Node    wire.NodeID `json:"node"`
	Address string      `json:"address"` // "host:port"
}

// NewBundle makes the bundle of an organization with this root certificate.
func NewBundle(d wire.Domain, root *x509.Certificate, seeds ...Seed) (*Bundle, error) {
	b := &Bundle{Version: bundleVersion, Domain: d, Root: string(encodeCertificate(root.Raw)), Seeds: seeds}
	return b, b.check()
}

// parseBundle reads a bundle file of at most maxBundle bytes. It refuses unknown fields.
func parseBundle(b []byte) (*Bundle, error) {
	if len(b) > maxBundle {
		return nil, wire.Errorf(wire.TooLarge, "bundle", "%d bytes, at most %d", len(b), maxBundle)
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // the mark of byte order that some editors write
	bundle := new(Bundle)
	switch text := bytes.TrimSpace(b); {
	case len(text) == 0:
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is empty")
	case text[0] != '{':
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is no JSON object: wanted the bundle.json that 'mlsfed init' has written for the other organization")
	}
	err := decodeStrict(b, bundle)
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is cut off: copy the file whole")
	case errors.As(err, &syntax):
		return nil, wire.Errorf(wire.Malformed, "bundle", "the bundle is damaged at byte %d: copy the file again", syntax.Offset)
	case err != nil:
		return nil, wire.Errorf(wire.Malformed, "bundle", "%v: wanted the bundle.json that 'mlsfed init' has written for the other organization", err)
	}
	return bundle, bundle.check()
}

// ReadBundle reads a bundle file.
func ReadBundle(path string) (*Bundle, error) {
	b, err := atomicfile.Read(path, maxBundle)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	bundle, err := parseBundle(b)
	if err != nil {
		return nil, fmt.Errorf("%s is no bundle: %w", path, err)
	}
	return bundle, nil
}

// encode returns the content of a bundle file.
func (b *Bundle) encode() ([]byte, error) {
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return append(out, '\n'), nil
}

// check refuses a bundle whose root is not the certificate authority of its domain, or whose seeds are
// not nodes of it. It does not look at the clock.
func (b *Bundle) check() error {
	_, err := b.rootChecked()
	return err
}

// rootChecked does what check does, and returns the root certificate.
func (b *Bundle) rootChecked() (*x509.Certificate, error) {
	if b.Version != bundleVersion {
		return nil, wire.Errorf(wire.Version, "bundle", "the bundle is of version %d, this node knows %d", b.Version, bundleVersion)
	}
	if err := b.Domain.Check(); err != nil {
		return nil, wire.Errorf(wire.Malformed, "bundle", "%v", err)
	}
	if len(b.Seeds) > maxSeeds {
		return nil, wire.Errorf(wire.TooLarge, "bundle", "%d seeds, at most %d", len(b.Seeds), maxSeeds)
	}
	for _, s := range b.Seeds {
		if err := s.Check(b.Domain); err != nil {
			return nil, wire.Errorf(wire.Malformed, "bundle", "%v", err)
		}
	}
	return b.Certificate()
}

// Certificate returns the root certificate. It refuses a certificate that is not a certificate authority, signed by
// itself, for exactly the bundle's domain.
func (b *Bundle) Certificate() (*x509.Certificate, error) {
	if len(b.Root) > maxBundle {
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
	if err := lineage.CheckRoot(c, b.Domain); err != nil {
		return nil, wire.Errorf(wire.Invalid, "bundle", "root certificate of %s: %v", b.Domain, err)
	}
	return c, nil
}

// Check refuses a seed that is not a node of the organization, or has no address to connect to.
func (s Seed) Check(d wire.Domain) error {
	if err := s.Node.Check(); err != nil {
		return err
	}
	if s.Node.Organization() != d {
		return fmt.Errorf("seed %s is not a node of %s", s.Node, d)
	}
	return CheckAddress(s.Address)
}

// CheckAddress refuses an address that is not "host:port" with a host to reach and a port number. The host is an IP
// address or a DNS name.
func CheckAddress(a string) error {
	if len(a) > maxAddress {
		return fmt.Errorf("address of %d bytes, at most %d", len(a), maxAddress)
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

// decodeStrict decodes one JSON value. It refuses unknown fields and further data.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows the end of the JSON object")
	}
	return nil
}
