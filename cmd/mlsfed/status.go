package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/node"
)

func newStatus() *cobra.Command {
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show a running node: conversations, peers, queues",
		GroupID: groupOperators,
		Args:    cobra.NoArgs,
	}
	path := addConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctl, err := newControl(*path)
		if err != nil {
			return err
		}
		var s node.Status
		if err := ctl.ask(c.Context(), "GET", "/status", nil, &s); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), s)
		}
		return printStatus(c.OutOrStdout(), &s)
	}
	return c
}

// shownConversations is how many a table for people lists.
const shownConversations = 50

func printStatus(out io.Writer, s *node.Status) error {
	fmt.Fprintf(out, "%s  %s, up %s\ngateway %s  federation %s  sessions %d  conversations %d, %d awake\n",
		s.Node, s.Version, time.Since(s.Started).Round(time.Second), s.Gateway, s.Federation, s.Sessions, len(s.Conversations), s.Awake)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nORGANIZATION\tSTATE\tNODE\tADDRESS\tLINK\tWAITING\tOLDEST")
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
			fmt.Fprintf(w, "%s\t%s\t-\t\t\t%d\t%s\n", p.Domain, state, waiting, age)
		}
		up := false
		for _, n := range p.Nodes {
			link := "down"
			if n.Connected {
				link, up = "up", true
			}
			if n.Node == s.Node {
				link = "this"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", p.Domain, state, n.Node, n.Address, link, waiting, age)
		}
		if p.LastError != "" && !up {
			fmt.Fprintf(w, "\t%s\n", p.LastError)
		}
	}
	fmt.Fprintln(w, "\nCONVERSATION\tROLE\tLEADER\tVOTERS\tEPOCH\tENTRIES\tBEHIND")
	for i, c := range s.Conversations {
		if i == shownConversations {
			fmt.Fprintf(w, "… and %d more: --json lists all\n", len(s.Conversations)-i)
			break
		}
		if c.Fault != "" {
			fmt.Fprintf(w, "%s\t%s\n", short(c.ID), c.Fault)
			continue
		}
		var voters []string
		for _, v := range c.Voters {
			voters = append(voters, string(v))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", short(c.ID), c.Role, c.Leader, strings.Join(voters, " "),
			strings.Trim(fmt.Sprint(c.Epochs), "[]"), c.Entries, c.Behind)
	}
	return w.Flush()
}

func short(id string) string {
	if len(id) > 16 {
		return id[:16] + "…"
	}
	return id
}
