package mlscore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"filippo.io/edwards25519"
	"github.com/cloudflare/circl/sign/ed448"
)

func TestSignDeterministic(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		run := func(seed string) []byte {
			r := seeded(seed)
			priv, pub, err := s.generateSignatureKey(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.validateSignatureKey(pub); err != nil {
				t.Fatal(err)
			}
			if again, err := s.signaturePublicKey(priv.Bytes()); err != nil || !bytes.Equal(again, pub) {
				t.Fatalf("public key %x, then %x, %v", pub, again, err)
			}
			signature, err := s.signWithLabel(priv.Bytes(), "label", []byte("content"))
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Join([][]byte{priv.Bytes(), pub, signature, drawn(t, r, 8)}, nil)
		}
		if !bytes.Equal(run("a"), run("a")) {
			t.Error("one seed, two results")
		}
		if bytes.Equal(run("a"), run("b")) {
			t.Error("two seeds, one result")
		}
	})
}

func TestSignatureBoundToEverything(t *testing.T) { // RFC 9420 §5.1.2
	eachSuite(t, func(t *testing.T, s *suite) {
		r := seeded("bound")
		priv, pub, err := s.generateSignatureKey(r)
		if err != nil {
			t.Fatal(err)
		}
		_, other, err := s.generateSignatureKey(r)
		if err != nil {
			t.Fatal(err)
		}
		content := []byte("content")
		signature, err := s.signWithLabel(priv.Bytes(), "label", content)
		if err != nil {
			t.Fatal(err)
		}
		if !s.verifyWithLabel(pub, "label", content, signature) {
			t.Fatal("does not verify")
		}
		if s.verifyWithLabel(other, "label", content, signature) || s.verifyWithLabel(pub, "labe", []byte("lcontent"), signature) ||
			s.verifyWithLabel(pub, "MLS 1.0 label", content, signature) || s.verifyWithLabel(pub, "label", nil, signature) {
			t.Error("verifies with another key, label or content")
		}
		for n := 0; n < len(signature); n += 1 + len(signature)/200 { // skips some of thousands of bytes
			if s.verifyWithLabel(pub, "label", content, signature[:n]) {
				t.Errorf("%d bytes of the signature verify", n)
			}
			wrong := bytes.Clone(signature)
			wrong[n] ^= 0x10
			if s.verifyWithLabel(pub, "label", content, wrong) {
				t.Errorf("verifies with byte %d changed", n)
			}
		}
		if s.verifyWithLabel(pub, "label", content, append(bytes.Clone(signature), 0)) {
			t.Error("verifies with a byte appended")
		}
	})
}

func TestSignWithoutLabel(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		priv, pub, err := GenerateSignatureKey(seeded("bare"), s.id)
		if err != nil {
			t.Fatal(err)
		}
		message := []byte("enrolment of a device")
		signature, err := Sign(s.id, priv, message)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifySignature(s.id, pub, message, signature); err != nil {
			t.Error(err)
		}
		requireKind(t, VerifySignature(s.id, pub, message[1:], signature), ErrForged)
		requireKind(t, VerifySignature(s.id, pub[1:], message, signature), ErrForged)
		requireKind(t, VerifySignature(s.id, pub, message, nil), ErrForged)
		if s.verifyWithLabel(pub, "", message, signature) {
			t.Error("is a signature with a label")
		}
		_, err = Sign(s.id, Secret{}, message)
		requireKind(t, err, ErrMisuse)
	})
	_, err := Sign(0, Secret{}, nil)
	requireKind(t, err, ErrUnsupported)
	requireKind(t, VerifySignature(0, nil, nil, nil), ErrUnsupported)
}

