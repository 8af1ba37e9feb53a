package mlscore

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"slices"
	"testing"
)

// mlDSASets are FIPS 204's parameter sets: the sizes that are needed to parse a signature, and the digests of the
// keys and signatures of a number of runs that the C2SP project publishes.
var mlDSASets = []struct {
	name              string
	scheme            mlDSA
	public, signature int // bytes
	k, omega          int // polynomials of the hint, and ones in it
	digests           map[int]string
}{
	{"ML-DSA-44", mlDSA44, 1312, 2420, 4, 80, map[int]string{
		100:   "d51148e1f9f4fa1a723a6cf42e25f2a99eb5c1b378b3d2dbbd561b1203beeae4",
		10000: "e7fd21f6a59bcba60d65adc44404bb29a7c00e5d8d3ec06a732c00a306a7d143",
	}},
	{"ML-DSA-65", mlDSA65, 1952, 3309, 6, 55, map[int]string{
		100:   "8358a1843220194417cadbc2651295cd8fc65125b5a5c1a239a16dc8b57ca199",
		10000: "5ff5e196f0b830c3b10a9eb5358e7c98a3a20136cb677f3ae3b90175c3ace329",
	}},
	{"ML-DSA-87", mlDSA87, 2592, 4627, 8, 75, map[int]string{
		100:   "8c3ad714777622b8f21ce31bb35f71394f23bc0fcf3c78ace5d608990f3b061b",
		10000: "80a8cf39317f7d0be0e24972c51ac152bd2a3e09bc0c32ce29dd82c4e7385e60",
	}},
}

func TestKnownAnswersMLDSA(t *testing.T) { // FIPS 204
	n := 100
	if longRun(t) != "" {
		n = 10000
	}
	for _, set := range mlDSASets {
		t.Run(set.name, func(t *testing.T) {
			t.Parallel()
			source, sink := sha3.NewSHAKE128(), sha3.NewSHAKE128()
			for range n {
				key, err := set.scheme.newSigningKey(drawn(t, source, 32))
				if err != nil {
					t.Fatal(err)
				}
				pub, err := key.publicKey()
				if err != nil {
					t.Fatal(err)
				}
				signature, err := key.sign(nil)
				if err != nil || !set.scheme.verify(pub, nil, signature) || len(pub) != set.public || len(signature) != set.signature {
					t.Fatalf("key of %d bytes, signature of %d, %v", len(pub), len(signature), err)
				}
				sink.Write(pub)
				sink.Write(signature)
			}
			if got := hex.EncodeToString(drawn(t, sink, 32)); got != set.digests[n] {
				t.Errorf("digest of %d runs %s, want %s", n, got, set.digests[n])
			}
		})
	}
}

func TestVectorsMLDSA(t *testing.T) { // FIPS 204
	var groups []struct {
		ParameterSet string
		Tests        []struct {
			TcID int
			Seed hexBytes
		}
	}
	results := acvp(t, "sign/mldsa/testdata/ML-DSA-keyGen-FIPS204", &groups)
	done := 0
	for _, g := range groups {
		for _, set := range mlDSASets {
			if set.name != g.ParameterSet {
				continue
			}
			for _, c := range g.Tests {
				var want struct{ Pk hexBytes }
				result(t, results, c.TcID, &want)
				key, err := set.scheme.newSigningKey(c.Seed)
				if err != nil {
					t.Fatal(err)
				}
				if pub, err := key.publicKey(); err != nil || !bytes.Equal(pub, want.Pk) {
					t.Errorf("%s, case %d: another key, %v", set.name, c.TcID, err)
				}
				done++
			}
		}
	}
	if done != 75 {
		t.Errorf("%d cases, want 75", done)
	}
}

// hintOf returns the part of a signature that encodes its hint (FIPS 204 §7.1): omega places for indices, ascending
// within each polynomial, filled with zeros, and then the end of each polynomial's indices.
func hintOf(signature []byte, k, omega int) (indices, ends []byte) {
	h := signature[len(signature)-omega-k:]
	return h[:omega], h[omega:]
}

// withHint signs messages until a signature's hint has an unused place and a polynomial with two indices.
func withHint(t *testing.T, key signingKey, k, omega int) (message, signature []byte, first int) {
	t.Helper()
	for i := range 1000 {
		message = []byte{byte(i), byte(i >> 8)}
		signature, err := key.sign(message)
		if err != nil {
			t.Fatal(err)
		}
		_, ends := hintOf(signature, k, omega)
		for poly := range ends {
			from := 0
			if poly > 0 {
				from = int(ends[poly-1])
			}
			if int(ends[poly])-from >= 2 && int(ends[k-1]) < omega {
				return message, signature, from
			}
		}
	}
	t.Fatal("no signature of a thousand has room in its hint")
	return nil, nil, 0
}

