package mlscore

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// eachPQKEM runs a test for each KEM of draft-ietf-hpke-pq in this package.
func eachPQKEM(t *testing.T, run func(t *testing.T, k kem)) {
	for _, k := range pqKEMs {
		t.Run(fmt.Sprintf("kem %#04x", k.id()), func(t *testing.T) { run(t, k) })
	}
}

// pqParts returns the parts of an ML-KEM or hybrid KEM; group is nil for ML-KEM.
func pqParts(k kem) (pq *mlKEM, group dhGroup) {
	if h, ok := k.(*hybridKEM); ok {
		return h.pq, h.group
	}
	return k.(*mlKEM), nil
}

func TestPQKEMSizes(t *testing.T) { // draft-ietf-hpke-pq, the tables of identifiers
	for _, want := range []struct {
		id               uint16
		enc, public, key int
	}{
		{0x0041, 1088, 1184, 64}, {0x0042, 1568, 1568, 64},
		{0x0050, 1153, 1249, 32}, {0x0051, 1665, 1665, 32}, {0x647a, 1120, 1216, 32},
	} {
		k := hpkeSuite(want.id, 1, 1).kem
		r := seeded("sizes")
		priv, pub, err := k.derive(drawn(t, r, 32))
		if err != nil {
			t.Fatal(err)
		}
		shared, enc, err := k.encap(r, pub)
		if err != nil || len(shared) != 32 || len(enc) != want.enc || len(pub) != want.public || len(priv) != want.key {
			t.Errorf("kem %#04x: Nsecret %d, Nenc %d, Npk %d, Nsk %d, %v", want.id, len(shared), len(enc), len(pub), len(priv), err)
		}
	}
}

// TestPQHPKEAgainstStandardLibrary seals for crypto/hpke and opens ciphertexts of crypto/hpke.
func TestPQHPKEAgainstStandardLibrary(t *testing.T) {
	for _, s := range pqSuites.all {
		t.Run(s.name, func(t *testing.T) { againstStandardLibrary(t, s) })
	}
}

// accumulated768 are the digests that the C2SP project publishes for ML-KEM-768, by the number of runs: of the keys,
// ciphertexts and shared secrets, rejected ciphertexts included.
var accumulated768 = map[int]string{
	100:   "1114b1b6699ed191734fa339376afa7e285c9e6acf6ff0177d346696ce564415",
	10000: "8a518cc63da366322a8e7a818c7a0d63483cb3528d34a4cf42f35d5ad73f22fc",
}

func TestKnownAnswersMLKEM768(t *testing.T) { // FIPS 203
	n := 100
	if longRun(t) != "" {
		n = 10000
	}
	k := kemMLKEM768
	source, sink := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	for range n {
		priv := drawn(t, source, 64)
		pub, err := k.publicKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		shared, enc, err := k.encap(source, pub)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.decap(priv, enc); err != nil || !bytes.Equal(got, shared) {
			t.Fatalf("decapsulates to %x, not %x: %v", got, shared, err)
		}
		rejected, err := k.decap(priv, drawn(t, source, len(enc)))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{pub, enc, shared, rejected} {
			sink.Write(b)
		}
	}
	if got := hex.EncodeToString(drawn(t, sink, 32)); got != accumulated768[n] {
		t.Errorf("digest of %d runs %s, want %s", n, got, accumulated768[n])
	}
}

// TestMLKEMAgainstStandardLibrary compares ML-KEM with the standard library byte by byte.
func TestMLKEMAgainstStandardLibrary(t *testing.T) {
	r := seeded("standard ML-KEM")
	for range 20 {
		seed, m, noise := drawn(t, r, 64), drawn(t, r, 32), drawn(t, r, 1568)
		key768, err := mlkem.NewDecapsulationKey768(seed)
		if err != nil {
			t.Fatal(err)
		}
		shared, enc, err := mlkemtest.Encapsulate768(key768.EncapsulationKey(), m)
		rejected, rejectErr := key768.Decapsulate(noise[:1088])
		if err := cmp.Or(err, rejectErr); err != nil {
			t.Fatal(err)
		}
		sameMLKEM(t, kemMLKEM768, seed, m, [5][]byte{key768.EncapsulationKey().Bytes(), shared, enc, noise[:1088], rejected})
		key1024, err := mlkem.NewDecapsulationKey1024(seed)
		if err != nil {
			t.Fatal(err)
		}
		shared, enc, err = mlkemtest.Encapsulate1024(key1024.EncapsulationKey(), m)
		rejected, rejectErr = key1024.Decapsulate(noise)
		if err := cmp.Or(err, rejectErr); err != nil {
			t.Fatal(err)
		}
		sameMLKEM(t, kemMLKEM1024, seed, m, [5][]byte{key1024.EncapsulationKey().Bytes(), shared, enc, noise, rejected})
	}
}