// TestSignContent compares SignContent with a struct that was encoded by hand.
func TestSignContent(t *testing.T) { // RFC 9420 §5.1.2
	content := bytes.Repeat([]byte{0xcc}, 64)
	want := append([]byte("\x0bMLS 1.0 abc\x40\x40"), content...)
	if got := signContent("abc", content); !bytes.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestSignatureKeysRefused(t *testing.T) { // RFC 9420 §5.1.1
	eachSuite(t, func(t *testing.T, s *suite) {
		priv, pub, err := s.generateSignatureKey(seeded("refused"))
		if err != nil {
			t.Fatal(err)
		}
		signature, err := s.signWithLabel(priv.Bytes(), "label", nil)
		if err != nil {
			t.Fatal(err)
		}
		bad := [][]byte{nil, {4}, pub[:len(pub)-1], append(bytes.Clone(pub), 0)}
		if _, ok := s.signature.(mlDSA); !ok { // with ML-DSA all bytes of the right length are a key
			bad = append(bad, bytes.Repeat([]byte{0xff}, len(pub)))
		}
		if _, ok := s.signature.(*ecdsaScheme); ok {
			off, compressed := bytes.Clone(pub), bytes.Clone(pub[:1+len(pub)/2])
			off[len(off)-1] ^= 1
			compressed[0] = 2 + pub[len(pub)-1]&1
			bad = append(bad, off, compressed, make([]byte, len(pub)), []byte{0})
		}
		for _, b := range bad {
			requireKind(t, s.validateSignatureKey(b), ErrMalformed)
			if s.verifyWithLabel(b, "label", nil, signature) {
				t.Errorf("verifies under %x", b)
			}
		}
		erased := priv.Clone()
		erased.Erase()
		badPrivate := [][]byte{erased.Bytes(), priv.Bytes()[1:], append(bytes.Clone(priv.Bytes()), 0)}
		if e, ok := s.signature.(*ecdsaScheme); ok {
			badPrivate = append(badPrivate, make([]byte, e.size), e.curve.Params().N.FillBytes(make([]byte, e.size)))
		}
		for _, b := range badPrivate {
			_, err := s.signWithLabel(b, "label", nil)
			requireKind(t, err, ErrMisuse)
			_, err = s.signaturePublicKey(b)
			requireKind(t, err, ErrMisuse)
		}
	})
}

// TestSmallOrderSignatureKeys checks that keys of small order, under which one signature verifies for many messages,
// are refused.
func TestSmallOrderSignatureKeys(t *testing.T) {
	ed25519Points := []string{ // order 1, 2, 4, 4, 8, 8, 8, 8
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	}
	for _, h := range ed25519Points {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := new(edwards25519.Point).SetBytes(b); err != nil {
			t.Fatalf("%s is no point at all: %v", h, err)
		}
		requireKind(t, ed25519Scheme{}.validate(b), ErrInvalid)
	}
	minusOne := bytes.Repeat([]byte{0xff}, ed448.PublicKeySize) // p-1, p = 2^448 - 2^224 - 1
	minusOne[0], minusOne[28], minusOne[56] = 0xfe, 0xfe, 0
	zero, zeroNegative, one := make([]byte, 57), make([]byte, 57), make([]byte, 57)
	zeroNegative[56], one[0] = 0x80, 1
	for _, b := range [][]byte{zero, zeroNegative, one, minusOne} {
		requireKind(t, ed448Scheme{}.validate(b), ErrInvalid)
	}
}

// TestSignatureKeyNotReduced checks that a second encoding of a point is refused as a key (RFC 8032 §5.1.3, §5.2.3).
func TestSignatureKeyNotReduced(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	points := 0
	for y := range int64(19) { // p to p+18 still fit in 255 bits
		for _, sign := range []byte{0, 0x80} {
			reduced := make([]byte, 32)
			reduced[0], reduced[31] = byte(y), sign
			b := new(big.Int).Add(p, big.NewInt(y)).FillBytes(make([]byte, 32))
			for i := range 16 {
				b[i], b[31-i] = b[31-i], b[i]
			}
			b[31] |= sign
			if _, err := new(edwards25519.Point).SetBytes(b); err == nil {
				points++
			}
			requireKind(t, ed25519Scheme{}.validate(b), ErrMalformed)
		}
	}
	if points == 0 {
		t.Error("the decoder refuses all of them by itself: this test shows nothing")
	}
	not448 := bytes.Repeat([]byte{0xff}, 57) // p, which is 0 again
	not448[28], not448[56] = 0xfe, 0
	requireKind(t, ed448Scheme{}.validate(not448), ErrMalformed)
}

// TestECDSANonceRFC6979 checks the examples of RFC 6979 §A.2.5 to §A.2.7, message "sample".
func TestECDSANonceRFC6979(t *testing.T) {
	for _, v := range []struct {
		scheme  *ecdsaScheme
		x, r, s string
	}{
		{
			ecdsaP256, "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
			"EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
			"F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
		},
		{
			ecdsaP384, "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5",
			"94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
			"99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
		},
		{
			ecdsaP521, "00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538",
			"00C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F174E25A1EE9017B5D450606ADD152B534931D7D4E8455CC91F9B15BF05EC36E377FA",
			"00617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF282623EAA63E5B5C0723D8B8C37FF0777B1A20F8CCB1DCCC43997F1EE0E44DA4A67A",
		},
	} {
		x, err := hex.DecodeString(v.x)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := signOnce(v.scheme, x, []byte("sample"))
		if err != nil {
			t.Fatal(err)
		}
		r, s, ok := derIntegers(signature)
		if wantR, wantS := hexInt(v.r), hexInt(v.s); !ok || r.Cmp(wantR) != 0 || s.Cmp(wantS) != 0 {
			t.Errorf("%s: r %x, s %x", v.scheme.curve.Params().Name, r, s)
		}
	}
}

func hexInt(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 16)
	return n
}

