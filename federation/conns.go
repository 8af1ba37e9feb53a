package federation

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Application protocols of the TLS handshake.
const (
	protoCalls  = "h2"
	protoOrder  = "mlsfed-order/1"
	protoGossip = "mlsfed-gossip/1"
	// protoGossip2 is protoGossip with the frames of the exchange of records (exchange.go).
	protoGossip2 = "mlsfed-gossip/2"
)

// conn is a connection below its TLS. Closing it closes everything above at once.
type conn struct {
	net.Conn
	home   *conns
	closed bool // guarded by home.mu

	// Set before conns.add.
	node  wire.NodeID
	proto string
	ends  time.Time // of the other side's certificate
	root  string    // under which the certificate was verified: its DER
	via   string    // the address that was dialed; "" if the other side dialed
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.home.sent.Add(uint64(n))
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.home.drop(c)
	return err
}

// conns are the authenticated connections.
type conns struct {
	max  int           // of one organization
	sent atomic.Uint64 // bytes, with what TLS adds

	mu    sync.Mutex // guards what follows
	all   map[*conn]struct{}
	count map[wire.Domain]int
	ends  time.Time // no certificate of a connection ends before; zero for none
}

func newConns(max int) *conns {
	return &conns{max: max, all: make(map[*conn]struct{}), count: make(map[wire.Domain]int)}
}

// add registers a connection, unless its organization has too many or the connection was closed. Close drops it.
func (s *conns) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := c.node.Organization()
	if c.closed || s.count[d] >= s.max {
		return false
	}
	s.all[c] = struct{}{}
	s.count[d]++
	if s.ends.IsZero() || c.ends.Before(s.ends) {
		s.ends = c.ends
	}
	return true
}

// expiring reports whether the certificate of a connection may have expired.
func (s *conns) expiring(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends.IsZero() || now.Before(s.ends) {
		return false
	}
	s.ends = time.Time{}
	for c := range s.all {
		if s.ends.IsZero() || c.ends.Before(s.ends) {
			s.ends = c.ends
		}
	}
	return true
}

func (s *conns) drop(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.closed = true
	if _, ok := s.all[c]; !ok {
		return
	}
	delete(s.all, c)
	d := c.node.Organization()
	if s.count[d]--; s.count[d] == 0 {
		delete(s.count, d)
	}
}

// cut closes the connections for which why returns a reason, and counts them by node and reason.
func (s *conns) cut(why func(*conn) string) map[cutting]int {
	s.mu.Lock()
	reasons := make(map[*conn]string)
	for c := range s.all {
		if reason := why(c); reason != "" {
			reasons[c] = reason
		}
	}
	s.mu.Unlock()
	if len(reasons) == 0 {
		return nil
	}
	sums := make(map[cutting]int)
	for c, reason := range reasons {
		c.Close()
		sums[cutting{node: c.node, reason: reason}]++
	}
	return sums
}

// cutting is a node whose connections were closed, and the reason.
type cutting struct {
	node   wire.NodeID
	reason string
}
