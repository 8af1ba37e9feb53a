package federation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// Reasons for dropped packets of gossip.
const (
	dropRate      = "rate"       // over the organization's budget
	dropQueue     = "queue_full" // more than this node can take, or the other side
	dropMalformed = "malformed"
)

// gossip runs memberlist and implements its transport and delegate. The callbacks only queue and look up: records are
// verified on a goroutine of this package.
type gossip struct {
	f       *Federation
	packets chan *memberlist.Packet
	streams chan net.Conn
	records chan []byte // a record each, to be verified
	states  chan []byte // lists of records
	queue   memberlist.TransmitLimitedQueue

	mu      sync.Mutex // guards members
	members *memberlist.Memberlist
}

func newGossip(f *Federation) *gossip {
	g := &gossip{
		f: f, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn),
		records: make(chan []byte, 256), states: make(chan []byte, 4),
	}
	g.queue.RetransmitMult = 4
	g.queue.NumNodes = func() int { return f.links.count() + 1 }
	return g
}

// run gossips until ctx ends. memberlist does not wait for its own goroutines: the last of them end
// within a probe's time after run has returned.
func (g *gossip) run(ctx context.Context) error {
	m, err := memberlist.Create(g.config())
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	g.mu.Lock()
	g.members = m
	g.mu.Unlock()
	var all sync.WaitGroup
	all.Go(func() { g.verify(ctx) })
	g.join(ctx, m)
	all.Wait()
	return m.Shutdown()
}

func (g *gossip) config() *memberlist.Config {
	t, l := g.f.cfg.Timers, g.f.cfg.Limits
	c := memberlist.DefaultWANConfig()
	c.Name = string(g.f.cfg.Identity.Node)
	c.Transport = g
	c.TCPTimeout = t.Handshake
	c.ProbeInterval, c.ProbeTimeout = t.Probe, t.Probe/2
	c.GossipInterval = t.Gossip
	c.PushPullInterval = t.PushPull
	c.DisableTcpPings = true    // packets go over TCP as it is
	c.EnableCompression = false // what is compressed is refused: there is no bound to what it unpacks to
	c.RequireNodeNames = true
	c.UDPBufferSize = l.Packet / 2
	c.LogOutput = nil
	c.Logger = log.New(logWriter{g.f.cfg.Logger}, "", 0)
	c.Delegate, c.Alive = g, g
	return c
}

// logWriter writes memberlist's lines, which are about peers that come and go, at the level of debugging.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug("memberlist", "line", strings.TrimSpace(string(b)))
	return len(b), nil
}

// join exchanges state with nodes of the first release that have a link and that memberlist does not consider alive.
// memberlist probes its members and exchanges the states of all of them, so that its cost grows with their number;
// nodes that exchange records over their links are no members.
func (g *gossip) join(ctx context.Context, m *memberlist.Memberlist) {
	tick := time.NewTicker(g.f.cfg.Timers.Probe)
	defer tick.Stop()
	for {
		var list []*link
		var alive map[wire.NodeID]bool
		if g.f.links.plain() { // else there is nobody to join, and no link is looked at
			list, alive = g.f.links.all(), g.alive()
		}
		for _, l := range list {
			if !l.exchanges && !alive[l.node] && ctx.Err() == nil {
				if _, err := m.Join([]string{string(l.node) + "/" + net.JoinHostPort(memberAddress(l.node).String(), "1")}); err != nil {
					g.f.cfg.Logger.Debug("no exchange of state", "node", l.node, "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.f.joinNow:
		}
	}
}

// alive returns the nodes that memberlist takes to be alive, and those with a link that exchanges records:
// such a link is cut when the other side falls silent.
func (g *gossip) alive() map[wire.NodeID]bool {
	g.mu.Lock()
	m := g.members
	g.mu.Unlock()
	if m == nil {
		return nil
	}
	set := make(map[wire.NodeID]bool)
	for _, l := range g.f.links.all() {
		set[l.node] = l.exchanges
	}
	for _, n := range m.Members() {
		set[wire.NodeID(n.Name)] = true
	}
	return set
}

// verify handles the records that memberlist has received.
func (g *gossip) verify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-g.records:
			g.f.learn(b, "")
		case b := <-g.states:
			var l recordList
			if err := wire.Decode(b, g.f.cfg.Limits.State, &l); err != nil {
				g.f.dropRecord("", refuse(organization.ReasonMalformed, "a list of records: %v", err))
				continue
			}
			for _, r := range l.Records {
				g.f.learn(r, "")
			}
		}
	}
}

