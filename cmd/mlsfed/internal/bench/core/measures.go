package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/internal/stats"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/mlsbench"
)

// measures holds the figures of a group of n members, to which k members are added at once.
type measures struct {
	table      *harness.Table
	clock      clock // all-cores excepted
	emit       func(harness.Row) error
	c          *coreGroup
	n, k       int
	primitives mlsbench.Primitives
	costs      primitiveCosts // as last measured

	commit, process, joined, bulk float64 // ms
	floors                        floors  // of these
	bytes                         int
}

func newMeasures(t *harness.Table, now clock, suite mlscore.CipherSuite, n, k int) (*measures, error) {
	t.Progress("%d members: the group is made", n)
	c, err := newCoreGroup(suite, n)
	if err != nil {
		return nil, err
	}
	p, err := mlsbench.NewPrimitives(suite)
	if err != nil {
		return nil, err
	}
	return &measures{table: t, emit: t.Add, c: c, n: n, k: k, clock: now, primitives: p, costs: now.measurePrimitives(p, n)}, nil
}

// betweenFloors runs a measurement and returns the floors, from the costs of the primitives before and after it.
func (m *measures) betweenFloors(measurement func() error) (floors, error) {
	before := m.costs
	if err := measurement(); err != nil {
		return floors{}, err
	}
	m.costs = m.clock.measurePrimitives(m.primitives, m.n)
	return before.between(m.costs).floorsFor(m.n, m.c.pathLength(), m.k), nil
}

// row prints a figure, with its floor if there is one.
func (m *measures) row(name string, value float64, unit string, floor float64) error {
	r := harness.Row{Name: name, Suite: uint16(m.c.suite), N: m.n, Value: value, Unit: unit}
	if floor <= 0 {
		return m.emit(r)
	}
	below := r
	below.Name, below.Value = name+"/floor", floor
	r.Against, r.Ratio = "floor", value/floor
	return errors.Join(m.emit(r), m.emit(below))
}

// commits measures an empty commit by the first member, processed by the last.
func (m *measures) commits() error {
	var made, processed []float64
	f, err := m.betweenFloors(func() error {
		for range 25 {
			var c *mlscore.Commit
			t, err := m.clock.timed(func() (err error) {
				c, err = m.c.commit()
				return err
			})
			if err != nil {
				return err
			}
			made = append(made, t)
			if t, err = m.clock.timed(func() error { return m.c.follow(c) }); err != nil {
				return err
			}
			processed = append(processed, t)
			m.bytes = len(c.Message)
		}
		return nil
	})
	if err != nil {
		return err
	}
	m.commit, m.process = stats.Median(made), stats.Median(processed)
	m.floors.commit, m.floors.process = f.commit, f.process
	return errors.Join(
		m.row("commit", m.commit, "ms", f.commit),
		m.row("process", m.process, "ms", f.process),
		m.row("state-written", float64(m.c.stores[0].written)/1024, "KiB", 0),
		m.row("commit-bytes", float64(m.bytes), "B", 0),
	)
}