// sameMLKEM compares the results for a seed with a public key, a shared secret and its encapsulation, and the
// decapsulation of noise.
func sameMLKEM(t *testing.T, k *mlKEM, seed, m []byte, want [5][]byte) {
	t.Helper()
	pub, err := k.publicKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	shared, enc, err := k.encap(bytes.NewReader(m), pub)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := k.decap(seed, want[2])
	if err != nil {
		t.Fatal(err)
	}
	rejected, err := k.decap(seed, want[3])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pub, want[0]) || !bytes.Equal(shared, want[1]) || !bytes.Equal(enc, want[2]) || !bytes.Equal(opened, want[1]) || !bytes.Equal(rejected, want[4]) {
		t.Errorf("kem %#04x differs from crypto/mlkem", k.kemID)
	}
}

// acvp reads a set of NIST's vectors, groups and expected results by test case, from circl's module.
func acvp(t *testing.T, folder string, groups any) map[int]json.RawMessage {
	t.Helper()
	dir := filepath.Join(askGo(t, "list", "-m", "-f", "{{.Dir}}", "github.com/cloudflare/circl"), folder)
	var prompt struct {
		TestGroups json.RawMessage `json:"testGroups"`
	}
	var expected struct {
		TestGroups []struct{ Tests []json.RawMessage } `json:"testGroups"`
	}
	readGzipped(t, filepath.Join(dir, "prompt.json.gz"), &prompt)
	readGzipped(t, filepath.Join(dir, "expectedResults.json.gz"), &expected)
	if err := json.Unmarshal(prompt.TestGroups, groups); err != nil {
		t.Fatal(err)
	}
	results := map[int]json.RawMessage{}
	for _, g := range expected.TestGroups {
		for _, raw := range g.Tests {
			var c struct{ TcID int }
			if err := json.Unmarshal(raw, &c); err != nil {
				t.Fatal(err)
			}
			results[c.TcID] = raw
		}
	}
	return results
}

func readGzipped(t *testing.T, path string, v any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Skipf("circl's module has no vectors of NIST: %v", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		t.Fatal(err)
	}
}

func result(t *testing.T, results map[int]json.RawMessage, id int, v any) {
	t.Helper()
	if err := json.Unmarshal(results[id], v); err != nil {
		t.Fatalf("result of case %d: %v", id, err)
	}
}

func TestVectorsMLKEM(t *testing.T) { // FIPS 203
	kems := map[string]*mlKEM{"ML-KEM-768": kemMLKEM768, "ML-KEM-1024": kemMLKEM1024}
	var keys []struct {
		ParameterSet string
		Tests        []struct {
			TcID int
			D, Z hexBytes
		}
	}
	done := map[string]int{}
	results := acvp(t, "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203", &keys)
	for _, g := range keys {
		for _, c := range g.Tests {
			var want struct{ Ek hexBytes }
			result(t, results, c.TcID, &want)
			if k := kems[g.ParameterSet]; k != nil {
				done[g.ParameterSet]++
				if pub, err := k.publicKey(append(c.D, c.Z...)); err != nil || !bytes.Equal(pub, want.Ek) {
					t.Errorf("%s, case %d: another key, %v", g.ParameterSet, c.TcID, err)
				}
			}
		}
	}
	var encaps []struct {
		ParameterSet, Function string
		Tests                  []struct {
			TcID  int
			Ek, M hexBytes
		}
	}
	results = acvp(t, "kem/mlkem/testdata/ML-KEM-encapDecap-FIPS203", &encaps)
	for _, g := range encaps {
		k := kems[g.ParameterSet]
		if k == nil || g.Function != "encapsulation" { // the other groups have private keys without their seeds
			continue
		}
		for _, c := range g.Tests {
			var want struct{ C, K hexBytes }
			result(t, results, c.TcID, &want)
			done[g.ParameterSet]++
			shared, enc, err := k.encap(bytes.NewReader(c.M), c.Ek)
			if err != nil || !bytes.Equal(shared, want.K) || !bytes.Equal(enc, want.C) {
				t.Errorf("%s, case %d: another shared secret or ciphertext, %v", g.ParameterSet, c.TcID, err)
			}
		}
	}
	for name := range kems {
		if done[name] != 50 {
			t.Errorf("%d cases of %s, want 50", done[name], name)
		}
	}
}

