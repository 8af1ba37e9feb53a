package directory

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// rawKey is a key of a scheme that crypto/x509 does not know.
type rawKey struct {
	rawScheme
	key []byte
}

// rawScheme is the algorithm that a certificate names, and a cipher suite that signs with it.
type rawScheme struct {
	oid   asn1.ObjectIdentifier
	suite mlscore.CipherSuite
}

// rawSchemes are Ed448 (RFC 8410 §3) and ML-DSA-44, -65 and -87 (RFC 9881 §2) by how long their keys are, in bytes.
var rawSchemes = map[int]rawScheme{
	57:   {asn1.ObjectIdentifier{1, 3, 101, 113}, mlscore.MLS256X448AES256Ed448},
	1312: {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, mlscore.MLS128MLKEM768X25519ChaCha20MLDSA44},
	1952: {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, mlscore.MLS192MLKEM768AES256MLDSA65},
	2592: {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, mlscore.MLS256MLKEM1024AES256MLDSA87},
}

// curve is the curve of an uncompressed point of that many bytes, and its hash in MLS (RFC 9420 §17.1).
func curve(size int) (elliptic.Curve, crypto.Hash) {
	switch size {
	case 65:
		return elliptic.P256(), crypto.SHA256
	case 97:
		return elliptic.P384(), crypto.SHA384
	case 133:
		return elliptic.P521(), crypto.SHA512
	}
	return nil, 0
}

// publicKey reads a signature key of any of MLS's schemes (RFC 9420 §5.1.1): they differ in length.
func publicKey(key []byte) (crypto.PublicKey, error) {
	if len(key) == ed25519.PublicKeySize {
		return ed25519.PublicKey(key), nil
	}
	if s, ok := rawSchemes[len(key)]; ok {
		return rawKey{s, key}, nil
	}
	if c, _ := curve(len(key)); c != nil {
		pub, err := ecdsa.ParseUncompressedPublicKey(c, key)
		if err == nil {
			return pub, nil
		}
	}
	return nil, wire.Errorf(wire.Malformed, "signature key", "%d bytes that are a key of no known scheme", len(key))
}

// Verify checks a signature by a device's key: Ed25519 and Ed448 over the message (RFC 8032), ML-DSA over it with
// an empty context (FIPS 204), ECDSA in ASN.1 over its hash, as in RFC 9420 §5.1.2. wire.Denied if it does not verify.
func Verify(key, message, signature []byte) error {
	pub, err := publicKey(key)
	if err != nil {
		return err
	}
	ok := false
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, message, signature)
	case rawKey:
		ok = mlscore.VerifySignature(pub.suite, key, message, signature) == nil
	case *ecdsa.PublicKey:
		_, hash := curve(len(key))
		h := hash.New()
		h.Write(message)
		ok = ecdsa.VerifyASN1(pub, h.Sum(nil), signature)
	}
	if !ok {
		return wire.Errorf(wire.Denied, "verify", "the signature is not by that key")
	}
	return nil
}

// info is the key's SubjectPublicKeyInfo, without parameters (RFC 8410 §4, RFC 9881 §2).
func (k rawKey) info() ([]byte, error) {
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: k.oid}, asn1.BitString{Bytes: k.key, BitLength: 8 * len(k.key)}})
}
