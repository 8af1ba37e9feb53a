package mlscore

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// seeded returns a stream of bytes that depends only on the seed.
func seeded(seed string) io.Reader {
	var key [32]byte
	copy(key[:], seed)
	return mathrand.NewChaCha8(key)
}

// drawn returns n bytes of a stream.
func drawn(t testing.TB, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// requireKind fails the test unless err is an Error of the kind.
func requireKind(t testing.TB, err, kind error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of kind %q", err, kind)
	}
}

// eachSuite runs a test for every cipher suite.
func eachSuite(t *testing.T, run func(t *testing.T, s *suite)) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) { run(t, s) })
	}
}

// hexBytes is a byte string in a JSON file of test vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func TestCipherSuiteTable(t *testing.T) { // RFC 9420 §17.1
	want := []struct {
		id                                 CipherSuite
		name                               string
		kem, kdf, aead                     uint16
		hashLen, keyLen, nonceLen, hpkeKey int
	}{
		{MLS128X25519AES128Ed25519, "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", 0x20, 1, 1, 32, 16, 12, 32},
		{MLS128P256AES128P256, "MLS_128_DHKEMP256_AES128GCM_SHA256_P256", 0x10, 1, 1, 32, 16, 12, 65},
		{MLS128X25519ChaCha20Ed25519, "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", 0x20, 1, 3, 32, 32, 12, 32},
		{MLS256X448AES256Ed448, "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", 0x21, 3, 2, 64, 32, 12, 56},
		{MLS256P521AES256P521, "MLS_256_DHKEMP521_AES256GCM_SHA512_P521", 0x12, 3, 2, 64, 32, 12, 133},
		{MLS256X448ChaCha20Ed448, "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", 0x21, 3, 3, 64, 32, 12, 56},
		{MLS256P384AES256P384, "MLS_256_DHKEMP384_AES256GCM_SHA384_P384", 0x11, 2, 2, 48, 32, 12, 97},
	}
	ids := CipherSuites()
	if !slices.IsSorted(ids) || len(ids) != len(want) {
		t.Fatalf("CipherSuites: %v", ids)
	}
	for i, w := range want {
		s, err := suiteOf(w.id)
		if err != nil {
			t.Fatal(err)
		}
		if ids[i] != w.id || s.id != w.id || w.id.String() != w.name || s.kem.id() != w.kem || s.kdf.id != w.kdf || s.aead.id != w.aead {
			t.Errorf("%v is %+v", w.id, s)
		}
		if s.hashLen() != w.hashLen || s.keyLen() != w.keyLen || s.nonceLen() != w.nonceLen || s.tagLen() != 16 {
			t.Errorf("%v: Nh %d, Nk %d, Nn %d, tag %d", w.id, s.hashLen(), s.keyLen(), s.nonceLen(), s.tagLen())
		}
		a, err := s.aead.new(make([]byte, s.keyLen()))
		if err != nil || a.NonceSize() != s.nonceLen() || a.Overhead() != s.tagLen() {
			t.Errorf("%v: the AEAD itself disagrees: %v", w.id, err)
		}
		if _, pub, err := s.generateKeyPair(seeded("table")); err != nil || len(pub) != w.hpkeKey {
			t.Errorf("%v: HPKE public key of %d bytes, %v", w.id, len(pub), err)
		}
	}
	ids[0] = 99
	if CipherSuites()[0] == 99 {
		t.Error("CipherSuites gives out the table itself")
	}
}

func TestCipherSuiteUnsupported(t *testing.T) {
	for _, id := range []CipherSuite{0, 8, 0x0a0a, 0xffff} {
		_, err := suiteOf(id)
		requireKind(t, err, ErrUnsupported)
		if name := fmt.Sprintf("CipherSuite(0x%04x)", uint16(id)); id.String() != name || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", id, err)
		}
	}
}

