package mlscore

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestPostQuantumSuiteTable(t *testing.T) { // draft-ietf-mls-pq-ciphersuites-06 §3.1
	want := []struct {
		id             CipherSuite
		name           string
		kem, kdf, aead uint16
		hashLen        int
		signature      signatureScheme
	}{
		{MLS128MLKEM768X25519AES128Ed25519, "MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519", 0x647a, 1, 1, 32, ed25519Scheme{}},
		{MLS128MLKEM768X25519AES256Ed25519, "MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519", 0x647a, 2, 2, 48, ed25519Scheme{}},
		{MLS128MLKEM768P256AES128P256, "MLS_128_MLKEM768P256_AES128GCM_SHA256_P256", 0x0050, 1, 1, 32, ecdsaP256},
		{MLS128MLKEM768P256AES256P256, "MLS_128_MLKEM768P256_AES256GCM_SHA384_P256", 0x0050, 2, 2, 48, ecdsaP256},
		{MLS192MLKEM1024P384AES256P384, "MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384", 0x0051, 2, 2, 48, ecdsaP384},
		{MLS128MLKEM768AES256Ed25519, "MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519", 0x0041, 2, 2, 48, ed25519Scheme{}},
		{MLS128MLKEM768AES256P256, "MLS_128_MLKEM768_AES256GCM_SHA384_P256", 0x0041, 2, 2, 48, ecdsaP256},
		{MLS192MLKEM1024AES256P384, "MLS_192_MLKEM1024_AES256GCM_SHA384_P384", 0x0042, 2, 2, 48, ecdsaP384},
		{MLS128MLKEM768X25519ChaCha20MLDSA44, "MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44", 0x647a, 2, 3, 48, mlDSA44},
		{MLS192MLKEM768AES256MLDSA65, "MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65", 0x0041, 2, 2, 48, mlDSA65},
		{MLS256MLKEM1024AES256MLDSA87, "MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87", 0x0042, 2, 2, 48, mlDSA87},
	}
	if len(draftSuites) != len(want) {
		t.Fatalf("%d suites, want %d", len(draftSuites), len(want))
	}
	for i, w := range want {
		s := draftSuites[i]
		if s.id != w.id || s.name != w.name || s.kem.id() != w.kem || s.kdf.id != w.kdf || s.aead.id != w.aead || s.hashLen() != w.hashLen || s.signature != w.signature {
			t.Errorf("%v is %+v", w.id, s)
		}
		if w.id < 0xf000 || isGREASE(uint16(w.id)) {
			t.Errorf("%#04x is not for private use", uint16(w.id))
		}
		if w.id.String() != w.name {
			t.Errorf("%#04x is called %v", uint16(w.id), w.id)
		}
	}
	ids := PostQuantumSuites()
	if !slices.IsSorted(ids) || len(ids) < len(want) {
		t.Errorf("PostQuantumSuites: %v", ids)
	}
	ids[0] = 99
	if PostQuantumSuites()[0] == 99 {
		t.Error("PostQuantumSuites gives out the table itself")
	}
}

// TestAssignedCodePoints: a suite gets a further number, and keeps the one it had.
func TestAssignedCodePoints(t *testing.T) {
	all, err := assigned("MLS_128_MLKEM768P256_AES128GCM_SHA256_P256=0x0051,MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87=9")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(idsOf(all)) || len(all) != len(draftSuites)+2 || all[0].id != 9 || all[1].id != 0x51 {
		t.Fatalf("%v", idsOf(all))
	}
	if all[0].name != "MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87" || all[0].signature != signatureScheme(mlDSA87) || all[1].kem != kem(kemMLKEM768P256) {
		t.Errorf("%+v, %+v", all[0], all[1])
	}
	if all, err := assigned(""); err != nil || !slices.Equal(idsOf(all), idsOf(draftSuites)) {
		t.Errorf("nothing assigned: %v, %v", idsOf(all), err)
	}
	const name = "MLS_128_MLKEM768_AES256GCM_SHA384_P256"
	for _, c := range []struct {
		list, say string
		kind      error
	}{
		{"MLS_128_MLKEM512=0x60", "is no cipher suite of the draft", ErrUnsupported},
		{"0xf001=0x60", "is no cipher suite of the draft", ErrUnsupported},
		{name, `has "" for a number`, ErrMisuse},
		{name + "=", `has "" for a number`, ErrMisuse},
		{name + "=x", `has "x" for a number`, ErrMisuse},
		{name + "=0x10000", `has "0x10000" for a number`, ErrMisuse},
		{name + "=-1", `has "-1" for a number`, ErrMisuse},
		{name + "=0", "0x0000 is reserved", ErrMisuse},
		{name + "=0x0a0a", "0x0a0a is reserved", ErrMisuse},
		{name + "=1", "0x0001 is MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 already", ErrMisuse},
		{name + "=0xf001", "0xf001 is MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519 already", ErrMisuse},
		{name + "=0x60," + name + "=0x60", "0x0060 is " + name + " already", ErrMisuse},
	} {
		_, err := assigned(c.list)
		requireKind(t, err, c.kind)
		if !strings.Contains(err.Error(), c.say) {
			t.Errorf("%q: %v, want %q in it", c.list, err, c.say)
		}
	}
}

