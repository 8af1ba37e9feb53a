package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/mlscore"
)

func newBenchCore() *cobra.Command {
	b := &coreBench{}
	var asJSON bool
	var suite uint16
	c := &cobra.Command{
		Use:   "core",
		Short: "Measure what groups cost, from 10 to 100,000 members",
		Long: `Groups are fabricated: their trees are fully populated and valid, two of their members are real.
Everything runs on one core but where the name says otherwise, and each figure is compared in the same
run with its floor: what the cryptographic operations alone take that it cannot do without. The chart
sets it beside pairwise sessions and sender keys, computed from the same primitives.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b.suite = mlscore.CipherSuite(suite)
			b.table = newBenchTable(c, asJSON)
			return b.run()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print an object for each row")
	c.Flags().StringVar(&b.chart, "chart", "", "write a chart of cost against group size to this file (HTML)")
	c.Flags().IntSliceVar(&b.sizes, "sizes", []int{10, 100, 1000, 10_000, 100_000}, "numbers of members")
	c.Flags().IntVar(&b.bulk, "bulk", 10_000, "members to add in one commit to the largest group; a tenth of its size in the others")
	c.Flags().Uint16Var(&suite, "suite", uint16(mlscore.MLS128X25519AES128Ed25519), "MLS cipher suite")
	return c
}

// coreBench measures one cipher suite.
type coreBench struct {
	suite  mlscore.CipherSuite
	sizes  []int
	bulk   int
	chart  string
	table  *benchTable
	single *mlscore.Primitives
	costs  primitiveCosts
	points []chartPoint

	sealedSize int // bytes of a sealed secret
}

// primitiveCosts are milliseconds. verifyMany is that of one signature among as many as are verified
// together in a group of the size at hand.
type primitiveCosts struct {
	generate, derive, seal, open, sign, verify, verifyMany, hash, secret, sealKB, openKB float64
}

// run measures all sizes.
func (b *coreBench) run() error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, n := range b.sizes {
		if n < 2 {
			return usageError{fmt.Errorf("a group of %d members: at least 2", n)}
		}
	}
	b.table.progress("primitives of %v", b.suite)
	if err := b.measurePrimitives(); err != nil {
		return err
	}
	for _, n := range b.sizes {
		if err := b.measureSize(n); err != nil {
			return fmt.Errorf("%d members: %w", n, err)
		}
	}
	if b.chart == "" {
		return nil
	}
	if err := os.WriteFile(b.chart, []byte(coreChart(b.suite.String(), b.points)), 0o644); err != nil {
		return err
	}
	b.table.progress("chart written to %s", b.chart)
	return nil
}

// timed is the median of several calls in milliseconds, the first not counted.
func timed(times int, call func() error) (float64, error) {
	list := make([]float64, 0, times)
	for k := range times + 1 {
		start := time.Now()
		if err := call(); err != nil {
			return 0, err
		}
		if k > 0 || times == 1 {
			list = append(list, float64(time.Since(start))/1e6)
		}
		if times == 1 {
			break
		}
	}
	slices.Sort(list)
	return list[len(list)/2], nil
}

// each is the time of one call among many, in milliseconds: the median of several rounds.
func each(calls int, call func()) float64 {
	ms, _ := timed(7, func() error {
		for range calls {
			call()
		}
		return nil
	})
	return ms / float64(calls)
}

func (b *coreBench) measurePrimitives() error {
	p, err := mlscore.NewPrimitives(b.suite)
	if err != nil {
		return err
	}
	kem, ct := p.Seal()
	b.sealedSize = len(kem) + len(ct)
	b.single = p
	b.costs = primitiveCosts{
		generate: each(50, p.GenerateKey), derive: each(50, p.DeriveKey),
		seal: each(50, func() { p.Seal() }), open: each(50, p.Open),
		sign: each(50, func() { p.Sign() }), verify: each(50, p.Verify),
		hash: each(2000, p.Hash), secret: each(1000, p.Derive),
		sealKB: each(1000, func() { p.SealKilobyte() }), openKB: each(1000, p.OpenKilobyte),
	}
	return nil
}

// floors are the least that operations can take, in milliseconds.
type floors struct{ commit, process, join, bulk, unmerged, protect, unprotect float64 }

// floorsFor sums primitives up for a populated tree of n members, path nodes on a direct path, and k
// members added at once.
func (c *primitiveCosts) floorsFor(n, path, k int) floors {
	p := float64(path)
	schedule := 22 * c.secret
	f := floors{
		commit:    p*(c.seal+c.derive+2*c.secret+2*c.hash) + c.generate + 3*c.sign + schedule,
		process:   c.open + c.derive + 2*c.verify + 2*p*c.hash + schedule,
		join:      float64(n)*(c.verifyMany+3*c.hash) + c.open + c.verify + schedule,
		protect:   c.sign + c.sealKB + 5*c.secret,
		unprotect: c.verify + c.openKB + 5*c.secret,
	}
	f.bulk = f.commit + float64(k)*(2*c.verify+c.seal+3*c.hash)
	f.unmerged = f.commit + float64(k)*c.seal
	return f
}

func (b *coreBench) bulkFor(n int) int {
	if n == slices.Max(b.sizes) {
		return b.bulk
	}
	return max(n/10, 1)
}

// measureSize measures everything in a group of n.
func (b *coreBench) measureSize(n int) error {
	b.table.progress("%d members: the group is made", n)
	c, err := newCoreGroup(b.suite, n)
	if err != nil {
		return err
	}
	k := b.bulkFor(n)
	many := b.single.VerifyMany(n)
	b.costs.verifyMany = each(max(1, 2000/many), func() { b.single.VerifyMany(n) }) / float64(many)
	f := b.costs.floorsFor(n, c.pathLength(), k)
	m := &coreMeasures{b: b, c: c, n: n, k: k, floors: f}
	for _, step := range []func() error{m.commits, m.messages, m.join, m.heap, m.addMany} {
		if err := step(); err != nil {
			return err
		}
	}
	b.points = append(b.points, m.point(&b.costs))
	return nil
}

func (b *coreBench) row(name string, n int, value float64, unit string, floor float64) error {
	r := benchRow{Name: name, N: n, Value: value, Unit: unit}
	if floor > 0 {
		r.Against, r.Ratio = "floor", value/floor
	}
	return b.table.add(r)
}
