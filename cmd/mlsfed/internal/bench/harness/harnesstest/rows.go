// Package harnesstest runs benchmarks in tests.
package harnesstest

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// Rows runs a benchmark with --json, and returns its rows.
func Rows(t *testing.T, benchmark func() *cobra.Command, args []string) []harness.Row {
	t.Helper()
	var out, log bytes.Buffer
	root := func() *cobra.Command { return cli.Root(benchmark()) }
	if code := cli.Run(t.Context(), root, args, &out, &log); code != 0 {
		t.Fatalf("code %d: %s", code, log.String())
	}
	rows, err := harness.DecodeRows(&out)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Refuses checks that a benchmark takes none of several lists of arguments.
func Refuses(t *testing.T, benchmark func() *cobra.Command, lists ...[]string) {
	t.Helper()
	for _, args := range lists {
		var out, log bytes.Buffer
		root := func() *cobra.Command { return cli.Root(benchmark()) }
		if code := cli.Run(t.Context(), root, args, &out, &log); code != 2 {
			t.Errorf("%q: exit code %d, want 2: %s", args, code, log.String())
		}
	}
}

// Build builds mlsfed and returns the path of the program.
func Build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "mlsfed")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/mlsfed/mlsfed/cmd/mlsfed")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return binary
}
