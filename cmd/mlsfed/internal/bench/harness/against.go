package harness

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

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// Against runs a benchmark of this build and of another one in turns and compares the rows.
type Against struct {
	Binary string
	rounds int
	within float64 // percent
}

// The flags of against, which a child does not get.
const (
	flagAgainst = "against"
	flagRounds  = "against-rounds"
	flagWithin  = "within"
)

// AddAgainst adds the flags of a comparison to a benchmark. Its --json then applies to the comparison.
func AddAgainst(c *cobra.Command) *Against {
	a := new(Against)
	c.Flags().StringVar(&a.Binary, flagAgainst, "", "compare with this `program`, another build of mlsfed, in turns with this build")
	c.Flags().IntVar(&a.rounds, flagRounds, stats.MinRounds, fmt.Sprintf("rounds of the comparison, both builds in each, at least %d", stats.MinRounds))
	c.Flags().Float64Var(&a.within, flagWithin, 5, "percent by which this build may be worse: a row misses that only with all of its rounds")
	c.Long += `

--against PROGRAM compares this build with another one: rounds in which both builds run with the same flags,
each first in every second round. A row has the median of the ratios (this build over the other), the smallest
and the largest. It is 'missed' only if all ratios are worse than --within allows, and 'gained' if all are
better by as much. The exit code is 1 if a row is missed.`
	return a
}

// Comparison holds a command line for each build.
type Comparison struct {
	this, Other []string
	needs       []string // the subcommand and the flags that the other build must have, the flags as --name
	// Extra returns the row that a line of progress reports. May be nil.
	Extra func(line string) (Row, bool)
}

// SameBench returns the comparison of a benchmark that each build runs itself.
func SameBench(name string) func(this, other string, args []string) Comparison {
	return func(this, other string, args []string) Comparison {
		needs := []string{"bench " + name}
		for _, arg := range args {
			if flag, _, _ := strings.Cut(arg, "="); strings.HasPrefix(flag, "--") {
				needs = append(needs, flag)
			}
		}
		return Comparison{this: append([]string{this}, args...), Other: append([]string{other}, args...), needs: needs}
	}
}