// derIntegers decodes the integers of a DER signature.
func derIntegers(der []byte) (r, s *big.Int, ok bool) {
	if len(der) < 8 || der[0] != 0x30 {
		return nil, nil, false
	}
	body := der[2:]
	if der[1] == 0x81 {
		body = der[3:]
	}
	var ints [2]*big.Int
	for i := range ints {
		if len(body) < 2 || body[0] != 2 || len(body) < 2+int(body[1]) {
			return nil, nil, false
		}
		ints[i] = new(big.Int).SetBytes(body[2 : 2+int(body[1])])
		body = body[2+int(body[1]):]
	}
	return ints[0], ints[1], len(body) == 0
}

// TestECDSAGenerate checks that candidates that are not scalars are skipped, and that a source that returns only such
// candidates gives an error.
func TestECDSAGenerate(t *testing.T) {
	for _, e := range []*ecdsaScheme{ecdsaP256, ecdsaP384, ecdsaP521} {
		for _, c := range []constant{0, 0xff} {
			_, err := e.generate(c)
			requireKind(t, err, ErrMisuse)
		}
		good := bytes.Repeat([]byte{0x01}, e.size)
		source := bytes.NewReader(append(append(make([]byte, e.size), bytes.Repeat([]byte{0xff}, e.size)...), good...))
		got, err := e.generate(source)
		if err != nil || !bytes.Equal(got, good) || source.Len() != 0 {
			t.Errorf("%x, %v, %d bytes left", got, err, source.Len())
		}
	}
}

func signOnce(scheme signatureScheme, priv, message []byte) ([]byte, error) {
	key, err := scheme.newSigningKey(priv)
	if err != nil {
		return nil, err
	}
	return key.sign(message)
}

// requireUnprinted fails the test if any verb of fmt prints the secret of a value.
func requireUnprinted(t *testing.T, secret []byte, values ...any) {
	t.Helper()
	requireNonePrinted(t, allVerbs, [][]byte{secret}, values...)
}

// allVerbs are the verbs of fmt.
const allVerbs = "vsqxXdobtTeEfgGcUp"

// requireNonePrinted fails the test if a verb of fmt prints any of several secrets.
func requireNonePrinted(t *testing.T, verbs string, secrets [][]byte, values ...any) {
	t.Helper()
	var leaks []string
	for _, secret := range secrets {
		numbers := strings.Trim(fmt.Sprint(secret[:6]), "[]")
		number := new(big.Int).SetBytes(secret).String()
		leaks = append(leaks, numbers, number, hex.EncodeToString(secret[:6]), string(secret))
	}
	for _, verb := range verbs {
		for _, flag := range []string{"", "+", "#"} {
			for _, v := range values {
				printed := fmt.Sprintf("%"+flag+string(verb), v)
				lower := strings.ToLower(printed)
				for at, leak := range leaks {
					where := lower
					if at%4 == 3 {
						where = printed
					}
					if strings.Contains(where, leak) {
						t.Fatalf("%%%s%c of a %T prints a secret: %.2000s", flag, verb, v, printed)
					}
				}
			}
		}
	}
}

// TestSigner checks that a prepared key makes the same signatures as the key itself, from many goroutines, and that
// fmt prints nothing of it.
func TestSigner(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *suite) {
		priv, _, err := s.generateSignatureKey(seeded("signer"))
		if err != nil {
			t.Fatal(err)
		}
		k, err := s.newSigner(priv.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				ours, err := k.signWithLabel("label", []byte{byte(i)})
				want, err2 := s.signWithLabel(priv.Bytes(), "label", []byte{byte(i)})
				if err != nil || err2 != nil || !bytes.Equal(ours, want) {
					t.Errorf("%x and %x, %v, %v", ours, want, err, err2)
				}
			})
		}
		wg.Wait()
		requireUnprinted(t, priv.Bytes(), *k, k, struct{ k *signer }{k}, []signer{*k})
		priv.Erase()
		_, err = s.newSigner(priv.Bytes())
		requireKind(t, err, ErrMisuse)
	})
}

