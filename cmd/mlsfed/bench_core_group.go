package main

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// coreGroup is a fabricated group with its two real members and their stores.
type coreGroup struct {
	suite   mlscore.CipherSuite
	n       int
	stores  [2]*countingStore
	clients [2]*mlscore.Client
	a, b    *mlscore.Group
}

// countingStore notes how much the last batch wrote.
type countingStore struct {
	*mlscore.MemoryStore
	written int
}

// Apply implements mlscore.Store.
func (s *countingStore) Apply(b mlscore.Batch) error {
	s.written = 0
	for _, w := range b.Writes {
		s.written += len(w.Key) + len(w.Value)
	}
	return s.MemoryStore.Apply(b)
}

// coreName has the same length for every real member, so that a commit's size tells of the tree alone.
func coreName(i int) string { return fmt.Sprintf("user-%06d", i) }

// newCoreClient makes a client that announces nothing but what the group needs.
func newCoreClient(suite mlscore.CipherSuite, name string) (*mlscore.Client, *countingStore, mlscore.Identity, error) {
	store := &countingStore{MemoryStore: mlscore.NewMemoryStore()}
	client, err := mlscore.NewClient(mlscore.Config{
		Auth:         mlscore.TrustBasic{},
		Store:        store,
		Now:          time.Now,
		CipherSuites: []mlscore.CipherSuite{suite},
		NoGREASE:     true,
	})
	if err != nil {
		return nil, nil, mlscore.Identity{}, err
	}
	key, _, err := mlscore.GenerateSignatureKey(nil, suite)
	return client, store, mlscore.Identity{CipherSuite: suite, Credential: mlscore.BasicCredential([]byte(name)), SignatureKey: key}, err
}

func newCoreGroup(suite mlscore.CipherSuite, n int) (*coreGroup, error) {
	c := &coreGroup{suite: suite, n: n}
	var ids [2]mlscore.Identity
	for k, name := range []string{coreName(0), coreName(n - 1)} {
		var err error
		if c.clients[k], c.stores[k], ids[k], err = newCoreClient(suite, name); err != nil {
			return nil, err
		}
	}
	f, err := mlscore.Fabricate(n, c.clients, ids, make([]byte, 16), mlscore.GroupOptions{PublicHandshakes: true})
	if err != nil {
		return nil, err
	}
	c.a, c.b = f.First, f.Last
	return c, nil
}

// pathLength is the number of parents above the first leaf.
func (c *coreGroup) pathLength() int { return bits.Len(uint(c.n - 1)) }

// coreMeasures are the figures of one size.
type coreMeasures struct {
	b      *coreBench
	c      *coreGroup
	n, k   int
	floors floors

	commit, process, joined, bulk float64 // ms
	bytes                         int
}

// commits measures an empty commit by the first member, processed by the last.
func (m *coreMeasures) commits() error {
	var made, processed []float64
	for range 15 {
		var c *mlscore.Commit
		t, err := timed(1, func() (err error) {
			if c, err = m.c.a.Commit(mlscore.CommitOptions{}); err != nil {
				return err
			}
			return m.c.a.Merge(c.Staged)
		})
		if err != nil {
			return err
		}
		made = append(made, t)
		t, err = timed(1, func() error {
			r, err := m.c.b.Process(c.Message)
			if err != nil {
				return err
			}
			return m.c.b.Merge(r.Commit)
		})
		if err != nil {
			return err
		}
		processed = append(processed, t)
		m.bytes = len(c.Message)
	}
	m.commit, m.process = middle(made), middle(processed)
	return errors.Join(
		m.b.row("commit", m.n, m.commit, "ms", m.floors.commit),
		m.b.row("process", m.n, m.process, "ms", m.floors.process),
		m.b.row("state-written", m.n, float64(m.c.stores[0].written)/1024, "KiB", 0),
		m.b.row("commit-bytes", m.n, float64(m.bytes), "B", 0),
	)
}

// messages measures application messages of 1 KiB.
func (m *coreMeasures) messages() error {
	content := make([]byte, 1024)
	var msgs [][]byte
	protect, err := timed(200, func() error {
		msg, err := m.c.a.Protect(content, mlscore.MessageOptions{})
		msgs = append(msgs, msg)
		return err
	})
	if err != nil {
		return err
	}
	next := 0
	unprotect, err := timed(len(msgs)-1, func() error {
		next++
		_, err := m.c.b.Process(msgs[next-1])
		return err
	})
	return errors.Join(err,
		m.b.row("protect", m.n, protect*1000, "µs", m.floors.protect*1000),
		m.b.row("unprotect", m.n, unprotect*1000, "µs", m.floors.unprotect*1000))
}

