package lineage

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// Domain separators of signatures.
const (
	linkLabel      = "mlsfed link 1\x00"
	statementLabel = "mlsfed statement 1\x00"
)

// Signed is the encoding of a link or a statement with its signatures, as a document has it.
type Signed struct {
	Body       []byte      `cbor:"1,keyasint"` // the encoding of a Link or a Statement
	Signatures []Signature `cbor:"2,keyasint"` // one or two, in ascending order of their key ids
}

// Signature is one signature over a label and a body.
type Signature struct {
	_     struct{} `cbor:",toarray"`
	Key   KeyID
	Bytes []byte
}

// KeyID is the first 8 bytes of the SHA-256 of a key's SubjectPublicKeyInfo.
type KeyID [keyIDSize]byte

// Link has the roots of an organization from one change of them to the next.
type Link struct {
	Domain   wire.Domain `cbor:"1,keyasint"`
	Previous *wire.Hash  `cbor:"2,keyasint,omitempty"` // nil in link 0
	Roots    [][]byte    `cbor:"3,keyasint"`           // DER; the first signs nodes
	Recovery wire.Hash   `cbor:"4,keyasint"`           // SHA-256 of the SubjectPublicKeyInfo of the recovery key, Ed25519
	Key      []byte      `cbor:"5,keyasint,omitempty"` // SubjectPublicKeyInfo of the recovery key: only in a recovery link, which this key signs
}

// Statement is signed by a root of the link in force. It is made again and again; links are rare.
type Statement struct {
	Domain   wire.Domain `cbor:"1,keyasint"`
	Link     wire.Hash   `cbor:"2,keyasint"` // the link in force
	Serial   uint64      `cbor:"3,keyasint"` // milliseconds since 1970; grows from one statement of a link to the next
	Issued   wire.Time   `cbor:"4,keyasint"`
	Expires  wire.Time   `cbor:"5,keyasint"`
	Contacts []string    `cbor:"6,keyasint"` // mailto:, https: or mimi:
}

// maxSerial is the greatest serial: the greatest wire.Time.
const maxSerial = 1<<63 - 1

// Check implements wire.Checker.
func (s *Signed) Check() error {
	if n := len(s.Signatures); n < 1 || n > maxSigners {
		return fmt.Errorf("%d signatures, wanted 1 to %d", n, maxSigners)
	}
	for i, g := range s.Signatures {
		if len(g.Bytes) == 0 || len(g.Bytes) > maxSignature {
			return fmt.Errorf("a signature of %d bytes, wanted 1 to %d", len(g.Bytes), maxSignature)
		}
		if i > 0 && bytes.Compare(s.Signatures[i-1].Key[:], g.Key[:]) >= 0 {
			return fmt.Errorf("signatures are not in ascending order of their key ids")
		}
	}
	return nil
}

// Check implements wire.Checker. It does not parse the certificates.
func (l *Link) Check() error {
	if err := l.Domain.Check(); err != nil {
		return err
	}
	if n := len(l.Roots); n < 1 || n > MaxRoots {
		return fmt.Errorf("a link with %d roots, wanted 1 to %d", n, MaxRoots)
	}
	for _, r := range l.Roots {
		if len(r) == 0 || len(r) > MaxRoot {
			return fmt.Errorf("a root certificate of %d bytes, wanted 1 to %d", len(r), MaxRoot)
		}
	}
	if len(l.Key) > 0 && l.Previous == nil {
		return fmt.Errorf("a first link with a recovery key: only a recovery link has it")
	}
	return nil
}

// Check implements wire.Checker. It reads no clock.
func (s *Statement) Check() error {
	if err := s.Domain.Check(); err != nil {
		return err
	}
	if s.Serial == 0 || s.Serial > maxSerial || s.Issued <= 0 || s.Issued > maxTime || s.Expires <= s.Issued {
		return fmt.Errorf("a statement with serial %d, issued at %d and expiring at %d", s.Serial, s.Issued, s.Expires)
	}
	if int64(s.Expires-s.Issued) > MaxValidity.Milliseconds() {
		return fmt.Errorf("a statement that is valid for more than %d days", MaxValidity/day)
	}
	if len(s.Contacts) > MaxContacts {
		return fmt.Errorf("a statement with %d contacts, at most %d", len(s.Contacts), MaxContacts)
	}
	for _, c := range s.Contacts {
		if err := checkContact(c); err != nil {
			return err
		}
	}
	return nil
}

