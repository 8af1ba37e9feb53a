package mlscore

import (
	"crypto/ecdh"
	"io"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
)

// kem is a key encapsulation mechanism of HPKE (RFC 9180 §4). Private and public keys have the form of
// SerializePrivateKey and SerializePublicKey. An implementation has no state.
type kem interface {
	id() uint16   // RFC 9180 §7.1
	seedLen() int // bytes of randomness that make a key pair of full strength; enough for one encap
	derive(ikm []byte) (priv, pub []byte, err error)
	publicKey(priv []byte) ([]byte, error)
	validate(pub []byte) error
	encap(rand io.Reader, pub []byte) (shared, enc []byte, err error)
	decap(priv, enc []byte) (shared []byte, err error)
}

// dhGroup is a group for Diffie-Hellman.
type dhGroup interface {
	newPrivateKey(b []byte) (dhPrivateKey, error)
	validate(pub []byte) error
}

// dhPrivateKey is a private key prepared for use.
type dhPrivateKey interface {
	publicKey() []byte
	// agree returns the shared value. It refuses a public key for which that value is all zero.
	agree(pub []byte) ([]byte, error)
}

// dhKEM implements DHKEM (RFC 9180 §4.1).
type dhKEM struct {
	kemID uint16
	kdf   *kdf
	group dhGroup
	nsk   int  // bytes of a private key
	mask  byte // bitmask of DeriveKeyPair for NIST curves; 0 where any bytes are a private key
}

var (
	kemP256   = &dhKEM{kemID: 0x0010, kdf: hkdfSHA256, group: nistGroup{ecdh.P256()}, nsk: 32, mask: 0xff}
	kemP384   = &dhKEM{kemID: 0x0011, kdf: hkdfSHA384, group: nistGroup{ecdh.P384()}, nsk: 48, mask: 0xff}
	kemP521   = &dhKEM{kemID: 0x0012, kdf: hkdfSHA512, group: nistGroup{ecdh.P521()}, nsk: 66, mask: 0x01}
	kemX25519 = &dhKEM{kemID: 0x0020, kdf: hkdfSHA256, group: groupX25519{}, nsk: x25519.Size}
	kemX448   = &dhKEM{kemID: 0x0021, kdf: hkdfSHA512, group: groupX448{}, nsk: x448.Size}
)

func (k *dhKEM) id() uint16                { return k.kemID }
func (k *dhKEM) seedLen() int              { return k.nsk }
func (k *dhKEM) validate(pub []byte) error { return k.group.validate(pub) }

func (k *dhKEM) derive(ikm []byte) (priv, pub []byte, err error) {
	priv, key, err := k.deriveKey(ikm)
	if err != nil {
		return nil, nil, err
	}
	return priv, key.publicKey(), nil
}

// deriveKey implements DeriveKeyPair (RFC 9180 §7.1.3). Of random candidates for a NIST curve, at most one in 2^32 is
// not a scalar; 255 such candidates in a row mean that the KDF is broken.
func (k *dhKEM) deriveKey(ikm []byte) ([]byte, dhPrivateKey, error) {
	id := kemIdentity(k.kemID)
	prk := k.kdf.labeledExtract(id, nil, "dkp_prk", ikm)
	defer clear(prk)
	if k.mask == 0 {
		b := k.kdf.labeledExpand(id, prk, "sk", nil, k.nsk)
		key, err := k.group.newPrivateKey(b)
		return b, key, err
	}
	for counter := range 255 {
		b := k.kdf.labeledExpand(id, prk, "candidate", []byte{byte(counter)}, k.nsk)
		b[0] &= k.mask
		if key, err := k.group.newPrivateKey(b); err == nil {
			return b, key, nil
		}
	}
	return nil, nil, fail(ErrMisuse, "", "key pair", "no candidate of 255 is a private key")
}

func (k *dhKEM) publicKey(priv []byte) ([]byte, error) {
	key, err := k.group.newPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	return key.publicKey(), nil
}

