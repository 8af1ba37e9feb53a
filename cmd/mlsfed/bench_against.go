package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mlsfed/mlsfed/stats"
)

// against runs a benchmark of this build and of another one in turns and compares the rows.
type against struct {
	binary string
	rounds int
	within float64 // percent
}

// The flags of against, which are not passed on.
const (
	flagAgainst = "against"
	flagRounds  = "against-rounds"
	flagWithin  = "within"
)

// addAgainst gives a benchmark the flags of a comparison. Its --json is then that of the comparison.
func addAgainst(c *cobra.Command) *against {
	a := new(against)
	c.Flags().StringVar(&a.binary, flagAgainst, "", "compare with this `program`, another build of mlsfed, in turns with this build")
	c.Flags().IntVar(&a.rounds, flagRounds, stats.MinRounds, fmt.Sprintf("rounds of the comparison, both builds in each, at least %d", stats.MinRounds))
	c.Flags().Float64Var(&a.within, flagWithin, 5, "percent by which this build may be worse: a row misses that only with all of its rounds")
	c.Long += `

--against PROGRAM compares this build with another one: rounds in which both builds run with the same flags,
each first in every second round. A row has the median of the ratios (this build over the other), the smallest
and the largest. It is 'missed' only if all ratios are worse than --within allows, and 'gained' if all are
better by as much. The exit code is 1 if a row is missed.`
	return a
}

// comparison is what is run: a command line for each build.
type comparison struct {
	this, other []string
	needs       []string // the subcommand and the flags that the other build must have, the flags as --name
	// extra returns a row that a line of progress reports. May be nil.
	extra func(line string) (benchRow, bool)
}

// sameBench is the comparison of a benchmark that each build runs itself.
func sameBench(name string) func(this, other string, args []string) comparison {
	return func(this, other string, args []string) comparison {
		needs := []string{"bench " + name}
		for _, arg := range args {
			if flag, _, _ := strings.Cut(arg, "="); strings.HasPrefix(flag, "--") {
				needs = append(needs, flag)
			}
		}
		return comparison{this: append([]string{this}, args...), other: append([]string{other}, args...), needs: needs}
	}
}

// againstRow is a row of a comparison. This and Other are medians of all rounds. Where a build lacks the
// row, or a value of 0 allows no ratio, Verdict says so, and Rounds, Ratio, Min and Max are 0.
type againstRow struct {
	Name    string        `json:"name"`
	Suite   uint16        `json:"suite,omitempty"`
	N       int           `json:"n"`
	This    float64       `json:"this"`
	Other   float64       `json:"other"`
	Unit    string        `json:"unit"`
	Rounds  int           `json:"rounds"`
	Ratio   float64       `json:"ratio"`
	Min     float64       `json:"min"`
	Max     float64       `json:"max"`
	Verdict stats.Verdict `json:"verdict"`
}

// Verdicts beside those of stats.
const (
	verdictNoRatio   stats.Verdict = "no ratio"
	verdictOnlyThis  stats.Verdict = "only this build"
	verdictOnlyOther stats.Verdict = "only the other"
)

// run compares, with the command lines that builds makes of both programs and the flags that were given.
func (a *against) run(c *cobra.Command, t *benchTable, builds func(this, other string, args []string) comparison) error {
	if a.rounds < stats.MinRounds {
		return usageError{fmt.Errorf("--%s %d: a verdict needs at least %d rounds, since fewer agree by chance", flagRounds, a.rounds, stats.MinRounds)}
	}
	if !(a.within >= 0) {
		return usageError{fmt.Errorf("--%s %v: wanted 0 or more percent", flagWithin, a.within)}
	}
	other, err := program(flagAgainst, a.binary)
	if err != nil {
		return err
	}
	this, err := os.Executable()
	if err != nil {
		return fmt.Errorf("--%s: this program's file is not known: %w", flagAgainst, err)
	}
	pair := builds(this, other, benchArgs(c))
	if err := pair.check(c.Context(), other); err != nil {
		return err
	}
	for _, b := range []struct{ name, file string }{{"this build", this}, {"the other", other}} {
		text, err := exec.CommandContext(c.Context(), b.file, "version").Output()
		if err != nil {
			return fmt.Errorf("%s version: %w", b.file, err)
		}
		t.progress("%s: %s", b.name, bytes.TrimSpace(text))
	}
	pairs := new(pairing)
	for round := range a.rounds {
		runs := []struct {
			name string
			line []string
			into *[][]benchRow
		}{{"this build", pair.this, &pairs.this}, {"the other", pair.other, &pairs.other}}
		if round%2 == 1 {
			slices.Reverse(runs)
		}
		for _, r := range runs {
			name := fmt.Sprintf("round %d of %d, %s", round+1, a.rounds, r.name)
			t.progress("%s", name)
			rows, err := t.child(c.Context(), name, r.line, pair.extra)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*r.into = append(*r.into, rows)
		}
	}
	return a.show(t, pairs.rows(a.within/100))
}

// program finds another build that a flag names.
func program(flag, name string) (string, error) {
	file, err := exec.LookPath(name)
	if err == nil {
		file, err = filepath.Abs(file)
	}
	if err != nil {
		return "", fmt.Errorf("--%s %s: %w: build one with 'git worktree add ../before COMMIT' and 'go build -o FILE ./cmd/mlsfed' there, and name it with its path", flag, name, err)
	}
	return file, nil
}

