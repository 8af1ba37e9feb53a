package mlscore

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
	circl "github.com/cloudflare/circl/hpke"
)

// The parts of HPKE that the cipher suites use, for free combination: RFC 9180's vectors and other implementations
// have combinations that MLS does not have.
var (
	allKEMs  = []*dhKEM{kemP256, kemP384, kemP521, kemX25519, kemX448}
	pqKEMs   = []kem{kemMLKEM768, kemMLKEM1024, kemMLKEM768P256, kemMLKEM1024P384, kemMLKEM768X25519}
	allKDFs  = []*kdf{hkdfSHA256, hkdfSHA384, hkdfSHA512}
	allAEADs = []*aead{aes128GCM, aes256GCM, chaCha20Poly1305}
)

// hpkeSuite returns a combination by its numbers; nil if this package lacks a part. An export-only suite (RFC 9180
// §7.3) has an AEAD without a cipher.
func hpkeSuite(kemID, kdfID, aeadID uint16) *suite {
	s := &suite{name: fmt.Sprintf("kem %#04x kdf %d aead %#x", kemID, kdfID, aeadID)}
	for _, k := range allKEMs {
		if k.kemID == kemID {
			s.kem = k
		}
	}
	for _, k := range pqKEMs {
		if k.id() == kemID {
			s.kem = k
		}
	}
	for _, k := range allKDFs {
		if k.id == kdfID {
			s.kdf = k
		}
	}
	for _, a := range append(allAEADs, &aead{id: 0xffff}) {
		if a.id == aeadID {
			s.aead = a
		}
	}
	if s.kem == nil || s.kdf == nil || s.aead == nil {
		return nil
	}
	return s
}

// eachCombination runs a test for every combination of a KEM, a KDF and an AEAD of this package.
func eachCombination(t *testing.T, kems []*dhKEM, run func(t *testing.T, s *suite)) {
	for _, k := range kems {
		for _, d := range allKDFs {
			for _, a := range allAEADs {
				s := hpkeSuite(k.kemID, d.id, a.id)
				t.Run(s.name, func(t *testing.T) { run(t, s) })
			}
		}
	}
}

// TestHPKEAgainstCircl compares outputs byte by byte: circl draws its randomness in the same way as this package.
func TestHPKEAgainstCircl(t *testing.T) {
	eachCombination(t, allKEMs, func(t *testing.T, s *suite) {
		other := circl.NewSuite(circl.KEM(s.kem.id()), circl.KDF(s.kdf.id), circl.AEAD(s.aead.id))
		scheme := circl.KEM(s.kem.id()).Scheme()
		r := seeded("circl")
		ikm, seed := drawn(t, r, scheme.SeedSize()), drawn(t, r, scheme.EncapsulationSeedSize())
		info, plaintext := drawn(t, r, 99), drawn(t, r, 77)

		priv, pub, err := s.deriveKeyPair(ikm)
		if err != nil {
			t.Fatal(err)
		}
		theirPub, theirPriv := scheme.DeriveKeyPair(ikm)
		if b, err := theirPub.MarshalBinary(); err != nil || !bytes.Equal(b, pub) {
			t.Fatalf("DeriveKeyPair: %x, theirs %x, %v", pub, b, err)
		}
		sender, err := other.NewSender(theirPub, info)
		if err != nil {
			t.Fatal(err)
		}
		theirEnc, sealer, err := sender.Setup(bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := sealer.Seal(plaintext, nil)
		if err != nil {
			t.Fatal(err)
		}
		enc, ours, err := s.encryptTo(bytes.NewReader(seed), pub, s.hashInfo(info), plaintext)
		if err != nil || !bytes.Equal(enc, theirEnc) || !bytes.Equal(ours, theirs) {
			t.Fatalf("sealed to %x %x, theirs %x %x, %v", enc, ours, theirEnc, theirs, err)
		}
		_, secret, err := s.exportTo(bytes.NewReader(seed), pub, info, "context", 55)
		if err != nil || !bytes.Equal(secret.Bytes(), sealer.Export([]byte("context"), 55)) {
			t.Fatalf("export: %v", err)
		}
		receiver, err := other.NewReceiver(theirPriv, info)
		if err != nil {
			t.Fatal(err)
		}
		opener, err := receiver.Setup(enc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := opener.Open(ours, nil); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("they open ours to %x, %v", got, err)
		}
		if got, err := s.decryptFrom(priv.Bytes(), s.hashInfo(info), theirEnc, theirs); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("we open theirs to %x, %v", got, err)
		}
	})
}