// comparedRow is a row of a comparison. This and Other are medians of all rounds. If a build lacks the row, or a value
// of 0 allows no ratio, Verdict reports it, and Rounds, Ratio, Min and Max are 0.
type comparedRow struct {
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

// Verdicts in addition to those of package stats.
const (
	verdictNoRatio   stats.Verdict = "no ratio"
	verdictOnlyThis  stats.Verdict = "only this build"
	verdictOnlyOther stats.Verdict = "only the other"
)

// Run compares the builds, with the command lines that builds makes from both programs and the given flags.
func (a *Against) Run(c *cobra.Command, t *Table, builds func(this, other string, args []string) Comparison) error {
	if a.rounds < stats.MinRounds {
		return cli.UsageError(fmt.Errorf("--%s %d: a verdict needs at least %d rounds, since fewer agree by chance", flagRounds, a.rounds, stats.MinRounds))
	}
	if !(a.within >= 0) {
		return cli.UsageError(fmt.Errorf("--%s %v: wanted 0 or more percent", flagWithin, a.within))
	}
	other, err := program(flagAgainst, a.Binary)
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
		t.Progress("%s: %s", b.name, bytes.TrimSpace(text))
	}
	pairs := new(pairing)
	for round := range a.rounds {
		runs := []struct {
			name string
			line []string
			into *[][]Row
		}{{"this build", pair.this, &pairs.this}, {"the other", pair.Other, &pairs.other}}
		if round%2 == 1 {
			slices.Reverse(runs)
		}
		for _, r := range runs {
			name := fmt.Sprintf("round %d of %d, %s", round+1, a.rounds, r.name)
			t.Progress("%s", name)
			rows, err := t.child(c.Context(), name, r.line, pair.Extra)
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

// benchArgs returns the arguments of the benchmark with the given flags, without the flags of a comparison.
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

// check looks in the help of the other build for the needed flags, before anything is measured.
func (p *Comparison) check(ctx context.Context, other string) error {
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

// lacks returns an error if a build lacks a needed flag according to the help of the subcommand, which is the first
// of needs.
func lacks(help string, needs []string) error {
	command := "mlsfed " + needs[0]
	// The usage names the command that was found: the parent command if the build lacks the subcommand.
	if !strings.Contains(help, "\n  "+command+" [flags]\n") {
		return fmt.Errorf("the other build has no '%s': compare with a later build, or by another benchmark ('bench delivery' needs only 'mlsfed serve')", command)
	}
	words := strings.Fields(help)
	for _, flag := range needs[1:] {
		if !slices.Contains(words, flag) {
			return fmt.Errorf("'%s' of the other build has no %s: leave it out, or compare with a later build", command, flag)
		}
	}
	return nil
}

// childWait is how long an interrupted benchmark may take to end its nodes.
const childWait = time.Minute

// child runs a benchmark with --json and returns its rows. It passes the child's progress on.
func (t *Table) child(ctx context.Context, name string, line []string, extra func(string) (Row, bool)) ([]Row, error) {
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
	var extras []Row
	last, failure := "", ""
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		last = strings.TrimSpace(lines.Text())
		if _, text, stamped := strings.Cut(last, "  "); stamped {
			last = text // the time is the child's
		}
		if strings.HasPrefix(last, "mlsfed: ") {
			failure = strings.TrimPrefix(last, "mlsfed: ")
		}
		if extra != nil {
			if row, ok := extra(last); ok {
				extras = append(extras, row)
			}
		}
		t.Progress("%s: %s", name, last)
	}
	_, _ = io.Copy(io.Discard, stderr) // a line too long for the scanner must not stop the child
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, cmp.Or(failure, last))
	}
	rows, err := DecodeRows(stdout)
	return append(rows, mergeRows(extras)...), err
}

// DecodeRows reads what a benchmark prints with --json.
func DecodeRows(r io.Reader) (rows []Row, err error) {
	for d := json.NewDecoder(r); ; {
		var row Row
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return nil, fmt.Errorf("a row that cannot be read: %w", err)
		}
		rows = append(rows, row)
	}
}

// mergeRows replaces rows with the same name and size by one row with their median.
func mergeRows(rows []Row) (merged []Row) {
	var values [][]float64
	for _, r := range rows {
		i := slices.IndexFunc(merged, func(m Row) bool { return m.Name == r.Name && m.N == r.N })
		if i < 0 {
			i = len(merged)
			merged, values = append(merged, r), append(values, nil)
		}
		values[i] = append(values[i], r.Value)
		merged[i].Value = stats.Median(values[i])
	}
	return merged
}

func (a *Against) show(t *Table, rows []comparedRow) error {
	if !t.JSON {
		fmt.Fprintf(t.Out, "%-30s %9s %14s %14s %-8s %7s %7s %7s  %s\n", "name", "n", "this", "other", "unit", "ratio", "min", "max", "verdict")
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
		return fmt.Errorf("regression: this build is worse by more than %v%% in all of %d rounds: %s", a.within, a.rounds, strings.Join(missed, ", "))
	}
	return nil
}

func (a *Against) showRow(t *Table, r comparedRow) error {
	if t.JSON {
		return json.NewEncoder(t.Out).Encode(r)
	}
	number := func(v float64, digits int) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.*f", digits, v)
	}
	_, err := fmt.Fprintf(t.Out, "%-30s %9d %14s %14s %-8s %7s %7s %7s  %s\n", r.Name, r.N, number(r.This, 3), number(r.Other, 3), r.Unit,
		number(r.Ratio, 3), number(r.Min, 3), number(r.Max, 3), r.Verdict)
	return err
}

// SameLoad uses this build's devices as load for the nodes of both builds, since the nodes are compared. So the
// other build needs no 'bench delivery', and both builds get the same load.
func SameLoad(this, other string, args []string) Comparison {
	return Comparison{
		this:  slices.Concat([]string{this}, args, []string{"--node=" + this}),
		Other: slices.Concat([]string{this}, args, []string{"--node=" + other}),
		needs: []string{"serve"},
	}
}
