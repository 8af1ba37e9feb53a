package mlscore

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"io"

	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// mlDSA implements ML-DSA (FIPS 204) as in TLS: the pure version with an empty context, here in its deterministic
// variant. A private key is the seed of FIPS 204's key generation, 32 bytes. A signature has only one encoding: hints
// that are repeated or not in ascending order are refused (FIPS 204 §7.1).
type mlDSA struct{ scheme sign.Scheme }

var (
	mlDSA44 = mlDSA{mldsa44.Scheme()}
	mlDSA65 = mlDSA{mldsa65.Scheme()}
	mlDSA87 = mlDSA{mldsa87.Scheme()}
)

// The algorithms of RFC 9881 §2, which crypto/x509 does not know.
var (
	oidMLDSA44 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}
	oidMLDSA65 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}
	oidMLDSA87 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}
)

// mlDSARho is the length in bytes of the seed at the beginning of a public key.
const mlDSARho = 32

func (d mlDSA) generate(rand io.Reader) ([]byte, error) { return readSeed(rand, d.scheme.SeedSize()) }

func (d mlDSA) newSigningKey(priv []byte) (signingKey, error) {
	if err := privateKeyLength(priv, d.scheme.SeedSize()); err != nil {
		return nil, err
	}
	pub, key := d.scheme.DeriveKey(priv)
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fail(ErrMisuse, "", "signature private key", "%s keys of this build do not sign", d.scheme.Name())
	}
	b, err := pub.MarshalBinary()
	if err != nil {
		return nil, within("signature key", ErrMisuse, err)
	}
	return &mlDSAKey{b, signer}, nil
}

// validate accepts any bytes of the right length, as FIPS 204 does, except the key whose coefficients are all zero:
// anybody can sign under that key.
func (d mlDSA) validate(pub []byte) error {
	if err := keyLength(pub, d.scheme.PublicKeySize()); err != nil {
		return within("signature key", ErrMalformed, err)
	}
	if allZero(pub[mlDSARho:]) {
		return fail(ErrInvalid, "§5.1.1", "signature key", "its coefficients are zero: anyone can sign for it")
	}
	return nil
}

func (d mlDSA) keyLengths() []int { return []int{d.scheme.PublicKeySize()} }

func (d mlDSA) verify(pub, message, signature []byte) bool {
	if len(signature) != d.scheme.SignatureSize() {
		return false
	}
	key, err := d.scheme.UnmarshalBinaryPublicKey(pub)
	return err == nil && d.scheme.Verify(key, message, signature, nil)
}

type mlDSAKey struct {
	pub []byte
	key crypto.Signer
}

func (k *mlDSAKey) publicKey() ([]byte, error) { return bytes.Clone(k.pub), nil }

// sign calls Sign without randomness: Sign takes none.
func (k *mlDSAKey) sign(message []byte) ([]byte, error) {
	return k.key.Sign(nil, message, crypto.Hash(0))
}
