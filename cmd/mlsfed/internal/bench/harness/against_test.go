package harness

import (
	"bytes"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli/clitest"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// TestPairing checks that rows of two builds are compared if they are the same figure, round by round.
func TestPairing(t *testing.T) {
	row := func(name string, suite uint16, n int, value float64, unit string) Row {
		return Row{Name: name, Suite: suite, N: n, Value: value, Unit: unit}
	}
	rounds := func(make func(round float64) []Row) (list [][]Row) {
		for k := range stats.MinRounds {
			list = append(list, make(float64(k)))
		}
		return list
	}
	for _, c := range []struct {
		name        string
		this, other func(round float64) []Row
		want        []comparedRow
	}{
		{"each size and suite is its own",
			func(k float64) []Row {
				return []Row{row("commit", 1, 10, 2, "ms"), row("commit", 1, 100, 3, "ms"), row("commit", 2, 10, 5, "ms")}
			},
			func(k float64) []Row {
				return []Row{row("commit", 2, 10, 5, "ms"), row("commit", 1, 100, 1, "ms"), row("commit", 1, 10, 4, "ms")}
			},
			[]comparedRow{
				{Name: "commit", Suite: 1, N: 10, This: 2, Other: 4, Unit: "ms", Rounds: 7, Ratio: 0.5, Min: 0.5, Max: 0.5, Verdict: stats.Gained},
				{Name: "commit", Suite: 1, N: 100, This: 3, Other: 1, Unit: "ms", Rounds: 7, Ratio: 3, Min: 3, Max: 3, Verdict: stats.Missed},
				{Name: "commit", Suite: 2, N: 10, This: 5, Other: 5, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within},
			}},
		{"rounds belong together, whatever the machine's pace",
			func(k float64) []Row { return []Row{row("p50", 0, 1, 2*(k+1), "ms")} },
			func(k float64) []Row { return []Row{row("p50", 0, 1, k+1, "ms")} },
			[]comparedRow{{Name: "p50", N: 1, This: 8, Other: 4, Unit: "ms", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed}}},
		{"of a rate, more is better",
			func(k float64) []Row { return []Row{row("rate", 0, 1, 50, "1/s")} },
			func(k float64) []Row { return []Row{row("rate", 0, 1, 100, "1/s")} },
			[]comparedRow{{Name: "rate", N: 1, This: 50, Other: 100, Unit: "1/s", Rounds: 7, Ratio: 0.5, Min: 0.5, Max: 0.5, Verdict: stats.Missed}}},
		{"one good round in seven is enough",
			func(k float64) []Row { return []Row{row("p99", 0, 1, 9-8*math.Floor(k/6), "ms")} },
			func(k float64) []Row { return []Row{row("p99", 0, 1, 1, "ms")} },
			[]comparedRow{{Name: "p99", N: 1, This: 9, Other: 1, Unit: "ms", Rounds: 7, Ratio: 9, Min: 1, Max: 9, Verdict: stats.Within}}},
		{"a number of samples is no size",
			func(k float64) []Row { return []Row{row("lag", 0, 900+int(k), 1, "ms")} },
			func(k float64) []Row { return []Row{row("lag", 0, 800, 1, "ms")} },
			[]comparedRow{{Name: "lag", N: 900, This: 1, Other: 1, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within}}},
		{"a figure that is printed twice is compared twice",
			func(k float64) []Row {
				return []Row{row("commit", 1, 100, 1, "ms"), row("commit", 1, 100, 2, "ms")}
			},
			func(k float64) []Row {
				return []Row{row("commit", 1, 100, 1, "ms"), row("commit", 1, 100, 1, "ms")}
			},
			[]comparedRow{
				{Name: "commit", Suite: 1, N: 100, This: 1, Other: 1, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within},
				{Name: "commit", Suite: 1, N: 100, This: 2, Other: 1, Unit: "ms", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed},
			}},
		{"what cannot be compared is said",
			func(k float64) []Row { return []Row{row("new", 0, 1, 3, "ms"), row("zero", 0, 1, 0, "B")} },
			func(k float64) []Row { return []Row{row("old", 0, 1, 4, "ms"), row("zero", 0, 1, 1, "B")} },
			[]comparedRow{
				{Name: "new", N: 1, This: 3, Unit: "ms", Verdict: verdictOnlyThis},
				{Name: "zero", N: 1, Other: 1, Unit: "B", Verdict: verdictNoRatio},
				{Name: "old", N: 1, Other: 4, Unit: "ms", Verdict: verdictOnlyOther},
			}},
	} {
		p := pairing{this: rounds(c.this), other: rounds(c.other)}
		if got := p.rows(0.05); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
	}
	// A round in which a row is missing cannot be paired.
	p := pairing{this: rounds(func(k float64) []Row { return []Row{row("p50", 0, 1, 1, "ms")} })}
	p.other = slices.Clone(p.this)
	p.other[3] = nil
	if got := p.rows(0.05); len(got) != 1 || got[0].Verdict != verdictNoRatio {
		t.Errorf("with a round that lacks the row: %+v", got)
	}
}

// TestAgainstFails checks that the command fails if a row is missed, and if nothing was compared.
func TestAgainstFails(t *testing.T) {
	within := comparedRow{Name: "a", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within}
	missed := comparedRow{Name: "b", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed}
	single := comparedRow{Name: "c", This: 1, Verdict: verdictOnlyThis}
	for _, c := range []struct {
		rows []comparedRow
		want string // in the error, "" for none
	}{
		{[]comparedRow{within, single}, ""},
		{[]comparedRow{within, missed}, "worse by more than 5% in all of 7 rounds: b"},
		{[]comparedRow{single}, "no row of both builds"},
		{nil, "no row of both builds"},
	} {
		out := new(bytes.Buffer)
		a := &Against{rounds: 7, within: 5}
		err := a.show(&Table{Out: out, log: io.Discard, start: time.Now()}, c.rows)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.rows, err, c.want)
		}
		for _, r := range c.rows {
			if !strings.Contains(out.String(), string(r.Verdict)) {
				t.Errorf("%q is not in the table:\n%s", r.Verdict, out)
			}
		}
	}
}

