package federation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

const recordVersion = 1

// Record says where a node is. The node signs it with the key of its certificate, and its organization
// has signed that: so the organization vouches for it, and anyone may pass it on.
type Record struct {
	Version uint8       `cbor:"1,keyasint"`
	Node    wire.NodeID `cbor:"2,keyasint"`
	Address string      `cbor:"3,keyasint"` // "host:port"
	// Number orders the records of a node: the greatest counts. It is the time in milliseconds, or one
	// more than the number before where the clock stands behind that.
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
	if err := checkAddress(r.Address); err != nil {
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

// sign makes the record of the identity's node, and its encoding.
func (id *Identity) sign(address string, number wire.Time, ordersOnly bool) (*Record, []byte, error) {
	r := &Record{Version: recordVersion, Node: id.Node, Address: address, Number: number, Certificate: id.Certificate().Raw, OrdersOnly: ordersOnly}
	input, err := r.signingInput()
	if err != nil {
		return nil, nil, err
	}
	digest, opts := input, crypto.SignerOpts(crypto.Hash(0))
	if _, ok := id.key.Public().(*ecdsa.PublicKey); ok {
		h := sha256.Sum256(input)
		digest, opts = h[:], crypto.SHA256
	}
	if r.Signature, err = id.key.Sign(rand.Reader, digest, opts); err != nil {
		return nil, nil, fmt.Errorf("sign node record: %w", err)
	}
	b, err := wire.Encode(r)
	return r, b, err
}

// Why a record was dropped, besides the reasons for which a certificate is not believed.
const (
	recordMalformed = "malformed"
	recordOversized = "oversized"
	recordForged    = "forged"
	recordReplayed  = "replayed" // older than the one that is known
	recordFuture    = "future"   // numbered further ahead than clocks differ
	recordTooMany   = "too_many" // nodes of its organization
	recordFlood     = "flood"    // records came faster than they could be verified
)

// maxAhead is how far a record's number may be ahead of this node's clock. Otherwise the record of a node
// whose clock once was wrong would hide those that follow.
const maxAhead = 24 * time.Hour

// known is a verified record.
type known struct {
	*Record
	raw  []byte
	sum  recordSum         // of raw
	root *x509.Certificate // under which it was verified
	ends time.Time         // of the certificate
}

// decodeRecord reads a record of at most limit bytes and verifies all but its newness.
func (t *trust) decodeRecord(b []byte, limit int) (*known, error) {
	if len(b) > limit {
		return nil, refuse(recordOversized, "a record of %d bytes, at most %d", len(b), limit)
	}
	r := new(Record)
	if err := wire.Decode(b, limit, r); err != nil {
		return nil, refuse(recordMalformed, "%v", err)
	}
	root, err := t.root(r.Node.Organization())
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, refuse(recordMalformed, "the certificate in the record of %s: %v", r.Node, err)
	}
	if n, err := nodeName(c); err != nil || n != r.Node {
		return nil, refuse(recordForged, "the record of %s has the certificate of %.200q", r.Node, c.DNSNames)
	}
	if err := verifyNode(c, r.Node, root, x509.ExtKeyUsageServerAuth, t.clock.Now()); err != nil {
		return nil, err
	}
	if !r.verify(c) {
		return nil, refuse(recordForged, "the record of %s is not signed by its certificate's key", r.Node)
	}
	if r.Number.Std().After(t.clock.Now().Add(maxAhead)) {
		return nil, refuse(recordFuture, "the record of %s is from %s: one of our clocks is wrong", r.Node, r.Number.Std().Format(time.RFC3339))
	}
	return &known{r, b, sha256.Sum256(b), root, c.NotAfter}, nil
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
