package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/node"
)

func newBackup() *cobra.Command {
	c := &cobra.Command{
		Use:     "backup FILE",
		Short:   "Write an archive of a running node's data",
		Long:    "backup asks the running node for an archive of its data and identity, keys included: keep it as safe as\nthe node itself. '-' writes to standard output.",
		Example: "  mlsfed backup n1-$(date +%F).tar",
		GroupID: cli.GroupOperators,
		Args:    cli.Exactly(1, "a file to write"),
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		r, err := o.control().send(ctx, http.MethodGet, "/backup", nil)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if args[0] == "-" {
			if _, err := io.Copy(cli.Below(o.out), r.Body); err != nil { // bytes, not text for a terminal
				return fmt.Errorf("the archive is not whole, do not keep it: %w", err)
			}
			return nil
		}
		n, err := writeWhole(args[0], r.Body)
		if err != nil {
			return fmt.Errorf("no archive was made: %w", err)
		}
		fmt.Fprintf(o.out, "%s: %s of %s. It holds the node's keys: keep it as safe as the node.\n", args[0], cli.Size(uint64(n)), o.cfg.Node)
		return nil
	})
}

// writeWhole writes a file as a whole or not at all.
func writeWhole(path string, in io.Reader) (int64, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".mlsfed-*.part") // a new file, 0600: not one of another user
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, in)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, errors.Join(err, os.Remove(f.Name()))
	}
	return n, os.Rename(f.Name(), path)
}

func newRestore() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node's data of an archive, where it has none",
		Long: `restore makes the data folder of a configuration from an archive. The node has forgotten what it did since
the backup, and goes on safely: its replicas are given up and brought back by the other organizations,
devices learn of a gap and fetch what they missed, new KeyPackages and invitations are made. Devices that
were revoked since the backup have to be revoked again. A conversation whose other voters are too few for a
majority without this node is brought back by 'mlsfed recover' on one of them.`,
		GroupID: cli.GroupOperators,
		Args:    cli.Exactly(1, "the archive to restore"),
	}
	return newOperator(c, func(_ context.Context, o *operator, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		defer f.Close()
		b, err := node.Restore(o.cfg, f)
		if err != nil {
			return err
		}
		o.record(audit.NodeRestored, string(b.Node), map[string]string{"as_of": b.Time.UTC().Format(time.RFC3339)})
		fmt.Fprintf(o.out, "%s is as of %s. Start it with: mlsfed serve -c %s\n", b.Node, b.Time.Local().Format("2006-01-02 15:04 MST"), o.file)
		return nil
	})
}

