// Package bench has the command bench: measurements that everybody can repeat. Each benchmark is a package below this
// one; package harness has what they share.
package bench

import (
	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/core"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/delivery"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/federation"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// Command groups the measurements that everybody can repeat.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:     "bench",
		GroupID: cli.GroupDevelopers,
		Short:   "Measure this build on this machine",
	}
	c.AddCommand(core.Command(), newOrder(), delivery.Command(), federation.Command(), delivery.DeviceCommand(), delivery.LargeCommand())
	return c
}
