package mlscore

import (
	"fmt"
	"math/bits"
	"os"
	"testing"
)

// sizingStore counts the bytes that the operations of a group write.
type sizingStore struct {
	*MemoryStore
	bytes   int // keys and values
	batches int
	largest int // batch, in bytes
}

func (s *sizingStore) Apply(b Batch) error {
	n := 0
	for _, w := range b.Writes {
		n += len(w.Key) + len(w.Value)
	}
	s.bytes += n
	s.batches++
	s.largest = max(s.largest, n)
	return s.MemoryStore.Apply(b)
}

func (s *sizingStore) reset() { s.bytes, s.batches, s.largest = 0, 0, 0 }

// largeGroup is a fabricated group of n members. Only alice, the first, and bob, the last, are real.
type largeGroup struct {
	tb         testing.TB
	alice, bob *person
	stores     [2]*sizingStore // alice's and bob's
	next       int
}

func newLargeGroup(tb testing.TB, n int) *largeGroup {
	tb.Helper()
	g := &largeGroup{tb: tb}
	var people [2]*person
	for i, name := range []string{"alice", "bob"} {
		g.stores[i] = &sizingStore{MemoryStore: NewMemoryStore()}
		people[i] = newPerson(tb, name, 1, func(c *Config) { c.Store = g.stores[i] })
	}
	g.alice, g.bob = people[0], people[1]
	var err error
	g.alice.group, g.bob.group, err = fabricate(n, [2]*Client{g.alice.Client, g.bob.Client}, [2]Identity{g.alice.id, g.bob.id}, []byte("large"), GroupOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	g.stores[0].reset()
	g.stores[1].reset()
	return g
}

func (g *largeGroup) commit(opts CommitOptions) *Commit {
	g.tb.Helper()
	c, err := g.alice.group.Commit(opts)
	if err != nil {
		g.tb.Fatal(err)
	}
	return c
}

func (g *largeGroup) merge(p *person, s *StagedCommit) {
	g.tb.Helper()
	if err := p.group.Merge(s); err != nil {
		g.tb.Fatal(err)
	}
}

// benchSizes runs a benchmark at each size; the large ones take minutes to fabricate and run only with
// MLSFED_LONG set.
func benchSizes(b *testing.B, run func(b *testing.B, g *largeGroup)) {
	sizes := []int{10, 1000}
	if os.Getenv("MLSFED_LONG") != "" {
		sizes = append(sizes, 10_000, 100_000)
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			g := newLargeGroup(b, n)
			b.ReportAllocs()
			run(b, g)
		})
	}
}

// BenchmarkCommit makes a commit with a path and merges it: the cost of a member's own update.
func BenchmarkCommit(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		wire := 0
		for b.Loop() {
			c := g.commit(CommitOptions{})
			g.merge(g.alice, c.Staged)
			wire += len(c.Message)
		}
		b.ReportMetric(float64(g.stores[0].bytes)/float64(b.N), "state-B/op")
		b.ReportMetric(float64(wire)/float64(b.N), "wire-B/op")
	})
}

// BenchmarkProcess processes and merges another member's commit.
func BenchmarkProcess(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			b.StopTimer()
			c := g.commit(CommitOptions{})
			g.merge(g.alice, c.Staged)
			b.StartTimer()
			g.merge(g.bob, g.bob.stage(b, c.Message))
		}
		b.ReportMetric(float64(g.stores[1].bytes)/float64(b.N), "state-B/op")
	})
}

// BenchmarkAdd adds a member and merges: the Welcome does not hold the tree.
func BenchmarkAdd(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			b.StopTimer()
			_, add := g.newcomer(b)
			b.StartTimer()
			g.merge(g.alice, g.commit(CommitOptions{Proposals: []Proposal{add}}).Staged)
		}
		b.ReportMetric(float64(g.stores[0].bytes)/float64(b.N), "state-B/op")
	})
}

