package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Dial opens a byte stream for ordering to a node of an admitted organization, or of the own one. Both
// sides have proved who they are when it returns. An error is wire.Unavailable, and says what is in the
// way.
func (f *Federation) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	return f.dialStream(ctx, to, protoOrder)
}

// dialStream opens a connection of a protocol and waits until the other side has let it in.
func (f *Federation) dialStream(ctx context.Context, to wire.NodeID, proto string) (*session, error) {
	s, err := f.dial(ctx, to, proto)
	if err != nil {
		return nil, err
	}
	if err := f.awaitGreeting(s); err != nil {
		s.Close()
		err = f.unreachable(to, err)
		f.gates.shut(to, err, f.cfg)
		return nil, err
	}
	f.gates.open(to)
	return s, nil
}

func (f *Federation) awaitGreeting(s *session) error {
	if err := s.SetReadDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := s.Read(b[:]); err != nil {
		return err
	}
	if b[0] != greeting {
		return errors.New("it speaks another protocol")
	}
	return s.SetReadDeadline(time.Time{})
}

// dial connects to the node at one of its known addresses. After a failure it fails at once for a while,
// so that many who want the same node do not all wait for it.
func (f *Federation) dial(ctx context.Context, to wire.NodeID, proto string) (*session, error) {
	if _, err := f.trust.root(to.Organization()); err != nil {
		return nil, wire.Errorf(wire.Unavailable, "dial", "%s: %v", to, err)
	}
	if err := f.gates.check(to, f.cfg.Clock.Now()); err != nil {
		return nil, err
	}
	addresses := f.addresses(to)
	if len(addresses) == 0 {
		return nil, wire.Errorf(wire.Unavailable, "dial", "where %s is is not known yet: neither a record nor a seed names it", to)
	}
	var last error
	for _, a := range addresses {
		s, err := f.dialAt(ctx, to, a, proto)
		if err == nil {
			return s, nil
		}
		last = err
	}
	err := f.unreachable(to, last)
	if ctx.Err() == nil {
		f.gates.shut(to, err, f.cfg)
	}
	return nil, err
}

// addresses are where a node may be: what its record says, then what a seed says.
func (f *Federation) addresses(n wire.NodeID) []string {
	var list []string
	if k := f.records.get(n); k != nil {
		list = append(list, k.Address)
	}
	if p, ok := f.trust.peers.get(n.Organization()); ok {
		for _, s := range p.Seeds {
			if s.Node == n && !slices.Contains(list, s.Address) {
				list = append(list, s.Address)
			}
		}
	}
	for _, s := range f.ownSeeds {
		if s.Node == n && !slices.Contains(list, s.Address) {
			list = append(list, s.Address)
		}
	}
	return list
}

// dialAt connects and makes the other side prove that it is the node.
func (f *Federation) dialAt(ctx context.Context, to wire.NodeID, address, proto string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timers.Dial)
	defer cancel()
	raw, err := (&net.Dialer{KeepAliveConfig: tcpKeepAlive(f.cfg.Timers)}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	below := &conn{Conn: raw, home: f.conns}
	s := &session{below: below, node: to}
	cfg := f.baseTLS()
	cfg.NextProtos = []string{proto}
	cfg.ServerName = string(to)
	cfg.InsecureSkipVerify = true // VerifyConnection does it: against the one root admitted for this name
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return f.cfg.Identity.current.Load(), nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		n, err := f.verifyPeer(state, x509.ExtKeyUsageServerAuth)
		if err == nil && n != to {
			err = refuse(badName, "%s answers at %s, where %s was expected", n, address, to)
		}
		return err
	}
	s.Conn = tls.Client(below, cfg)
	if err := s.HandshakeContext(ctx); err != nil {
		below.Close()
		var r *refusal
		if errors.As(err, &r) {
			f.refused(raw.RemoteAddr(), to, r)
		}
		return nil, err
	}
	if err := f.register(s, s.ConnectionState(), address); err != nil {
		below.Close()
		return nil, err
	}
	return s, nil
}

// unreachable is the error for a node that was not reached, with what an operator can do about it.
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

// gates keep off nodes that could not be reached a moment ago.
type gates struct {
	mu sync.Mutex // guards what follows
	by map[wire.NodeID]*gate
}

type gate struct {
	failures int
	until    time.Time
	wait     time.Duration // that until was set with
	why      error
}

// closed reports whether the node is to be left alone. A gate that stays shut for longer than it was shut for comes
// from a clock that has gone back since.
func (g *gate) closed(now time.Time) bool {
	left := g.until.Sub(now)
	return left > 0 && left <= g.wait
}

func (g *gates) check(n wire.NodeID, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.by[n]; at != nil && at.closed(now) {
		return at.why
	}
	return nil
}

// shut keeps off the node for a time that grows with each failure in a row. Those that were under way at
// once count as one.
func (g *gates) shut(n wire.NodeID, why error, cfg Config) {
	now := cfg.Clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.by[n]
	if at == nil {
		at = new(gate)
		g.by[n] = at
	}
	if at.closed(now) {
		return
	}
	at.wait = backoff(at.failures, cfg.Timers.RetryMin, cfg.Timers.RetryMax, cfg.Jitter())
	at.until = now.Add(at.wait)
	at.failures++
	at.why = why
}

// open ends the keeping off.
func (g *gates) open(n wire.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.by, n)
}

// clear ends all keeping off.
func (g *gates) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.by)
}
