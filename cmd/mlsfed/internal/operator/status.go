package operator

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/wire"
)

func newStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show a running node: conversations, peers, queues",
		Long: `status shows what a running node does: the organizations and their nodes, whether a link is up, how many
items wait for them and since when; the conversations, the node's part in each, who orders it, and how many
entries have not come to this organization's devices yet.`,
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
	}
	return newOperator(cli.WithJSON(c), func(ctx context.Context, o *operator, _ []string) error {
		s, err := o.control().status(ctx)
		if err != nil {
			return err
		}
		if o.json {
			return cli.PrintJSON(o.out, s)
		}
		return printStatus(o.out, s)
	})
}

// shownConversations is how many conversations a table for people lists.
const shownConversations = 50

func printStatus(out io.Writer, s *node.Status) error {
	fmt.Fprintf(out, "%s  %s, up %s\ngateway %s  federation %s  sessions %d  conversations %d, %d awake\n\n",
		s.Node, s.Version, time.Since(s.Started).Round(time.Second), s.Gateway, s.Federation, s.Sessions, len(s.Conversations), s.Awake)
	if s.ClockOff != 0 {
		off := time.Duration(s.ClockOff) * time.Second
		fmt.Fprintf(out, "clock jumped: this machine's clock is off by %v; the node goes on by its own count, and takes the new time when it has been steady for a while\n\n", off)
	}
	var t cli.Table
	t.Row("ORGANIZATION", "STATE", "NODE", "ADDRESS", "LINK", "WAITING", "OLDEST")
	for _, p := range s.Peers.Peers {
		waiting, oldest := 0, time.Time{}
		for _, l := range p.Lanes {
			waiting += l.Items
			if oldest.IsZero() || l.Oldest.Before(oldest) {
				oldest = l.Oldest
			}
		}
		age := "-"
		if waiting > 0 {
			age = time.Since(oldest).Round(time.Second).String()
		}
		state := string(p.State)
		if p.Own {
			state = "own"
		}
		if len(p.Nodes) == 0 {
			t.Row(p.Domain, state, "-", "", "", waiting, age)
		}
		up := false
		for _, n := range p.Nodes {
			link := "down"
			if n.Connected {
				link, up = "up", true
			}
			if !n.Since.IsZero() && !n.Connected {
				link += " since " + cli.ClockTime(n.Since, time.Now())
			}
			if n.Node == s.Node {
				link = "this"
			}
			t.Row(p.Domain, state, n.Node, n.Address, link, waiting, age)
		}
		if p.LastError != "" && !up {
			t.Row("", p.LastError)
		}
	}
	storageRows(&t, &s.Storage)
	if s.Expired > 0 {
		t.Row("mailbox", fmt.Sprintf("%s expired in full streams since the start, before devices that are away had read them: they learn of a gap (mailbox.items, mailbox.bytes)", cli.Plural(int(s.Expired), "item", "items")))
	}
	keptRows(&t, s.Kept)
	conversationRows(&t, s)
	return t.Write(out)
}

// conversationRows lists the conversations, with what keeps one from being ordered.
func conversationRows(t *cli.Table, s *node.Status) {
	t.Row()
	if len(s.Conversations) == 0 {
		t.Row("No conversation yet.")
		return
	}
	t.Row("CONVERSATION", "ROLE", "LEADER", "VOTERS", "EPOCH", "ENTRIES", "BEHIND")
	for i, c := range s.Conversations {
		if i == shownConversations {
			t.Row(fmt.Sprintf("… and %d more: --json lists all", len(s.Conversations)-i))
			break
		}
		if c.Fault != "" {
			t.Row(short(c.ID), c.Fault)
			continue
		}
		if q := c.Quarantine; q != nil {
			t.Row(short(c.ID), c.Role, fmt.Sprintf("%s since %s: %s", q.Reason, q.Since.Local().Format("2006-01-02 15:04"), cli.Clean(q.Detail)))
			continue
		}
		var voters []string
		for _, v := range c.Voters {
			voters = append(voters, string(v))
		}
		t.Row(short(c.ID), c.Role, c.Leader, strings.Join(voters, " "), strings.Trim(fmt.Sprint(c.Epochs), "[]"), c.Entries, c.Behind)
		if c.NeedsRecovery {
			t.Row("", needsRecover(s, &c))
		} else if away := unreachableVoters(s, c.Voters); len(away)*2 >= len(c.Voters) && len(away) > 0 {
			t.Row("", fmt.Sprintf("no majority can be reached: it waits for %s. If they will not come back, 'mlsfed recover' (see docs/operations.md)", strings.Join(away, ", ")))
		}
	}
}

