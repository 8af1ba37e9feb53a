package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// loadBench is what benchmarks that run workloads in a folder have in common.
type loadBench struct {
	table *benchTable
	dir   string   // on the disk to be measured
	node  string   // the program that runs the nodes
	only  []string // workloads; none: all
	json  bool
	short bool
}

// workload is one part of a benchmark, which makes a federation of its own.
type workload struct {
	name string
	run  func(context.Context) error
}

// flags adds those that all of these benchmarks have.
func (b *loadBench) flags(c *cobra.Command, workloads, node string) {
	f := c.Flags()
	f.BoolVar(&b.json, "json", false, "print an object for each row")
	f.BoolVar(&b.short, "short", false, "the smallest form, some seconds: its sizes hold where no flag says otherwise")
	f.StringVar(&b.node, "node", "", node)
	f.StringVar(&b.dir, "dir", "", "folder on the disk to be measured (default a temporary one)")
	f.StringSliceVar(&b.only, "only", nil, "workloads to measure: "+workloads+" (default all)")
}

// unless calls the functions of flags that the command line has not set: they give the sizes of the short form.
func unless(c *cobra.Command, shorten map[string]func()) {
	for name, set := range shorten {
		if !c.Flags().Changed(name) {
			set()
		}
	}
}

// flagBounds is the range of a flag's value.
type flagBounds struct {
	flag           string
	n, least, most int
}

func checkBounds(list []flagBounds) error {
	for _, v := range list {
		if v.n < v.least || v.n > v.most {
			return fmt.Errorf("--%s %d: wanted %d to %d", v.flag, v.n, v.least, v.most)
		}
	}
	return nil
}

// checkOnly refuses --only with what is no workload.
func (b *loadBench) checkOnly(list []workload) error {
	names := make([]string, len(list))
	for i, w := range list {
		names[i] = w.name
	}
	for _, name := range b.only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--only %s: wanted some of %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// findNode sets the program of the nodes where a flag names one, or to this program where own is set.
func (b *loadBench) findNode(own bool) (err error) {
	switch {
	case b.node != "":
		b.node, err = program("node", b.node)
	case own:
		if b.node, err = os.Executable(); err != nil {
			return fmt.Errorf("this program's file is not known, and the nodes run from it: name one with --node: %w", err)
		}
	}
	return err
}

// errNodeAgainst refuses the two flags together.
var errNodeAgainst = errors.New("--node and --against: --against runs the nodes of both builds, leave out --node")

// runAll runs workloads in a folder that it removes afterwards.
func (b *loadBench) runAll(ctx context.Context, list []workload) (err error) {
	made, err := os.MkdirTemp(b.dir, "mlsfed-bench-")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	if b.dir, err = filepath.Abs(made); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	for _, w := range list {
		if len(b.only) > 0 && !slices.Contains(b.only, w.name) {
			continue
		}
		if err := w.run(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}