// stdParts returns the standard library's counterparts; the standard library has no X448.
func stdParts(t testing.TB, s *suite) (hpke.KEM, hpke.KDF, hpke.AEAD) {
	t.Helper()
	kem, err := hpke.NewKEM(s.kem.id())
	if err != nil && s.kem == kemX448 {
		t.Skipf("crypto/hpke: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	kdf, err := hpke.NewKDF(s.kdf.id)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := hpke.NewAEAD(s.aead.id)
	if err != nil {
		t.Fatal(err)
	}
	return kem, kdf, aead
}

func TestHPKEAgainstStandardLibrary(t *testing.T) {
	eachCombination(t, []*dhKEM{kemP256, kemP384, kemP521, kemX25519}, againstStandardLibrary) // the standard library has no X448
}

func againstStandardLibrary(t *testing.T, s *suite) {
	kem, kdf, aead := stdParts(t, s)
	r := seeded("standard")
	ikm, info, plaintext := drawn(t, r, 66), drawn(t, r, 99), drawn(t, r, 77)
	priv, pub, err := s.deriveKeyPair(ikm)
	if err != nil {
		t.Fatal(err)
	}
	theirPriv, err := kem.DeriveKeyPair(ikm)
	if err != nil || !bytes.Equal(theirPriv.PublicKey().Bytes(), pub) {
		t.Fatalf("DeriveKeyPair: %x, %v", pub, err)
	}
	enc, ours, err := s.encryptTo(r, pub, s.hashInfo(info), plaintext)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := hpke.Open(theirPriv, kdf, aead, info, append(enc, ours...)); err != nil || !bytes.Equal(got, plaintext) {
		t.Fatalf("they open ours to %x, %v", got, err)
	}
	theirs, err := hpke.Seal(theirPriv.PublicKey(), kdf, aead, info, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.decryptFrom(priv.Bytes(), s.hashInfo(info), theirs[:len(enc)], theirs[len(enc):])
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Fatalf("we open theirs to %x, %v", got, err)
	}
	theirEnc, sender, err := hpke.NewSender(theirPriv.PublicKey(), kdf, aead, info)
	if err != nil {
		t.Fatal(err)
	}
	value, err := sender.Export("context", 55)
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := s.exportFrom(priv.Bytes(), theirEnc, info, "context", 55); err != nil || !bytes.Equal(secret.Bytes(), value) {
		t.Fatalf("export: %v", err)
	}
}

// badKeys are byte strings that no public key validation may accept, or that ecdh refuses.
func badKeys(s *suite, good []byte) map[string][]byte {
	if _, ok := s.kem.(*dhKEM); !ok {
		return badPQKeys(s, good)
	}
	flipped, compressed, hybrid := bytes.Clone(good), bytes.Clone(good), bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	compressed[0], hybrid[0] = 2, 6
	bad := map[string][]byte{
		"absent": nil, "truncated": good[:len(good)-1], "oversized": append(bytes.Clone(good), 0), "one byte": {4},
		"zero": make([]byte, len(good)),
	}
	if s.kem != kemX25519 && s.kem != kemX448 {
		bad["off the curve"] = flipped
		bad["compressed"] = compressed[:1+(len(good)-1)/2]
		bad["compressed, padded"] = compressed
		bad["hybrid"] = hybrid
		bad["not reduced"] = append([]byte{4}, bytes.Repeat([]byte{0xff}, len(good)-1)...)
		bad["infinity"] = []byte{0}
	}
	return bad
}

func TestHPKEPublicKeysRefused(t *testing.T) { // RFC 9180 §7.1.4
	eachSuite(t, func(t *testing.T, s *suite) {
		r := seeded("refused")
		priv, pub, err := s.generateKeyPair(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.validatePublicKey(pub); err != nil {
			t.Fatal(err)
		}
		for name, bad := range badKeys(s, pub) {
			errs := map[string]error{"validatePublicKey": s.validatePublicKey(bad)}
			_, _, errs["encryptWithLabel"] = s.encryptWithLabel(r, bad, "label", nil, []byte("plaintext"))
			_, _, errs["exportTo"] = s.exportTo(r, bad, nil, "context", 32)
			if _, dh := s.kem.(*dhKEM); dh { // the KEM output is a public key
				_, errs["decryptWithLabel"] = s.decryptWithLabel(priv.Bytes(), "label", nil, bad, make([]byte, 40))
				_, errs["exportFrom"] = s.exportFrom(priv.Bytes(), bad, nil, "context", 32)
			}
			for where, err := range errs {
				if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrInvalid) {
					t.Errorf("%s takes a key that is %s: %v", where, name, err)
				}
			}
		}
	})
}

// TestSmallOrderKeys checks validation and agreement for every point of the two lists, and then looks for points that
// the lists lack: validate must refuse every point that agree refuses.
func TestSmallOrderKeys(t *testing.T) {
	key25519, err := groupX25519{}.newPrivateKey(bytes.Repeat([]byte{0x42}, x25519.Size))
	if err != nil {
		t.Fatal(err)
	}
	key448, err := groupX448{}.newPrivateKey(bytes.Repeat([]byte{0x42}, x448.Size))
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range smallOrderX25519 {
		for _, top := range []byte{0, 0x80} {
			u[31] |= top
			requireKind(t, groupX25519{}.validate(u[:]), ErrInvalid)
			_, err := key25519.agree(u[:])
			requireKind(t, err, ErrInvalid)
			pub, err := ecdh.X25519().NewPublicKey(u[:])
			if err != nil {
				t.Fatal(err)
			}
			priv, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{0x42}, x25519.Size))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := priv.ECDH(pub); err == nil {
				t.Errorf("%x: crypto/ecdh does not find the result to be zero", u)
			}
		}
	}
	for _, u := range smallOrderX448 {
		requireKind(t, groupX448{}.validate(u[:]), ErrInvalid)
		_, err := key448.agree(u[:])
		requireKind(t, err, ErrInvalid)
	}
	for i := range 512 { // around 0, p and 2^255 or 2^448
		u25519, u448 := near25519(byte(i)), near448(byte(i), 0xff)
		if i >= 256 {
			u25519, u448 = [x25519.Size]byte{byte(i)}, [x448.Size]byte{byte(i)}
		}
		_, err := key25519.agree(u25519[:])
		if refused := (groupX25519{}).validate(u25519[:]); (err == nil) != (refused == nil) {
			t.Errorf("%x: agree %v, validate %v", u25519, err, refused)
		}
		_, err = key448.agree(u448[:])
		if refused := (groupX448{}).validate(u448[:]); (err == nil) != (refused == nil) {
			t.Errorf("%x: agree %v, validate %v", u448, err, refused)
		}
	}
}