func TestAssignedCodePointsEndTheProgram(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || !strings.Contains(err.Error(), "no cipher suite of the draft") {
			t.Errorf("panics with %v", err)
		}
	}()
	mustAssign("nonsense")
}

// TestLongAssignedCodePointsLinked links this test anew with a number, and runs it.
func TestLongAssignedCodePointsLinked(t *testing.T) {
	const name = "MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519"
	if codePoints != "" {
		cs, err := ParseCipherSuite(name)
		if err != nil || cs != 0x1234 || cs.String() != name || !slices.Contains(PostQuantumSuites(), cs) {
			t.Errorf("linked with %q: %v, %v", codePoints, cs, err)
		}
		groupOfThree(t, cs, true)
		return
	}
	if longRun(t) == "" {
		t.Skip("builds this test again: set MLSFED_LONG to short or full")
	}
	askGo(t, "version")
	flag := "-X github.com/mlsfed/mlsfed/mlscore.codePoints=" + name + "=0x1234"
	out, err := exec.Command("go", "test", "-run", "^"+t.Name()+"$", "-v", "-ldflags", flag, ".").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestParseCipherSuite(t *testing.T) {
	for text, want := range map[string]CipherSuite{
		"1": 1, "0x0007": 7, "61441": 0xf001, "0xf00b": 0xf00b,
		"MLS_256_DHKEMP384_AES256GCM_SHA384_P384":         7,
		"MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519": 0xf001,
	} {
		if got, err := ParseCipherSuite(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "8", "-1", "65537", "MLS_128", "x", strings.Repeat("9", 100)} {
		_, err := ParseCipherSuite(text)
		requireKind(t, err, ErrUnsupported)
	}
}

// TestCapabilitiesOfSuites: a leaf announces RFC 9420's cipher suites or those of the Config, and always
// its own.
func TestCapabilitiesOfSuites(t *testing.T) {
	const hybrid, pure = MLS128MLKEM768X25519AES128Ed25519, MLS256MLKEM1024AES256MLDSA87
	for _, c := range []struct {
		own          CipherSuite
		config, want []CipherSuite
	}{
		{1, nil, CipherSuites()},
		{hybrid, nil, append(CipherSuites(), hybrid)},
		{hybrid, []CipherSuite{}, []CipherSuite{hybrid}},
		{hybrid, []CipherSuite{1, hybrid}, []CipherSuite{1, hybrid}},
		{1, []CipherSuite{hybrid, pure}, []CipherSuite{hybrid, pure, 1}},
	} {
		p := newPerson(t, "alice", c.own, func(cfg *Config) { cfg.CipherSuites, cfg.GREASE = c.config, GREASENowhere })
		if got := p.keyPackage(t).LeafNode.Capabilities.CipherSuites; !slices.Equal(got, c.want) {
			t.Errorf("suite %v with %v: announces %v", c.own, c.config, got)
		}
	}
	cfg := newPerson(t, "alice", 1).cfg
	cfg.CipherSuites = []CipherSuite{0x7777}
	_, err := NewClient(cfg)
	requireKind(t, err, ErrUnsupported)
}