// TestHintsHaveOneEncoding checks that another encoding of the same hint, with which a lax decoder would accept the
// signature, is refused.
func TestHintsHaveOneEncoding(t *testing.T) { // FIPS 204 §7.1, algorithm 21
	for _, set := range mlDSASets {
		t.Run(set.name, func(t *testing.T) {
			key, err := set.scheme.newSigningKey(bytes.Repeat([]byte{7}, 32))
			if err != nil {
				t.Fatal(err)
			}
			pub, err := key.publicKey()
			if err != nil {
				t.Fatal(err)
			}
			message, signature, first := withHint(t, key, set.k, set.omega)
			if !set.scheme.verify(pub, message, signature) {
				t.Fatal("does not verify")
			}
			for name, change := range map[string]func(indices, ends []byte){
				"an index repeated": func(indices, ends []byte) {
					copy(indices[first+1:], slices.Clone(indices[first:len(indices)-1]))
					for i := range ends {
						if int(ends[i]) > first {
							ends[i]++
						}
					}
				},
				"indices exchanged": func(indices, _ []byte) {
					indices[first], indices[first+1] = indices[first+1], indices[first]
				},
				"a number in the place of no index":    func(indices, ends []byte) { indices[ends[set.k-1]] = 1 },
				"a polynomial that ends before it":     func(_, ends []byte) { ends[set.k-2] = ends[set.k-1] + 1 },
				"more indices than there may be":       func(_, ends []byte) { ends[set.k-1] = byte(set.omega + 1) },
				"an end of the greatest number":        func(_, ends []byte) { ends[set.k-1] = 0xff },
				"ends that are all the greatest":       func(_, ends []byte) { copy(ends, bytes.Repeat([]byte{0xff}, set.k)) },
				"an additional index, zero":            func(_, ends []byte) { ends[set.k-1]++ },
				"indices that are all the same number": func(indices, _ []byte) { copy(indices, bytes.Repeat([]byte{9}, set.omega)) },
			} {
				wrong := bytes.Clone(signature)
				change(hintOf(wrong, set.k, set.omega))
				if set.scheme.verify(pub, message, wrong) {
					t.Errorf("verifies with %s", name)
				}
			}
			for _, wrong := range [][]byte{nil, {}, signature[1:], signature[:len(signature)-1], append(bytes.Clone(signature), 0)} {
				if set.scheme.verify(pub, message, wrong) {
					t.Errorf("a signature of %d bytes verifies", len(wrong))
				}
			}
		})
	}
}

func TestMLDSAKeyWithoutSecret(t *testing.T) {
	for _, set := range mlDSASets {
		requireKind(t, set.scheme.validate(make([]byte, set.public)), ErrInvalid)
		requireKind(t, set.scheme.validate(append(bytes.Repeat([]byte{1}, mlDSARho), make([]byte, set.public-mlDSARho)...)), ErrInvalid)
		if err := set.scheme.validate(append(make([]byte, set.public-1), 1)); err != nil {
			t.Errorf("%s: %v", set.name, err)
		}
	}
}

// FuzzMLDSASignature checks that no key, message or signature makes verification panic, and that no signature with a
// changed hint verifies.
func FuzzMLDSASignature(f *testing.F) {
	pubs, signatures := make([][]byte, 3), make([][]byte, 3)
	for i, set := range mlDSASets {
		key, err := set.scheme.newSigningKey(make([]byte, 32))
		if err != nil {
			f.Fatal(err)
		}
		if pubs[i], err = key.publicKey(); err != nil {
			f.Fatal(err)
		}
		if signatures[i], err = key.sign([]byte("message")); err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), pubs[i], signatures[i])
		f.Add(byte(i), pubs[i], signatures[i][set.omega+set.k:])
		indices, ends := hintOf(signatures[i], set.k, set.omega)
		f.Add(byte(i), pubs[i], append(bytes.Repeat(indices[:1], set.omega), ends...))
		f.Add(byte(i), pubs[i][1:], []byte{})
	}
	f.Fuzz(func(t *testing.T, which byte, pub, part []byte) {
		i := int(which) % len(mlDSASets)
		set := mlDSASets[i]
		set.scheme.verify(pub, []byte("message"), part)
		if set.scheme.validate(pub) != nil && len(pub) == set.public && !allZero(pub[mlDSARho:]) {
			t.Error("a key of the right length is refused")
		}
		if n := set.omega + set.k; len(part) == n {
			wrong := append(bytes.Clone(signatures[i][:set.signature-n]), part...)
			if set.scheme.verify(pubs[i], []byte("message"), wrong) && !bytes.Equal(wrong, signatures[i]) {
				t.Errorf("verifies with the hint %x", part)
			}
		}
	})
}