// encap implements Encap (RFC 9180 §4.1). The ephemeral key is derived from Nsk bytes of rand, as in the RFC's
// vectors, and depends on nothing else.
func (k *dhKEM) encap(rand io.Reader, pub []byte) (shared, enc []byte, err error) {
	seed, err := readSeed(rand, k.nsk)
	if err != nil {
		return nil, nil, err
	}
	defer clear(seed)
	priv, ephemeral, err := k.deriveKey(seed)
	if err != nil {
		return nil, nil, err
	}
	defer clear(priv)
	dh, err := ephemeral.agree(pub)
	if err != nil {
		return nil, nil, err
	}
	enc = ephemeral.publicKey()
	return k.extractAndExpand(dh, enc, pub), enc, nil
}

// decap implements Decap (RFC 9180 §4.1).
func (k *dhKEM) decap(priv, enc []byte) ([]byte, error) { return k.decapFor(priv, nil, enc) }

// decapFor is decap with the public key of priv; pub is nil if it is not known. Computing the public key takes half
// as long as the rest of decap.
func (k *dhKEM) decapFor(priv, pub, enc []byte) ([]byte, error) {
	key, err := k.group.newPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	dh, err := key.agree(enc)
	if err != nil {
		return nil, within("KEM output", ErrMalformed, err)
	}
	if pub == nil {
		pub = key.publicKey()
	}
	return k.extractAndExpand(dh, enc, pub), nil
}

// extractAndExpand implements ExtractAndExpand (RFC 9180 §4.1) with kem_context = enc || pub. It erases dh.
func (k *dhKEM) extractAndExpand(dh, enc, pub []byte) []byte {
	id := kemIdentity(k.kemID)
	prk := k.kdf.labeledExtract(id, nil, "eae_prk", dh)
	clear(dh)
	defer clear(prk)
	context := append(append(make([]byte, 0, len(enc)+len(pub)), enc...), pub...)
	return k.kdf.labeledExpand(id, prk, "shared_secret", context, k.kdf.size)
}

// keyLength refuses a public key of another length.
func keyLength(pub []byte, want int) error {
	if len(pub) != want {
		return fail(ErrMalformed, "§5.1.1", "public key", "%d bytes, %d are needed", len(pub), want)
	}
	return nil
}

// privateKeyLength refuses a private key of another length, an erased one included.
func privateKeyLength(priv []byte, want int) error {
	if len(priv) != want {
		return fail(ErrMisuse, "", "private key", "%d bytes, %d are needed", len(priv), want)
	}
	return nil
}

func smallOrder() error {
	return fail(ErrInvalid, "§5.1.1", "public key", "a point of small order: what is encrypted to it anyone can read")
}

// nistGroup is P-256, P-384 or P-521. crypto/ecdh checks that a point is on the curve, not at
// infinity and uncompressed, and these groups have no point of small order.
type nistGroup struct{ curve ecdh.Curve }

type nistKey struct{ key *ecdh.PrivateKey }

func (g nistGroup) newPrivateKey(b []byte) (dhPrivateKey, error) {
	key, err := g.curve.NewPrivateKey(b)
	if err != nil {
		return nil, fail(ErrMisuse, "", "private key", "%d bytes that are no scalar of the curve", len(b))
	}
	return nistKey{key}, nil
}

func (g nistGroup) validate(pub []byte) error {
	if _, err := g.curve.NewPublicKey(pub); err != nil {
		return notOnCurve(pub)
	}
	return nil
}

func notOnCurve(pub []byte) error {
	return fail(ErrMalformed, "§5.1.1", "public key", "%d bytes that are no uncompressed point of the curve", len(pub))
}

func (k nistKey) publicKey() []byte { return k.key.PublicKey().Bytes() }

func (k nistKey) agree(pub []byte) ([]byte, error) {
	remote, err := k.key.Curve().NewPublicKey(pub)
	if err != nil {
		return nil, notOnCurve(pub)
	}
	return k.key.ECDH(remote)
}

// groupX25519 is Curve25519 (RFC 7748 §5).
type groupX25519 struct{}