// benchArgs are the arguments of the benchmark with the flags that were given, but those of a comparison.
func benchArgs(c *cobra.Command) []string {
	args := append(strings.Fields(c.CommandPath())[1:], "--json")
	c.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains([]string{flagAgainst, flagRounds, flagWithin, "json"}, f.Name) {
			return
		}
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",")
		}
		args = append(args, "--"+f.Name+"="+value)
	})
	return args
}

// check asks the help of the other build for what is needed, before anything is measured.
func (p *comparison) check(ctx context.Context, other string) error {
	command := strings.Fields(p.needs[0])
	text, err := exec.CommandContext(ctx, other, append(command, "--help")...).CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		text = nil
	}
	if err := lacks(string(text), p.needs); err != nil {
		return fmt.Errorf("--%s %s: %w", flagAgainst, other, err)
	}
	return nil
}

// lacks is the error if a build lacks what is needed, according to the help of the subcommand, which is
// the first of needs.
func lacks(help string, needs []string) error {
	command := "mlsfed " + needs[0]
	// The usage names the command that was found: the one above it if the build lacks the subcommand.
	if !strings.Contains(help, "\n  "+command+" [flags]\n") {
		return fmt.Errorf("that build has no '%s': compare with a later build, or by another benchmark ('bench delivery' needs only 'mlsfed serve')", command)
	}
	words := strings.Fields(help)
	for _, flag := range needs[1:] {
		if !slices.Contains(words, flag) {
			return fmt.Errorf("'%s' of that build has no %s: leave it out, or compare with a later build", command, flag)
		}
	}
	return nil
}

// childWait is how long a benchmark that is interrupted may take to end its nodes.
const childWait = time.Minute

// child runs a benchmark with --json and returns its rows. What it reports as progress is reported here.
func (t *benchTable) child(ctx context.Context, name string, line []string, extra func(string) (benchRow, bool)) ([]benchRow, error) {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childWait
	stdout := new(bytes.Buffer)
	cmd.Stdout = stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var extras []benchRow
	last, failure := "", ""
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		last = strings.TrimSpace(lines.Text())
		if _, text, stamped := strings.Cut(last, "  "); stamped {
			last = text // the time is that of the child
		}
		if strings.HasPrefix(last, "mlsfed: ") {
			failure = strings.TrimPrefix(last, "mlsfed: ")
		}
		if extra != nil {
			if row, ok := extra(last); ok {
				extras = append(extras, row)
			}
		}
		t.progress("%s: %s", name, last)
	}
	_, _ = io.Copy(io.Discard, stderr) // a line too long for the scanner must not stop the child
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, cmp.Or(failure, last))
	}
	rows, err := decodeRows(stdout)
	return append(rows, mergeRows(extras)...), err
}

// decodeRows reads what a benchmark prints with --json.
func decodeRows(r io.Reader) (rows []benchRow, err error) {
	for d := json.NewDecoder(r); ; {
		var row benchRow
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return nil, fmt.Errorf("a row that cannot be read: %w", err)
		}
		rows = append(rows, row)
	}
}

// mergeRows makes one row of those with the same name and size: their median.
func mergeRows(rows []benchRow) (merged []benchRow) {
	var values [][]float64
	for _, r := range rows {
		i := slices.IndexFunc(merged, func(m benchRow) bool { return m.Name == r.Name && m.N == r.N })
		if i < 0 {
			i = len(merged)
			merged, values = append(merged, r), append(values, nil)
		}
		values[i] = append(values[i], r.Value)
		merged[i].Value = stats.Median(values[i])
	}
	return merged
}

func (a *against) show(t *benchTable, rows []againstRow) error {
	if !t.asJSON {
		fmt.Fprintf(t.out, "%-30s %9s %14s %14s %-8s %7s %7s %7s  %s\n", "name", "n", "this", "other", "unit", "ratio", "min", "max", "verdict")
	}
	var missed []string
	compared := 0
	for _, r := range rows {
		compared += min(r.Rounds, 1)
		if r.Verdict == stats.Missed {
			missed = append(missed, r.Name)
		}
		if err := a.showRow(t, r); err != nil {
			return err
		}
	}
	if compared == 0 {
		return errors.New("no row of both builds can be compared: select what both measure")
	}
	if len(missed) > 0 {
		return fmt.Errorf("this build is worse by more than %v%% in all of %d rounds: %s", a.within, a.rounds, strings.Join(missed, ", "))
	}
	return nil
}

func (a *against) showRow(t *benchTable, r againstRow) error {
	if t.asJSON {
		return json.NewEncoder(t.out).Encode(r)
	}
	number := func(v float64, digits int) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.*f", digits, v)
	}
	_, err := fmt.Fprintf(t.out, "%-30s %9d %14s %14s %-8s %7s %7s %7s  %s\n", r.Name, r.N, number(r.This, 3), number(r.Other, 3), r.Unit,
		number(r.Ratio, 3), number(r.Min, 3), number(r.Max, 3), r.Verdict)
	return err
}