// needsRecover describes which nodes have lost a log, and where the conversation can be recovered.
func needsRecover(s *node.Status, c *node.Conversation) string {
	lost := make([]string, 0, len(c.Lost))
	for _, n := range c.Lost {
		lost = append(lost, string(n))
	}
	text := fmt.Sprintf("needs recover: %s lost the log (a restored backup?), and no majority is left", strings.Join(lost, ", "))
	if hasLost(s, c) {
		return text + ": 'mlsfed recover' on a node that has more of it"
	}
	return text + fmt.Sprintf(": 'mlsfed recover %s --note TEXT', or --all for each such one", short(c.ID))
}

// hasLost reports whether the node itself has lost the log of a conversation.
func hasLost(s *node.Status, c *node.Conversation) bool { return slices.Contains(c.Lost, s.Node) }

// unreachableVoters returns the voters to which the node has no link.
func unreachableVoters(s *node.Status, voters []wire.NodeID) (away []string) {
	up := map[wire.NodeID]bool{s.Node: true}
	for _, p := range s.Peers.Peers {
		for _, n := range p.Nodes {
			up[n.Node] = up[n.Node] || n.Connected
		}
	}
	for _, v := range voters {
		if !up[v] {
			away = append(away, string(v))
		}
	}
	return away
}

// keptRows lists the replicas that were replaced and are kept.
func keptRows(t *cli.Table, list []node.Kept) {
	if len(list) == 0 {
		return
	}
	t.Row()
	t.Row("KEPT ASIDE", "NUMBER", "ENTRIES", "BYTES", "SINCE", "UNTIL", "WHY")
	for i, k := range list {
		if i == shownConversations {
			t.Row(fmt.Sprintf("… and %d more: --json lists all", len(list)-i))
			return
		}
		until := "dropped"
		switch {
		case k.Waits:
			until = "proved"
		case !k.Ends.IsZero():
			until = k.Ends.Local().Format("2006-01-02")
		}
		t.Row(short(k.Conversation), k.Number, k.Entries, k.Bytes, k.Since.Local().Format("2006-01-02 15:04"), until, cli.Clean(k.Why))
	}
}

// storageRows lists the largest users of storage here, and what was refused.
func storageRows(t *cli.Table, s *node.Storage) {
	if len(s.Organizations)+len(s.Users) > 0 {
		t.Row()
		t.Row("STORED FOR", "BYTES", "OF WHICH")
	}
	for _, u := range append(slices.Clone(s.Organizations), s.Users...) {
		t.Row(u.Owner, u.Bytes, counts(u.By))
	}
	if s.Free < s.Reserve {
		t.Row()
		t.Row(fmt.Sprintf("The disk is full: %s are free, %s are kept in reserve. Make room: until then nothing is taken.", config.Size(s.Free).About(), config.Size(s.Reserve).About()))
	}
	if len(s.Refused)+len(s.Limited) > 0 {
		t.Row()
		t.Row(fmt.Sprintf("Refused: %s", strings.Trim(counts(s.Refused)+", "+counts(s.Limited), ", ")))
	}
}

// counts lists numbers by name.
func counts(by map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, by[name]))
	}
	return strings.Join(parts, ", ")
}

// short returns the beginning of a conversation's id: enough for 'mlsfed recover', 'release' and 'drop'.
func short(id string) string { return id[:min(len(id), 16)] }