// join measures a newcomer's join, tree included: on one core and on all.
func (m *coreMeasures) join() error {
	m.b.table.progress("%d members: somebody joins", m.n)
	times := 9
	if m.n > 10_000 {
		times = 1
	}
	for _, cores := range []int{1, runtime.NumCPU()} {
		t, err := m.joinOn(cores, times)
		if err != nil {
			return err
		}
		name, floor := "join", m.floors.join
		if cores > 1 {
			name, floor = "join/all-cores", floor/float64(cores)
		} else {
			m.joined = t
		}
		if err := m.b.row(name, m.n, t, "ms", floor); err != nil || runtime.NumCPU() == 1 {
			return err
		}
	}
	return nil
}

// joinOn lets a newcomer join, and forget that it has, a number of times.
func (m *coreMeasures) joinOn(cores, times int) (float64, error) {
	client, _, id, err := newCoreClient(m.b.suite, fmt.Sprintf("newcomer with %d cores", cores))
	if err != nil {
		return 0, err
	}
	kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{LastResort: true})
	if err != nil {
		return 0, err
	}
	c, err := m.c.a.Commit(mlscore.CommitOptions{Proposals: []mlscore.Proposal{mlscore.AddProposal(kp)}})
	if err != nil {
		return 0, err
	}
	if err := m.both(c); err != nil {
		return 0, err
	}
	tree, err := m.c.a.Public().Tree()
	if err != nil {
		return 0, err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	var joined []float64
	for range times {
		runtime.GC() // of what came before
		var g *mlscore.Group
		t, err := timed(1, func() (err error) {
			g, err = client.Join(c.Welcome, mlscore.JoinOptions{Tree: tree})
			return err
		})
		if err == nil {
			err = g.Erase()
		}
		if err != nil {
			return 0, err
		}
		joined = append(joined, t)
	}
	return middle(joined), nil
}

// both merges a commit of the first member at both.
func (m *coreMeasures) both(c *mlscore.Commit) error {
	if err := m.c.a.Merge(c.Staged); err != nil {
		return err
	}
	r, err := m.c.b.Process(c.Message)
	if err != nil {
		return err
	}
	return m.c.b.Merge(r.Commit)
}

// heap measures what a loaded group occupies.
func (m *coreMeasures) heap() error {
	before := heapInUse()
	g, err := m.c.clients[1].LoadGroup(m.c.b.GroupID())
	if err != nil {
		return err
	}
	used := float64(heapInUse()) - float64(before)
	err = m.b.row("heap", m.n, used/(1<<20), "MiB", 0)
	runtime.KeepAlive(g)
	return err
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// addMany measures one commit that adds many, and the next one, whose path goes to all of them.
func (m *coreMeasures) addMany() error {
	m.b.table.progress("%d members: %d KeyPackages are made", m.n, m.k)
	adds := make([]mlscore.Proposal, m.k)
	client, _, id, err := newCoreClient(m.b.suite, "")
	if err != nil {
		return err
	}
	for i := range adds {
		if id.SignatureKey, _, err = mlscore.GenerateSignatureKey(nil, m.b.suite); err != nil {
			return err
		}
		id.Credential = mlscore.BasicCredential(fmt.Appendf(nil, "new %d", i))
		kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{})
		if err != nil {
			return err
		}
		adds[i] = mlscore.AddProposal(kp)
	}
	m.b.table.progress("%d members: %d are added", m.n, m.k)
	var c *mlscore.Commit
	if m.bulk, err = timed(1, func() (err error) {
		if c, err = m.c.a.Commit(mlscore.CommitOptions{Proposals: adds}); err != nil {
			return err
		}
		return m.c.a.Merge(c.Staged)
	}); err != nil {
		return err
	}
	if err := m.b.row("bulk-add", m.n, m.bulk, "ms", m.floors.bulk); err != nil {
		return err
	}
	t, err := timed(1, func() error {
		c, err := m.c.a.Commit(mlscore.CommitOptions{})
		if err != nil {
			return err
		}
		return m.c.a.Merge(c.Staged)
	})
	return errors.Join(err, m.b.row("commit-unmerged", m.n, t, "ms", m.floors.unmerged))
}

func middle(v []float64) float64 {
	for i := range v {
		for k := i; k > 0 && v[k] < v[k-1]; k-- {
			v[k], v[k-1] = v[k-1], v[k]
		}
	}
	return v[len(v)/2]
}

// point is what the chart shows of this size. To re-key, pairwise sessions seal a new secret to each
// member; with sender keys every member must do so when somebody leaves.
func (m *coreMeasures) point(c *primitiveCosts) chartPoint {
	n := float64(m.n)
	sealed := float64(m.b.sealedSize)
	return chartPoint{
		n: n,
		cost: []float64{m.commit, m.floors.commit, m.process, m.joined, m.floors.join, m.bulk,
			n * c.seal, n * n * c.seal},
		bytes: []float64{float64(m.bytes), n * sealed, n * n * sealed},
	}
}
