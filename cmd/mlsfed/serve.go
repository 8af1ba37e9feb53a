package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
)

func newServe() *cobra.Command {
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Run a node",
		Long:    "serve runs the node of a configuration until it is interrupted, and then stops it in good order:\nsessions are drained, leaderships handed over, and what is queued is on disk.",
		GroupID: groupOperators,
		Args:    cobra.NoArgs,
	}
	return newOperator(c, func(ctx context.Context, o *operator, _ []string) error {
		n, err := node.New(o.cfg, node.Options{Version: version(), Logger: newLogger(o.notes, o.cfg.Log)})
		if err == nil {
			err = n.Run(ctx)
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: end what listens there, or change the address in %s", err, o.file)
		}
		return err
	})
}

// newLogger writes what a node has to say.
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

// version is the module's, or the commit that the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return fmt.Sprintf("%s+%s", info.Main.Version, s.Value[:12])
		}
	}
	return info.Main.Version
}
