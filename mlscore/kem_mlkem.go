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

// The KEMs of draft-ietf-hpke-pq: ML-KEM (FIPS 203) by itself, and beside a Diffie-Hellman group.
var (
	kemMLKEM768       = &mlKEM{0x0041, mlkem768.Scheme(), labeledSeed}
	kemMLKEM1024      = &mlKEM{0x0042, mlkem1024.Scheme(), labeledSeed}
	kemMLKEM768P256   = &hybridKEM{0x0050, "MLKEM768-P256", kemMLKEM768, nistGroup{ecdh.P256()}, 32, 4, labeledSeed}
	kemMLKEM1024P384  = &hybridKEM{0x0051, "MLKEM1024-P384", kemMLKEM1024, nistGroup{ecdh.P384()}, 48, 1, labeledSeed}
	kemMLKEM768X25519 = &hybridKEM{0x647a, `\.//^\`, kemMLKEM768, groupX25519{}, x25519.Size, 1, labeledSeed} // X-Wing
	kemXWing06        = &hybridKEM{0x647a, `\.//^\`, kemMLKEM768, groupX25519{}, x25519.Size, 1, plainSeed}   // its key derivation is that of an older draft
)

// mlKEM is ML-KEM. A private key is the seed d || z of FIPS 203's key generation, 64 bytes, which also
// settles that no private key can be malformed. Its lengths are checked here, since parts of circl
// panic on another.
//
// An enc that nobody made for the key opens to a shared secret that nobody else knows (implicit
// rejection): that it was bad shows in the AEAD.
type mlKEM struct {
	kemID  uint16
	scheme circlkem.Scheme
	seed   seedDerivation
}

// seedDerivation gives the private key, a seed of n bytes, that DeriveKeyPair makes of ikm.
type seedDerivation func(kemID uint16, ikm []byte, n int) []byte

// labeledSeed is the derivation of draft-ietf-hpke-pq.
func labeledSeed(kemID uint16, ikm []byte, n int) []byte {
	return labeledDerive(kemID, ikm, "DeriveKeyPair", n)
}

// plainSeed is the derivation of draft-connolly-cfrg-xwing-kem-06: SHAKE256 without labels.
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

// validate makes the encapsulation key check of FIPS 203 §7.2: the length, and that all coefficients are
// below the modulus, so that a key has one encoding. Beyond it, the key without a secret is refused:
// where all coefficients are zero, noise is all that hides what is encrypted, and it is too small.
//
// circl checks a key as it expands it for use, which is most of the work of an encapsulation; a member validates
// the keys of a whole tree and uses few of them.
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

// reduced tells whether all coefficients, two in three bytes (FIPS 203 §4.2.1), are below the modulus.
func reduced(b []byte) bool {
	const modulus = 3329
	for ; len(b) >= 3; b = b[3:] {
		if v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16; v&0xfff >= modulus || v>>12 >= modulus {
			return false
		}
	}
	return true
}

// parse makes a key ready for use.
func (k *mlKEM) parse(pub []byte) (circlkem.PublicKey, error) {
	if err := k.validate(pub); err != nil {
		return nil, err
	}
	key, err := k.scheme.UnmarshalBinaryPublicKey(pub)
	return key, within("public key", ErrMalformed, err)
}

// mlKEMRho is the length of the seed that ends a public key, in bytes.
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

// hybridKEM is a KEM of draft-irtf-cfrg-concrete-hybrid-kems: ML-KEM and Diffie-Hellman, whose results
// SHA3-256 combines so that either of them is enough to keep the secret. Keys and outputs are those of
// ML-KEM followed by those of the group. A private key is a seed of 32 bytes.
type hybridKEM struct {
	kemID    uint16
	label    string
	pq       *mlKEM
	group    dhGroup
	scalar   int // bytes of a private key of the group
	attempts int // how many candidates for one are drawn, of which the first nearly always is one
	seed     seedDerivation
}

// hybridSeed is the length of a private key in bytes.
const hybridSeed = 32

func (k *hybridKEM) id() uint16 { return k.kemID }

// seedLen is what encap needs, more than a key pair takes.
func (k *hybridKEM) seedLen() int {
	return k.pq.scheme.EncapsulationSeedSize() + k.attempts*k.scalar
}

func (k *hybridKEM) derive(ikm []byte) (priv, pub []byte, err error) {
	priv = k.seed(k.kemID, ikm, hybridSeed)
	pub, err = k.publicKey(priv)
	return priv, pub, err
}

// expand makes the two private keys of a seed.
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

// randomKey is RandomScalar: the first candidate that is a private key of the group. That none is has a
// probability below 2^-128.
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

// split parts a public key; one that is too short has an empty second part, which is no key.
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

// encap reads what ML-KEM takes of rand and then the ephemeral key, so that seedLen bytes are enough.
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

// labeledDerive is LabeledDerive of draft-ietf-hpke-hpke with SHAKE256 and an empty context.
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
