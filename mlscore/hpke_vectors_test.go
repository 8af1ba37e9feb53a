package mlscore

import (
	"bytes"
	"compress/gzip"
	"crypto/sha3"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

type hpkeVector struct {
	Mode   uint16
	KEM    uint16 `json:"kem_id"`
	KDF    uint16 `json:"kdf_id"`
	AEAD   uint16 `json:"aead_id"`
	Info   hexBytes
	IkmE   hexBytes
	IkmR   hexBytes
	SkRm   hexBytes
	PkRm   hexBytes
	Enc    hexBytes
	Shared hexBytes `json:"shared_secret"`

	// in the RFC's own file
	ScheduleContext hexBytes `json:"key_schedule_context"`
	Key             hexBytes
	BaseNonce       hexBytes                                `json:"base_nonce"`
	Encryptions     []struct{ Aad, Ct, Nonce, Pt hexBytes } // one per sequence number up to 256
	Exports         []struct {
		Context hexBytes `json:"exporter_context"`
		L       int
		Value   hexBytes `json:"exported_value"`
	}

	// in the standard library's condensed file: SHAKE128 over a thousand outputs
	AccEncryptions hexBytes `json:"encryptions_accumulated"`
	AccExports     hexBytes `json:"exports_accumulated"`
}

// readHPKEVectors returns the base mode vectors of a JSON file.
func readHPKEVectors(t *testing.T, r io.Reader) []hpkeVector {
	t.Helper()
	var all, base []hpkeVector
	if err := json.NewDecoder(r).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Mode == 0 {
			base = append(base, v)
		}
	}
	if len(base) == 0 {
		t.Fatal("the file has no vector of base mode")
	}
	return base
}

