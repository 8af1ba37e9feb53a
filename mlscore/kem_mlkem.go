package mlscore

import (
	"crypto/ecdh"
	"crypto/sha3"
	"encoding/binary"
	"io"

	"github.com/cloudflare/circl/dh/x25519"
	circlkem "github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
)

// The KEMs of draft-ietf-hpke-pq: ML-KEM (FIPS 203) alone, and combined with a Diffie-Hellman group.
var (
	kemMLKEM768     = &mlKEM{0x0041, mlkem768.Scheme(), labeledSeed}
	kemMLKEM1024    = &mlKEM{0x0042, mlkem1024.Scheme(), labeledSeed}
	kemMLKEM768P256 = &hybridKEM{
		kemID:    0x0050,
		label:    "MLKEM768-P256",
		pq:       kemMLKEM768,
		group:    nistGroup{ecdh.P256()},
		scalar:   32,
		attempts: 4,
		seed:     labeledSeed,
	}
	kemMLKEM1024P384 = &hybridKEM{
		kemID:    0x0051,
		label:    "MLKEM1024-P384",
		pq:       kemMLKEM1024,
		group:    nistGroup{ecdh.P384()},
		scalar:   48,
		attempts: 1,
		seed:     labeledSeed,
	}
	// X-Wing
	kemMLKEM768X25519 = &hybridKEM{
		kemID:    0x647a,
		label:    `\.//^\`,
		pq:       kemMLKEM768,
		group:    groupX25519{},
		scalar:   x25519.Size,
		attempts: 1,
		seed:     labeledSeed,
	}
	// X-Wing with the key derivation of an older draft
	kemXWing06 = &hybridKEM{
		kemID:    0x647a,
		label:    `\.//^\`,
		pq:       kemMLKEM768,
		group:    groupX25519{},
		scalar:   x25519.Size,
		attempts: 1,
		seed:     plainSeed,
	}
)

// mlKEM implements ML-KEM. A private key is the seed d || z of FIPS 203's key generation, 64 bytes; therefore no
// private key of that length is malformed. Lengths are checked here, since parts of circl panic on a wrong length.
//
// Decapsulation of an enc that was not made for the key returns a shared secret that nobody else knows (implicit
// rejection): the AEAD then fails.
type mlKEM struct {
	kemID  uint16
	scheme circlkem.Scheme
	seed   seedDerivation
}

// seedDerivation returns the private key, a seed of n bytes, that DeriveKeyPair derives from ikm.
type seedDerivation func(kemID uint16, ikm []byte, n int) []byte

// labeledSeed implements the derivation of draft-ietf-hpke-pq.
func labeledSeed(kemID uint16, ikm []byte, n int) []byte {
	return labeledDerive(kemID, ikm, "DeriveKeyPair", n)
}

// plainSeed implements the derivation of draft-connolly-cfrg-xwing-kem-06: SHAKE256 without labels.
func plainSeed(_ uint16, ikm []byte, n int) []byte {
	x := sha3.NewSHAKE256()
	_, _ = x.Write(ikm) // never fails, as Read does not
	out := make([]byte, n)
	_, _ = x.Read(out)
	return out
}

func (k *mlKEM) id() uint16   { return k.kemID }
func (k *mlKEM) seedLen() int { return k.scheme.SeedSize() }

func (k *mlKEM) derive(ikm []byte) (priv, pub []byte, err error) {
	priv = k.seed(k.kemID, ikm, k.scheme.SeedSize())
	pub, err = k.publicKey(priv)
	return priv, pub, err
}

func (k *mlKEM) publicKey(priv []byte) ([]byte, error) {
	if err := privateKeyLength(priv, k.scheme.SeedSize()); err != nil {
		return nil, err
	}
	key, _ := k.scheme.DeriveKeyPair(priv)
	pub, err := key.MarshalBinary()
	return pub, within("public key", ErrMisuse, err)
}

