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

	"github.com/mlsfed/mlsfed/door"
	"github.com/mlsfed/mlsfed/wire"
)

// session is a connection whose other side has proved who it is.
type session struct {
	*tls.Conn
	below *conn
	node  wire.NodeID
}

// tcpKeepAlive finds out that the other machine is gone while nothing is sent.
func tcpKeepAlive(t Timers) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: t.KeepAlive, Interval: t.KeepAlive, Count: 3}
}

// accept takes connections until the listener is closed. Who is refused at the door costs nothing further:
// it is counted, and the door itself says in the log what it does with an address.
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
		visit, why := f.door.Open(door.AddressOf(c))
		if why != "" {
			f.metrics.refused.WithLabelValues(string(why)).Inc()
			door.Abort(c)
			continue
		}
		f.tasks.Go(func() { f.welcome(ctx, c, visit) })
	}
}

// welcome makes the other side prove who it is, and serves what it came for.
func (f *Federation) welcome(ctx context.Context, raw net.Conn, visit *door.Visit) {
	defer visit.Through()
	below := &conn{Conn: raw, home: f.conns}
	stop := context.AfterFunc(ctx, func() { below.Close() })
	defer stop()
	s, err := f.prove(ctx, below)
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
	f.heard(s.node) // it can reach us: so it is up
	f.serve(ctx, s)
}

func nodeOf(s *session) wire.NodeID {
	if s == nil {
		return ""
	}
	return s.node
}

// prove is the handshake of the side that was dialed. With an error, the session has the name that the
// other side claimed, if any.
func (f *Federation) prove(ctx context.Context, below *conn) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timers.Handshake)
	defer cancel()
	if err := below.SetDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return nil, err
	}
	old := false
	s := &session{below: below}
	cfg := f.baseTLS()
	cfg.NextProtos = []string{protoCalls, protoOrder, protoGossip2, protoGossip}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.SessionTicketsDisabled = true // each connection is verified whole
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return f.cfg.Identity.current.Load(), nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) (err error) {
		s.node, err = f.verifyPeer(state, x509.ExtKeyUsageClientAuth)
		return err
	}
	// What the first message tells is looked at before anything is computed for it.
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

// baseTLS is what both sides of a handshake have in common.
func (f *Federation) baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Time: f.cfg.Clock.Now}
}

// verifyPeer holds the other side's certificate against the allow-list. Intermediates that it sends are
// not looked at: a root signs its nodes itself.
func (f *Federation) verifyPeer(state tls.ConnectionState, usage x509.ExtKeyUsage) (wire.NodeID, error) {
	if len(state.PeerCertificates) == 0 {
		return "", refuse(noCertificate, "no certificate was sent")
	}
	if state.NegotiatedProtocol == "" {
		return "", refuse(noProtocol, "no application protocol was asked for")
	}
	return f.trust.node(state.PeerCertificates[0], usage)
}

// register makes the connection known, so that it can be cut. Its organization may have been removed
// since its certificate was verified: from here on, the poll would see it.
func (f *Federation) register(s *session, state tls.ConnectionState, via string) error {
	if err := s.below.SetDeadline(time.Time{}); err != nil {
		return err
	}
	root, err := f.trust.root(s.node.Organization())
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
	if reason := f.unbelieved(c); reason != "" {
		return refuse(reason, "%s was removed meanwhile", s.node.Organization())
	}
	return nil
}

// unbelieved is why a connection must be cut, "" if it need not.
func (f *Federation) unbelieved(c *conn) string {
	root, err := f.trust.root(c.node.Organization())
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.reason
	case string(root.Raw) != c.root:
		return badChain
	case !f.cfg.Clock.Now().Before(c.ends):
		return isExpired
	}
	return ""
}

// handshakeRefusal gives the reason for a failed handshake.
func handshakeRefusal(err error, oldVersion bool) error {
	var r *refusal
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

// refused counts and logs a connection that was refused. Lines are bounded in rate: anyone can connect.
func (f *Federation) refused(from net.Addr, node wire.NodeID, err error) {
	reason := badHandshake
	var r *refusal
	if errors.As(err, &r) {
		reason = r.reason
	}
	f.faults.note(node.Organization(), err)
	f.lines.warn("connection refused", "from", from.String(), "node", node, "reason", reason, "error", err)
	f.metrics.refused.WithLabelValues(reason).Inc()
}

// serve hands a session to what it is for, and closes it afterwards unless the server of calls has it.
func (f *Federation) serve(ctx context.Context, s *session) {
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

// greeting is the first byte of a stream from the side that was dialed: whoever dialed knows by it that
// it was let in.
const greeting = 1

func (f *Federation) greet(s *session) error {
	if err := s.SetWriteDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return err
	}
	if _, err := s.Write([]byte{greeting}); err != nil {
		return err
	}
	return s.SetWriteDeadline(time.Time{})
}

func (f *Federation) serveOrder(ctx context.Context, s *session) {
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