// maxTime is the end of the year 9998, in milliseconds since 1970. Later times cannot be written in four digits.
const maxTime = 253370764800000

// schemes are those of a contact.
var schemes = []string{"mailto:", "https:", "mimi:"}

func checkContact(c string) error {
	if len(c) > MaxContact {
		return fmt.Errorf("a contact of %d bytes, at most %d", len(c), MaxContact)
	}
	for _, scheme := range schemes {
		if rest, ok := strings.CutPrefix(c, scheme); ok && rest != "" && wire.Line(c) == c && !strings.Contains(c, " ") {
			return nil
		}
	}
	return fmt.Errorf("contact %.80q: wanted a URI that begins with one of %s", wire.Line(c), strings.Join(schemes, " "))
}

// LinkHash returns the hash by which other structures name a link: the SHA-256 of its body. Signatures do not change it.
func LinkHash(body []byte) wire.Hash { return sha256.Sum256(body) }

// RootHash returns the hash of a root certificate: the SHA-256 of its DER.
func RootHash(der []byte) wire.Hash { return sha256.Sum256(der) }

// keyIDOf returns the id of a public key and its SubjectPublicKeyInfo.
func keyIDOf(public crypto.PublicKey) (id KeyID, spki []byte, err error) {
	spki, err = x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return id, nil, err
	}
	h := sha256.Sum256(spki)
	return KeyID(h[:keyIDSize]), spki, nil
}

// verify verifies one signature.
func verify(public crypto.PublicKey, label string, body, signature []byte) bool {
	input := append([]byte(label), body...)
	switch key := public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, input, signature)
	case *ecdsa.PublicKey:
		h := sha256.Sum256(input)
		return ecdsa.VerifyASN1(key, h[:], signature)
	}
	return false
}

// signedBy refuses a Signed whose signatures are not all valid, each of another one of the keys.
func (s *Signed) signedBy(label string, keys []crypto.PublicKey) error {
	for _, g := range s.Signatures {
		found := false
		for _, k := range keys {
			id, _, err := keyIDOf(k)
			if err == nil && id == g.Key {
				found = verify(k, label, s.Body, g.Bytes)
				break
			}
		}
		if !found {
			return fmt.Errorf("a signature with key id %x is not valid, or not of a key that may sign", g.Key)
		}
	}
	return nil
}

// sign encodes a body and signs it. random is used by ECDSA; nil: crypto/rand.
func sign(label string, body wire.Checker, random io.Reader, keys ...crypto.Signer) ([]byte, error) {
	if err := body.Check(); err != nil {
		return nil, err
	}
	raw, err := wire.Encode(body)
	if err != nil {
		return nil, err
	}
	if random == nil {
		random = rand.Reader
	}
	s := &Signed{Body: raw}
	for _, k := range keys {
		id, _, err := keyIDOf(k.Public())
		if err != nil {
			return nil, err
		}
		input, opts := append([]byte(label), raw...), crypto.SignerOpts(crypto.Hash(0))
		if _, ok := k.Public().(*ecdsa.PublicKey); ok {
			h := sha256.Sum256(input)
			input, opts = h[:], crypto.SHA256
		}
		g := Signature{Key: id}
		if g.Bytes, err = k.Sign(random, input, opts); err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		s.Signatures = append(s.Signatures, g)
	}
	if len(s.Signatures) == 2 && bytes.Compare(s.Signatures[0].Key[:], s.Signatures[1].Key[:]) > 0 {
		s.Signatures[0], s.Signatures[1] = s.Signatures[1], s.Signatures[0]
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return wire.Encode(s)
}

// SignLink makes a signed link. Roots of the previous link sign an ordinary link, the recovery key a recovery link,
// and a root of its own link 0.
func SignLink(l *Link, random io.Reader, keys ...crypto.Signer) ([]byte, error) {
	return sign(linkLabel, l, random, keys...)
}

// SignStatement makes a signed statement. Roots of its link sign it.
func SignStatement(s *Statement, random io.Reader, keys ...crypto.Signer) ([]byte, error) {
	return sign(statementLabel, s, random, keys...)
}

// RecoveryHash returns what a link has as Recovery for a recovery key.
func RecoveryHash(key ed25519.PublicKey) (wire.Hash, error) {
	_, spki, err := keyIDOf(key)
	return sha256.Sum256(spki), err
}

// CheckRoot checks the root certificate of an organization. The domain is its only name, so that no root is admitted
// for another domain. CheckRoot reads no clock.
func CheckRoot(c *x509.Certificate, d wire.Domain) error {
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
