package main

import (
	"bytes"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/stats"
)

// TestPairing: rows of two builds are compared if they are the same figure, round by round.
func TestPairing(t *testing.T) {
	row := func(name string, suite uint16, n int, value float64, unit string) benchRow {
		return benchRow{Name: name, Suite: suite, N: n, Value: value, Unit: unit}
	}
	rounds := func(make func(round float64) []benchRow) (list [][]benchRow) {
		for k := range stats.MinRounds {
			list = append(list, make(float64(k)))
		}
		return list
	}
	for _, c := range []struct {
		name        string
		this, other func(round float64) []benchRow
		want        []againstRow
	}{
		{"each size and suite is its own",
			func(k float64) []benchRow {
				return []benchRow{row("commit", 1, 10, 2, "ms"), row("commit", 1, 100, 3, "ms"), row("commit", 2, 10, 5, "ms")}
			},
			func(k float64) []benchRow {
				return []benchRow{row("commit", 2, 10, 5, "ms"), row("commit", 1, 100, 1, "ms"), row("commit", 1, 10, 4, "ms")}
			},
			[]againstRow{
				{Name: "commit", Suite: 1, N: 10, This: 2, Other: 4, Unit: "ms", Rounds: 7, Ratio: 0.5, Min: 0.5, Max: 0.5, Verdict: stats.Gained},
				{Name: "commit", Suite: 1, N: 100, This: 3, Other: 1, Unit: "ms", Rounds: 7, Ratio: 3, Min: 3, Max: 3, Verdict: stats.Missed},
				{Name: "commit", Suite: 2, N: 10, This: 5, Other: 5, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within},
			}},
		{"rounds belong together, whatever the machine's pace",
			func(k float64) []benchRow { return []benchRow{row("p50", 0, 1, 2*(k+1), "ms")} },
			func(k float64) []benchRow { return []benchRow{row("p50", 0, 1, k+1, "ms")} },
			[]againstRow{{Name: "p50", N: 1, This: 8, Other: 4, Unit: "ms", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed}}},
		{"of a rate, more is better",
			func(k float64) []benchRow { return []benchRow{row("rate", 0, 1, 50, "1/s")} },
			func(k float64) []benchRow { return []benchRow{row("rate", 0, 1, 100, "1/s")} },
			[]againstRow{{Name: "rate", N: 1, This: 50, Other: 100, Unit: "1/s", Rounds: 7, Ratio: 0.5, Min: 0.5, Max: 0.5, Verdict: stats.Missed}}},
		{"one good round in seven is enough",
			func(k float64) []benchRow { return []benchRow{row("p99", 0, 1, 9-8*math.Floor(k/6), "ms")} },
			func(k float64) []benchRow { return []benchRow{row("p99", 0, 1, 1, "ms")} },
			[]againstRow{{Name: "p99", N: 1, This: 9, Other: 1, Unit: "ms", Rounds: 7, Ratio: 9, Min: 1, Max: 9, Verdict: stats.Within}}},
		{"a number of samples is no size",
			func(k float64) []benchRow { return []benchRow{row("lag", 0, 900+int(k), 1, "ms")} },
			func(k float64) []benchRow { return []benchRow{row("lag", 0, 800, 1, "ms")} },
			[]againstRow{{Name: "lag", N: 900, This: 1, Other: 1, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within}}},
		{"a figure that is printed twice is compared twice",
			func(k float64) []benchRow {
				return []benchRow{row("commit", 1, 100, 1, "ms"), row("commit", 1, 100, 2, "ms")}
			},
			func(k float64) []benchRow {
				return []benchRow{row("commit", 1, 100, 1, "ms"), row("commit", 1, 100, 1, "ms")}
			},
			[]againstRow{
				{Name: "commit", Suite: 1, N: 100, This: 1, Other: 1, Unit: "ms", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within},
				{Name: "commit", Suite: 1, N: 100, This: 2, Other: 1, Unit: "ms", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed},
			}},
		{"what cannot be compared is said",
			func(k float64) []benchRow { return []benchRow{row("new", 0, 1, 3, "ms"), row("zero", 0, 1, 0, "B")} },
			func(k float64) []benchRow { return []benchRow{row("old", 0, 1, 4, "ms"), row("zero", 0, 1, 1, "B")} },
			[]againstRow{
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
	p := pairing{this: rounds(func(k float64) []benchRow { return []benchRow{row("p50", 0, 1, 1, "ms")} })}
	p.other = slices.Clone(p.this)
	p.other[3] = nil
	if got := p.rows(0.05); len(got) != 1 || got[0].Verdict != verdictNoRatio {
		t.Errorf("with a round that lacks the row: %+v", got)
	}
}

// TestAgainstFails: the command fails if a row is missed, and if nothing was compared.
func TestAgainstFails(t *testing.T) {
	within := againstRow{Name: "a", Rounds: 7, Ratio: 1, Min: 1, Max: 1, Verdict: stats.Within}
	missed := againstRow{Name: "b", Rounds: 7, Ratio: 2, Min: 2, Max: 2, Verdict: stats.Missed}
	single := againstRow{Name: "c", This: 1, Verdict: verdictOnlyThis}
	for _, c := range []struct {
		rows []againstRow
		want string // in the error, "" for none
	}{
		{[]againstRow{within, single}, ""},
		{[]againstRow{within, missed}, "worse by more than 5% in all of 7 rounds: b"},
		{[]againstRow{single}, "no row of both builds"},
		{nil, "no row of both builds"},
	} {
		out := new(bytes.Buffer)
		a := &against{rounds: 7, within: 5}
		err := a.show(&benchTable{out: out, log: io.Discard, start: time.Now()}, c.rows)
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

// TestLacks: a build that lacks a benchmark or a flag is refused before anything is measured.
func TestLacks(t *testing.T) {
	help := map[string]string{}
	for _, name := range []string{"order", "core"} {
		_, text, _ := call(t, newRoot(), "bench", name, "--help")
		help[name] = text
	}
	_, above, _ := call(t, newRoot(), "bench", "--help")
	for _, c := range []struct {
		help, want string
		needs      []string
	}{
		{help["order"], "", []string{"bench order", "--only", "--busy"}},
		{help["core"], "", []string{"bench core", "--sizes", "--json"}},
		{help["order"], "has no --sizes", []string{"bench order", "--sizes"}},
		{help["order"], "has no 'mlsfed bench core'", []string{"bench core"}},
		{above, "has no 'mlsfed bench order'", []string{"bench order"}}, // what a build prints that lacks it
		{"", "has no 'mlsfed serve'", []string{"serve"}},
	} {
		err := lacks(c.help, c.needs)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.needs, err, c.want)
		}
	}
}

// TestBenchArgs: both builds run with the flags that were given, without those of the comparison.
func TestBenchArgs(t *testing.T) {
	var got []string
	root := newRoot()
	c, _, err := root.Find([]string{"bench", "core"})
	if err != nil {
		t.Fatal(err)
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		got = benchArgs(c)
		return nil
	}
	code := run(t.Context(), root, []string{"bench", "core", "--sizes", "10,20", "--suites", "1,0xf001", "--processor-time", "--against", "x",
		"--against-rounds", "9", "--within", "3", "--json"}, io.Discard, io.Discard)
	want := []string{"bench", "core", "--json", "--processor-time=true", "--sizes=10,20", "--suites=1,0xf001"}
	if code != 0 || !slices.Equal(got, want) {
		t.Errorf("code %d: %q, want %q", code, got, want)
	}
	cmp := orderBuilds(true)("this", "other", []string{"bench", "order", "--json", "--processor-time=true", "--rounds=2"})
	if want := []string{"other", "bench", "order", "--json", "--rounds=2"}; !slices.Equal(cmp.other, want) || cmp.extra == nil {
		t.Errorf("order: %q, want %q, and the processor time from the progress", cmp.other, want)
	}
	cmp = deliveryBuilds("this", "other", []string{"bench", "delivery"})
	if cmp.this[0] != "this" || cmp.other[0] != "this" || cmp.this[3] != "--node=this" || cmp.other[3] != "--node=other" {
		t.Errorf("delivery: %q and %q", cmp.this, cmp.other)
	}
}

// TestMergeRows: what a round reports several times counts once.
func TestMergeRows(t *testing.T) {
	got := mergeRows([]benchRow{{Name: "a", N: 1, Value: 1}, {Name: "a", N: 2, Value: 7}, {Name: "a", N: 1, Value: 9}, {Name: "a", N: 1, Value: 2}})
	if want := []benchRow{{Name: "a", N: 1, Value: 2}, {Name: "a", N: 2, Value: 7}}; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestLongAgainst compares the nodes of this build with themselves, as processes.
func TestLongAgainst(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("14 runs, about half a minute: set MLSFED_LONG to short or full")
	}
	p := scriptParams()
	p.Dir = "testdata/long"
	testscript.Run(t, p)
}