// validate makes the encapsulation key check of FIPS 203 §7.2: it checks the length, and that all coefficients are
// below the modulus, so that a key has one encoding. In addition it refuses the key whose coefficients are all zero:
// only noise, which is too small, would hide a plaintext under that key.
//
// validate does not use circl's check: circl checks a key when it expands the key for use, which is most of the work
// of an encapsulation. A member validates the keys of a whole tree and uses few of them.
func (k *mlKEM) validate(pub []byte) error {
	if err := keyLength(pub, k.scheme.PublicKeySize()); err != nil {
		return err
	}
	coefficients := pub[:len(pub)-mlKEMRho]
	if !reduced(coefficients) {
		return fail(ErrMalformed, "§5.1.1", "public key", "not an ML-KEM key in its reduced form")
	}
	if allZero(coefficients) {
		return fail(ErrInvalid, "§5.1.1", "public key", "its coefficients are zero: what is encrypted to it anyone can read")
	}
	return nil
}

// reduced reports whether all coefficients, two in three bytes (FIPS 203 §4.2.1), are below the modulus.
func reduced(b []byte) bool {
	const modulus = 3329
	for ; len(b) >= 3; b = b[3:] {
		if v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16; v&0xfff >= modulus || v>>12 >= modulus {
			return false
		}
	}
	return true
}

// parse prepares a key for use.
func (k *mlKEM) parse(pub []byte) (circlkem.PublicKey, error) {
	if err := k.validate(pub); err != nil {
		return nil, err
	}
	key, err := k.scheme.UnmarshalBinaryPublicKey(pub)
	return key, within("public key", ErrMalformed, err)
}

// mlKEMRho is the length in bytes of the seed at the end of a public key.
const mlKEMRho = 32

// allZero is for public data: it is not constant-time.
func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// encap reads 32 bytes of rand.
func (k *mlKEM) encap(rand io.Reader, pub []byte) (shared, enc []byte, err error) {
	key, err := k.parse(pub)
	if err != nil {
		return nil, nil, err
	}
	seed, err := readSeed(rand, k.scheme.EncapsulationSeedSize())
	if err != nil {
		return nil, nil, err
	}
	defer clear(seed)
	enc, shared, err = k.scheme.EncapsulateDeterministically(key, seed)
	return shared, enc, within("public key", ErrMisuse, err)
}

func (k *mlKEM) decap(priv, enc []byte) (shared []byte, err error) {
	if err := privateKeyLength(priv, k.scheme.SeedSize()); err != nil {
		return nil, err
	}
	if err := encLength(enc, k.scheme.CiphertextSize()); err != nil {
		return nil, err
	}
	_, key := k.scheme.DeriveKeyPair(priv)
	shared, err = k.scheme.Decapsulate(key, enc)
	return shared, within("KEM output", ErrMisuse, err)
}

// encLength refuses a KEM output of another length.
func encLength(enc []byte, want int) error {
	if len(enc) != want {
		return fail(ErrMalformed, "", "KEM output", "%d bytes, %d are needed", len(enc), want)
	}
	return nil
}

// hybridKEM implements a KEM of draft-irtf-cfrg-concrete-hybrid-kems: SHA3-256 combines the results of ML-KEM and of
// Diffie-Hellman, so that the secret is safe while one of the two is safe. Keys and outputs are those of ML-KEM
// followed by those of the group. A private key is a seed of 32 bytes.
type hybridKEM struct {
	kemID    uint16
	label    string
	pq       *mlKEM
	group    dhGroup
	scalar   int // bytes of a private key of the group
	attempts int // number of candidates for such a key; the first candidate is nearly always valid
	seed     seedDerivation
}

// hybridSeed is the length of a private key in bytes.
const hybridSeed = 32

func (k *hybridKEM) id() uint16 { return k.kemID }

// seedLen returns the number of bytes that encap needs, which is more than a key pair needs.
func (k *hybridKEM) seedLen() int {
	return k.pq.scheme.EncapsulationSeedSize() + k.attempts*k.scalar
}

func (k *hybridKEM) derive(ikm []byte) (priv, pub []byte, err error) {
	priv = k.seed(k.kemID, ikm, hybridSeed)
	pub, err = k.publicKey(priv)
	return priv, pub, err
}

