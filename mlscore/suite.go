package mlscore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
	"slices"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// CipherSuite names the algorithms of a group (RFC 9420 §5.1, §17.1).
type CipherSuite uint16

// The cipher suites of RFC 9420 §17.1. Every implementation must have MLS128X25519AES128Ed25519.
const (
	MLS128X25519AES128Ed25519   CipherSuite = 1
	MLS128P256AES128P256        CipherSuite = 2
	MLS128X25519ChaCha20Ed25519 CipherSuite = 3
	MLS256X448AES256Ed448       CipherSuite = 4
	MLS256P521AES256P521        CipherSuite = 5
	MLS256X448ChaCha20Ed448     CipherSuite = 6
	MLS256P384AES256P384        CipherSuite = 7
)

// CipherSuites returns the cipher suites of RFC 9420, all of which are supported, ascending. The caller owns the
// slice. For the other suites see PostQuantumSuites.
func CipherSuites() []CipherSuite { return idsOf(rfcSuites) }

func idsOf(list []*suite) []CipherSuite {
	ids := make([]CipherSuite, len(list))
	for i, s := range list {
		ids[i] = s.id
	}
	return ids
}

// String returns the name of the cipher suite in RFC 9420 or draft-ietf-mls-pq-ciphersuites, or its number if it is
// not supported.
func (cs CipherSuite) String() string {
	for _, s := range suites {
		if s.id == cs {
			return s.name
		}
	}
	return fmt.Sprintf("CipherSuite(0x%04x)", uint16(cs))
}

// suite describes a cipher suite. It has no state: any number of goroutines may use it.
type suite struct {
	id        CipherSuite
	name      string
	kem       kem
	kdf       *kdf // also Hash and MAC: RFC 9420 has one hash function per suite
	aead      *aead
	signature signatureScheme
}

// rfcSuites is RFC 9420 §17.1 as a table, ascending by number.
var rfcSuites = []*suite{
	{id: 1, name: "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", kem: kemX25519, kdf: hkdfSHA256, aead: aes128GCM, signature: ed25519Scheme{}},
	{id: 2, name: "MLS_128_DHKEMP256_AES128GCM_SHA256_P256", kem: kemP256, kdf: hkdfSHA256, aead: aes128GCM, signature: ecdsaP256},
	{id: 3, name: "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", kem: kemX25519, kdf: hkdfSHA256, aead: chaCha20Poly1305, signature: ed25519Scheme{}},
	{id: 4, name: "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", kem: kemX448, kdf: hkdfSHA512, aead: aes256GCM, signature: ed448Scheme{}},
	{id: 5, name: "MLS_256_DHKEMP521_AES256GCM_SHA512_P521", kem: kemP521, kdf: hkdfSHA512, aead: aes256GCM, signature: ecdsaP521},
	{id: 6, name: "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", kem: kemX448, kdf: hkdfSHA512, aead: chaCha20Poly1305, signature: ed448Scheme{}},
	{id: 7, name: "MLS_256_DHKEMP384_AES256GCM_SHA384_P384", kem: kemP384, kdf: hkdfSHA384, aead: aes256GCM, signature: ecdsaP384},
}

// suites are all supported suites, ascending by number.
var suites = ascending(rfcSuites, pqSuites.all)

func ascending(lists ...[]*suite) []*suite {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b *suite) int { return int(a.id) - int(b.id) })
	return all
}

// suiteOf returns the description of a cipher suite; ErrUnsupported if there is none.
func suiteOf(id CipherSuite) (*suite, error) {
	for _, s := range suites {
		if s.id == id {
			return s, nil
		}
	}
	return nil, fail(ErrUnsupported, "§17.1", id.String(), "not a cipher suite of this implementation")
}

func (s *suite) hashLen() int  { return s.kdf.size }
func (s *suite) keyLen() int   { return s.aead.keyLen }
func (s *suite) nonceLen() int { return s.aead.nonceLen }
func (s *suite) tagLen() int   { return s.aead.tagLen }

