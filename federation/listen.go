package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// peerConn is an authenticated connection.
type peerConn struct {
	*tls.Conn
	below *conn
	node  wire.NodeID
}

// tcpKeepAlive detects the loss of the other machine while nothing is sent.
func tcpKeepAlive(t Timers) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: t.KeepAlive, Interval: t.KeepAlive, Count: 3}
}

// accept accepts connections until the listener is closed. A connection that admission control refuses costs nothing
// further: a metric counts it, and admission control logs its decisions about an address.
func (f *Federation) accept(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			f.cfg.Logger.Warn("accept failed", "error", err) // out of file descriptors, say
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		visit, why := f.admission.Open(admission.AddressOf(c))
		if why != "" {
			f.metrics.refused.WithLabelValues(string(why)).Inc()
			admission.Abort(c)
			continue
		}
		f.tasks.Go(func() { f.handleConnection(ctx, c, visit) })
	}
}

// handleConnection authenticates the other side and serves the connection.
func (f *Federation) handleConnection(ctx context.Context, raw net.Conn, visit *admission.Connection) {
	defer visit.Through()
	below := &conn{Conn: raw, home: f.conns}
	stop := context.AfterFunc(ctx, func() { below.Close() })
	defer stop()
	s, err := f.handshake(ctx, below)
	if err == nil {
		visit.Proved()
		err = f.register(s, s.ConnectionState(), "")
	} else if ctx.Err() == nil {
		visit.Failed()
	}
	if err != nil {
		below.Close()
		if ctx.Err() == nil {
			f.refused(raw.RemoteAddr(), nodeOf(s), err)
		}
		return
	}
	f.metrics.accepted.WithLabelValues(below.proto).Inc()
	f.heard(s.node) // the node can reach this one, so it is up
	f.serve(ctx, s)
}

func nodeOf(s *peerConn) wire.NodeID {
	if s == nil {
		return ""
	}
	return s.node
}

// handshake is the handshake of the side that was dialed. With an error, the connection has the name that the other
// side claimed, if any.
func (f *Federation) handshake(ctx context.Context, below *conn) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timers.Handshake)
	defer cancel()
	if err := below.SetDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return nil, err
	}
	old := false
	s := &peerConn{below: below}
	cfg := f.baseTLS()
	cfg.NextProtos = []string{protoCalls, protoOrder, protoGossip2, protoGossip}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.SessionTicketsDisabled = true // each connection is verified whole
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return f.cfg.Identity.TLSCertificate(), nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) (err error) {
		s.node, err = f.verifyPeer(state, x509.ExtKeyUsageClientAuth)
		return err
	}
	// The content of the first message is checked before anything is computed for it.
	outer := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		old = !slices.Contains(h.SupportedVersions, tls.VersionTLS13)
		if !old && !slices.ContainsFunc(h.SupportedProtos, func(p string) bool { return slices.Contains(cfg.NextProtos, p) }) {
			return nil, refuse(noProtocol, "no application protocol of this node was asked for")
		}
		return cfg, nil
	}}
	s.Conn = tls.Server(below, outer)
	if err := s.HandshakeContext(ctx); err != nil {
		return s, handshakeRefusal(err, old)
	}
	return s, nil
}

// baseTLS returns the configuration that both sides of a handshake share.
func (f *Federation) baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Time: f.cfg.Clock.Now}
}

// verifyPeer verifies the other side's certificate. Intermediate certificates are ignored, because a root signs its
// nodes itself.
func (f *Federation) verifyPeer(state tls.ConnectionState, usage x509.ExtKeyUsage) (wire.NodeID, error) {
	if len(state.PeerCertificates) == 0 {
		return "", refuse(noCertificate, "no certificate was sent")
	}
	if state.NegotiatedProtocol == "" {
		return "", refuse(noProtocol, "no application protocol was asked for")
	}
	return f.verifier.Node(state.PeerCertificates[0], usage)
}