// memberAddress returns the address of a node for memberlist. It is made from the name and never changes, so that
// memberlist sees no conflict when a node moves. The node's record has its real address.
func memberAddress(n wire.NodeID) net.IP {
	h := sha256.Sum256([]byte(n))
	return append(net.IP{0xfd}, h[:15]...)
}

// NodeMeta implements memberlist.Delegate: records are too large for it.
func (g *gossip) NodeMeta(int) []byte { return nil }

// NotifyMsg implements memberlist.Delegate.
func (g *gossip) NotifyMsg(b []byte) {
	select {
	case g.records <- bytes.Clone(b):
	default:
		g.f.metrics.records.WithLabelValues(recordFlood).Inc()
	}
}

// GetBroadcasts implements memberlist.Delegate.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// sampled is how many records an exchange has that is no join. Further ones come with the next.
const sampled = 64

// LocalState implements memberlist.Delegate. It returns all records to a node that joins and a sample
// later, as far as they fit.
func (g *gossip) LocalState(join bool) []byte {
	list := g.f.records.all()
	rand.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	if !join {
		list = list[:min(len(list), sampled)]
	}
	for size, i := 0, 0; i < len(list); i++ {
		if size += len(list[i].raw) + 8; size > g.f.cfg.Limits.State/2 {
			list = list[:i]
			break
		}
	}
	b, err := encodeRecords(list)
	if err != nil {
		return nil
	}
	return b
}

// MergeRemoteState implements memberlist.Delegate.
func (g *gossip) MergeRemoteState(b []byte, _ bool) {
	select {
	case g.states <- bytes.Clone(b):
	default:
		g.f.metrics.records.WithLabelValues(recordFlood).Inc()
	}
}

// NotifyAlive implements memberlist.AliveDelegate: only nodes with a valid record take part.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	id := wire.NodeID(n.Name)
	switch {
	case id == g.f.cfg.Identity.Node:
		return nil
	case g.f.records.get(id) == nil:
		return errors.New("no record of the node is known")
	case g.f.exchanges(id):
		return errors.New("the node exchanges records over its link")
	case !n.Addr.Equal(memberAddress(id)) || n.Port != 1 || len(n.Meta) > 0:
		return errors.New("the message claims an address or metadata")
	case !knownVersions([6]uint8{n.PMin, n.PMax, n.PCur, n.DMin, n.DMax, n.DCur}):
		return errors.New("the message claims other versions of the protocol")
	}
	return nil
}

// exchanges reports whether records are exchanged with the node over its link.
func (f *Federation) exchanges(n wire.NodeID) bool {
	l := f.links.get(n)
	return l != nil && l.exchanges
}

// recordNews is a record on its way to all others. A newer one of the same node takes its place.
type recordNews struct {
	node wire.NodeID
	raw  []byte
}

func (b *recordNews) Name() string    { return string(b.node) }
func (b *recordNews) Message() []byte { return b.raw }
func (b *recordNews) Finished()       {}
func (b *recordNews) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*recordNews)
	return ok && o.node == b.node
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (g *gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return memberAddress(g.f.cfg.Identity.Node), 1, nil
}

// PacketCh implements memberlist.Transport.
func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh implements memberlist.Transport.
func (g *gossip) StreamCh() <-chan net.Conn { return g.streams }

