package main

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/wire"
)

func newPeer() *cobra.Command {
	c := &cobra.Command{
		Use:     "peer",
		Short:   "Admit, suspend and remove other organizations",
		Long:    "peer changes the allow-list of a node. A running node follows at once: links with an organization that\nis removed or suspended are cut within a second.",
		GroupID: groupOperators,
	}
	c.AddCommand(newPeerAdd(), newPeerList(),
		newPeerChange("remove", "Remove an organization from the allow-list", "removed", (*federation.Peers).Remove),
		newPeerChange("suspend", "Treat an organization as if it were not admitted, and remember it", "suspended", (*federation.Peers).Suspend),
		newPeerChange("resume", "Admit a suspended organization again", "admitted again", (*federation.Peers).Resume))
	return c
}

func openPeers(path string) (*federation.Peers, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, err
	}
	return federation.OpenPeers(filepath.Join(cfg.Identity, "peers"))
}

func newPeerAdd() *cobra.Command {
	c := &cobra.Command{
		Use:     "add BUNDLE-FILE",
		Short:   "Admit the organization of a bundle",
		Long:    "add admits an organization. Its bundle holds its root certificate: compare the fingerprint that is printed\nwith the one that its operator reads to you, over a channel that you trust.",
		Example: "  mlsfed peer add b-bundle.json",
		Args:    cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		b, err := federation.ReadBundle(args[0])
		if err != nil {
			return err
		}
		if b.Domain == cfg.Domain {
			return fmt.Errorf("peer add: %s is this organization's own bundle", args[0])
		}
		peers, err := openPeers(*path)
		if err != nil {
			return err
		}
		if err := peers.Add(b); err != nil {
			return err
		}
		root, err := b.Certificate()
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is admitted.\nfingerprint of its root: %s\n", b.Domain, fingerprint(root.Raw))
		return nil
	}
	return c
}

func newPeerList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the organizations of the allow-list", Args: cobra.NoArgs}
	path := addConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		peers, err := openPeers(*path)
		if err != nil {
			return err
		}
		type row struct {
			Domain      wire.Domain       `json:"domain"`
			State       federation.State  `json:"state"`
			Fingerprint string            `json:"fingerprint"`
			Ends        time.Time         `json:"root_ends"`
			Seeds       []federation.Seed `json:"seeds"`
		}
		rows := []row{}
		for _, p := range peers.List() {
			rows = append(rows, row{p.Domain, p.State, fingerprint(p.Root.Raw), p.Root.NotAfter, p.Seeds})
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), rows)
		}
		if len(rows) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "No organization is admitted yet: mlsfed peer add BUNDLE-FILE")
			return nil
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ORGANIZATION\tSTATE\tROOT ENDS\tFINGERPRINT")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Domain, r.State, r.Ends.Format(time.DateOnly), r.Fingerprint)
		}
		return w.Flush()
	}
	return c
}

func newPeerChange(use, short, done string, change func(*federation.Peers, wire.Domain) error) *cobra.Command {
	c := &cobra.Command{Use: use + " DOMAIN", Short: short, Args: cobra.ExactArgs(1)}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		domain, err := wire.ParseDomain(args[0])
		if err != nil {
			return usageError{err}
		}
		peers, err := openPeers(*path)
		if err != nil {
			return err
		}
		if err := change(peers, domain); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is %s.\n", domain, done)
		return nil
	}
	return c
}
