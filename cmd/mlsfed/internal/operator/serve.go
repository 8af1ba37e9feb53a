package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
)

// newServe returns the command that runs a node of a version.
func newServe(version string) *cobra.Command {
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Run a node",
		Long:    "serve runs the node of a configuration until it is interrupted, and then stops it in good order:\nsessions are drained, leaderships handed over, and what is queued is on disk.",
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
	}
	return newOperator(c, func(ctx context.Context, o *operator, _ []string) error {
		n, err := node.New(o.cfg, node.Options{Version: version, Logger: newLogger(o.notes, o.cfg.Log)})
		if err == nil {
			err = n.Run(ctx)
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: end what listens there, or change the address in %s", err, o.file)
		}
		return err
	})
}

// newLogger returns the logger of a node.
func newLogger(out io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // the configuration has been validated
	o := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "json":
		return slog.New(slog.NewJSONHandler(out, o))
	case "journald":
		return slog.New(newJournal(out, o))
	}
	return slog.New(slog.NewTextHandler(out, o))
}
