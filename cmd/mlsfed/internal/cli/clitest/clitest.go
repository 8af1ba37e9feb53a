// Package clitest runs command lines in tests.
package clitest

import (
	"bytes"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// Call runs a command line with the commands of root. It returns the exit code and the output.
func Call(t *testing.T, root func() *cobra.Command, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Run(t.Context(), root, args, &out, &errs)
	return code, out.String(), errs.String()
}