type keyX25519 x25519.Key

func (groupX25519) newPrivateKey(b []byte) (dhPrivateKey, error) {
	if err := privateKeyLength(b, x25519.Size); err != nil {
		return nil, err
	}
	key := keyX25519(b)
	return &key, nil
}

// validate also refuses points of small order, though only agree must (RFC 9180 §7.1.4): a leaf
// with such a key would make every later commit of the group fail.
func (groupX25519) validate(pub []byte) error {
	if err := keyLength(pub, x25519.Size); err != nil {
		return err
	}
	u := [x25519.Size]byte(pub)
	u[31] &= 0x7f // RFC 7748 §5: the top bit is ignored
	for _, low := range smallOrderX25519 {
		if u == low {
			return smallOrder()
		}
	}
	return nil
}

func (k *keyX25519) publicKey() []byte {
	pub := x25519Base((*[x25519.Size]byte)(k))
	return pub[:]
}

func (k *keyX25519) agree(pub []byte) ([]byte, error) {
	if err := keyLength(pub, x25519.Size); err != nil {
		return nil, err
	}
	var shared x25519.Key
	remote := x25519.Key(pub)
	if !x25519.Shared(&shared, (*x25519.Key)(k), &remote) {
		return nil, smallOrder()
	}
	return shared[:], nil
}

// smallOrderX25519 are the u-coordinates of the points of order 1, 2, 4 and 8 of Curve25519 and its
// twist, with their encodings that are not reduced.
var smallOrderX25519 = [...][x25519.Size]byte{
	{},
	{1},
	{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	},
	{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	},
	near25519(0xec), // p-1
	near25519(0xed), // p
	near25519(0xee), // p+1
}

// near25519 returns p = 2^255 - 19 with another lowest byte.
func near25519(lowest byte) (u [x25519.Size]byte) {
	for i := range u {
		u[i] = 0xff
	}
	u[0], u[31] = lowest, 0x7f
	return u
}

// groupX448 is Curve448 (RFC 7748 §5).
type groupX448 struct{}

type keyX448 x448.Key

func (groupX448) newPrivateKey(b []byte) (dhPrivateKey, error) {
	if err := privateKeyLength(b, x448.Size); err != nil {
		return nil, err
	}
	key := keyX448(b)
	return &key, nil
}

// validate refuses points of small order, for the same reason as groupX25519.validate.
func (groupX448) validate(pub []byte) error {
	if err := keyLength(pub, x448.Size); err != nil {
		return err
	}
	u := [x448.Size]byte(pub)
	for _, low := range smallOrderX448 {
		if u == low {
			return smallOrder()
		}
	}
	return nil
}

func (k *keyX448) publicKey() []byte {
	var pub x448.Key
	x448.KeyGen(&pub, (*x448.Key)(k))
	return pub[:]
}

func (k *keyX448) agree(pub []byte) ([]byte, error) {
	if err := keyLength(pub, x448.Size); err != nil {
		return nil, err
	}
	var shared x448.Key
	remote := x448.Key(pub)
	if !x448.Shared(&shared, (*x448.Key)(k), &remote) {
		return nil, smallOrder()
	}
	return shared[:], nil
}

// smallOrderX448 are the u-coordinates of the points of order 1, 2 and 4 of Curve448 and its twist,
// with their encodings that are not reduced.
var smallOrderX448 = [...][x448.Size]byte{
	{},
	{1},
	near448(0xfe, 0xfe), // p-1
	near448(0xff, 0xfe), // p
	near448(0x00, 0xff), // p+1
}

// near448 returns p = 2^448 - 2^224 - 1 with two changes: the lowest byte of the lower half, and the byte at 2^224.
func near448(lowest, middle byte) (u [x448.Size]byte) {
	for i := range u {
		u[i] = 0xff
	}
	if middle == 0xff { // p+1 = 2^448 - 2^224: the lower half is zero
		clear(u[:28])
	}
	u[0], u[28] = lowest, middle
	return u
}
