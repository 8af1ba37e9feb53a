package organization

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/mlsfed/mlsfed/federation/lineage"
	"github.com/mlsfed/mlsfed/wire"
)

const recordVersion = 1

// Record has the address of a node. The node signs the record with the key of its certificate, which its organization
// has signed: the organization vouches for the record, and any node may pass it on.
type Record struct {
	Version uint8       `cbor:"1,keyasint"`
	Node    wire.NodeID `cbor:"2,keyasint"`
	Address string      `cbor:"3,keyasint"` // "host:port"
	// Number orders the records of a node: the greatest counts. It is the time in milliseconds, or one more than the
	// number before if the clock is behind that.
	Number      wire.Time `cbor:"4,keyasint"`
	Certificate []byte    `cbor:"5,keyasint"` // the node's, DER
	Signature   []byte    `cbor:"6,keyasint,omitempty"`
	// OrdersOnly says that the node holds replicas of conversations and nothing else: devices, their
	// streams and KeyPackages are on other nodes of its organization.
	OrdersOnly bool `cbor:"7,keyasint,omitempty"`
}

// Check refuses a record that breaks a rule which needs neither clock nor allow-list.
func (r *Record) Check() error {
	if r.Version != recordVersion {
		return wire.Errorf(wire.Version, "record", "version %d, this node knows %d", r.Version, recordVersion)
	}
	if err := r.Node.Check(); err != nil {
		return wire.Errorf(wire.Malformed, "record", "%v", err)
	}
	if err := CheckAddress(r.Address); err != nil {
		return wire.Errorf(wire.Malformed, "record", "%v", err)
	}
	if r.Number <= 0 || len(r.Certificate) == 0 || len(r.Signature) == 0 {
		return wire.Errorf(wire.Malformed, "record", "without a number, a certificate or a signature")
	}
	return nil
}

// signingInput is a domain separator and the record without its signature.
func (r *Record) signingInput() ([]byte, error) {
	bare := *r
	bare.Signature = nil
	b, err := wire.Encode(&bare)
	if err != nil {
		return nil, err
	}
	return append([]byte("mlsfed node record 1\x00"), b...), nil
}

// SignRecord makes the record of the identity's node and returns its encoding.
func (id *Identity) SignRecord(address string, number wire.Time, ordersOnly bool) ([]byte, error) {
	r := &Record{
		Version: recordVersion, Node: id.Node, Address: address, Number: number, Certificate: id.Certificate().Raw, OrdersOnly: ordersOnly,
	}
	input, err := r.signingInput()
	if err != nil {
		return nil, err
	}
	digest, opts := input, crypto.SignerOpts(crypto.Hash(0))
	if _, ok := id.key.Public().(*ecdsa.PublicKey); ok {
		h := sha256.Sum256(input)
		digest, opts = h[:], crypto.SHA256
	}
	if r.Signature, err = id.key.Sign(rand.Reader, digest, opts); err != nil {
		return nil, fmt.Errorf("sign node record: %w", err)
	}
	return wire.Encode(r)
}

// maxAhead is how far a record's number may be ahead of this node's clock. Otherwise the record of a node
// whose clock once was wrong would hide those that follow.
const maxAhead = 24 * time.Hour

// VerifiedRecord is a record whose certificate and signature were verified.
type VerifiedRecord struct {
	*Record
	Root *x509.Certificate // under which the certificate was verified
	Ends time.Time         // of the certificate
}

// Record decodes a record of at most limit bytes and verifies all but its newness. The error is a *Refusal.
func (v *Verifier) Record(b []byte, limit int) (*VerifiedRecord, error) {
	return verifyRecord(b, limit, v.Root, v.now())
}

// DocumentRecord decodes and verifies a record that the document of an organization has, when its root is known from
// the document's links. The record names a node of this organization, at port 443 or a port from 1024 on: no operator
// has admitted the address. The error is a *Refusal.
func DocumentRecord(b []byte, d wire.Domain, root *x509.Certificate, now time.Time) (*VerifiedRecord, error) {
	r, err := verifyRecord(b, lineage.MaxRecord, func(other wire.Domain) (*x509.Certificate, error) {
		if other != d {
			return nil, refuse(ReasonWrongOrganization, "the document of %s has a record of a node of %s", d, other)
		}
		return root, nil
	}, now)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, refuse(ReasonMalformed, "%v", err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < 1024 && n != 443 {
		return nil, refuse(ReasonMalformed, "the record of %s in its document names port %s, wanted 443 or 1024 to 65535", r.Node, port)
	}
	return r, nil
}

// verifyRecord verifies a record under the root of its organization.
func verifyRecord(b []byte, limit int, rootOf func(wire.Domain) (*x509.Certificate, error), now time.Time) (*VerifiedRecord, error) {
	if len(b) > limit {
		return nil, refuse(reasonOversized, "a record of %d bytes, at most %d", len(b), limit)
	}
	r := new(Record)
	if err := wire.Decode(b, limit, r); err != nil {
		return nil, refuse(ReasonMalformed, "%v", err)
	}
	root, err := rootOf(r.Node.Organization())
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, refuse(ReasonMalformed, "the certificate in the record of %s: %v", r.Node, err)
	}
	if n, err := nodeName(c); err != nil || n != r.Node {
		return nil, refuse(reasonForged, "the record of %s has the certificate of %.200q", r.Node, c.DNSNames)
	}
	if err := verifyNode(c, r.Node, root, x509.ExtKeyUsageServerAuth, now); err != nil {
		return nil, err
	}
	if !r.verify(c) {
		return nil, refuse(reasonForged, "the record of %s is not signed by its certificate's key", r.Node)
	}
	if r.Number.Std().After(now.Add(maxAhead)) {
		return nil, refuse(reasonFuture, "the record of %s is from %s: one of our clocks is wrong", r.Node, r.Number.Std().Format(time.RFC3339))
	}
	return &VerifiedRecord{Record: r, Root: root, Ends: c.NotAfter}, nil
}

func (r *Record) verify(c *x509.Certificate) bool {
	input, err := r.signingInput()
	if err != nil {
		return false
	}
	switch key := c.PublicKey.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, input, r.Signature)
	case *ecdsa.PublicKey:
		h := sha256.Sum256(input)
		return ecdsa.VerifyASN1(key, h[:], r.Signature)
	}
	return false
}
