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

// dialStream opens a connection of the first of the protocols that the other side knows, and waits until
// the other side has let it in.
func (f *Federation) dialStream(ctx context.Context, to wire.NodeID, protos ...string) (*session, error) {
	s, err := f.dial(ctx, to, protos...)
	if err != nil {
		return nil, err
	}
	if err := f.awaitGreeting(s); err != nil {
		s.Close()
		err = f.unreachable(to, err)
		f.gates.shut(to, err, f.cfg)
		return nil, err
	}
	f.heard(to)
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
func (f *Federation) dial(ctx context.Context, to wire.NodeID, protos ...string) (*session, error) {
	if _, err := f.trust.root(to.Organization()); err != nil {
		return nil, wire.Errorf(wire.Unavailable, "dial", "%s: %v", to, err)
	}
	if err := f.gates.check(to, f.cfg.Clock.Now()); err != nil {
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
		var r *refusal
		if errors.As(failure, &r) && r.ofPlace() { // an operator has to hear of it
			err = fmt.Errorf("%w; %w", r, err)
		}
		failure = err
	}
	err := f.unreachable(to, failure)
	// A failure at an address that the node has left meanwhile says nothing about the node.
	if ctx.Err() == nil && slices.Equal(places, f.addresses(to)) {
		f.gates.shut(to, err, f.cfg)
	}
	return nil, err
}

// addresses are where a node may be: what its record says, then what a seed says.
func (f *Federation) addresses(n wire.NodeID) []place {
	var list []place
	if k := f.records.get(n); k != nil {
		list = append(list, place{address: k.Address})
	}
	p, _ := f.trust.peers.get(n.Organization())
	for _, s := range slices.Concat(p.Seeds, f.ownSeeds) {
		if s.Node != n {
			continue
		}
		if i := slices.IndexFunc(list, func(p place) bool { return p.address == s.Address }); i >= 0 {
			list[i].seed = true
			continue
		}
		list = append(list, place{s.Address, true})
	}
	return list
}

// dialAt connects and makes the other side prove that it is the node.
func (f *Federation) dialAt(ctx context.Context, to wire.NodeID, at place, protos []string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timers.Dial)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: tcpKeepAlive(f.cfg.Timers), Control: f.guard(to, at)}
	raw, err := dialer.DialContext(ctx, "tcp", at.address)
	var inner *refusal
	if errors.As(err, &inner) {
		f.faults.note(to.Organization(), fmt.Errorf("%s: %w", to, inner))
		f.lines.warn("address not connected to", "node", to, "reason", inner.reason, "error", inner)
		return nil, inner
	}
	if err != nil {
		return nil, err
	}
	below := &conn{Conn: raw, home: f.conns}
	s := &session{below: below, node: to}
	cfg := f.baseTLS()
	cfg.NextProtos = protos
	cfg.ServerName = string(to)
	cfg.InsecureSkipVerify = true // VerifyConnection does it: against the one root admitted for this name
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return f.cfg.Identity.current.Load(), nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		n, err := f.verifyPeer(state, x509.ExtKeyUsageServerAuth)
		if err == nil && n != to {
			err = refuse(badName, "%s answers at %s, where %s was expected", n, at.address, to)
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
	if err := f.register(s, s.ConnectionState(), at.address); err != nil {
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
	// moves are when the gates of nodes were opened last because a record named another address.
	moves map[wire.NodeID]time.Time
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

// left returns for how long the gate of a node is shut, 0 if it is open.
func (g *gates) left(n wire.NodeID, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.by[n]; at != nil && at.closed(now) {
		return at.until.Sub(now)
	}
	return 0
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

// moved ends the keeping off from a node whose record names another address, once in a while: a node that moves
// without end would have this one knock at an address each time.
func (g *gates) moved(n wire.NodeID, cfg Config) {
	now := cfg.Clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for other, at := range g.moves {
		if since := now.Sub(at); since < 0 || since >= cfg.Timers.RetryMax {
			delete(g.moves, other)
		}
	}
	if _, lately := g.moves[n]; lately {
		return
	}
	g.moves[n] = now
	delete(g.by, n)
}

// forgive ends the keeping off from the nodes of organizations whose entry in the allow-list has changed.
func (g *gates) forgive(changed func(wire.Domain) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n := range g.by {
		if changed(n.Organization()) {
			delete(g.by, n)
		}
	}
}