// TestMergeRows checks that a figure which a round reports several times counts once.
func TestMergeRows(t *testing.T) {
	got := mergeRows([]Row{{Name: "a", N: 1, Value: 1}, {Name: "a", N: 2, Value: 7}, {Name: "a", N: 1, Value: 9}, {Name: "a", N: 1, Value: 2}})
	if want := []Row{{Name: "a", N: 1, Value: 2}, {Name: "a", N: 2, Value: 7}}; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// sampleBenchmark returns a benchmark with some flags and those of a comparison.
func sampleBenchmark(do func(c *cobra.Command)) *cobra.Command {
	c := &cobra.Command{Use: "sample", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		do(c)
		return nil
	}}
	c.Flags().Bool("json", false, "")
	c.Flags().Bool("processor-time", false, "")
	c.Flags().IntSlice("sizes", nil, "")
	c.Flags().String("suites", "", "")
	AddAgainst(c)
	above := &cobra.Command{Use: "bench"}
	above.AddCommand(c)
	return cli.Root(above)
}

// TestLacks checks that a build that lacks a benchmark or a flag is refused before anything is measured.
func TestLacks(t *testing.T) {
	root := func() *cobra.Command { return sampleBenchmark(func(*cobra.Command) {}) }
	_, help, _ := clitest.Call(t, root, "bench", "sample", "--help")
	_, above, _ := clitest.Call(t, root, "bench", "--help")
	for _, c := range []struct {
		help, want string
		needs      []string
	}{
		{help: help, needs: []string{"bench sample", "--sizes", "--json"}},
		{help: help, want: "has no --busy", needs: []string{"bench sample", "--busy"}},
		{help: help, want: "has no 'mlsfed bench core'", needs: []string{"bench core"}},
		{help: above, want: "has no 'mlsfed bench order'", needs: []string{"bench order"}}, // the output of a build that lacks it
		{help: "", want: "has no 'mlsfed serve'", needs: []string{"serve"}},
	} {
		err := lacks(c.help, c.needs)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.needs, err, c.want)
		}
	}
}

// TestBenchArgs checks that both builds run with the flags that were given, without those of the comparison.
func TestBenchArgs(t *testing.T) {
	var got []string
	code, _, _ := clitest.Call(t, func() *cobra.Command { return sampleBenchmark(func(c *cobra.Command) { got = benchArgs(c) }) },
		"bench", "sample", "--sizes", "10,20", "--suites", "1,0xf001", "--processor-time", "--against", "x", "--against-rounds", "9", "--within", "3", "--json")
	want := []string{"bench", "sample", "--json", "--processor-time=true", "--sizes=10,20", "--suites=1,0xf001"}
	if code != 0 || !slices.Equal(got, want) {
		t.Errorf("code %d: %q, want %q", code, got, want)
	}
	cmp := SameLoad("this", "other", []string{"bench", "delivery"})
	if cmp.this[0] != "this" || cmp.Other[0] != "this" || cmp.this[3] != "--node=this" || cmp.Other[3] != "--node=other" {
		t.Errorf("with one load: %q and %q", cmp.this, cmp.Other)
	}
}
