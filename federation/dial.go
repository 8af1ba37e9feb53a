package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// Dial opens a byte stream for ordering to a node of an admitted organization, or of the own one. Both sides are
// authenticated when it returns. The error is wire.Unavailable with the reason.
func (f *Federation) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	return f.dialStream(ctx, to, protoOrder)
}

// dialStream opens a connection of the first of the protocols that the other side knows, and waits until the other side
// has admitted this node.
func (f *Federation) dialStream(ctx context.Context, to wire.NodeID, protos ...string) (*peerConn, error) {
	s, err := f.dial(ctx, to, protos...)
	if err != nil {
		return nil, err
	}
	if err := f.awaitGreeting(s); err != nil {
		s.Close()
		err = f.unreachable(to, err)
		f.breakers.trip(to, err, f.cfg)
		return nil, err
	}
	f.heard(to)
	return s, nil
}

func (f *Federation) awaitGreeting(s *peerConn) error {
	if err := s.SetReadDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := s.Read(b[:]); err != nil {
		return err
	}
	if b[0] != greeting {
		return errors.New("the node speaks another protocol")
	}
	return s.SetReadDeadline(time.Time{})
}

// dial connects to the node at one of its known addresses. After a failure dial fails at once for a while, so that many
// callers do not all wait for the same node.
func (f *Federation) dial(ctx context.Context, to wire.NodeID, protos ...string) (*peerConn, error) {
	if _, err := f.verifier.Root(to.Organization()); err != nil {
		return nil, wire.Errorf(wire.Unavailable, "dial", "%s: %v", to, err)
	}
	if err := f.breakers.check(to, f.cfg.Clock.Now()); err != nil {
		return nil, err
	}
	places := f.addresses(to)
	if len(places) == 0 {
		return nil, wire.Errorf(wire.Unavailable, "dial", "where %s is is not known yet: neither a record nor a seed names it", to)
	}
	var failure error
	for _, at := range places {
		s, err := f.dialAt(ctx, to, at, protos)
		if err == nil {
			return s, nil
		}
		var r *organization.Refusal
		if errors.As(failure, &r) && ofPlace(r) { // the operator must see it
			err = fmt.Errorf("%w; %w", r, err)
		}
		failure = err
	}
	err := f.unreachable(to, failure)
	// A failure at an address that the node has left since is no failure of the node.
	if ctx.Err() == nil && slices.Equal(places, f.addresses(to)) {
		f.breakers.trip(to, err, f.cfg)
	}
	return nil, err
}

// addresses returns the possible addresses of a node: the one in its record, then those of seeds.
func (f *Federation) addresses(n wire.NodeID) []place {
	var list []place
	if k := f.records.get(n); k != nil {
		list = append(list, place{address: k.Address})
	}
	p, _ := f.cfg.Peers.Get(n.Organization())
	for _, s := range slices.Concat(p.Seeds, f.ownSeeds) {
		if s.Node != n {
			continue
		}
		if i := slices.IndexFunc(list, func(p place) bool { return p.address == s.Address }); i >= 0 {
			list[i].seed = true
			continue
		}
		list = append(list, place{address: s.Address, seed: true})
	}
	return list
}

// dialAt connects to an address and verifies that the other side is the node.
func (f *Federation) dialAt(ctx context.Context, to wire.NodeID, at place, protos []string) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timers.Dial)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: tcpKeepAlive(f.cfg.Timers), Control: f.dialControl(to, at)}
	raw, err := dialer.DialContext(ctx, "tcp", at.address)
	var inner *organization.Refusal
	if errors.As(err, &inner) {
		f.faults.note(to.Organization(), fmt.Errorf("%s: %w", to, inner))
		f.lines.warn("address not connected to", "node", to, "reason", inner.Reason, "error", inner)
		return nil, inner
	}
	if err != nil {
		return nil, err
	}
	below := &conn{Conn: raw, home: f.conns}
	s := &peerConn{below: below, node: to}
	cfg := f.baseTLS()
	cfg.NextProtos = protos
	cfg.ServerName = string(to)
	cfg.InsecureSkipVerify = true // VerifyConnection verifies, under the one root that is admitted for this name
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return f.cfg.Identity.TLSCertificate(), nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		n, err := f.verifyPeer(state, x509.ExtKeyUsageServerAuth)
		if err == nil && n != to {
			err = refuse(organization.ReasonWrongName, "%s answers at %s, where %s was expected", n, at.address, to)
		}
		return err
	}
	s.Conn = tls.Client(below, cfg)
	if err := s.HandshakeContext(ctx); err != nil {
		below.Close()
		var r *organization.Refusal
		if errors.As(err, &r) {
			f.refused(raw.RemoteAddr(), to, r)
		}
		return nil, err
	}
	if err := f.register(s, s.ConnectionState(), at.address); err != nil {
		below.Close()
		return nil, err
	}
	return s, nil
}

// unreachable returns the error for a node that was not reached, with the remedy for an operator.
func (f *Federation) unreachable(to wire.NodeID, why error) error {
	text := fmt.Sprintf("%s cannot be reached: %v", to, why)
	var alert tls.AlertError
	var op *net.OpError
	if errors.As(why, &alert) || errors.As(why, &op) && op.Op == "remote error" {
		text = fmt.Sprintf("%s refuses this node (%v): its log says why; its operator may not have admitted %s", to, why, f.cfg.Identity.Domain)
	}
	err := wire.Errorf(wire.Unavailable, "dial", "%s", text)
	f.faults.note(to.Organization(), err)
	return err
}