// Shutdown implements memberlist.Transport. Run closes the connections.
func (g *gossip) Shutdown() error { return nil }

// WriteTo implements memberlist.Transport. Nodes are known by name only.
func (g *gossip) WriteTo([]byte, string) (time.Time, error) {
	return time.Time{}, errors.New("gossip: a packet for an address without a name")
}

// WriteToAddress implements memberlist.NodeAwareTransport: it queues the packet on the node's link, or
// loses it, as a network does. To memberlist both is the same, and it will notice.
func (g *gossip) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if l := g.f.links.get(wire.NodeID(to.Name)); l != nil && !l.send(framePacket, b) {
		g.f.metrics.gossip.WithLabelValues(dropQueue).Inc()
	}
	return time.Now(), nil
}

// DialTimeout implements memberlist.Transport.
func (g *gossip) DialTimeout(string, time.Duration) (net.Conn, error) {
	return nil, errors.New("gossip: a stream for an address without a name")
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (g *gossip) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.f.context(), timeout)
	defer cancel()
	s, err := g.f.dialStream(ctx, wire.NodeID(to.Name), protoGossip)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write([]byte{purposeStream}); err != nil {
		s.below.Close()
		return nil, err
	}
	return &stateConn{peerConn: s, f: g.f, closed: make(chan struct{})}, nil
}

// serveStream hands a stream that another node opened to memberlist, and waits until it has done.
func (f *Federation) serveStream(ctx context.Context, s *peerConn) {
	b := f.budgets.of(s.node.Organization())
	select {
	case b.streams <- struct{}{}:
		defer func() { <-b.streams }()
	default:
		f.dropPacket(s.node, dropRate, nil)
		return
	}
	c := &stateConn{peerConn: s, f: f, closed: make(chan struct{})}
	select {
	case f.gossip.streams <- c:
	case <-ctx.Done():
		return
	}
	select {
	case <-c.closed:
	case <-ctx.Done():
	}
}

// stateConn is a stream for memberlist: its input is one message that was checked as a whole.
type stateConn struct {
	*peerConn
	f      *Federation
	in     *bytes.Reader
	once   sync.Once
	closed chan struct{}
}

// Read is called from one goroutine at a time.
func (c *stateConn) Read(b []byte) (int, error) {
	if c.in == nil {
		message, err := readStream(c.peerConn, c.f.cfg.Limits.State)
		if err != nil {
			var n net.Error
			if !errors.As(err, &n) && !errors.Is(err, io.ErrUnexpectedEOF) {
				c.f.dropPacket(c.node, dropMalformed, err)
			}
			return 0, err
		}
		c.in = bytes.NewReader(message)
	}
	return c.in.Read(b)
}

// Close ends the stream.
func (c *stateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.below.Close()
}

// takePacket checks a packet and hands it to memberlist, or drops it if memberlist does not keep up.
func (f *Federation) takePacket(from wire.NodeID, b []byte) {
	if len(b) > f.cfg.Limits.Packet {
		f.dropPacket(from, dropMalformed, fmt.Errorf("a packet of %d bytes, at most %d", len(b), f.cfg.Limits.Packet))
		return
	}
	if err := checkPacket(b, 0); err != nil {
		f.dropPacket(from, dropMalformed, err)
		return
	}
	p := &memberlist.Packet{Buf: bytes.Clone(b), From: &net.TCPAddr{IP: memberAddress(from), Port: 1}, Timestamp: time.Now()}
	select {
	case f.gossip.packets <- p:
	default:
		f.metrics.gossip.WithLabelValues(dropQueue).Inc()
	}
}

func (f *Federation) dropPacket(from wire.NodeID, reason string, err error) {
	f.lines.warn("gossip dropped", "node", from, "reason", reason, "error", err)
	f.metrics.gossip.WithLabelValues(reason).Inc()
}