// TestHMACAndHKDF compares HMAC and HKDF with the standard library, for lengths on both sides of every boundary.
func TestHMACAndHKDF(t *testing.T) {
	r := seeded("hmac")
	lengths := []int{0, 1, 31, 32, 33, 63, 64, 65, 111, 112, 127, 128, 129, 300}
	for _, k := range []*kdf{hkdfSHA256, hkdfSHA384, hkdfSHA512} {
		s := &suite{kdf: k}
		for _, keyLen := range lengths {
			for _, n := range lengths {
				key, message := drawn(t, r, keyLen), drawn(t, r, n)
				m := hmac.New(k.new, key)
				m.Write(message)
				want := m.Sum(nil)
				if got := s.mac(key, message[:n/2], nil, message[n/2:]); !bytes.Equal(got, want) {
					t.Fatalf("mac with a key of %d bytes over %d", keyLen, n)
				}
				if prk, err := hkdf.Extract(k.new, message, key); err != nil || !bytes.Equal(s.extract(key, message).Bytes(), prk) {
					t.Fatalf("extract with a salt of %d bytes from %d: %v", keyLen, n, err)
				}
			}
		}
		for _, n := range []int{0, 1, k.size - 1, k.size, k.size + 1, 3 * k.size, 255 * k.size} {
			prk, info := drawn(t, r, k.size), drawn(t, r, 70)
			want, err := hkdf.Expand(k.new, prk, string(info), n)
			if err != nil {
				t.Fatal(err)
			}
			h := k.get()
			if got := h.expand(prk, info, n); !bytes.Equal(got, want) || cap(got) != n {
				t.Errorf("expand to %d bytes", n)
			}
			k.put(h)
		}
	}
}

func TestHash(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		h := s.kdf.new()
		h.Write([]byte("one two three"))
		if got := s.hash([]byte("one "), nil, []byte("two three")); !bytes.Equal(got, h.Sum(nil)) {
			t.Errorf("hash of parts: %x", got)
		}
	})
}

func TestHasherForgets(t *testing.T) {
	s := suites[0]
	h := s.kdf.get()
	h.mac(nil, bytes.Repeat([]byte{0xaa}, 200), []byte("message"))
	h.buf = append(h.buf, "label"...)
	s.kdf.put(h)
	if h.pad != [len(h.pad)]byte{} || h.tag != [len(h.tag)]byte{} || len(h.buf) != 0 || !bytes.Equal(h.buf[:5], make([]byte, 5)) {
		t.Errorf("after put: %x %x %q", h.pad, h.tag, h.buf[:5])
	}
	h.buf = make([]byte, maxScratch+1)
	s.kdf.put(h)
	if h.buf != nil {
		t.Error("keeps an outsize buffer")
	}
}

func TestMACWholeLength(t *testing.T) { // another library once accepted a short or empty tag
	eachSuite(t, func(t *testing.T, s *suite) {
		key, message := []byte("key"), []byte("message")
		tag := s.mac(key, message)
		if !s.verifyMAC(key, message, tag) {
			t.Fatal("the tag itself does not verify")
		}
		for n := range tag {
			if s.verifyMAC(key, message, tag[:n]) {
				t.Errorf("a tag of %d bytes verifies", n)
			}
			wrong := bytes.Clone(tag)
			wrong[n] ^= 1
			if s.verifyMAC(key, message, wrong) {
				t.Errorf("verifies with byte %d changed", n)
			}
		}
		if s.verifyMAC(key, message, nil) || s.verifyMAC(key, message, append(bytes.Clone(tag), 0)) || s.verifyMAC(key, nil, tag) {
			t.Error("an absent tag, a longer tag or another message verifies")
		}
	})
}

func TestAEAD(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		r := seeded("aead")
		key, nonce := drawn(t, r, s.keyLen()), drawn(t, r, s.nonceLen())
		aad, plaintext := []byte("aad"), []byte("plaintext")
		sealed := s.aeadSeal(key, nonce, aad, plaintext)
		if len(sealed) != len(plaintext)+s.tagLen() {
			t.Errorf("%d bytes sealed to %d", len(plaintext), len(sealed))
		}
		if got, err := s.aeadOpen(key, nonce, aad, sealed); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("%q, %v", got, err)
		}
		for n := range sealed {
			_, err := s.aeadOpen(key, nonce, aad, sealed[:n])
			requireKind(t, err, ErrForged)
		}
		_, err := s.aeadOpen(key, nonce, nil, sealed)
		requireKind(t, err, ErrForged)
		for _, n := range []int{0, 1, s.keyLen() - 1, s.keyLen() + 1, 48} {
			_, err := s.aeadOpen(make([]byte, n), nonce, aad, sealed)
			requireKind(t, err, ErrMisuse)
		}
		_, err = s.aeadOpen(key, nonce[:8], aad, sealed)
		requireKind(t, err, ErrMisuse)
		requirePanic(t, func() { s.aeadSeal(key[:8], nonce, aad, plaintext) })
	})
}

func requirePanic(t testing.TB, run func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	run()
}