// messages measures application messages of 1 KiB, some at a time.
func (m *measures) messages() error {
	const rounds, some = 200, 20
	content := make([]byte, 1024) // different content each time, as for Primitives.Sign
	var protect, unprotect float64
	f, err := m.betweenFloors(func() (err error) {
		var msgs [][]byte
		protect, err = m.clock.repeated(rounds, 2000, func() error {
			for range some {
				binary.BigEndian.PutUint64(content, uint64(len(msgs)))
				msg, err := m.c.a.Protect(content, mlscore.MessageOptions{})
				if err != nil {
					return err
				}
				msgs = append(msgs, msg)
			}
			return nil
		})
		if err != nil {
			return err
		}
		unprotect, err = m.clock.repeated(len(msgs)/some-1, 2000, func() error {
			for _, msg := range msgs[:some] {
				if _, err := m.c.b.Process(msg); err != nil {
					return err
				}
			}
			msgs = msgs[some:]
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	const micro = 1000.0
	return errors.Join(
		m.row("protect", protect/some*micro, "µs", f.protect*micro),
		m.row("unprotect", unprotect/some*micro, "µs", f.unprotect*micro))
}

// join measures a newcomer's join, tree included: on one core and on all.
func (m *measures) join() error {
	if err := m.joinOneCore(); err != nil || runtime.NumCPU() == 1 {
		return err
	}
	cores := runtime.NumCPU()
	t, f, err := m.joinOn(cores)
	if err != nil {
		return err
	}
	return m.row("join/all-cores", t, "ms", f/float64(cores))
}

func (m *measures) joinOneCore() error {
	t, f, err := m.joinOn(1)
	if err != nil {
		return err
	}
	m.joined, m.floors.join = t, f
	return m.row("join", t, "ms", f)
}

// joinOn lets a newcomer join and forget the group a number of times, and returns the time and the floor.
func (m *measures) joinOn(cores int) (joined, floor float64, err error) {
	m.table.Progress("%d members: somebody joins, on %d cores", m.n, cores)
	client, _, id, err := newCoreClient(m.c.suite, fmt.Sprintf("newcomer with %d cores", cores))
	if err != nil {
		return 0, 0, err
	}
	kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{LastResort: true})
	if err != nil {
		return 0, 0, err
	}
	c, err := m.c.commit(mlscore.AddProposal(kp))
	if err != nil {
		return 0, 0, err
	}
	if err := m.c.follow(c); err != nil {
		return 0, 0, err
	}
	tree, err := m.c.a.Public().Tree()
	if err != nil {
		return 0, 0, err
	}
	now := m.clock
	if cores > 1 {
		now = harness.ElapsedTime
	}
	var times, below []float64
	// The joins repeat for about four seconds, since the speed of the machine varies.
	for total := 0.0; len(times) < 9 && (len(times) < 3 || total < 3000) && total < 6000; {
		f, err := m.betweenFloors(func() error {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			runtime.GC() // of what came before
			var g *mlscore.Group
			t, err := now.timed(func() (err error) {
				g, err = client.Join(c.Welcome, mlscore.JoinOptions{Tree: tree})
				return err
			})
			if err != nil {
				return err
			}
			times, total = append(times, t), total+t
			return g.Erase()
		})
		if err != nil {
			return 0, 0, err
		}
		below = append(below, f.join)
	}
	return stats.Median(times), stats.Median(below), nil
}

// heap measures what a loaded group occupies.
func (m *measures) heap() error {
	before := heapInUse()
	g, err := m.c.clients[1].LoadGroup(m.c.b.GroupID())
	if err != nil {
		return err
	}
	used := float64(heapInUse()) - float64(before)
	err = m.row("heap", used/(1<<20), "MiB", 0)
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

// addMany measures one commit that adds many, its staging by the last member, and the next commit, whose
// path goes to all of them.
func (m *measures) addMany() error {
	m.table.Progress("%d members: %d KeyPackages are made", m.n, m.k)
	adds := make([]mlscore.Proposal, m.k)
	client, _, id, err := newCoreClient(m.c.suite, "")
	if err != nil {
		return err
	}
	for i := range adds {
		if id.SignatureKey, _, err = mlscore.GenerateSignatureKey(nil, m.c.suite); err != nil {
			return err
		}
		id.Credential = mlscore.BasicCredential(fmt.Appendf(nil, "new %d", i))
		kp, err := client.NewKeyPackage(id, mlscore.KeyPackageOptions{})
		if err != nil {
			return err
		}
		adds[i] = mlscore.AddProposal(kp)
	}
	m.table.Progress("%d members: %d are added", m.n, m.k)
	timed := func(call func() error) (t float64, f floors, err error) {
		m.costs = m.clock.measurePrimitives(m.primitives, m.n)
		f, err = m.betweenFloors(func() (err error) {
			t, err = m.clock.timed(call)
			return err
		})
		return t, f, err
	}
	var made *mlscore.Commit
	commit := func(proposals ...mlscore.Proposal) (float64, floors, error) {
		return timed(func() (err error) {
			made, err = m.c.commit(proposals...)
			return err
		})
	}
	t, f, err := commit(adds...)
	if err != nil {
		return err
	}
	m.bulk, m.floors.bulk = t, f.bulk
	if err := m.row("bulk-add", t, "ms", f.bulk); err != nil {
		return err
	}
	var staged *mlscore.Received
	t, f, err = timed(func() (err error) {
		staged, err = m.c.b.Process(made.Message)
		return err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(m.row("bulk-stage", t, "ms", f.stage), m.c.b.Merge(staged.Commit)); err != nil {
		return err
	}
	if t, f, err = commit(); err != nil {
		return err
	}
	return m.row("commit-unmerged", t, "ms", f.unmerged)
}

// rekeying returns the cost of a new secret for all members in other protocols, computed from one HPKE seal. With
// pairwise sessions, a member that renews its keys seals to each member. With sender keys, a member that has left may
// know the keys of all, so that each member seals a new key to each other member.
func (m *measures) rekeying() (pairwise, senderKeys, pairwiseBytes, senderKeyBytes float64) {
	n := float64(m.n)
	kem, ct := m.primitives.Seal()
	sealed := float64(len(kem) + len(ct))
	return (n - 1) * m.costs.seal, n * (n - 1) * m.costs.seal, (n - 1) * sealed, n * (n - 1) * sealed
}

// compare prints what other protocols would take, compared with the measured commit.
func (m *measures) compare() error {
	pairwise, senderKeys, pairwiseBytes, senderKeyBytes := m.rekeying()
	row := func(name string, value float64, unit string, commit float64) error {
		return m.emit(harness.Row{Name: name, Suite: uint16(m.c.suite), N: m.n, Value: value, Unit: unit, Against: "commit", Ratio: value / commit})
	}
	return errors.Join(
		row("pairwise/computed", pairwise, "ms", m.commit),
		row("sender-keys/computed", senderKeys, "ms", m.commit),
		row("pairwise-bytes/computed", pairwiseBytes, "B", float64(m.bytes)),
		row("sender-keys-bytes/computed", senderKeyBytes, "B", float64(m.bytes)),
	)
}

// point returns what the chart shows for this size.
func (m *measures) point() chartPoint {
	pairwise, senderKeys, pairwiseBytes, senderKeyBytes := m.rekeying()
	return chartPoint{
		n: float64(m.n),
		cost: []float64{m.commit, m.floors.commit, m.process, m.floors.process, m.joined, m.floors.join, m.bulk, m.floors.bulk,
			pairwise, senderKeys},
		bytes: []float64{float64(m.bytes), pairwiseBytes, senderKeyBytes},
	}
}
