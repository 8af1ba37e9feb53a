package operator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/private"
	"github.com/mlsfed/mlsfed/node"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Print and check configurations of nodes", GroupID: cli.GroupOperators}
	c.AddCommand(&cobra.Command{
		Use:   "example",
		Short: "Print the annotated configuration, with every key and its default",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Example)
			return err
		},
	})
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say what is wrong with a configuration, and try what a start would do",
		Long: `check reads a configuration and tries what a start of its node would do: it reads keys and certificates,
writes into the data folder, opens the databases without changing them, and listens at the addresses for a
moment. With --live it also asks others, as 'mlsfed doctor' does.

It exits with 1 if there is a fault. A node starts in spite of a warning.`,
		Example: "  mlsfed config check a.example/mlsfed.yaml\n  mlsfed config check --live",
		Args:    cli.Between(0, 1, "at most a configuration file"),
	}
	live := check.Flags().Bool("live", false, "also ask the own gateway, the admitted organizations and the issuer")
	c.AddCommand(newOperator(cli.WithJSON(check), func(ctx context.Context, o *operator, _ []string) error {
		return o.check(ctx, *live, false)
	}))
	return c
}

func newDoctor() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Try everything that a node needs: its machine, its gateway, other organizations",
		Long: `doctor tries what 'mlsfed config check' tries, and asks others: the own gateway at the address that devices use,
a node of each admitted organization at the addresses of its bundle, and the OpenID Connect issuer. It prints a line
for each step, and exits with 1 if one has found a fault.`,
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
	}
	return newOperator(cli.WithJSON(c), func(ctx context.Context, o *operator, _ []string) error { return o.check(ctx, true, true) })
}

// liveTime bounds the questions to other parties.
const liveTime = 15 * time.Second

// check prints the faults, or every step.
func (o *operator) check(ctx context.Context, live, all bool) error {
	list := node.Check(o.cfg)
	if err := private.CheckWritable(o.file); err != nil {
		list = append(list, node.Finding{Step: "permissions", Outcome: node.Warning, Detail: fmt.Sprintf("the %v", err)})
	}
	if live {
		asking, cancel := context.WithTimeout(ctx, liveTime)
		defer cancel()
		list = append(list, node.CheckLive(asking, o.cfg)...)
	}
	faults := 0
	for _, f := range list {
		if f.Outcome == node.Fault {
			faults++
		}
	}
	if err := o.printFindings(list, faults, all || live); err != nil {
		return err
	}
	if faults > 0 {
		return fmt.Errorf("%s: %d of %d steps have found a fault", o.file, faults, len(list))
	}
	return nil
}

func (o *operator) printFindings(list []node.Finding, faults int, all bool) error {
	if o.json {
		return cli.PrintList(o.out, list)
	}
	if faults == 0 {
		fmt.Fprintf(o.out, "%s is well: node %s, data in %s\n", o.file, o.cfg.Node, o.cfg.Data)
	}
	var t cli.Table
	for _, f := range list {
		if all || f.Outcome == node.Warning || f.Outcome == node.Fault {
			t.Row(string(f.Outcome), f.Step, cli.Clean(strings.ReplaceAll(f.Detail, "\n", "; ")))
		}
	}
	return t.Write(o.out)
}
