package operator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/wire"
)

func newPeer() *cobra.Command {
	c := &cobra.Command{
		Use:     "peer",
		Short:   "Admit, suspend and remove other organizations",
		Long:    "peer changes the allow-list of a node. A running node follows at once: links with an organization that\nis removed or suspended are cut within a second.",
		GroupID: cli.GroupOperators,
	}
	c.AddCommand(newPeerAdd(), newPeerList(),
		newPeerChange("remove", "Remove an organization from the allow-list", "removed", audit.OrganizationRemoved, (*organization.Peers).Remove),
		newPeerChange("suspend", "Treat an organization as if it were not admitted, and remember it", "suspended", audit.OrganizationSuspended, (*organization.Peers).Suspend),
		newPeerChange("resume", "Admit a suspended organization again", "admitted again", audit.OrganizationResumed, (*organization.Peers).Resume))
	return c
}

// peersFolder returns the folder of the node's allow-list.
func (o *operator) peersFolder() string { return filepath.Join(o.cfg.Identity, "peers") }

func newPeerAdd() *cobra.Command {
	c := &cobra.Command{
		Use:   "add BUNDLE-FILE...",
		Short: "Admit the organizations of bundles",
		Long: "add admits an organization. Its bundle holds its root certificate: compare the fingerprint that is printed\n" +
			"with the one that its operator reads to you, over a channel that you trust. Of several bundles all are read\n" +
			"and checked before the first one is admitted.",
		Example: "  mlsfed peer add b-bundle.json\n  mlsfed peer add bundles/*.json",
		Args:    cli.AtLeast(1, "the bundle.json of another organization"),
	}
	return newOperator(c, func(_ context.Context, o *operator, args []string) error {
		bundles := make([]*organization.Bundle, len(args))
		for i, file := range args {
			b, err := organization.ReadBundle(file)
			if err != nil {
				var of *wire.Error
				if errors.As(err, &of) {
					return cli.PlainError(err, file+": "+of.Text)
				}
				return err
			}
			if b.Domain == o.cfg.Domain {
				return fmt.Errorf("%s is this organization's own bundle: the others admit it, you admit theirs", file)
			}
			bundles[i] = b
		}
		peers, err := organization.PeersIn(o.peersFolder())
		if err != nil {
			return err
		}
		var failed error
		for i, err := range peers.AddAll(bundles) {
			b := bundles[i]
			if err != nil {
				if failed == nil {
					failed = err
				}
				continue
			}
			root, err := b.Certificate()
			if err != nil {
				return err
			}
			o.record(audit.OrganizationAdmitted, string(b.Domain), map[string]string{"root": fingerprint(root.Raw)})
			fmt.Fprintf(o.out, "%s is admitted.\nfingerprint of its root: %s\n", b.Domain, fingerprint(root.Raw))
		}
		if failed != nil {
			return cli.Plain(failed)
		}
		return nil
	})
}

// peerJSON is an organization of the allow-list as --json prints one.
type peerJSON struct {
	Domain      wire.Domain         `json:"organization"`
	State       organization.State  `json:"state"`
	Fingerprint string              `json:"fingerprint"`
	Ends        time.Time           `json:"root_ends"`
	Seeds       []organization.Seed `json:"seeds"`
}

func newPeerList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the organizations of the allow-list", Args: cobra.NoArgs}
	return newOperator(cli.WithJSON(c), func(_ context.Context, o *operator, _ []string) error {
		peers, err := organization.OpenPeers(o.peersFolder())
		if err != nil {
			return err
		}
		var rows []peerJSON
		for _, p := range peers.List() {
			rows = append(rows, peerJSON{
				Domain: p.Domain, State: p.State, Fingerprint: fingerprint(p.Root.Raw), Ends: p.Root.NotAfter, Seeds: p.Seeds,
			})
		}
		if o.json {
			return cli.PrintList(o.out, rows)
		}
		if len(rows) == 0 {
			fmt.Fprintln(o.notes, "No organization is admitted yet: 'mlsfed peer add BUNDLE-FILE' admits one.")
			return nil
		}
		var t cli.Table
		t.Row("ORGANIZATION", "STATE", "ROOT ENDS", "FINGERPRINT")
		for _, r := range rows {
			t.Row(r.Domain, r.State, r.Ends.Format(time.DateOnly), r.Fingerprint)
		}
		return t.Write(o.out)
	})
}

func newPeerChange(use, short, done string, act audit.Act, change func(*organization.Peers, wire.Domain) error) *cobra.Command {
	c := &cobra.Command{Use: use + " DOMAIN", Short: short, Args: cli.Exactly(1, "the domain of an organization")}
	return newOperator(c, func(_ context.Context, o *operator, args []string) error {
		domain, err := wire.ParseDomain(args[0])
		if err != nil {
			return cli.UsageError(err)
		}
		peers, err := organization.PeersIn(o.peersFolder())
		if err != nil {
			return err
		}
		if err := change(peers, domain); err != nil {
			return cli.Plain(err)
		}
		o.record(act, string(domain), nil)
		fmt.Fprintf(o.out, "%s is %s.\n", domain, done)
		return nil
	})
}