// maxExpand returns the largest output of expandWithLabel in bytes: RFC 5869's limit, which for every hash function
// here is below the limit of KDFLabel.length.
func (s *suite) maxExpand() int { return 255 * s.kdf.size }

// hash returns the suite's Hash of the concatenated parts.
func (s *suite) hash(parts ...[]byte) []byte {
	h := s.kdf.get()
	defer s.kdf.put(h)
	return h.sum(make([]byte, 0, s.kdf.size), parts...)
}

// mac returns the suite's MAC, HMAC, of the concatenated parts.
func (s *suite) mac(key []byte, parts ...[]byte) []byte {
	h := s.kdf.get()
	defer s.kdf.put(h)
	return h.mac(make([]byte, 0, s.kdf.size), key, parts...)
}

// verifyMAC reports whether tag is the whole MAC of message. The time is the same for every wrong tag of the right
// length. A shorter tag is refused, an empty one included.
func (s *suite) verifyMAC(key, message, tag []byte) bool {
	return subtle.ConstantTimeCompare(s.mac(key, message), tag) == 1
}

// extract implements KDF.Extract (RFC 5869 §2.2).
func (s *suite) extract(salt, ikm []byte) Secret { return ownSecret(s.mac(salt, ikm)) }

// aead describes an AEAD of RFC 5116. Lengths are in bytes.
type aead struct {
	id                       uint16 // RFC 9180 §7.3
	keyLen, nonceLen, tagLen int
	new                      func(key []byte) (cipher.AEAD, error)
}

var (
	aes128GCM        = &aead{id: 0x0001, keyLen: 16, nonceLen: 12, tagLen: 16, new: newGCM}
	aes256GCM        = &aead{id: 0x0002, keyLen: 32, nonceLen: 12, tagLen: 16, new: newGCM}
	chaCha20Poly1305 = &aead{id: 0x0003, keyLen: 32, nonceLen: 12, tagLen: 16, new: chacha20poly1305.New}
)

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// instance checks the lengths, because aes.NewCipher accepts a key of any AES, and Seal and Open panic on a nonce of
// another length.
func (a *aead) instance(key, nonce []byte) (cipher.AEAD, error) {
	if len(key) != a.keyLen || len(nonce) != a.nonceLen {
		return nil, fail(ErrMisuse, "", "AEAD", "key of %d and nonce of %d bytes; %d and %d are needed",
			len(key), len(nonce), a.keyLen, a.nonceLen)
	}
	return a.new(key)
}

// aeadSeal encrypts. It panics if key or nonce does not have the suite's length: both are derived in this package,
// never received.
func (s *suite) aeadSeal(key, nonce, aad, plaintext []byte) []byte {
	a, err := s.aead.instance(key, nonce)
	if err != nil {
		panic(err)
	}
	return a.Seal(make([]byte, 0, len(plaintext)+s.aead.tagLen), nonce, plaintext, aad)
}

// aeadOpen decrypts; ErrForged if the ciphertext was not made with this key, nonce and aad.
func (s *suite) aeadOpen(key, nonce, aad, ciphertext []byte) ([]byte, error) {
	a, err := s.aead.instance(key, nonce)
	if err != nil {
		return nil, err
	}
	plaintext, err := a.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, fail(ErrForged, "", "ciphertext", "does not decrypt under this key, nonce and associated data")
	}
	return plaintext, nil
}

// kdf is a hash function with HMAC and HKDF on top of it. HMAC is implemented here because its inputs are short:
// crypto/hmac allocates two hash states and two pads for each key, which costs as much as the hashing; a pooled
// hasher allocates nothing.
type kdf struct {
	id          uint16 // RFC 9180 §7.2
	size, block int    // bytes
	new         func() hash.Hash
	pool        sync.Pool
}

