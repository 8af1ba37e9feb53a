package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/wire"
)

func newCert() *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Show and renew the certificate of a node", GroupID: cli.GroupOperators}
	c.AddCommand(newCertShow(), newCertRenew())
	return c
}

// fingerprint returns the SHA-256 of a certificate, in groups that can be read aloud.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return cli.InGroups(hex.EncodeToString(sum[:]))
}

// certJSON is a node's identity as --json prints it.
type certJSON struct {
	Organization wire.Domain `json:"organization"`
	Fingerprint  string      `json:"fingerprint"` // of the root
	RootEnds     time.Time   `json:"root_ends"`
	RootKey      bool        `json:"root_key"` // the root key is on this machine
	Node         wire.NodeID `json:"node"`
	Ends         time.Time   `json:"certificate_ends"`
}

func newCertShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show who the node is, and until when", Args: cobra.NoArgs}
	return newOperator(cli.WithJSON(c), func(_ context.Context, o *operator, _ []string) error {
		id, err := organization.LoadIdentity(o.cfg.Identity)
		if err != nil {
			return err
		}
		ends := id.Certificate().NotAfter
		if o.json {
			return cli.PrintJSON(o.out, certJSON{
				Organization: id.Domain, Fingerprint: fingerprint(id.Root.Raw), RootEnds: id.Root.NotAfter.UTC(),
				RootKey: id.Authority != nil, Node: id.Node, Ends: ends.UTC(),
			})
		}
		key := "on this machine"
		if id.Authority == nil {
			key = "kept elsewhere"
		}
		var t cli.Table
		t.Row("organization", id.Domain)
		t.Row("root ends", id.Root.NotAfter.Format(time.DateOnly))
		t.Row("root key", key)
		t.Row("fingerprint", fingerprint(id.Root.Raw))
		t.Row("node", id.Node)
		t.Row("node ends", ends.Format(time.DateOnly))
		return t.Write(o.out)
	})
}

func newCertRenew() *cobra.Command {
	c := &cobra.Command{
		Use:   "renew",
		Short: "Make the node a new certificate; a running node takes it up by itself",
		Args:  cobra.NoArgs,
	}
	return newOperator(c, func(_ context.Context, o *operator, _ []string) error {
		if err := organization.RenewNode(o.cfg.Identity, time.Now()); err != nil {
			return cli.Plain(err)
		}
		id, err := organization.LoadIdentity(o.cfg.Identity)
		if err != nil {
			return err
		}
		o.record(audit.CertificateRenewed, string(id.Node), map[string]string{"ends": id.Certificate().NotAfter.Format(time.RFC3339)})
		fmt.Fprintf(o.out, "%s has a certificate until %s.\n", id.Node, id.Certificate().NotAfter.Format(time.DateOnly))
		return nil
	})
}
