// Command mlsfed is the one binary of the project. The subcommands are in packages below internal, by whom they serve:
// people and chat, operator, and demo, vectors and bench. Package cli has what they share.
//
// It exits with 0 on success, 1 when a command failed, and 2 when it was
// called wrongly. An error is printed once, to standard error.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/chat"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/demo"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/operator"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/people"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/vectors"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/noquery"
)

// Package noquery prevents that the terminal is asked for its colours while packages are initialized.
var _ = noquery.Restore()

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		signals = append(signals, syscall.SIGHUP) // the terminal has gone
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second signal ends a command that does not heed the first
	os.Exit(cli.Run(ctx, newRoot, os.Args[1:], os.Stdout, os.Stderr))
}

// newRoot returns the root command with all subcommands.
func newRoot() *cobra.Command {
	root := cli.Root()
	root.Short = "A federated delivery network for end-to-end encrypted groups"
	root.Long = `mlsfed is a federated delivery network for end-to-end encrypted groups (MLS, RFC 9420).
Each organization runs its own nodes; each conversation is ordered by the nodes of the
organizations that take part in it.`
	if b, ok := builtFrom(); ok {
		root.Version = b.String()
		root.SetVersionTemplate("mlsfed {{.Version}}\n")
	}
	root.AddCommand(people.Commands()...)
	root.AddCommand(chat.Command(), demo.Command())
	root.AddCommand(operator.Commands(version())...)
	root.AddCommand(newVersion(), vectors.Command(), bench.Command(), newMan())
	return root
}
