package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/federation"
)

func newCert() *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Show and renew the certificate of a node", GroupID: groupOperators}
	c.AddCommand(newCertShow(), newCertRenew())
	return c
}

// fingerprint is the SHA-256 of a certificate, in groups that can be read aloud.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	text := hex.EncodeToString(sum[:])
	var groups []string
	for i := 0; i < len(text); i += 8 {
		groups = append(groups, text[i:i+8])
	}
	return strings.Join(groups, " ")
}

func newCertShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show who the node is, and until when", Args: cobra.NoArgs}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		id, err := federation.LoadIdentity(cfg.Identity)
		if err != nil {
			return err
		}
		key := "on this machine"
		if id.Authority == nil {
			key = "kept elsewhere"
		}
		fmt.Fprintf(c.OutOrStdout(), "organization  %s\nroot ends     %s\nroot key      %s\nfingerprint   %s\nnode          %s\nnode ends     %s\n",
			id.Domain, id.Root.NotAfter.Format(time.DateOnly), key, fingerprint(id.Root.Raw), id.Node, id.Certificate().NotAfter.Format(time.DateOnly))
		return nil
	}
	return c
}

func newCertRenew() *cobra.Command {
	c := &cobra.Command{
		Use:   "renew",
		Short: "Make the node a new certificate; a running node takes it up by itself",
		Args:  cobra.NoArgs,
	}
	path := addConfigFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		if err := federation.RenewNode(cfg.Identity, time.Now()); err != nil {
			return err
		}
		id, err := federation.LoadIdentity(cfg.Identity)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s has a certificate until %s.\n", id.Node, id.Certificate().NotAfter.Format(time.DateOnly))
		return nil
	}
	return c
}
