package mlscore

import (
	"fmt"
	"os"
	"testing"
)

// suiteGroup is a fabricated group of a cipher suite, with public handshakes.
type suiteGroup struct {
	tb         testing.TB
	cs         CipherSuite
	alice, bob *person
	next       int
}

func newSuiteGroup(tb testing.TB, cs CipherSuite, n int) *suiteGroup {
	tb.Helper()
	g := &suiteGroup{tb: tb, cs: cs}
	g.alice, g.bob = g.person("alice"), g.person("bob")
	opts := GroupOptions{PublicHandshakes: true}
	var err error
	g.alice.group, g.bob.group, err = fabricate(n, [2]*Client{g.alice.Client, g.bob.Client}, [2]Identity{g.alice.id, g.bob.id}, []byte("suite"), opts)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// person returns a person without random extensions, so that sizes can be compared.
func (g *suiteGroup) person(name string) *person {
	return newPerson(g.tb, name, g.cs, func(c *Config) { c.GREASE = GREASENowhere })
}

func (g *suiteGroup) newcomer() (*person, *KeyPackage) {
	g.next++
	p := g.person(fmt.Sprint("newcomer ", g.next))
	return p, p.keyPackage(g.tb)
}

// commit makes a commit by alice and merges it.
func (g *suiteGroup) commit(opts CommitOptions) *Commit {
	g.tb.Helper()
	c, err := g.alice.group.Commit(opts)
	if err != nil {
		g.tb.Fatal(err)
	}
	if err := g.alice.group.Merge(c.Staged); err != nil {
		g.tb.Fatal(err)
	}
	return c
}

func (g *suiteGroup) tree() []byte {
	g.tb.Helper()
	tree, err := g.alice.group.Public().Tree()
	if err != nil {
		g.tb.Fatal(err)
	}
	return tree
}

// suiteSizes are sizes in bytes.
type suiteSizes struct{ keyPackage, welcome, commit, tree int }

// sizes measures a KeyPackage, the Welcome for it without the tree, a commit without proposals, and the
// tree.
func (g *suiteGroup) sizes() (s suiteSizes) {
	g.tb.Helper()
	s.commit = len(g.commit(CommitOptions{}).Message)
	s.tree = len(g.tree())
	_, kp := g.newcomer()
	message, err := kp.Message()
	if err != nil {
		g.tb.Fatal(err)
	}
	s.keyPackage = len(message)
	s.welcome = len(g.commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}}).Welcome)
	return s
}

// TestSuiteSizes checks the sizes in docs/spec/suites.md, with 100 members. ECDSA signatures vary by a few bytes, and
// so do objects with many signatures.
func TestSuiteSizes(t *testing.T) {
	for _, want := range []struct {
		cs CipherSuite
		suiteSizes
	}{
		{MLS128X25519AES128Ed25519, suiteSizes{294, 367, 1178, 24016}},
		{MLS128MLKEM768X25519AES128Ed25519, suiteSizes{2666, 1456, 18285, 260031}},
		{MLS128MLKEM768X25519AES256Ed25519, suiteSizes{2666, 1552, 18452, 261615}},
		{MLS128MLKEM768P256AES128P256, suiteSizes{2779, 1497, 18829, 270704}},
		{MLS128MLKEM768P256AES256P256, suiteSizes{2782, 1593, 18995, 272272}},
		{MLS192MLKEM1024P384AES256P384, suiteSizes{3708, 2136, 26002, 361478}},
		{MLS128MLKEM768AES256Ed25519, suiteSizes{2602, 1520, 17972, 255247}},
		{MLS128MLKEM768AES256P256, suiteSizes{2651, 1527, 18021, 259341}},
		{MLS192MLKEM1024AES256P384, suiteSizes{3514, 2039, 24548, 342180}},
		{MLS128MLKEM768X25519ChaCha20MLDSA44, suiteSizes{8659, 3908, 24445, 625315}},
		{MLS192MLKEM768AES256MLDSA65, suiteSizes{11013, 4765, 26383, 771847}},
		{MLS256MLKEM1024AES256MLDSA87, suiteSizes{15057, 6563, 36091, 1044063}},
	} {
		got := newSuiteGroup(t, want.cs, 100).sizes()
		t.Logf("%#04x: KeyPackage %d, Welcome %d, commit %d, tree %d bytes", uint16(want.cs), got.keyPackage, got.welcome, got.commit, got.tree)
		s, err := suiteOf(want.cs)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range [][3]int{
			{got.keyPackage, want.keyPackage, 6}, {got.welcome, want.welcome, 6}, {got.commit, want.commit, 8}, {got.tree, want.tree, 250},
		} {
			slack := 0
			if _, ok := s.signature.(*ecdsaScheme); ok {
				slack = c[2]
			}
			if c[0] < c[1]-slack || c[0] > c[1]+slack {
				t.Errorf("%v: %d bytes, want %d", want.cs, c[0], c[1])
			}
		}
	}
}

// BenchmarkSuites measures every cipher suite with 100 members, and with MLSFED_LONG also with 10,000.
func BenchmarkSuites(b *testing.B) {
	sizes := []int{100}
	if os.Getenv("MLSFED_LONG") != "" {
		sizes = append(sizes, 10_000)
	}
	for _, s := range suites {
		for _, n := range sizes {
			b.Run(fmt.Sprintf("suite=%#04x/members=%d", uint16(s.id), n), func(b *testing.B) { benchSuite(b, s.id, n) })
		}
	}
}

func benchSuite(b *testing.B, cs CipherSuite, n int) {
	g := newSuiteGroup(b, cs, n)
	b.Run("commit", func(b *testing.B) {
		size := 0
		for b.Loop() {
			size = len(g.commit(CommitOptions{}).Message)
		}
		b.ReportMetric(float64(size), "wire-B")
	})
	g = newSuiteGroup(b, cs, n) // bob has not processed those commits
	b.Run("process", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			c := g.commit(CommitOptions{})
			b.StartTimer()
			if err := g.bob.group.Merge(g.bob.stage(b, c.Message)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("join", func(b *testing.B) {
		var s suiteSizes
		for b.Loop() {
			b.StopTimer()
			p, kp := g.newcomer()
			c := g.commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}})
			tree := g.tree()
			s.welcome, s.tree = len(c.Welcome), len(tree)
			b.StartTimer()
			if _, err := p.Join(c.Welcome, JoinOptions{Tree: tree}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			g.commit(CommitOptions{Proposals: []Proposal{RemoveProposal(g.last())}})
			b.StartTimer()
		}
		b.ReportMetric(float64(s.welcome), "welcome-B")
		b.ReportMetric(float64(s.tree), "tree-B")
	})
}

// last returns the leaf of the member who was added last.
func (g *suiteGroup) last() LeafIndex {
	last := LeafIndex(0)
	g.alice.group.Public().tree.eachLeaf(func(i LeafIndex, _ string) bool {
		last = i
		return true
	})
	return last
}
