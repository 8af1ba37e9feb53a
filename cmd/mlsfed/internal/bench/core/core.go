// Package core has the benchmark of groups of mlscore, without a network.
package core

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
)

// Command returns the command 'bench core'.
func Command() *cobra.Command {
	b := &bench{}
	var asJSON, processor bool
	var other *harness.Against
	var suite, suites string
	c := &cobra.Command{
		Use:   "core",
		Short: "Measure what groups cost, from 10 to 100,000 members",
		Long: `Groups are fabricated: their trees are fully populated and valid, two of their members are real.
Everything runs on one core but where the name says otherwise, and each figure is compared in the same
run with its floor: what the cryptographic operations alone take that it cannot do without. The chart
compares it with pairwise sessions and sender keys, computed from the same primitives.

After that, the table of cipher suites has sizes and times of each of them, in a small and in a large
group. All together take some minutes, the suites of P-384 and P-521 most of it: --suites selects some,
or none, and --sizes 0 leaves the rest out.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if b.suite, err = mlscore.ParseCipherSuite(suite); err != nil {
				return cli.UsageError(err)
			}
			if b.others, err = parseSuites(suites); err != nil {
				return cli.UsageError(err)
			}
			b.clock = harness.ElapsedTime
			if processor {
				b.clock = harness.ProcessorTime
			}
			b.table = harness.NewTable(c, asJSON)
			if other.Binary != "" {
				if err := b.check(); err != nil {
					return err
				}
				if b.chart != "" {
					return cli.UsageError(errors.New("--chart and --against: a chart shows one build, leave out one of them"))
				}
				return other.Run(c, b.table, harness.SameBench("core"))
			}
			b.table.Head()
			return b.run()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print an object for each row")
	c.Flags().BoolVar(&processor, "processor-time", false, "measure the processor time of this process, not elapsed time: on a machine that others use")
	c.Flags().StringVar(&b.chart, "chart", "", "write a chart of cost against group size to this file (.svg or .html)")
	c.Flags().IntSliceVar(&b.sizes, "sizes", []int{10, 100, 1000, 10_000, 100_000}, "numbers of members")
	c.Flags().IntVar(&b.bulk, "bulk", 10_000, "members to add in one commit to the largest group; a tenth of its size in the others")
	c.Flags().StringVar(&suite, "suite", fmt.Sprint(uint16(mlscore.MLS128X25519AES128Ed25519)), "cipher suite of the first table, a number or a name")
	c.Flags().StringVar(&suites, "suites", "all", "cipher suites of the second table: all, none, or numbers and names")
	c.Flags().IntSliceVar(&b.suiteSizes, "suite-sizes", []int{100, 10_000}, "numbers of members in the second table")
	other = harness.AddAgainst(c)
	return c
}

// parseSuites reads a list of cipher suites.
func parseSuites(text string) (list []mlscore.CipherSuite, err error) {
	switch text {
	case "none", "":
		return nil, nil
	case "all":
		return slices.Concat(mlscore.CipherSuites(), mlscore.PostQuantumSuites()), nil
	}
	for item := range strings.SplitSeq(text, ",") {
		cs, err := mlscore.ParseCipherSuite(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		list = append(list, cs)
	}
	return list, nil
}

// bench measures one cipher suite at all sizes, and then other suites.
type bench struct {
	suite      mlscore.CipherSuite
	sizes      []int
	bulk       int
	chart      string
	others     []mlscore.CipherSuite
	suiteSizes []int
	clock      clock
	table      *harness.Table
	points     []chartPoint
}

// tableSizes returns the sizes of the first table: none for 0.
func (b *bench) tableSizes() []int {
	if slices.Equal(b.sizes, []int{0}) {
		return nil
	}
	return b.sizes
}

// check refuses flags that cannot be measured.
func (b *bench) check() error {
	sizes := b.tableSizes()
	for _, n := range slices.Concat(sizes, b.suiteSizes) {
		if n < 2 {
			return cli.UsageError(fmt.Errorf("a group of %d members: at least 2", n))
		}
	}
	if b.chart != "" && len(sizes) < 2 {
		return cli.UsageError(fmt.Errorf("a chart of %d sizes: at least 2", len(sizes)))
	}
	return nil
}

func (b *bench) run() error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if err := b.check(); err != nil {
		return err
	}
	b.sizes = b.tableSizes()
	for _, n := range b.sizes {
		if err := b.measureSize(n); err != nil {
			return fmt.Errorf("%d members: %w", n, err)
		}
	}
	if err := b.drawChart(); err != nil {
		return err
	}
	return b.measureSuites()
}

func (b *bench) drawChart() error {
	if b.chart == "" {
		return nil
	}
	draw := chartPage
	if strings.EqualFold(filepath.Ext(b.chart), ".svg") {
		draw = chartImage
	}
	if err := os.WriteFile(b.chart, []byte(draw(b.suite.String(), b.points)), 0o644); err != nil {
		return err
	}
	b.table.Progress("chart written to %s", b.chart)
	return nil
}

func (b *bench) bulkFor(n int) int {
	if n == slices.Max(b.sizes) {
		return b.bulk
	}
	return max(n/10, 1)
}

// measureSize measures everything in a group of n.
func (b *bench) measureSize(n int) error {
	m, err := newMeasures(b.table, b.clock, b.suite, n, b.bulkFor(n))
	if err != nil {
		return err
	}
	for _, step := range []func() error{m.commits, m.messages, m.load, m.storedCommits, m.join, m.heap, m.addMany, m.foundings, m.compare} {
		if err := step(); err != nil {
			return err
		}
	}
	b.points = append(b.points, m.point())
	return nil
}
