package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/node"
)

func newBackup() *cobra.Command {
	c := &cobra.Command{
		Use:     "backup FILE",
		Short:   "Write an archive of a running node's data",
		Long:    "backup asks the running node for an archive of its data and identity, keys included: keep it as safe as\nthe node itself. '-' writes to standard output.",
		Example: "  mlsfed backup n1-$(date +%F).tar",
		GroupID: groupOperators,
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		r, err := ctl.send(c.Context(), "GET", "/backup", nil)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if args[0] == "-" {
			_, err := io.Copy(c.OutOrStdout(), r.Body)
			return err
		}
		n, err := writeWhole(args[0], r.Body)
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %d bytes of %s\n", args[0], n, ctl.cfg.Node)
		return nil
	}
	return c
}

// writeWhole writes a file that is there as a whole or not at all.
func writeWhole(path string, in io.Reader) (int64, error) {
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, in)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, errors.Join(err, os.Remove(path+".part"))
	}
	return n, os.Rename(path+".part", path)
}

func newRestore() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node's data of an archive, where it has none",
		Long: `restore makes the data folder of a configuration from an archive. The node has forgotten what it did since
the backup, and goes on safely: its replicas are given up and brought back by the other organizations,
devices are told of a gap and fetch what they missed, KeyPackages and invitations are made anew. Devices that
were revoked since the backup have to be revoked again. A conversation whose other voters are too few for a
majority without this node is brought back by 'mlsfed recover' on one of them.`,
		GroupID: groupOperators,
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := node.Restore(cfg, f)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is as of %s. Start it with: mlsfed serve -c %s\n", b.Node, b.Time.Local().Format("2006-01-02 15:04 MST"), *path)
		return nil
	}
	return c
}

func newRecover() *cobra.Command {
	c := &cobra.Command{
		Use:   "recover CONVERSATION --note TEXT",
		Short: "Force a conversation on that has lost the majority of its voters for good",
		Long: `recover makes this node's log the conversation's, whatever the lost voters held beyond it, and says so in the
log, with your note, for all to see. Never do it while a majority lives somewhere else: two conversations
would go on.`,
		GroupID: groupOperators,
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	note := c.Flags().String("note", "", "why, as it will stand in the log")
	if err := c.MarkFlagRequired("note"); err != nil {
		panic(err) // a flag of that name stands above
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		err = ctl.ask(c.Context(), "POST", "/conversations/recover", map[string]string{"conversation": args[0], "note": *note}, new(struct{}))
		if err == nil {
			fmt.Fprintf(c.OutOrStdout(), "%s goes on from this node's log.\n", args[0])
		}
		return err
	}
	return c
}