func TestHPKEPrivateKeysRefused(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		r := seeded("private")
		priv, pub, err := s.generateKeyPair(r)
		if err != nil {
			t.Fatal(err)
		}
		kemOutput, ciphertext, err := s.encryptWithLabel(r, pub, "label", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		erased := priv.Clone()
		erased.Erase()
		bad := [][]byte{erased.Bytes(), priv.Bytes()[1:], append(bytes.Clone(priv.Bytes()), 0)}
		if k, ok := s.kem.(*dhKEM); ok && k.mask != 0 {
			bad = append(bad, make([]byte, priv.Len()), bytes.Repeat([]byte{0xff}, priv.Len()))
		}
		for _, b := range bad {
			_, err := s.publicKeyOf(b)
			requireKind(t, err, ErrMisuse)
			_, err = s.decryptWithLabel(b, "label", nil, kemOutput, ciphertext)
			requireKind(t, err, ErrMisuse)
			_, err = s.exportFrom(b, kemOutput, nil, "context", 32)
			requireKind(t, err, ErrMisuse)
		}
		_, _, err = s.deriveKeyPair(erased.Bytes())
		requireKind(t, err, ErrMisuse)
	})
}

// constant is a source that always returns the same byte.
type constant byte

func (c constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}

// TestNoCandidate uses a group that refuses every key, and checks that deriving a key ends.
func TestNoCandidate(t *testing.T) {
	k := &dhKEM{0x0010, hkdfSHA256, refusing{}, 32, 0xff}
	_, _, err := k.derive([]byte("ikm"))
	requireKind(t, err, ErrMisuse)
	_, _, err = k.encap(constant(0), nil)
	requireKind(t, err, ErrMisuse)
}

