package mlscore

import (
	"crypto/rand"
	"crypto/sha3"
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
	if len(draftRows) != len(want) {
		t.Fatalf("%d suites, want %d", len(draftRows), len(want))
	}
	for i, w := range want {
		row := &draftRows[i]
		s := row.under(row.number)
		if row.earlier != CipherSuite(0xf001+i) || row.draft != draft06 {
			t.Errorf("%v: earlier number %#04x, %s", w.id, uint16(row.earlier), row.draft)
		}
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
	if !slices.IsSorted(ids) || len(ids) != len(want) {
		t.Errorf("PostQuantumSuites: %v", ids)
	}
	ids[0] = 99
	if PostQuantumSuites()[0] == 99 {
		t.Error("PostQuantumSuites gives out the table itself")
	}
}

// TestAssignedCodePoints checks that a suite gets an additional number and keeps its earlier number.
func TestAssignedCodePoints(t *testing.T) {
	// An earlier release uses 0xf007 for another suite: the new entry replaces it.
	n, err := assigned("MLS_128_MLKEM768P256_AES128GCM_SHA256_P256=0xf007,MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87=9")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(idsOf(n.all)) || len(n.all) != 2*len(draftRows)+1 || len(n.fresh) != len(draftRows) || n.all[0].id != 9 || n.fresh[0].id != 9 {
		t.Fatalf("%v, fresh %v", idsOf(n.all), idsOf(n.fresh))
	}
	named := map[CipherSuite]string{}
	for _, s := range n.all {
		named[s.id] = s.name
	}
	const replaced = "MLS_128_MLKEM768P256_AES128GCM_SHA256_P256"
	if named[0xf007] != replaced || named[0xf003] != replaced || named[MLS128MLKEM768P256AES128P256] != replaced || named[MLS128MLKEM768AES256P256] != "MLS_128_MLKEM768_AES256GCM_SHA384_P256" {
		t.Errorf("%v", named)
	}
	if fresh := idsOf(n.fresh); !slices.Contains(fresh, 0xf007) || slices.Contains(fresh, MLS128MLKEM768P256AES128P256) || slices.Contains(fresh, 0xf001) {
		t.Errorf("fresh %v", fresh)
	}
	if n.all[0].signature != signatureScheme(mlDSA87) {
		t.Errorf("%+v", n.all[0])
	}
	// The variant with the key derivation of an older draft is a separate suite.
	n, err = assigned("MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519/older=0xf00c")
	if err != nil || len(n.fresh) != len(draftRows)+1 {
		t.Fatalf("%v, %v", idsOf(n.fresh), err)
	}
	at := slices.IndexFunc(n.all, func(s *suite) bool { return s.id == 0xf00c })
	if s := n.all[at]; s.kem != kem(kemXWing06) || s.name != "MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519/older" {
		t.Errorf("%+v", s)
	}
	if n, err := assigned(""); err != nil || len(n.all) != 2*len(draftRows) || !slices.Equal(idsOf(n.fresh), PostQuantumSuites()) && codePoints == "" {
		t.Errorf("nothing assigned: %v, %v", idsOf(n.all), err)
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
		{name + "/older=0x60", "is no cipher suite of the draft", ErrUnsupported},
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

// TestLongAssignedCodePointsLinked links this test again with an assigned number, and runs it.
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
		"MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519": MLS128MLKEM768X25519AES128Ed25519, "0xf42f": MLS128MLKEM768X25519AES128Ed25519,
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

// TestCapabilitiesOfSuites checks that a leaf announces RFC 9420's cipher suites or those of the Config, and always
// its own suite.
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

// TestEarlierNumbers checks that groups, KeyPackages and members with the numbers of earlier releases can be loaded
// and used, and that a ReInit changes a group to the number of new groups.
func TestEarlierNumbers(t *testing.T) {
	for at := range draftRows {
		if got := draftRows[at].number.Earlier(); got != draftRows[at].earlier {
			t.Errorf("%#04x was %#04x", uint16(draftRows[at].number), uint16(got))
		}
	}
	if MLS128X25519AES128Ed25519.Earlier() != 1 || len(EarlierSuites()) != 18 || len(SupportedSuites()) != 7+2*len(draftRows) {
		t.Errorf("earlier %v, all %v", EarlierSuites(), SupportedSuites())
	}
	const old, now = CipherSuite(0xf001), MLS128MLKEM768X25519AES128Ed25519
	if !old.SignsLike(now) || old.String() != now.String() {
		t.Errorf("%v and %v", old, now)
	}
	alice, bob, carol := newPerson(t, "alice", old), newPerson(t, "bob", old), newPerson(t, "carol", old)
	alice.create(t, CreateOptions{})
	alice.commit(t, CommitOptions{}, nil, bob)
	alice.group = must[*Group](t)(alice.LoadGroup(alice.group.GroupID()))
	bob.group = must[*Group](t)(bob.LoadGroup(bob.group.GroupID()))
	alice.commit(t, CommitOptions{}, []*person{bob}, carol)
	c := must[*Commit](t)(alice.group.Commit(CommitOptions{Proposals: []Proposal{ReInitProposal(ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: now})}}))
	for _, p := range []*person{bob, carol} {
		if err := p.group.Merge(must[*Received](t)(p.group.Process(c.Message)).Commit); err != nil {
			t.Fatal(err)
		}
	}
	if err := alice.group.Merge(c.Staged); err != nil {
		t.Fatal(err)
	}
	founder := alice.id
	founder.CipherSuite = now
	f := must[*Founding](t)(alice.group.Successor(FoundOptions{Identity: &founder, KeyPackages: packagesOf(t, now, bob, carol), WelcomeInfo: GroupInfoOptions{Tree: true}}))
	for _, p := range []*person{bob, carol} {
		if g := must[*Group](t)(p.Join(f.Welcome, JoinOptions{})); g.public().context.CipherSuite != now {
			t.Fatalf("%v", g.public().context.CipherSuite)
		}
	}
	// A server that follows only the groups of earlier releases.
	info := must[[]byte](t)(f.Group.GroupInfo(GroupInfoOptions{Tree: true}))
	_, err := NewPublicState(info, nil, PublicConfig{Auth: TrustBasic{}, Suites: EarlierSuites()})
	requireKind(t, err, ErrUnsupported)
	if !strings.Contains(err.Error(), "not among the cipher suites that are followed") {
		t.Error(err)
	}
}

// TestOlderDerivation checks that the variant with X-Wing's earlier key derivation derives other keys from a secret,
// and that groups work with it.
func TestOlderDerivation(t *testing.T) {
	_, now, err := kemMLKEM768X25519.derive([]byte("path secret"))
	if err != nil {
		t.Fatal(err)
	}
	priv, older, err := kemXWing06.derive([]byte("path secret"))
	if err != nil || string(now) == string(older) {
		t.Fatalf("the same keys, %v", err)
	}
	seed := sha3.SumSHAKE256([]byte("path secret"), 32)
	if string(priv) != string(seed) {
		t.Errorf("the seed is %x, not %x", priv, seed)
	}
	shared, enc, err := kemMLKEM768X25519.encap(rand.Reader, older)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := kemXWing06.decap(priv, enc); err != nil || string(again) != string(shared) {
		t.Errorf("decapsulates to something else, %v", err)
	}
}
