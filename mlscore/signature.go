package mlscore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"io"

	"github.com/cloudflare/circl/ecc/goldilocks"
	"github.com/cloudflare/circl/sign/ed448"
)

// signatureScheme is a signature algorithm (RFC 9420 §5.1.2). Signing is deterministic in the key and the message. An
// implementation has no state except a cache of prepared public keys.
type signatureScheme interface {
	generate(rand io.Reader) (priv []byte, err error)
	newSigningKey(priv []byte) (signingKey, error)
	validate(pub []byte) error
	keyLengths() []int // of public keys in bytes, refused forms included
	verify(pub, message, signature []byte) bool
}

// signingKey is a private key prepared for use; the preparation costs about as much as a signature.
type signingKey interface {
	publicKey() ([]byte, error)
	sign(message []byte) ([]byte, error)
}

// generateSignatureKey makes a signature key pair that depends only on the next bytes of rand. The private key is a
// seed for Ed25519 (32 bytes) and Ed448 (57), and a big-endian scalar of the size of the field for ECDSA.
func (s *suite) generateSignatureKey(rand io.Reader) (priv Secret, pub []byte, err error) {
	key, err := s.signature.generate(rand)
	if err != nil {
		return Secret{}, nil, err
	}
	pub, err = s.signaturePublicKey(key)
	if err != nil {
		return Secret{}, nil, err
	}
	return ownSecret(key), pub, nil
}

// Sign signs a message with a cipher suite's signature scheme, without a label of MLS, for proofs of a device outside
// of a group. The caller must ensure that such a message differs from the messages of RFC 9420 §5.1.2, which begin
// with the length of a label. Signing is deterministic. It returns ErrUnsupported for an unknown suite,
// ErrMisuse for a key that is not one of the suite.
func Sign(cs CipherSuite, priv Secret, message []byte) ([]byte, error) {
	s, err := suiteOf(cs)
	if err != nil {
		return nil, err
	}
	key, err := s.signature.newSigningKey(priv.Bytes())
	if err != nil {
		return nil, err
	}
	return key.sign(message)
}

// VerifySignature checks a signature of Sign. It returns ErrForged if the signature is not by that key, or if the key
// is invalid in the suite.
func VerifySignature(cs CipherSuite, pub, message, signature []byte) error {
	s, err := suiteOf(cs)
	if err != nil {
		return err
	}
	if s.signature.validate(pub) != nil || !s.signature.verify(pub, message, signature) {
		return fail(ErrForged, "", "signature", "is not by that key")
	}
	return nil
}

// signaturePublicKey computes the public key of a signature private key.
func (s *suite) signaturePublicKey(priv []byte) ([]byte, error) {
	key, err := s.signature.newSigningKey(priv)
	if err != nil {
		return nil, err
	}
	return key.publicKey()
}

// validateSignatureKey refuses a signature public key under which nobody or anybody could sign. It returns
// ErrMalformed if the key is not a point in the form of RFC 9420 §5.1.1, ErrInvalid if it is a point of small order.
func (s *suite) validateSignatureKey(pub []byte) error { return s.signature.validate(pub) }

func notAPoint() error {
	return fail(ErrMalformed, "§5.1.1", "signature key", "no point of the curve")
}

func weakSignatureKey() error {
	return fail(ErrInvalid, "§5.1.1", "signature key", "a point of small order: anyone can sign for it")
}

// ed25519Scheme implements Ed25519 (RFC 8032) with the predicate of crypto/ed25519, which is not cofactored.
type ed25519Scheme struct{}

func (ed25519Scheme) generate(rand io.Reader) ([]byte, error) {
	return readSeed(rand, ed25519.SeedSize)
}

func (ed25519Scheme) newSigningKey(priv []byte) (signingKey, error) {
	if err := privateKeyLength(priv, ed25519.SeedSize); err != nil {
		return nil, err
	}
	return &ed25519Key{ed25519.NewKeyFromSeed(priv)}, nil
}

func (ed25519Scheme) validate(pub []byte) error {
	if err := keyLength(pub, ed25519.PublicKeySize); err != nil {
		return err
	}
	k := ed25519Keys.get(pub)
	if k == nil || !reducedEd25519(pub) {
		return notAPoint()
	}
	if k.point.smallOrder() {
		return weakSignatureKey()
	}
	return nil
}