// setCoefficient writes a coefficient of 12 bits into an ML-KEM public key (FIPS 203 §4.2.1).
func setCoefficient(pub []byte, at, value int) []byte {
	pub = bytes.Clone(pub)
	b := pub[at/2*3:]
	if at%2 == 0 {
		b[0], b[1] = byte(value), b[1]&0xf0|byte(value>>8)
	} else {
		b[1], b[2] = b[1]&0x0f|byte(value<<4), byte(value>>4)
	}
	return pub
}

// badPQKeys are byte strings that no validation of public keys may accept.
func badPQKeys(s *suite, good []byte) map[string][]byte {
	pq, group := pqParts(s.kem)
	n := pq.scheme.PublicKeySize()
	last := (n-mlKEMRho)/3*2 - 1
	zero := append(make([]byte, n-mlKEMRho), good[n-mlKEMRho:]...)
	bad := map[string][]byte{
		"absent": nil, "one byte": {4}, "truncated": good[:len(good)-1], "oversized": append(bytes.Clone(good), 0),
		"cut within the seed": good[:n-1], "cut to the seed": good[:mlKEMRho], "zero": make([]byte, len(good)), "all ones": bytes.Repeat([]byte{0xff}, len(good)),
		"without a secret": zero,
	}
	for _, at := range []int{0, 1, 255, 256, last} {
		for _, value := range []int{3329, 3330, 4095} {
			bad[fmt.Sprintf("not reduced, %d at %d", value, at)] = setCoefficient(good, at, value)
		}
	}
	if group == nil {
		return bad
	}
	bad["without its group's key"] = good[:n]
	bad["its group's key alone"] = good[n:]
	bad["in the wrong order"] = append(bytes.Clone(good[n:]), good[:n]...)
	with := func(t []byte) []byte { return append(bytes.Clone(good[:n]), t...) }
	if (group == groupX25519{}) {
		for i, u := range smallOrderX25519 {
			bad[fmt.Sprint("of small order ", i)] = with(u[:])
		}
		return bad
	}
	off := bytes.Clone(good)
	off[len(off)-1] ^= 1
	bad["off the curve"] = off
	bad["compressed"] = with(append([]byte{2}, good[n+1:n+1+(len(good)-n)/2]...))
	bad["infinity"] = with(make([]byte, len(good)-n))
	return bad
}

// TestReducedCoefficients checks that the largest reduced coefficient is accepted, at every place, and that circl
// agrees.
func TestReducedCoefficients(t *testing.T) {
	eachPQKEM(t, func(t *testing.T, k kem) {
		pq, _ := pqParts(k)
		_, pub, err := k.derive([]byte("reduced"))
		if err != nil {
			t.Fatal(err)
		}
		for at := range (pq.scheme.PublicKeySize() - mlKEMRho) / 3 * 2 {
			largest, over := setCoefficient(pub, at, 3328), setCoefficient(pub, at, 3329)
			if err := k.validate(largest); err != nil {
				t.Errorf("coefficient %d is q-1: %v", at, err)
			}
			requireKind(t, k.validate(over), ErrMalformed)
			for _, key := range [][]byte{largest, over} {
				part := key[:pq.scheme.PublicKeySize()]
				_, err := pq.scheme.UnmarshalBinaryPublicKey(part)
				if mine := pq.validate(part); (mine == nil) != (err == nil) {
					t.Errorf("coefficient %d: %v here, %v by circl", at, mine, err)
				}
			}
		}
	})
}

// TestKEMOutputsRefused checks that a KEM output of the wrong length, or without a point of the group, is malformed.
// Any other output that was not made for the key is rejected implicitly, always with the same shared secret.
func TestKEMOutputsRefused(t *testing.T) {
	eachPQKEM(t, func(t *testing.T, k kem) {
		r := seeded("outputs")
		priv, pub, err := k.derive(drawn(t, r, 32))
		if err != nil {
			t.Fatal(err)
		}
		shared, enc, err := k.encap(r, pub)
		if err != nil {
			t.Fatal(err)
		}
		pq, group := pqParts(k)
		n := pq.scheme.CiphertextSize()
		bad := [][]byte{nil, {4}, enc[:n-1], enc[:len(enc)-1], append(bytes.Clone(enc), 0)}
		switch {
		case group == groupX25519{}:
			bad = append(bad, append(bytes.Clone(enc[:n]), make([]byte, len(enc)-n)...), enc[:n])
		case group != nil:
			off := bytes.Clone(enc)
			off[len(off)-1] ^= 1
			bad = append(bad, off, enc[:n], append(bytes.Clone(enc[:n]), 0))
		}
		for _, b := range bad {
			if _, err := k.decap(priv, b); err == nil {
				t.Errorf("a KEM output of %d bytes is taken", len(b))
			}
		}
		seen := map[string]bool{string(shared): true}
		for i := range 8 {
			wrong := bytes.Clone(enc)
			wrong[i*n/8] ^= 1
			got, err := k.decap(priv, wrong)
			again, _ := k.decap(priv, wrong)
			if err != nil || !bytes.Equal(got, again) || seen[string(got)] {
				t.Errorf("a wrong KEM output decapsulates to %x, then %x, %v", got, again, err)
			}
			seen[string(got)] = true
		}
	})
}

