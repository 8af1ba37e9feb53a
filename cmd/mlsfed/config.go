package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/config"
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
	check := &cobra.Command{Use: "check", Short: "Say what is wrong with a configuration", Args: cobra.NoArgs}
	path := addConfigFlag(check)
	check.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is well: node %s, data in %s\n", *path, cfg.Node, cfg.Data)
		return nil
	}
	c.AddCommand(check)
	return c
}