// refusing is a group that refuses every private key.
type refusing struct{}

func (refusing) newPrivateKey([]byte) (dhPrivateKey, error) { return nil, errors.New("refused") }
func (refusing) validate([]byte) error                      { return errors.New("refused") }

func TestHPKERandomSource(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		_, pub, err := s.generateKeyPair(seeded("source"))
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		for _, r := range []io.Reader{nil, iotest.ErrReader(broken), bytes.NewReader(make([]byte, s.kem.seedLen()-1))} {
			_, _, err := s.generateKeyPair(r)
			requireKind(t, err, ErrMisuse)
			_, _, err = s.encryptWithLabel(r, pub, "label", nil, nil)
			requireKind(t, err, ErrMisuse)
			_, _, err = s.exportTo(r, pub, nil, "", 1)
			requireKind(t, err, ErrMisuse)
			_, _, err = s.generateSignatureKey(r)
			requireKind(t, err, ErrMisuse)
		}
		if _, _, err := s.generateKeyPair(iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("the cause is lost: %v", err)
		}
		for _, n := range []int{-1, s.maxExpand() + 1} {
			_, _, err := s.exportTo(seeded("source"), pub, nil, "", n)
			requireKind(t, err, ErrMisuse)
			_, err = s.exportFrom(nil, nil, nil, "", n)
			requireKind(t, err, ErrMisuse)
		}
	})
}

func TestHPKEDeterministic(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		run := func(seed string) []byte {
			r := seeded(seed)
			priv, pub, err := s.generateKeyPair(r)
			if err != nil {
				t.Fatal(err)
			}
			kemOutput, ciphertext, err := s.encryptWithLabel(r, pub, "label", []byte("context"), []byte("plaintext"))
			if err != nil {
				t.Fatal(err)
			}
			exported, secret, err := s.exportTo(r, pub, nil, "exporter", 16)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Join([][]byte{priv.Bytes(), pub, kemOutput, ciphertext, exported, secret.Bytes(), drawn(t, r, 8)}, nil)
		}
		if !bytes.Equal(run("a"), run("a")) {
			t.Error("one seed, two results")
		}
		if bytes.Equal(run("a"), run("b")) {
			t.Error("two seeds, one result")
		}
	})
}

