package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/private"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Print and check configurations of nodes", GroupID: groupOperators}
	c.AddCommand(&cobra.Command{
		Use:   "example",
		Short: "Print the annotated configuration, with every key and its default",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Example)
			return err
		},
	})
	check := &cobra.Command{Use: "check [FILE]", Short: "Say what is wrong with a configuration", Args: between(0, 1, "at most a configuration file")}
	c.AddCommand(newOperator(check, func(_ context.Context, o *operator, _ []string) error {
		fmt.Fprintf(o.out, "%s is well: node %s, data in %s\n", o.file, o.cfg.Node, o.cfg.Data)
		for _, w := range o.cfg.Warnings() {
			fmt.Fprintf(o.notes, "warning: %s\n", w)
		}
		open := node.CheckPrivate(o.cfg)
		if err := private.CheckWritable(o.file); err != nil {
			open = append(open, err)
		}
		for _, err := range open {
			fmt.Fprintf(o.out, "but the %v\n", err)
		}
		return nil
	}))
	return c
}
