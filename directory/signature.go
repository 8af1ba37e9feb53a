package directory

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/mlsfed/mlsfed/wire"
)

// oidEd448 is id-Ed448 (RFC 8410 §3), which crypto/x509 does not know.
var oidEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}

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
	switch len(key) {
	case ed25519.PublicKeySize:
		return ed25519.PublicKey(key), nil
	case ed448.PublicKeySize:
		return ed448.PublicKey(key), nil
	}
	if c, _ := curve(len(key)); c != nil {
		pub, err := ecdsa.ParseUncompressedPublicKey(c, key)
		if err == nil {
			return pub, nil
		}
	}
	return nil, wire.Errorf(wire.Malformed, "signature key", "%d bytes that are a key of no known scheme", len(key))
}

// Verify checks a signature by a device's key: Ed25519 and Ed448 over the message (RFC 8032), ECDSA in
// ASN.1 over its hash, as in RFC 9420 §5.1.2. wire.Denied if it does not verify.
func Verify(key, message, signature []byte) error {
	pub, err := publicKey(key)
	if err != nil {
		return err
	}
	ok := false
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, message, signature)
	case ed448.PublicKey:
		ok = ed448.Verify(pub, message, signature, "")
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

// ed448Info is the SubjectPublicKeyInfo of an Ed448 key (RFC 8410 §4).
func ed448Info(key ed448.PublicKey) ([]byte, error) {
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oidEd448}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
}
