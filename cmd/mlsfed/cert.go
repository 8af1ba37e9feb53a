package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/audit"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/wire"
)

func newCert() *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Show and renew the certificate of a node", GroupID: groupOperators}
	c.AddCommand(newCertShow(), newCertRenew())
	return c
}

// fingerprint is the SHA-256 of a certificate, in groups that can be read aloud.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return inGroups(hex.EncodeToString(sum[:]))
}

// inGroups writes hexadecimal digits so that they can be read aloud, and break where a line ends.
func inGroups(text string) string {
	var groups []string
	for i := 0; i < len(text); i += 8 {
		groups = append(groups, text[i:min(i+8, len(text))])
	}
	return strings.Join(groups, " ")
}

// certJSON is what --json prints of a node's identity.
type certJSON struct {
	Organization wire.Domain `json:"organization"`
	Fingerprint  string      `json:"fingerprint"` // of the root
	RootEnds     time.Time   `json:"root_ends"`
	RootKey      bool        `json:"root_key"` // it is on this machine
	Node         wire.NodeID `json:"node"`
	Ends         time.Time   `json:"certificate_ends"`
}

func newCertShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show who the node is, and until when", Args: cobra.NoArgs}
	return newOperator(printing(c), func(_ context.Context, o *operator, _ []string) error {
		id, err := federation.LoadIdentity(o.cfg.Identity)
		if err != nil {
			return err
		}
		ends := id.Certificate().NotAfter
		if o.json {
			return printJSON(o.out, certJSON{id.Domain, fingerprint(id.Root.Raw), id.Root.NotAfter.UTC(), id.Authority != nil, id.Node, ends.UTC()})
		}
		key := "on this machine"
		if id.Authority == nil {
			key = "kept elsewhere"
		}
		var t table
		t.row("organization", id.Domain)
		t.row("root ends", id.Root.NotAfter.Format(time.DateOnly))
		t.row("root key", key)
		t.row("fingerprint", fingerprint(id.Root.Raw))
		t.row("node", id.Node)
		t.row("node ends", ends.Format(time.DateOnly))
		return t.write(o.out)
	})
}

func newCertRenew() *cobra.Command {
	c := &cobra.Command{
		Use:   "renew",
		Short: "Make the node a new certificate; a running node takes it up by itself",
		Args:  cobra.NoArgs,
	}
	return newOperator(c, func(_ context.Context, o *operator, _ []string) error {
		if err := federation.RenewNode(o.cfg.Identity, time.Now()); err != nil {
			return plain(err)
		}
		id, err := federation.LoadIdentity(o.cfg.Identity)
		if err != nil {
			return err
		}
		o.record(audit.CertificateRenewed, string(id.Node), map[string]string{"ends": id.Certificate().NotAfter.Format(time.RFC3339)})
		fmt.Fprintf(o.out, "%s has a certificate until %s.\n", id.Node, id.Certificate().NotAfter.Format(time.DateOnly))
		return nil
	})
}