// reducedEd25519 reports whether y is below p = 2^255 - 19, as RFC 8032 §5.1.3 requires and crypto/ed25519 does not
// check: a key with a second encoding would count as two keys where keys must be unique.
func reducedEd25519(pub []byte) bool {
	if pub[0] < 0xed || pub[31]&0x7f != 0x7f {
		return true
	}
	for _, b := range pub[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// eachVerifier is a signature scheme that verifies many signatures together at a lower cost. Each result is the same
// as that of verify.
type eachVerifier interface {
	verifyEach(items []signedItem) []bool
}

// verifyEach reports for each signature whether it verifies.
func (s *suite) verifyEach(items []signedItem) []bool {
	if together, ok := s.signature.(eachVerifier); ok {
		return together.verifyEach(items)
	}
	verdicts := make([]bool, len(items))
	for i, item := range items {
		verdicts[i] = s.signature.verify(item.pub, item.message, item.signature)
	}
	return verdicts
}

func (ed25519Scheme) keyLengths() []int { return []int{ed25519.PublicKeySize} }

func (ed25519Scheme) verify(pub, message, signature []byte) bool {
	k := ed25519Keys.get(pub)
	return k != nil && k.verify(message, signature)
}

// verifyEach computes all points first, and then their encodings with one inversion for all.
func (ed25519Scheme) verifyEach(items []signedItem) []bool {
	verdicts := make([]bool, len(items))
	points := make([]edPoint, len(items))
	for i, item := range items {
		k := ed25519Keys.get(item.pub)
		verdicts[i] = k != nil && k.recompute(&points[i], item.message, item.signature)
		if !verdicts[i] {
			points[i].identity() // the common inversion must not contain a zero
		}
	}
	for i, r := range edEncodeAll(points) {
		verdicts[i] = verdicts[i] && bytes.Equal(r[:], items[i].signature[:32])
	}
	return verdicts
}

type ed25519Key struct{ key ed25519.PrivateKey }

func (k *ed25519Key) publicKey() ([]byte, error) { return bytes.Clone(k.key[ed25519.SeedSize:]), nil }

func (k *ed25519Key) sign(message []byte) ([]byte, error) { return ed25519.Sign(k.key, message), nil }

// ed448Scheme implements Ed448 (RFC 8032) with an empty context.
type ed448Scheme struct{}

func (ed448Scheme) generate(rand io.Reader) ([]byte, error) { return readSeed(rand, ed448.SeedSize) }

func (ed448Scheme) newSigningKey(priv []byte) (signingKey, error) {
	if err := privateKeyLength(priv, ed448.SeedSize); err != nil {
		return nil, err
	}
	return &ed448Key{ed448.NewKeyFromSeed(priv)}, nil
}

func (ed448Scheme) validate(pub []byte) error {
	if err := keyLength(pub, ed448.PublicKeySize); err != nil {
		return err
	}
	p, err := goldilocks.FromBytes(pub) // accepts only reduced encodings
	if err != nil {
		return notAPoint()
	}
	p.Double()
	p.Double() // the cofactor is 4
	if p.IsIdentity() {
		return weakSignatureKey()
	}
	return nil
}

func (ed448Scheme) keyLengths() []int { return []int{ed448.PublicKeySize} }

func (ed448Scheme) verify(pub, message, signature []byte) bool {
	return ed448.Verify(pub, message, signature, "")
}

type ed448Key struct{ key ed448.PrivateKey }

func (k *ed448Key) publicKey() ([]byte, error) { return bytes.Clone(k.key[ed448.SeedSize:]), nil }

func (k *ed448Key) sign(message []byte) ([]byte, error) { return ed448.Sign(k.key, message, ""), nil }

// ecdsaScheme implements ECDSA with uncompressed public keys, DER signatures (RFC 8446 §4.2.3) and the nonces of RFC
// 6979.
type ecdsaScheme struct {
	curve elliptic.Curve
	hash  crypto.Hash
	kdf   *kdf // whose hash function is hash
	size  int  // bytes of a scalar
	mask  byte // bits of a scalar's first byte that the order leaves

	compressed bool // accepts public keys that are compressed points
}

var (
	ecdsaP256 = &ecdsaScheme{curve: elliptic.P256(), hash: crypto.SHA256, kdf: hkdfSHA256, size: 32, mask: 0xff}
	ecdsaP384 = &ecdsaScheme{curve: elliptic.P384(), hash: crypto.SHA384, kdf: hkdfSHA384, size: 48, mask: 0xff}
	ecdsaP521 = &ecdsaScheme{curve: elliptic.P521(), hash: crypto.SHA512, kdf: hkdfSHA512, size: 66, mask: 0x01}
)

// generate returns the first candidate from rand that is a scalar. At most one in 2^32 candidates is not a scalar, so
// 64 such candidates in a row mean a broken random source.
func (e *ecdsaScheme) generate(rand io.Reader) ([]byte, error) {
	for range 64 {
		candidate, err := readSeed(rand, e.size)
		if err != nil {
			return nil, err
		}
		candidate[0] &= e.mask
		if _, err := ecdsa.ParseRawPrivateKey(e.curve, candidate); err == nil {
			return candidate, nil
		}
	}
	return nil, fail(ErrMisuse, "", "random source", "gave 64 candidates that are no private key")
}

func (e *ecdsaScheme) newSigningKey(priv []byte) (signingKey, error) {
	key, err := ecdsa.ParseRawPrivateKey(e.curve, priv)
	if err != nil {
		return nil, fail(ErrMisuse, "", "signature private key", "%d bytes that are no scalar of the curve", len(priv))
	}
	return &ecdsaKey{e, key}, nil
}

func (e *ecdsaScheme) validate(pub []byte) error {
	if _, err := e.parse(pub); err != nil {
		return within("signature key", ErrMalformed, notOnCurve(pub))
	}
	return nil
}

// keyLengths returns the lengths of an uncompressed and of a compressed point.
func (e *ecdsaScheme) keyLengths() []int { return []int{1 + 2*e.size, 1 + e.size} }

func (e *ecdsaScheme) digest(message []byte) []byte {
	h := e.kdf.get()
	defer e.kdf.put(h)
	return h.sum(make([]byte, 0, e.kdf.size), message)
}

func (e *ecdsaScheme) verify(pub, message, signature []byte) bool {
	key, err := e.parse(pub)
	return err == nil && ecdsa.VerifyASN1(key, e.digest(message), signature)
}

type ecdsaKey struct {
	scheme *ecdsaScheme
	key    *ecdsa.PrivateKey
}

func (k *ecdsaKey) publicKey() ([]byte, error) { return k.key.PublicKey.Bytes() }

// sign calls Sign without randomness, which makes it RFC 6979.
func (k *ecdsaKey) sign(message []byte) ([]byte, error) {
	return k.key.Sign(nil, k.scheme.digest(message), k.scheme.hash)
}