// askGo runs the go command. It skips the test if there is no go command.
func askGo(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Skipf("go %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// TestVectorsHPKEStandardLibrary checks RFC 9180's vectors from the Go installation that runs the test.
func TestVectorsHPKEStandardLibrary(t *testing.T) {
	path := filepath.Join(askGo(t, "env", "GOROOT"), "src", "crypto", "hpke", "testdata", "rfc9180.json")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("this Go installation has no %s", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, v := range readHPKEVectors(t, f) {
		v.run(t)
	}
}

// TestVectorsHPKEPostQuantum checks draft-ietf-hpke-pq's vectors from the Go installation, except those with a KDF or
// KEM that no cipher suite has.
func TestVectorsHPKEPostQuantum(t *testing.T) {
	path := filepath.Join(askGo(t, "env", "GOROOT"), "src", "crypto", "hpke", "testdata", "hpke-pq.json")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("this Go installation has no %s", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := 0
	for _, v := range readHPKEVectors(t, f) {
		if hpkeSuite(v.KEM, v.KDF, v.AEAD) != nil {
			v.run(t)
			done++
		}
	}
	if done < len(pqKEMs) {
		t.Errorf("vectors for %d of %d KEMs", done, len(pqKEMs))
	}
}

// TestVectorsHPKEFull checks the RFC's whole file, which has X448 as well, from the module cache.
func TestVectorsHPKEFull(t *testing.T) {
	dir := askGo(t, "list", "-m", "-f", "{{.Dir}}", "github.com/cloudflare/circl")
	files, err := filepath.Glob(filepath.Join(dir, "hpke", "testdata", "vectors_rfc9180_*.json.gz"))
	if err != nil || len(files) == 0 {
		t.Skipf("circl's module has no vectors of RFC 9180: %v", err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range readHPKEVectors(t, z) {
		v.run(t)
	}
}

func (v *hpkeVector) run(t *testing.T) {
	s := hpkeSuite(v.KEM, v.KDF, v.AEAD)
	if s == nil {
		t.Errorf("kem %#04x kdf %d aead %#x: not here", v.KEM, v.KDF, v.AEAD)
		return
	}
	t.Run(s.name, func(t *testing.T) {
		v.checkKEM(t, s)
		if v.AEAD != 0xffff {
			v.checkSealing(t, s)
		}
		v.checkExports(t, s)
	})
}

func (v *hpkeVector) checkKEM(t *testing.T, s *suite) {
	priv, pub, err := s.deriveKeyPair(v.IkmR)
	if err != nil || !bytes.Equal(priv.Bytes(), v.SkRm) || !bytes.Equal(pub, v.PkRm) {
		t.Fatalf("DeriveKeyPair: %x %x, %v", priv.Bytes(), pub, err)
	}
	if pub, err := s.publicKeyOf(v.SkRm); err != nil || !bytes.Equal(pub, v.PkRm) {
		t.Fatalf("public key %x, %v", pub, err)
	}
	if err := s.validatePublicKey(v.PkRm); err != nil {
		t.Fatal(err)
	}
	shared, enc, err := s.kem.encap(bytes.NewReader(v.IkmE), v.PkRm)
	if err != nil || !bytes.Equal(enc, v.Enc) {
		t.Fatalf("Encap: %x, %v", enc, err)
	}
	if v.Shared != nil && !bytes.Equal(shared, v.Shared) {
		t.Fatalf("shared secret %x, want %x", shared, v.Shared)
	}
	if got, err := s.kem.decap(v.SkRm, v.Enc); err != nil || !bytes.Equal(got, shared) {
		t.Fatalf("Decap: %x, %v", got, err)
	}
}

// checkSealing checks key and nonce directly, with the ciphertexts of all sequence numbers, for which the test
// advances the nonce, and with encryptTo and decryptFrom, which use only number 0.
func (v *hpkeVector) checkSealing(t *testing.T, s *suite) {
	shared, _, err := s.kem.encap(bytes.NewReader(v.IkmE), v.PkRm)
	if err != nil {
		t.Fatal(err)
	}
	info := s.hashInfo(v.Info)
	key, nonce := s.schedule(shared, info).keys()
	if v.ScheduleContext != nil && !bytes.Equal(info.context, v.ScheduleContext) {
		t.Fatalf("key schedule context %x", info.context)
	}
	if v.Key != nil && (!bytes.Equal(key, v.Key) || !bytes.Equal(nonce, v.BaseNonce)) {
		t.Fatalf("key schedule: key %x, nonce %x", key, nonce)
	}
	for i, e := range v.Encryptions {
		if got := s.aeadSeal(key, nonceAt(nonce, i), e.Aad, e.Pt); !bytes.Equal(got, e.Ct) {
			t.Fatalf("sequence number %d: %x, want %x", i, got, e.Ct)
		}
	}
	if v.AccEncryptions != nil {
		source, sink := sha3.NewSHAKE128(), sha3.NewSHAKE128()
		for i := range 1000 {
			aad, plaintext := shortDraw(t, source), shortDraw(t, source)
			sink.Write(s.aeadSeal(key, nonceAt(nonce, i), aad, plaintext))
		}
		if got := drawn(t, sink, 16); !bytes.Equal(got, v.AccEncryptions) {
			t.Fatalf("accumulated encryptions %x, want %x", got, v.AccEncryptions)
		}
	}
	enc, ciphertext, err := s.encryptTo(bytes.NewReader(v.IkmE), v.PkRm, info, []byte("plaintext"))
	if err != nil || !bytes.Equal(enc, v.Enc) || !bytes.Equal(ciphertext, s.aeadSeal(key, nonce, nil, []byte("plaintext"))) {
		t.Fatalf("encryptTo: %x %x, %v", enc, ciphertext, err)
	}
	if got, err := s.decryptFrom(v.SkRm, info, enc, ciphertext); err != nil || string(got) != "plaintext" {
		t.Fatalf("decryptFrom: %q, %v", got, err)
	}
}

// nonceAt implements ComputeNonce (RFC 9180 §5.2).
func nonceAt(base []byte, i int) []byte {
	nonce := bytes.Clone(base)
	tail := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^uint64(i))
	return nonce
}

// shortDraw reads a length octet and that many bytes, in the way in which the condensed vectors were made.
func shortDraw(t *testing.T, r io.Reader) []byte { return drawn(t, r, int(drawn(t, r, 1)[0])) }

func (v *hpkeVector) checkExports(t *testing.T, s *suite) {
	both := func(context string, n int) []byte {
		enc, sent, err := s.exportTo(bytes.NewReader(v.IkmE), v.PkRm, v.Info, context, n)
		if err != nil || !bytes.Equal(enc, v.Enc) {
			t.Fatalf("exportTo: %x, %v", enc, err)
		}
		if received, err := s.exportFrom(v.SkRm, enc, v.Info, context, n); err != nil || !received.Equal(sent) {
			t.Fatalf("exportFrom disagrees with exportTo: %v", err)
		}
		return sent.Bytes()
	}
	for _, e := range v.Exports {
		if got := both(string(e.Context), e.L); !bytes.Equal(got, e.Value) {
			t.Fatalf("export with context %x: %x, want %x", e.Context, got, e.Value)
		}
	}
	if v.AccExports == nil {
		return
	}
	shared, err := s.kem.decap(v.SkRm, v.Enc)
	if err != nil {
		t.Fatal(err)
	}
	c := s.schedule(shared, s.hashInfo(v.Info))
	source, sink := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	for n := range 1000 {
		context := string(shortDraw(t, source))
		value := c.export(context, n).Bytes()
		if n%250 == 0 && !bytes.Equal(value, both(context, n)) {
			t.Fatalf("export of %d bytes", n)
		}
		sink.Write(value)
	}
	if got := drawn(t, sink, 16); !bytes.Equal(got, v.AccExports) {
		t.Fatalf("accumulated exports %x, want %x", got, v.AccExports)
	}
}