// TestEveryBitCounts flips a bit of each byte of an HPKE ciphertext and of its KEM output.
func TestEveryBitCounts(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		r := seeded("bits")
		priv, pub, err := s.generateKeyPair(r)
		if err != nil {
			t.Fatal(err)
		}
		info := s.sealInfo("label", []byte("context"))
		kemOutput, ciphertext, err := s.encryptTo(r, pub, info, []byte("p"))
		if err != nil {
			t.Fatal(err)
		}
		step := 1 + len(kemOutput)/200 // skips some of a thousand bytes
		for i := 0; i < len(kemOutput)+len(ciphertext); i += step {
			both := append(bytes.Clone(kemOutput), ciphertext...)
			both[i] ^= 1 << (i % 8)
			if _, err := s.decryptFrom(priv.Bytes(), info, both[:len(kemOutput)], both[len(kemOutput):]); err == nil {
				t.Errorf("opens with a bit of byte %d flipped", i)
			}
		}
		_, err = s.decryptWithLabel(priv.Bytes(), "label", []byte("another context"), kemOutput, ciphertext)
		requireKind(t, err, ErrForged)
		if got, err := s.decryptWithLabel(priv.Bytes(), "label", []byte("context"), kemOutput, ciphertext); err != nil || string(got) != "p" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestSealConcurrently seals to many recipients with one hpkeInfo, under the race detector in CI. No two seals may
// have the same key and nonce; equal KEM outputs would show that.
func TestSealConcurrently(t *testing.T) {
	s := suites[0]
	priv, pub, err := s.generateKeyPair(seeded("concurrent"))
	if err != nil {
		t.Fatal(err)
	}
	info := s.sealInfo("Welcome", make([]byte, 1000))
	outputs := make([][]byte, 64)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := seeded(fmt.Sprint("goroutine ", g))
			for i := g; i < len(outputs); i += 8 {
				kemOutput, ciphertext, err := s.encryptTo(r, pub, info, []byte{byte(i)})
				if err != nil {
					t.Error(err)
					return
				}
				outputs[i] = kemOutput
				got, err := s.decryptFrom(priv.Bytes(), info, kemOutput, ciphertext)
				if err != nil || !bytes.Equal(got, []byte{byte(i)}) {
					t.Errorf("%d: %x, %v", i, got, err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, o := range outputs {
		if seen[string(o)] {
			t.Error("two seals with one KEM output")
		}
		seen[string(o)] = true
	}
}

func FuzzHPKEOpen(f *testing.F) {
	keys, pubs := make([]Secret, len(suites)), make([][]byte, len(suites))
	for i, s := range suites {
		r := seeded("fuzz")
		priv, pub, err := s.generateKeyPair(r)
		if err != nil {
			f.Fatal(err)
		}
		keys[i], pubs[i] = priv, pub
		kemOutput, ciphertext, err := s.encryptWithLabel(r, pub, "label", nil, []byte("plaintext"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), kemOutput, ciphertext)
		f.Add(byte(i), make([]byte, len(kemOutput)), ciphertext)
		f.Add(byte(i), pub[:len(pub)-1], []byte(nil))
	}
	f.Fuzz(func(t *testing.T, which byte, kemOutput, ciphertext []byte) {
		i := int(which) % len(suites)
		s := suites[i]
		plaintext, err := s.decryptWithLabel(keys[i].Bytes(), "label", nil, kemOutput, ciphertext)
		if err == nil && len(plaintext)+s.tagLen() != len(ciphertext) {
			t.Errorf("%d bytes opened to %d", len(ciphertext), len(plaintext))
		}
		// The KEM output as a public key: if validation accepts it, encryption must succeed, otherwise fail.
		refused := s.validatePublicKey(kemOutput)
		_, _, err = s.encryptWithLabel(seeded("seal"), kemOutput, "label", pubs[i], ciphertext)
		if (refused == nil) != (err == nil) {
			t.Errorf("validatePublicKey: %v, encryptWithLabel: %v", refused, err)
		}
	})
}

// TestDecapsulationWithKnownKey checks that passing the public key of a private key changes nothing. Another public
// key gives another secret.
func TestDecapsulationWithKnownKey(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		priv, pub, err := s.generateKeyPair(seeded("known key"))
		if err != nil {
			t.Fatal(err)
		}
		info := s.hashInfo([]byte("info"))
		kem, ct, err := s.encryptTo(seeded("encapsulation"), pub, info, []byte("plaintext"))
		if err != nil {
			t.Fatal(err)
		}
		for _, known := range [][]byte{nil, pub} {
			if got, err := s.decryptFor(priv.Bytes(), known, info, kem, ct); err != nil || string(got) != "plaintext" {
				t.Errorf("with %d bytes of public key: %q, %v", len(known), got, err)
			}
		}
		if _, ok := s.kem.(*dhKEM); ok {
			other := append([]byte{pub[0] ^ 1}, pub[1:]...)
			_, err = s.decryptFor(priv.Bytes(), other, info, kem, ct)
			requireKind(t, err, ErrForged)
		}
	})
}
