package operator

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/node"
)

func newStorage() *cobra.Command {
	c := &cobra.Command{
		Use:     "storage",
		Short:   "Make, upgrade and check the PostgreSQL database of a node",
		GroupID: cli.GroupOperators,
	}
	c.AddCommand(
		newOperator(&cobra.Command{
			Use:   "init",
			Short: "Make the tables in an empty database",
			Long: `init makes the tables of mlsfed in the database that postgres.url names. The database and its owner exist already:

  createuser mlsfed
  createdb --owner mlsfed mlsfed`,
			Args: cobra.NoArgs,
		}, func(ctx context.Context, o *operator, _ []string) error {
			version, err := node.InitPostgres(ctx, o.cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(o.out, "The tables are made, version %d of the schema. 'mlsfed serve' starts the node.\n", version)
			return nil
		}),
		newOperator(&cobra.Command{
			Use:   "migrate",
			Short: "Bring the tables to the schema of this build",
			Long:  `migrate brings the tables to the schema that this build needs. Stop the node first, and make a backup: no command brings a database back to an earlier schema.`,
			Args:  cobra.NoArgs,
		}, func(ctx context.Context, o *operator, _ []string) error {
			from, to, err := node.MigratePostgres(ctx, o.cfg)
			if err != nil {
				return err
			}
			if from == to {
				fmt.Fprintf(o.out, "The schema is version %d already: nothing was changed.\n", to)
				return nil
			}
			fmt.Fprintf(o.out, "The schema was version %d, and is version %d now.\n", from, to)
			return nil
		}),
		newOperator(&cobra.Command{
			Use:   "check",
			Short: "Open the database as the node does, and verify the settings of its server",
			Args:  cobra.NoArgs,
		}, func(ctx context.Context, o *operator, _ []string) error {
			version, err := node.CheckPostgres(ctx, o.cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(o.out, "The database is well: version %d of the schema.\n", version)
			return nil
		}),
		newOperator(&cobra.Command{
			Use:   "rebase",
			Short: "Make a database safe to use that was restored to an earlier time",
			Long: `rebase makes a database safe to use that is older than what devices have seen: after it was restored, or after a failover
that lost commits. Stop the node first. Streams continue at places that no device has seen, and KeyPackages, invitations
and claims of before are dropped: devices upload new KeyPackages when they connect.`,
			Args: cobra.NoArgs,
		}, func(ctx context.Context, o *operator, _ []string) error {
			if err := node.RebasePostgres(ctx, o.cfg); err != nil {
				return err
			}
			fmt.Fprintln(o.out, "The database can be used: its streams continue at new places.")
			return nil
		}))
	return c
}