func newRecover() *cobra.Command {
	c := &cobra.Command{
		Use:   "recover CONVERSATION --note TEXT",
		Short: "Force a conversation on that has lost the majority of its voters for good",
		Long: `recover makes this node's log the conversation's, whatever the lost voters held beyond it, and says so in the
log, with your note, for all to see. Never do it while a majority lives somewhere else: two conversations
would go on. CONVERSATION is the beginning of an id, as 'mlsfed status' shows it.

With --all it does so for each conversation that 'mlsfed status' says needs it and of which this node has the log. With
--lost too, it does so for each conversation in which this node votes, and of whose voters those that are lost leave no
majority, or in which no voter is left. --lost names nodes, or organizations with all their nodes.`,
		Example: "  mlsfed recover 5f2c9a10 --note 'c.example lost its disk on 24 November'\n  mlsfed recover --all --lost c.example --note 'c.example lost its disk on 24 November'",
		GroupID: cli.GroupOperators,
	}
	f := c.Flags()
	note := f.String("note", "", "why, as it will stand in the log")
	all := f.Bool("all", false, "each conversation that needs it, or that --lost leaves without a majority")
	lost := f.StringSlice("lost", nil, "with --all: nodes or organizations that will not come back")
	if err := c.MarkFlagRequired("note"); err != nil {
		panic(err) // the flag is declared above
	}
	c.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case !*all && len(*lost) > 0:
			return errors.New("--lost: goes with --all")
		case *all && len(args) > 0, !*all && len(args) != 1:
			return fmt.Errorf("%d argument(s), wanted a conversation, or --all", len(args))
		}
		return nil
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		if strings.TrimSpace(*note) == "" {
			return cli.UsageError(errors.New("--note is empty: all members see it as the reason"))
		}
		ctl := o.control()
		var ids []string
		if *all {
			s, err := ctl.status(ctx)
			if err != nil {
				return err
			}
			if len(*lost) == 0 {
				ids = needRecovery(s)
			} else {
				ids = withoutMajority(s, *lost)
			}
			if len(ids) == 0 && len(*lost) == 0 {
				return fmt.Errorf("no conversation of %s is known to need it: name with --lost who will not come back", s.Node)
			}
			if len(ids) == 0 {
				return fmt.Errorf("no conversation of %s has lost its majority with %s", s.Node, strings.Join(*lost, ", "))
			}
		} else {
			id, err := ctl.conversation(ctx, args[0])
			if err != nil {
				return err
			}
			ids = []string{id}
		}
		var failed error
		for _, id := range ids {
			if err := ctl.post(ctx, "/conversations/recover", map[string]string{"conversation": id, "note": *note}); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", id, err))
				continue
			}
			fmt.Fprintf(o.out, "%s goes on from this node's log.\n", id)
		}
		return failed
	})
}

// needRecovery lists the conversations that need to be recovered and whose log the node of a status has.
func needRecovery(s *node.Status) (ids []string) {
	for i := range s.Conversations {
		if c := &s.Conversations[i]; c.NeedsRecovery && !hasLost(s, c) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// withoutMajority lists the conversations that have no majority without the lost nodes or organizations: those in
// which the node of a status votes and whose remaining voters are no majority, and those that the node follows
// without a vote and of which no voter is left.
func withoutMajority(s *node.Status, lost []string) (ids []string) {
	for i := range s.Conversations {
		c := &s.Conversations[i]
		left, own := 0, false
		for _, v := range c.Voters {
			own = own || v == s.Node
			if !slices.Contains(lost, string(v)) && !slices.Contains(lost, string(v.Organization())) {
				left++
			}
		}
		if own && left <= len(c.Voters)/2 || left == 0 && slices.Contains(c.Learners, s.Node) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func newRelease() *cobra.Command {
	c := &cobra.Command{
		Use:   "release CONVERSATION",
		Short: "Serve a conversation again that is in quarantine",
		Long: `release ends the quarantine of a conversation: this node serves it again, from what is on its disk. 'mlsfed
status' says why a conversation is in quarantine; find out first what went wrong and at whom, since it will go
wrong again otherwise. CONVERSATION is the beginning of an id, as 'mlsfed status' shows it.`,
		Example: "  mlsfed release 5f2c9a10",
		GroupID: cli.GroupOperators,
		Args:    cli.Exactly(1, "a conversation"),
	}
	return newOperator(c, func(ctx context.Context, o *operator, args []string) error {
		ctl := o.control()
		id, err := ctl.conversation(ctx, args[0])
		if err != nil {
			return err
		}
		if err := ctl.post(ctx, "/conversations/release", map[string]string{"conversation": id}); err != nil {
			return err
		}
		fmt.Fprintf(o.out, "%s is served again.\n", id)
		return nil
	})
}

// conversation finds the conversation whose id begins with prefix.
func (c *control) conversation(ctx context.Context, prefix string) (string, error) {
	s, err := c.status(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, conv := range s.Conversations {
		if prefix != "" && strings.HasPrefix(conv.ID, prefix) {
			found = append(found, conv.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%s has no conversation whose id begins with %q: 'mlsfed status' lists them", s.Node, prefix)
	}
	return "", fmt.Errorf("%d conversations begin with %q: write more of the id", len(found), prefix)
}
