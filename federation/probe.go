package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// Probe connects to the node of an admitted organization at an address, authenticates both sides, and waits until the
// other side admits this node. It opens no link and changes nothing: it reports to an operator whether a link could be
// opened. now is the time for checking certificates. The error has the reason.
func Probe(ctx context.Context, id *organization.Identity, peers *organization.Peers, to wire.NodeID, address string, now func() time.Time) error {
	verifier := organization.NewVerifier(id, peers, now)
	if _, err := verifier.Root(to.Organization()); err != nil {
		return err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s is not reached at %s: %w", to, address, err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, Time: now, NextProtos: []string{protoGossip2, protoGossip}, ServerName: string(to),
		InsecureSkipVerify: true, // VerifyConnection verifies, under the one root that is admitted for this name
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.TLSCertificate(), nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return refuse(noCertificate, "no certificate was sent")
			}
			n, err := verifier.Node(state.PeerCertificates[0], x509.ExtKeyUsageServerAuth)
			if err == nil && n != to {
				err = refuse(organization.ReasonWrongName, "%s answers at %s, where %s was expected", n, address, to)
			}
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return probeFault(to, address, err)
	}
	var b [1]byte
	if _, err := conn.Read(b[:]); err != nil {
		return probeFault(to, address, err)
	}
	if b[0] != greeting {
		return fmt.Errorf("%s answers at %s with another protocol", to, address)
	}
	return nil
}

func probeFault(to wire.NodeID, address string, err error) error {
	var alert tls.AlertError
	var op *net.OpError
	if errors.As(err, &alert) || errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("%s at %s refuses this node (%w): its log says why; its operator may not have admitted this organization", to, address, err)
	}
	return fmt.Errorf("%s at %s: %w", to, address, err)
}
