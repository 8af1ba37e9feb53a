package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/node"
)

func newAudit() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the log of who did what",
		Long: `audit reads the audit log of a node: enrolments, invitations, revocations, what operators did, and links that went
up and down. Each record names the SHA-256 of the one before it.`,
		GroupID: cli.GroupOperators,
	}
	c.AddCommand(newAuditList(), newAuditVerify())
	return c
}

func newAuditList() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "Print the records of the log, and verify its chain on the way",
		Example: "  mlsfed audit list --since 24h\n  mlsfed audit list --act device.enrolled --json",
		Args:    cobra.NoArgs,
	}
	since := c.Flags().Duration("since", 0, "only what is not older, as 24h (default: all)")
	act := c.Flags().String("act", "", "only acts whose name begins so, as device. or link.down")
	return newOperator(cli.WithJSON(c), func(_ context.Context, o *operator, _ []string) error {
		var t cli.Table
		t.Row("NUMBER", "TIME", "ACT", "WHO", "ON")
		after := time.Now().Add(-*since)
		_, err := audit.Verify(node.AuditFolder(o.cfg), func(r *audit.Record) error {
			if *since > 0 && r.Time.Before(after) || !strings.HasPrefix(string(r.What), *act) {
				return nil
			}
			if o.json {
				return cli.PrintJSON(o.out, r)
			}
			on := []string{r.On}
			for _, k := range slices.Sorted(maps.Keys(r.With)) {
				on = append(on, fmt.Sprintf("%s=%q", k, r.With[k]))
			}
			t.Row(r.Number, r.Time.Local().Format("2006-01-02 15:04:05"), r.What, cli.OneLine(r.Who), cli.OneLine(strings.Join(on, " ")))
			return nil
		})
		if !o.json && len(t) > 1 {
			err = errors.Join(t.Write(o.out), err)
		}
		return err
	})
}

func newAuditVerify() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify",
		Short: "Verify that no record of the log was changed, removed or inserted",
		Long: `verify reads the whole log and verifies its chain. It prints the mark of the last record, N:HASH. Keep marks on
another machine: with --mark, verify also holds that the log has that record still, which shows a log whose end was cut
off, or was rewritten. The node's ordinary log has a mark at each start and for each file.`,
		Example: "  mlsfed audit verify\n  mlsfed audit verify --mark 4711:9f86d081884c7d65…",
		Args:    cobra.NoArgs,
	}
	noted := c.Flags().StringArray("mark", nil, "a mark that was noted elsewhere; may be given several times")
	return newOperator(cli.WithJSON(c), func(_ context.Context, o *operator, _ []string) error {
		var marks []audit.Mark
		for _, s := range *noted {
			m, err := audit.ParseMark(s)
			if err != nil {
				return cli.UsageError(fmt.Errorf("--mark: %w", err))
			}
			marks = append(marks, m)
		}
		dir := node.AuditFolder(o.cfg)
		r, err := audit.Verify(dir, nil, marks...)
		if err != nil {
			return fmt.Errorf("the log is not as it was written: %w", err)
		}
		if o.json {
			return cli.PrintJSON(o.out, map[string]any{"records": r.Records, "first": r.First.Number, "head": r.Head.String(), "files": r.Files})
		}
		fmt.Fprintf(o.out, "%d records in %s are as they were written.\nhead %v\n", r.Records, dir, r.Head)
		if r.First.Number > 1 {
			fmt.Fprintf(o.notes, "The log begins with record %d: older files were removed (audit.files).\n", r.First.Number)
		}
		for _, m := range marks {
			if m.Number < r.First.Number {
				fmt.Fprintf(o.notes, "Record %d is older than the log: %v was not compared.\n", m.Number, m)
			}
		}
		return nil
	})
}

// record writes an operator's act without a node into the audit log. The act has already happened, so a fault is only
// a warning.
func (o *operator) record(what audit.Act, on string, with map[string]string) {
	record(o.cfg, o.notes, what, on, with)
}

func record(cfg *config.Config, notes io.Writer, what audit.Act, on string, with map[string]string) {
	log, err := node.OpenAudit(cfg, time.Now)
	if err == nil {
		_, _, err = log.Append(what, node.ByOperator(), on, with)
	}
	if err != nil {
		fmt.Fprintf(notes, "warning: this is not in the audit log: %v\n", err)
	}
}