func TestExpandWithLabel(t *testing.T) { // RFC 9420 §8
	eachSuite(t, func(t *testing.T, s *suite) {
		secret := drawn(t, seeded("expand"), s.hashLen())
		for _, n := range []int{0, 1, 63 - len(labelPrefix), 64 - len(labelPrefix), 300} {
			for _, size := range []int{0, 1, 63, 64, 16383, 16384, 20000} {
				label, context := strings.Repeat("l", n), bytes.Repeat([]byte{7}, size)
				w := codec.NewWriter(nil)
				w.Uint16(uint16(s.hashLen() + 3))
				w.String("MLS 1.0 " + label)
				w.Bytes(context)
				info, err := w.Finish()
				if err != nil {
					t.Fatal(err)
				}
				want, err := hkdf.Expand(s.kdf.new, secret, string(info), s.hashLen()+3)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.expandWithLabel(secret, label, context, s.hashLen()+3); !bytes.Equal(got.Bytes(), want) {
					t.Errorf("label of %d, context of %d bytes", n, size)
				}
			}
		}
		if s.expandWithLabel(secret, "x", nil, s.maxExpand()).Len() != s.maxExpand() {
			t.Error("not as long as maxExpand")
		}
		requirePanic(t, func() { s.expandWithLabel(secret, "x", nil, s.maxExpand()+1) })
		requirePanic(t, func() { s.expandWithLabel(secret, "x", nil, -1) })
		erased := NewSecret(secret)
		erased.Erase()
		requirePanic(t, func() { s.deriveSecret(erased.Bytes(), "x") })
	})
}

func TestRefHash(t *testing.T) { // RFC 9420 §5.2: the label has no prefix
	eachSuite(t, func(t *testing.T, s *suite) {
		for _, n := range []int{0, 63, 64, 20000} {
			w := codec.NewWriter(nil)
			w.String("MLS 1.0 KeyPackage Reference")
			w.Bytes(make([]byte, n))
			input, err := w.Finish()
			if err != nil {
				t.Fatal(err)
			}
			if got := s.refHash("MLS 1.0 KeyPackage Reference", make([]byte, n)); !bytes.Equal(got, s.hash(input)) {
				t.Errorf("value of %d bytes: %x", n, got)
			}
		}
	})
}

// TestContentTooLong checks that content that is too long for a vector is refused before a byte of it is read.
func TestContentTooLong(t *testing.T) { // RFC 9420 §2.1.2
	s, long := suites[0], make([]byte, codec.MaxLength+1)
	priv, pub, err := s.generateSignatureKey(seeded("long"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.signWithLabel(priv.Bytes(), "label", long)
	requireKind(t, err, ErrLimit)
	if s.verifyWithLabel(pub, "label", long, make([]byte, 64)) {
		t.Error("verifies")
	}
	_, _, err = s.encryptWithLabel(seeded("long"), pub, "label", long, nil)
	requireKind(t, err, ErrLimit)
	_, err = s.decryptWithLabel(priv.Bytes(), "label", long, pub, nil)
	requireKind(t, err, ErrLimit)
}

// TestSecretsConcurrently derives secrets from several goroutines, for the race detector: all goroutines share a
// suite.
func TestSecretsConcurrently(t *testing.T) {
	s := suites[0]
	secret := []byte("0123456789abcdef0123456789abcdef")
	want := s.deriveTreeSecret(secret, "key", 7, 99)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if !s.deriveTreeSecret(secret, "key", 7, 99).Equal(want) {
					t.Error("another result")
					return
				}
			}
		})
	}
	wg.Wait()
}

type basicsVector struct {
	Suite     CipherSuite `json:"cipher_suite"`
	Reference struct {
		Label      string
		Value, Out hexBytes
	} `json:"ref_hash"`
	Expand struct {
		Secret, Context, Out hexBytes
		Label                string
		Length               int
	} `json:"expand_with_label"`
	Derive struct {
		Secret, Out hexBytes
		Label       string
	} `json:"derive_secret"`
	Tree struct {
		Secret, Out hexBytes
		Label       string
		Generation  uint32
		Length      int
	} `json:"derive_tree_secret"`
	Sign struct {
		Priv, Pub, Content, Signature hexBytes
		Label                         string
	} `json:"sign_with_label"`
	Encrypt struct {
		Priv, Pub, Context, Plaintext, Ciphertext hexBytes
		KEMOutput                                 hexBytes `json:"kem_output"`
		Label                                     string
	} `json:"encrypt_with_label"`
}