// expand derives the two private keys from a seed.
func (k *hybridKEM) expand(priv []byte) (pq []byte, t dhPrivateKey, err error) {
	if err := privateKeyLength(priv, hybridSeed); err != nil {
		return nil, nil, err
	}
	x := sha3.NewSHAKE256()
	_, _ = x.Write(priv) // never fails
	if pq, err = readSeed(x, k.pq.scheme.SeedSize()); err != nil {
		return nil, nil, err
	}
	t, err = k.randomKey(x)
	return pq, t, err
}

// randomKey implements RandomScalar: it returns the first candidate that is a private key of the group. The
// probability that no candidate is valid is below 2^-128.
func (k *hybridKEM) randomKey(random io.Reader) (dhPrivateKey, error) {
	for range k.attempts {
		candidate, err := readSeed(random, k.scalar)
		if err != nil {
			return nil, err
		}
		key, err := k.group.newPrivateKey(candidate)
		clear(candidate)
		if err == nil {
			return key, nil
		}
	}
	return nil, fail(ErrMisuse, "", "random source", "no candidate of %d is a private key", k.attempts)
}

func (k *hybridKEM) publicKey(priv []byte) ([]byte, error) {
	seed, t, err := k.expand(priv)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	pub, err := k.pq.publicKey(seed)
	return append(pub, t.publicKey()...), err
}

// split splits a public key into its two parts. The second part of a key that is too short is empty and therefore
// invalid.
func (k *hybridKEM) split(pub []byte) (pq, t []byte) {
	n := min(k.pq.scheme.PublicKeySize(), len(pub))
	return pub[:n:n], pub[n:]
}

func (k *hybridKEM) validate(pub []byte) error {
	pq, t := k.split(pub)
	if err := k.pq.validate(pq); err != nil {
		return err
	}
	return k.group.validate(t)
}

// encap reads ML-KEM's randomness and then the ephemeral key from rand: seedLen bytes are enough.
func (k *hybridKEM) encap(rand io.Reader, pub []byte) (shared, enc []byte, err error) {
	pq, t := k.split(pub)
	sharedPQ, enc, err := k.pq.encap(rand, pq)
	if err != nil {
		return nil, nil, err
	}
	defer clear(sharedPQ)
	ephemeral, err := k.randomKey(rand)
	if err != nil {
		return nil, nil, err
	}
	sharedT, err := ephemeral.agree(t)
	if err != nil {
		return nil, nil, err
	}
	encT := ephemeral.publicKey()
	return k.combine(sharedPQ, sharedT, encT, t), append(enc, encT...), nil
}

func (k *hybridKEM) decap(priv, enc []byte) (shared []byte, err error) {
	seed, t, err := k.expand(priv)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	n := min(k.pq.scheme.CiphertextSize(), len(enc))
	encT := enc[n:]
	sharedPQ, err := k.pq.decap(seed, enc[:n])
	if err != nil {
		return nil, err
	}
	defer clear(sharedPQ)
	sharedT, err := t.agree(encT)
	if err != nil {
		return nil, within("KEM output", ErrMalformed, err)
	}
	return k.combine(sharedPQ, sharedT, encT, t.publicKey()), nil
}

// combine erases sharedT.
func (k *hybridKEM) combine(sharedPQ, sharedT, encT, pubT []byte) []byte {
	h := sha3.New256()
	for _, part := range [...][]byte{sharedPQ, sharedT, encT, pubT, []byte(k.label)} {
		_, _ = h.Write(part) // never fails
	}
	clear(sharedT)
	return h.Sum(nil)
}

// labeledDerive implements LabeledDerive of draft-ietf-hpke-hpke with SHAKE256 and an empty context.
func labeledDerive(kemID uint16, ikm []byte, label string, n int) []byte {
	var b []byte
	b = append(append(b, hpkeVersion...), kemIdentity(kemID)...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(label))), label...)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	x := sha3.NewSHAKE256()
	_, _ = x.Write(ikm) // never fails, as Read does not
	_, _ = x.Write(b)
	out := make([]byte, n)
	_, _ = x.Read(out)
	return out
}