// BenchmarkBulkAdd makes one commit that adds a tenth of the number of members, and abandons it.
func BenchmarkBulkAdd(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		adds := make([]Proposal, g.alice.group.Public().Size()/10)
		for i := range adds {
			_, adds[i] = g.newcomer(b)
		}
		for b.Loop() {
			g.commit(CommitOptions{Proposals: adds})
			if err := g.alice.group.Abandon(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func (g *largeGroup) newcomer(tb testing.TB) (*person, Proposal) {
	tb.Helper()
	g.next++
	p := newPerson(tb, fmt.Sprint("newcomer ", g.next), 1)
	return p, AddProposal(p.keyPackage(tb))
}

// BenchmarkJoin joins by a Welcome and a separate tree: the only operation that checks every member.
func BenchmarkJoin(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			b.StopTimer()
			p, add := g.newcomer(b)
			c := g.commit(CommitOptions{Proposals: []Proposal{add}})
			g.merge(g.alice, c.Staged)
			tree, err := g.alice.group.Public().Tree()
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := p.Join(c.Welcome, JoinOptions{Tree: tree}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLoad loads a group from its store, as after a restart.
func BenchmarkLoad(b *testing.B) {
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			if _, err := g.alice.LoadGroup([]byte("large")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkProtect encrypts an application message of 1 KiB.
func BenchmarkProtect(b *testing.B) {
	text := make([]byte, 1024)
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			if _, err := g.alice.group.Protect(text, MessageOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(g.stores[0].bytes)/float64(b.N), "state-B/op")
	})
}

// BenchmarkUnprotect decrypts an application message of 1 KiB.
func BenchmarkUnprotect(b *testing.B) {
	text := make([]byte, 1024)
	benchSizes(b, func(b *testing.B, g *largeGroup) {
		for b.Loop() {
			b.StopTimer()
			msg, err := g.alice.group.Protect(text, MessageOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := g.bob.group.Process(msg); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(g.stores[1].bytes)/float64(b.N), "state-B/op")
	})
}

// costs are the countable costs of one operation.
type costs struct{ allocations, state float64 }

// measure runs an operation several times.
func measure(s *sizingStore, op func()) costs {
	const runs = 8
	op() // the first run opens ratchets and fills pools
	s.reset()
	allocations := testing.AllocsPerRun(runs, op)
	return costs{allocations, float64(s.bytes) / (runs + 1)} // AllocsPerRun makes one additional run
}

// TestCommitCostsLogN counts what commits and messages allocate and write in groups of 64 and of 4,096 members: the
// path is twice as long, so commits may take at most twice as much, and messages the same. A pass over all members,
// or writing the whole tree, would take sixty times as much.
func TestCommitCostsLogN(t *testing.T) {
	small, large := newLargeGroup(t, 64), newLargeGroup(t, 4096)
	levels := float64(bits.Len(4095)) / float64(bits.Len(63))
	for _, op := range []struct {
		name string
		side int // index of the store to measure
		most float64
		run  func(g *largeGroup)
	}{
		{"commit and merge", 0, levels, func(g *largeGroup) {
			g.merge(g.alice, g.commit(CommitOptions{}).Staged)
		}},
		{"add and merge", 0, levels, func(g *largeGroup) {
			_, add := g.newcomer(t)
			g.merge(g.alice, g.commit(CommitOptions{Proposals: []Proposal{add}, OnlyThese: true}).Staged)
		}},
		{"protect", 0, 1.2, func(g *largeGroup) {
			if _, err := g.alice.group.Protect(make([]byte, 100), MessageOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		a := measure(small.stores[op.side], func() { op.run(small) })
		b := measure(large.stores[op.side], func() { op.run(large) })
		t.Logf("%s: %.0f allocations and %.0f bytes of state at 64 members, %.0f and %.0f at 4,096", op.name, a.allocations, a.state, b.allocations, b.state)
		if b.allocations > op.most*a.allocations || b.state > op.most*a.state {
			t.Errorf("%s: more than %.1f times as much", op.name, op.most)
		}
	}
}

// TestProcessCostsLogN does the same for the receiver: commits are made first, then processed.
func TestProcessCostsLogN(t *testing.T) {
	var got [2]costs
	for i, n := range []int{64, 4096} {
		g := newLargeGroup(t, n)
		var messages [][]byte
		for range 12 {
			c := g.commit(CommitOptions{})
			g.merge(g.alice, c.Staged)
			messages = append(messages, c.Message)
		}
		got[i] = measure(g.stores[1], func() {
			g.merge(g.bob, g.bob.stage(t, messages[0]))
			messages = messages[1:]
		})
		t.Logf("%d members: %.0f allocations, %.0f bytes of state for a commit", n, got[i].allocations, got[i].state)
	}
	if got[1].allocations > 2*got[0].allocations || got[1].state > 2*got[0].state {
		t.Error("more than twice as much in a tree with twice as many levels")
	}
}