func TestSignaturesAgainstLibraries(t *testing.T) {
	r := seeded("libraries")
	message := []byte("message")
	seed := drawn(t, r, 32)
	ours, err := signOnce(ed25519Scheme{}, seed, message)
	if err != nil || !ed25519.Verify(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), message, ours) {
		t.Errorf("Ed25519: %v", err)
	}
	seed = drawn(t, r, 57)
	ours, err = signOnce(ed448Scheme{}, seed, message)
	if err != nil || !ed448.Verify(ed448.NewKeyFromSeed(seed).Public().(ed448.PublicKey), message, ours, "") {
		t.Errorf("Ed448: %v", err)
	}
	for _, e := range []*ecdsaScheme{ecdsaP256, ecdsaP384, ecdsaP521} {
		priv, err := e.generate(r)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.ParseRawPrivateKey(e.curve, priv)
		if err != nil {
			t.Fatal(err)
		}
		h := e.hash.New()
		h.Write(message)
		theirs, err := ecdsa.SignASN1(r, key, h.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		pub, err := key.PublicKey.Bytes()
		if err != nil || !e.verify(pub, message, theirs) {
			t.Errorf("%s: a signature of the library does not verify: %v", e.curve.Params().Name, err)
		}
		ours, err := signOnce(e, priv, message)
		if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, h.Sum(nil), ours) {
			t.Errorf("%s: a signature of ours does not verify there: %v", e.curve.Params().Name, err)
		}
	}
}

// TestECDSATable checks that the curves have the right sizes and masks, and the hash functions of RFC 8446 §4.2.3.
func TestECDSATable(t *testing.T) {
	for e, want := range map[*ecdsaScheme]struct {
		curve elliptic.Curve
		hash  crypto.Hash
	}{
		ecdsaP256: {elliptic.P256(), crypto.SHA256},
		ecdsaP384: {elliptic.P384(), crypto.SHA384},
		ecdsaP521: {elliptic.P521(), crypto.SHA512},
	} {
		order := e.curve.Params().N
		if e.curve != want.curve || e.hash != want.hash || e.kdf.size != e.hash.Size() || e.size != (order.BitLen()+7)/8 {
			t.Errorf("%+v", e)
		}
		if top := order.FillBytes(make([]byte, e.size))[0]; e.mask < top || int(e.mask) > 2*int(top) {
			t.Errorf("%s: mask %#x, the order begins with %#x", e.curve.Params().Name, e.mask, top)
		}
	}
}

func FuzzVerifySignature(f *testing.F) {
	owns := make([][]byte, len(suites))
	for i, s := range suites {
		priv, pub, err := s.generateSignatureKey(seeded("fuzz"))
		if err != nil {
			f.Fatal(err)
		}
		signature, err := s.signWithLabel(priv.Bytes(), "label", []byte("content"))
		if err != nil {
			f.Fatal(err)
		}
		owns[i] = pub
		f.Add(byte(i), pub, []byte("content"), signature)
		f.Add(byte(i), make([]byte, len(pub)), []byte(nil), signature[:len(signature)-1])
	}
	f.Fuzz(func(t *testing.T, which byte, pub, content, signature []byte) {
		i := int(which) % len(suites)
		s := suites[i]
		verified := s.verifyWithLabel(pub, "label", content, signature)
		refused := s.validateSignatureKey(pub)
		if verified && bytes.Equal(pub, owns[i]) && refused != nil {
			t.Errorf("our own key: %v", refused)
		}
		if verified && s.verifyWithLabel(pub, "label", append(bytes.Clone(content), 0), signature) && refused == nil {
			t.Error("one signature of a valid key verifies for two contents")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	content := make([]byte, 300)
	for _, s := range suites {
		priv, _, err := s.generateSignatureKey(seeded("bench"))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.signWithLabel(priv.Bytes(), "FramedContentTBS", content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, s := range suites {
		priv, _, err := s.generateSignatureKey(seeded("bench"))
		if err != nil {
			b.Fatal(err)
		}
		k, err := s.newSigner(priv.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		b.Run("signer/"+s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.signWithLabel("FramedContentTBS", content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("crypto/ed25519, key at hand", func(b *testing.B) {
		key := ed25519.NewKeyFromSeed(make([]byte, 32))
		b.ReportAllocs()
		for b.Loop() {
			ed25519.Sign(key, content)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	content := make([]byte, 300)
	for _, s := range suites {
		priv, pub, err := s.generateSignatureKey(seeded("bench"))
		if err != nil {
			b.Fatal(err)
		}
		signature, err := s.signWithLabel(priv.Bytes(), "FramedContentTBS", content)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.verifyWithLabel(pub, "FramedContentTBS", content, signature) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}

func BenchmarkValidateKeys(b *testing.B) {
	for _, s := range suites {
		_, pub, err := s.generateSignatureKey(seeded("bench"))
		if err != nil {
			b.Fatal(err)
		}
		_, hpkePub, err := s.generateKeyPair(seeded("bench"))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s.validateSignatureKey(pub) != nil || s.validatePublicKey(hpkePub) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
}