// TestHybridTakesBoth checks that the shared secret changes with either half of either key.
func TestHybridTakesBoth(t *testing.T) {
	for _, k := range []*hybridKEM{kemMLKEM768P256, kemMLKEM1024P384, kemMLKEM768X25519} {
		_, first, err := k.derive([]byte("first"))
		if err != nil {
			t.Fatal(err)
		}
		_, second, err := k.derive([]byte("second"))
		if err != nil {
			t.Fatal(err)
		}
		n := k.pq.scheme.PublicKeySize()
		seen := map[string]bool{}
		for _, pub := range [][]byte{first, second, append(bytes.Clone(first[:n]), second[n:]...), append(bytes.Clone(second[:n]), first[n:]...)} {
			shared, _, err := k.encap(seeded("one source"), pub)
			if err != nil || seen[string(shared)] {
				t.Errorf("%s: shared secret %x again, or %v", k.label, shared, err)
			}
			seen[string(shared)] = true
		}
	}
}

// TestHybridWithoutCandidate uses a group that refuses every key, and checks that making a key ends.
func TestHybridWithoutCandidate(t *testing.T) {
	k := &hybridKEM{0x0050, "", kemMLKEM768, refusing{}, 32, 4, labeledSeed}
	_, _, err := k.derive([]byte("ikm"))
	requireKind(t, err, ErrMisuse)
	_, _, err = k.encap(constant(0), make([]byte, 1249))
	requireKind(t, err, ErrInvalid)
	_, pub, err := kemMLKEM768P256.derive([]byte("ikm"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = kemMLKEM768P256.encap(constant(0), pub) // zero is not a scalar
	requireKind(t, err, ErrMisuse)
}

// FuzzPQPublicKey checks that encryption succeeds exactly for the keys that validation accepts, and that no bytes
// make either panic.
func FuzzPQPublicKey(f *testing.F) {
	for i, k := range pqKEMs {
		_, pub, err := k.derive([]byte("fuzz"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), pub)
		for _, bad := range badPQKeys(&suite{kem: k}, pub) {
			f.Add(byte(i), bad)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, pub []byte) {
		k := pqKEMs[int(which)%len(pqKEMs)]
		refused := k.validate(pub)
		shared, _, err := k.encap(seeded("fuzz"), pub)
		if (refused == nil) != (err == nil) || err == nil && len(shared) != 32 {
			t.Errorf("validate: %v, encap: %v", refused, err)
		}
	})
}

// FuzzPQDecap checks that no KEM output makes decapsulation panic, and that only the right one gives the shared
// secret.
func FuzzPQDecap(f *testing.F) {
	privs, secrets, outputs := make([][]byte, len(pqKEMs)), make([][]byte, len(pqKEMs)), make([][]byte, len(pqKEMs))
	for i, k := range pqKEMs {
		r := seeded("fuzz")
		priv, pub, err := k.derive(drawn(f, r, 32))
		if err != nil {
			f.Fatal(err)
		}
		privs[i] = priv
		if secrets[i], outputs[i], err = k.encap(r, pub); err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), outputs[i])
		f.Add(byte(i), outputs[i][1:])
		f.Add(byte(i), make([]byte, len(outputs[i])))
	}
	f.Fuzz(func(t *testing.T, which byte, enc []byte) {
		i := int(which) % len(pqKEMs)
		shared, err := pqKEMs[i].decap(privs[i], enc)
		if err == nil && bytes.Equal(shared, secrets[i]) != bytes.Equal(enc, outputs[i]) {
			t.Errorf("kem %#04x: shared secret of another output", pqKEMs[i].id())
		}
	})
}