// register adds the connection to conns, so that it can be closed. It checks the organization again, which may have
// been removed since the certificate was verified; later removals are noticed by watch.
func (f *Federation) register(s *peerConn, state tls.ConnectionState, via string) error {
	if err := s.below.SetDeadline(time.Time{}); err != nil {
		return err
	}
	root, err := f.verifier.Root(s.node.Organization())
	if err != nil {
		return err
	}
	c := s.below
	c.node, c.proto, c.via = s.node, state.NegotiatedProtocol, via
	c.ends, c.root = state.PeerCertificates[0].NotAfter, string(root.Raw)
	if !f.conns.add(c) {
		return refuse(tooMany, "%s has too many connections, at most %d", s.node.Organization(), f.cfg.Limits.Connections)
	}
	if f.context().Err() != nil {
		return wire.Errorf(wire.Unavailable, "federation", "the node is not running")
	}
	if reason := f.reasonToClose(c); reason != "" {
		return refuse(reason, "%s was removed during the handshake", s.node.Organization())
	}
	return nil
}

// reasonToClose returns why a connection must be closed, "" if it may stay open.
func (f *Federation) reasonToClose(c *conn) string {
	root, err := f.verifier.Root(c.node.Organization())
	var r *organization.Refusal
	switch {
	case errors.As(err, &r):
		return r.Reason
	case string(root.Raw) != c.root:
		return organization.ReasonWrongOrganization
	case !f.cfg.Clock.Now().Before(c.ends):
		return organization.ReasonExpired
	}
	return ""
}

// handshakeRefusal gives the reason for a failed handshake.
func handshakeRefusal(err error, oldVersion bool) error {
	var r *organization.Refusal
	var n net.Error
	switch {
	case errors.As(err, &r):
		return r
	case oldVersion:
		return refuse(oldTLS, "%v: TLS 1.3 is needed", err)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout():
		return refuse(slowHandshake, "the handshake was not done in time")
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return refuse(noCertificate, "no certificate was sent")
	case strings.Contains(err.Error(), "application protocol"):
		return refuse(noProtocol, "%v", err)
	}
	return refuse(badHandshake, "%v", err)
}

// refused counts and logs a connection that was refused. The rate of log lines is bounded, because anyone can connect.
func (f *Federation) refused(from net.Addr, node wire.NodeID, err error) {
	reason := badHandshake
	var r *organization.Refusal
	if errors.As(err, &r) {
		reason = r.Reason
	}
	f.faults.note(node.Organization(), err)
	f.lines.warn("connection refused", "from", from.String(), "node", node, "reason", reason, "error", err)
	f.metrics.refused.WithLabelValues(reason).Inc()
}

// serve serves a connection by its protocol, and closes it afterwards unless the server of calls has it.
func (f *Federation) serve(ctx context.Context, s *peerConn) {
	switch s.below.proto {
	case protoCalls:
		f.calls.serve(ctx, s)
		return
	case protoOrder:
		f.serveOrder(ctx, s)
	case protoGossip, protoGossip2:
		f.serveGossip(ctx, s)
	}
	s.below.Close()
}

// greeting is the first byte of a stream from the dialed side: it confirms to the dialing side that it was admitted.
const greeting = 1

func (f *Federation) greet(s *peerConn) error {
	if err := s.SetWriteDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return err
	}
	if _, err := s.Write([]byte{greeting}); err != nil {
		return err
	}
	return s.SetWriteDeadline(time.Time{})
}

func (f *Federation) serveOrder(ctx context.Context, s *peerConn) {
	if f.cfg.Ordering == nil {
		f.refused(s.RemoteAddr(), s.node, refuse(noProtocol, "this node takes no part in ordering"))
		return
	}
	err := f.greet(s)
	if err == nil {
		err = f.cfg.Ordering(ctx, s.node, s)
	}
	if err != nil && ctx.Err() == nil {
		f.cfg.Logger.Debug("ordering stream ended", "node", s.node, "error", err)
	}
}
