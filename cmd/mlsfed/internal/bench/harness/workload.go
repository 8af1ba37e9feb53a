package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// Bench holds the common settings of benchmarks that run workloads in a folder.
type Bench struct {
	Table *Table
	Dir   string   // on the disk to be measured
	Node  string   // the program that runs the nodes
	only  []string // workloads; none: all
	JSON  bool
	Short bool
}

// Workload is one part of a benchmark, which creates a federation of its own.
type Workload struct {
	Name string
	Run  func(context.Context) error
}

// AddFlags adds the flags that all of these benchmarks have.
func (b *Bench) AddFlags(c *cobra.Command, workloads, node string) {
	f := c.Flags()
	f.BoolVar(&b.JSON, "json", false, "print an object for each row")
	f.BoolVar(&b.Short, "short", false, "the smallest form, some seconds: its sizes hold where no flag says otherwise")
	f.StringVar(&b.Node, "node", "", node)
	f.StringVar(&b.Dir, "dir", "", "folder on the disk to be measured (default a temporary one)")
	f.StringSliceVar(&b.only, "only", nil, "workloads to measure: "+workloads+" (default all)")
}

// Unless calls the functions of flags that the command line has not set. These functions set the sizes of the short
// form.
func Unless(c *cobra.Command, shorten map[string]func()) {
	for name, set := range shorten {
		if !c.Flags().Changed(name) {
			set()
		}
	}
}

// Bounds is the range of a flag's value.
type Bounds struct {
	Flag           string
	N, Least, Most int
}

func CheckBounds(list []Bounds) error {
	for _, v := range list {
		if v.N < v.Least || v.N > v.Most {
			return fmt.Errorf("--%s %d: wanted %d to %d", v.Flag, v.N, v.Least, v.Most)
		}
	}
	return nil
}

// CheckOnly refuses an --only that names no workload.
func (b *Bench) CheckOnly(list []Workload) error {
	names := make([]string, len(list))
	for i, w := range list {
		names[i] = w.Name
	}
	for _, name := range b.only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--only %s: wanted some of %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// FindNode sets the program of the nodes where a flag names one, or to this program where own is set.
func (b *Bench) FindNode(own bool) (err error) {
	switch {
	case b.Node != "":
		b.Node, err = program("node", b.Node)
	case own:
		if b.Node, err = os.Executable(); err != nil {
			return fmt.Errorf("the file of this program is not known, and the nodes run from it: name one with --node: %w", err)
		}
	}
	return err
}

// RunNodes runs the workloads of a benchmark whose nodes can be processes of another build, or the comparison that
// --against asks for. own: without --node, the nodes are processes of this program.
func (b *Bench) RunNodes(c *cobra.Command, other *Against, own bool, workloads func() []Workload, builds func(this, other string, args []string) Comparison) error {
	if b.Node != "" && other.Binary != "" {
		return cli.UsageError(errNodeAgainst)
	}
	if err := b.FindNode(own); err != nil {
		return err
	}
	b.Table = NewTable(c, b.JSON)
	if other.Binary != "" {
		return other.Run(c, b.Table, builds)
	}
	b.Table.Head()
	return b.RunAll(c.Context(), workloads())
}

// errNodeAgainst is the error for both flags together.
var errNodeAgainst = errors.New("--node and --against: --against runs the nodes of both builds, leave out --node")

// RunAll runs workloads in a folder that it removes afterwards.
func (b *Bench) RunAll(ctx context.Context, list []Workload) (err error) {
	made, err := os.MkdirTemp(b.Dir, "mlsfed-bench-")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	if b.Dir, err = filepath.Abs(made); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	for _, w := range list {
		if len(b.only) > 0 && !slices.Contains(b.only, w.Name) {
			continue
		}
		if err := w.Run(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	return nil
}