var (
	hkdfSHA256 = &kdf{id: 0x0001, size: sha256.Size, block: sha256.BlockSize, new: sha256.New}
	hkdfSHA384 = &kdf{id: 0x0002, size: sha512.Size384, block: sha512.BlockSize, new: sha512.New384}
	hkdfSHA512 = &kdf{id: 0x0003, size: sha512.Size, block: sha512.BlockSize, new: sha512.New}
)

// maxScratch is the largest label buffer that a hasher keeps for its next use, in bytes.
const maxScratch = 16 << 10

// hasher is the scratch space of one computation. It belongs to one goroutine at a time.
type hasher struct {
	h     hash.Hash
	block int
	pad   [sha512.BlockSize]byte
	tag   [sha512.Size]byte
	one   [1]byte
	buf   []byte // a labelled input under construction

	left, right [sha512.Size]byte // tree hashes of two children
}

func (k *kdf) get() *hasher {
	if h, ok := k.pool.Get().(*hasher); ok {
		return h
	}
	return &hasher{h: k.new(), block: k.block}
}

// put erases a hasher's data, as far as the hash function allows, and returns the hasher to the pool.
func (k *kdf) put(h *hasher) {
	h.h.Reset()
	clear(h.pad[:])
	clear(h.tag[:])
	clear(h.buf)
	if cap(h.buf) > maxScratch {
		h.buf = nil
	}
	h.buf = h.buf[:0]
	k.pool.Put(h)
}

// sum appends the hash of the concatenated parts to dst.
func (h *hasher) sum(dst []byte, parts ...[]byte) []byte {
	h.h.Reset()
	for _, p := range parts {
		h.h.Write(p)
	}
	return h.h.Sum(dst)
}

// mac appends the HMAC (RFC 2104) of the concatenated parts to dst.
func (h *hasher) mac(dst, key []byte, parts ...[]byte) []byte {
	h.keyed(key)
	for _, p := range parts {
		h.h.Write(p)
	}
	return h.finish(dst)
}

// keyed begins an HMAC; the caller writes the message to h.h.
func (h *hasher) keyed(key []byte) {
	if len(key) > h.block {
		h.h.Reset()
		h.h.Write(key)
		key = h.h.Sum(h.tag[:0])
	}
	pad := h.pad[:h.block]
	clear(pad[copy(pad, key):])
	for i := range pad {
		pad[i] ^= 0x36
	}
	h.h.Reset()
	h.h.Write(pad)
}

// finish ends the HMAC that keyed began and appends it to dst.
func (h *hasher) finish(dst []byte) []byte {
	inner := h.h.Sum(h.tag[:0])
	pad := h.pad[:h.block]
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	h.h.Reset()
	h.h.Write(pad)
	h.h.Write(inner)
	return h.h.Sum(dst)
}

// expand implements HKDF-Expand (RFC 5869 §2.3) with n bytes of output, at most 255 times the hash length. info may
// be h.buf.
func (h *hasher) expand(prk, info []byte, n int) []byte {
	size := h.h.Size()
	if n < 0 || n > 255*size {
		panic(fmt.Sprintf("mlscore: HKDF-Expand to %d bytes, at most %d", n, 255*size))
	}
	rounds := (n + size - 1) / size
	out := make([]byte, 0, rounds*size)
	for i := 1; i <= rounds; i++ {
		h.keyed(prk)
		if i > 1 {
			h.h.Write(out[len(out)-size:])
		}
		h.h.Write(info)
		h.one[0] = byte(i)
		h.h.Write(h.one[:])
		out = h.finish(out)
	}
	clear(out[n:])
	return out[:n:n]
}

// SignsLike reports whether two cipher suites have the same signature scheme, so that one signature key can be used
// in groups of both.
func (cs CipherSuite) SignsLike(other CipherSuite) bool {
	a, err := suiteOf(cs)
	if err != nil {
		return false
	}
	b, err := suiteOf(other)
	return err == nil && a.signature == b.signature
}
