package operator

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/config"
)

// healthWait bounds the question to the node.
const healthWait = 4 * time.Second

func newHealth() *cobra.Command {
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the node of a configuration whether it can serve",
		Long: `health asks /readyz of the gateway of a configuration, on this machine, and exits with 0 if the node can
serve, and with 1 if it cannot or does not answer. It is what a container's health check calls.`,
		GroupID: cli.GroupOperators,
		Args:    cobra.NoArgs,
	}
	return newOperator(c, func(ctx context.Context, o *operator, _ []string) error {
		if err := askReady(ctx, o.cfg.Gateway.Listen, gatewayNames(o.cfg)...); err != nil {
			return fmt.Errorf("%s cannot serve: %w", o.cfg.Node, err)
		}
		fmt.Fprintf(o.out, "%s can serve.\n", o.cfg.Node)
		return nil
	})
}

// gatewayNames returns names of which the gateway's certificate has at least one.
func gatewayNames(cfg *config.Config) []string {
	names := []string{string(cfg.Node)}
	if host, _, err := net.SplitHostPort(cfg.Gateway.Public); err == nil {
		names = append(names, host)
	}
	return names
}

// askReady asks the gateway that listens on an address of this machine. The gateway's certificate must be valid for
// one of names; without names any certificate is accepted.
func askReady(ctx context.Context, listen string, names ...string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	// The certificate names the node or its public name, never this address. No data is sent, and only the operator
	// who started the node relies on the answer.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	r, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		return fmt.Errorf("no answer at %w", cli.Plain(err))
	}
	defer r.Body.Close()
	if cert := r.TLS.PeerCertificates[0]; len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return cert.VerifyHostname(n) == nil }) {
		return fmt.Errorf("another node answers at %s: its certificate is for %s", listen, cli.Clean(strings.Join(cert.DNSNames, ", ")))
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is: %s", strings.TrimSpace(string(text)))
	}
	return nil
}