// TestVectorsCryptoBasics checks the working group's crypto-basics.json.
func TestVectorsCryptoBasics(t *testing.T) {
	dir := vectorsFolder()
	if dir == "" {
		t.Skip("MLS_VECTORS does not name the folder of the official vectors")
	}
	data, err := os.ReadFile(filepath.Join(dir, "crypto-basics.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []basicsVector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	seen := make(map[CipherSuite]bool)
	for _, v := range vectors {
		seen[v.Suite] = true
		s, err := suiteOf(v.Suite)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(s.name, func(t *testing.T) { v.check(t, s) })
	}
	for _, id := range CipherSuites() {
		if !seen[id] {
			t.Errorf("no vector for %v", id)
		}
	}
}

func (v *basicsVector) check(t *testing.T, s *suite) {
	for name, pair := range map[string][2][]byte{
		"ref_hash":           {s.refHash(v.Reference.Label, v.Reference.Value), v.Reference.Out},
		"expand_with_label":  {s.expandWithLabel(v.Expand.Secret, v.Expand.Label, v.Expand.Context, v.Expand.Length).Bytes(), v.Expand.Out},
		"derive_secret":      {s.deriveSecret(v.Derive.Secret, v.Derive.Label).Bytes(), v.Derive.Out},
		"derive_tree_secret": {s.deriveTreeSecret(v.Tree.Secret, v.Tree.Label, v.Tree.Generation, v.Tree.Length).Bytes(), v.Tree.Out},
	} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %x, want %x", name, pair[0], pair[1])
		}
	}
	v.checkSign(t, s)
	v.checkEncrypt(t, s)
}

func (v *basicsVector) checkSign(t *testing.T, s *suite) {
	if pub, err := s.signaturePublicKey(v.Sign.Priv); err != nil || !bytes.Equal(pub, v.Sign.Pub) {
		t.Errorf("public key %x, %v", pub, err)
	}
	if err := s.validateSignatureKey(v.Sign.Pub); err != nil {
		t.Error(err)
	}
	if !s.verifyWithLabel(v.Sign.Pub, v.Sign.Label, v.Sign.Content, v.Sign.Signature) {
		t.Error("the signature does not verify")
	}
	signature, err := s.signWithLabel(v.Sign.Priv, v.Sign.Label, v.Sign.Content)
	if err != nil || !s.verifyWithLabel(v.Sign.Pub, v.Sign.Label, v.Sign.Content, signature) {
		t.Errorf("a signature of ours does not verify: %v", err)
	}
	if s.verifyWithLabel(v.Sign.Pub, v.Sign.Label+"x", v.Sign.Content, v.Sign.Signature) {
		t.Error("verifies under another label")
	}
}

func (v *basicsVector) checkEncrypt(t *testing.T, s *suite) {
	e := v.Encrypt
	if pub, err := s.publicKeyOf(e.Priv); err != nil || !bytes.Equal(pub, e.Pub) {
		t.Errorf("public key %x, %v", pub, err)
	}
	if err := s.validatePublicKey(e.Pub); err != nil {
		t.Error(err)
	}
	got, err := s.decryptWithLabel(e.Priv, e.Label, e.Context, e.KEMOutput, e.Ciphertext)
	if err != nil || !bytes.Equal(got, e.Plaintext) {
		t.Errorf("decrypts to %x, %v", got, err)
	}
	kemOutput, ciphertext, err := s.encryptWithLabel(seeded("basics"), e.Pub, e.Label, e.Context, e.Plaintext)
	if err != nil {
		t.Fatal(err)
	}
	got, err = s.decryptWithLabel(e.Priv, e.Label, e.Context, kemOutput, ciphertext)
	if err != nil || !bytes.Equal(got, e.Plaintext) {
		t.Errorf("our own ciphertext decrypts to %x, %v", got, err)
	}
	_, err = s.decryptWithLabel(e.Priv, e.Label+"x", e.Context, e.KEMOutput, e.Ciphertext)
	requireKind(t, err, ErrForged)
}

func BenchmarkDerive(b *testing.B) {
	for _, s := range suites {
		secret := make([]byte, s.hashLen())
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.deriveTreeSecret(secret, "key", 1, s.keyLen())
			}
		})
	}
	b.Run("crypto/hkdf SHA256", func(b *testing.B) {
		secret, info := make([]byte, 32), "\x00\x10\x0bMLS 1.0 key\x04\x00\x00\x00\x01"
		b.ReportAllocs()
		for b.Loop() {
			if _, err := hkdf.Expand(hkdfSHA256.new, secret, info, 16); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMAC(b *testing.B) {
	key, message := make([]byte, 32), make([]byte, 100)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			suites[0].mac(key, message)
		}
	})
	b.Run("crypto/hmac", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m := hmac.New(hkdfSHA256.new, key)
			m.Write(message)
			m.Sum(nil)
		}
	})
}
