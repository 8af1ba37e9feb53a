package federation

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// A link is the one long-lived connection for gossip between two nodes. Either side may open it; where
// both do, one of the two connections is closed again.
//
// A gossip connection begins with a byte from the side that opened it: what it is for. Over a link go
// frames: a length of four bytes, big endian, a byte for the type, and the payload; the length counts
// type and payload. Each side says hello first.
const (
	purposeLink   = 'L'
	purposeStream = 'S' // one exchange of memberlist's

	frameHello  = 'H' // a hello
	framePacket = 'P' // a packet of memberlist's
	frameRecord = 'R' // a node record
	frameBeat   = 'B' // nothing: the side is there
)

const helloVersion = 1

// hello opens a link on both sides.
type hello struct {
	Version  uint8  `cbor:"1,keyasint"`
	Instance uint64 `cbor:"2,keyasint"` // random, of this run of the node
	Record   []byte `cbor:"3,keyasint"` // of the node itself
}

// Check refuses another version.
func (h *hello) Check() error {
	if h.Version != helloVersion {
		return wire.Errorf(wire.Version, "link", "version %d, this node knows %d", h.Version, helloVersion)
	}
	return nil
}

// link is one end of a link.
type link struct {
	*peerConn
	dialed   bool
	instance uint64
	// exchanges says that the other side knows the frames of the exchange of records.
	exchanges bool

	out  chan []byte // frames, whole
	gone chan struct{}
	once sync.Once
}

func (l *link) close() {
	l.once.Do(func() { close(l.gone) })
	l.below.Close()
}

// send queues a frame, or drops it if too many wait.
func (l *link) send(kind byte, payload []byte) bool {
	select {
	case l.out <- appendFrame(make([]byte, 0, 5+len(payload)), kind, payload):
		return true
	default:
		return false
	}
}

func appendFrame(b []byte, kind byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(payload)))
	return append(append(b, kind), payload...)
}

// readFrame reads a frame of at most limit bytes of payload into buf, and returns the payload, whose buffer may have
// grown. deadline sets the time for the first byte and then for the rest.
func readFrame(in *bufio.Reader, limit int, buf []byte, deadline func(begun bool) error) (kind byte, payload []byte, err error) {
	var head [5]byte
	if err := deadline(false); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(in, head[:1]); err != nil {
		return 0, nil, err
	}
	if err := deadline(true); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(in, head[1:]); err != nil {
		return 0, nil, stalled(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n-1 > uint32(limit) {
		return 0, nil, wire.Errorf(wire.TooLarge, "link", "a frame of %d bytes, wanted 1 to %d", n, limit+1)
	}
	if uint32(cap(buf)) < n-1 {
		buf = make([]byte, n-1)
	}
	buf = buf[:n-1]
	if _, err := io.ReadFull(in, buf); err != nil {
		return 0, nil, stalled(err)
	}
	return head[4], buf, nil
}

// errStalled is the error for a peer that stopped in the middle of a frame.
var errStalled = errors.New("the peer stopped in the middle of a frame")

func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}

// links are the open links, one for each node.
type links struct {
	self wire.NodeID

	mu      sync.Mutex // guards what follows
	by      map[wire.NodeID]*link
	plainly int // those in by without the exchange of records
}

func (s *links) get(n wire.NodeID) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[n]
}

// has reports whether a link to the node is up.
func (s *links) has(n wire.NodeID) bool { return s.get(n) != nil }

func (s *links) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.by)
}

// plain reports whether a link to a node of the first release is up.
func (s *links) plain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plainly > 0
}

// some returns at most n links, at random, over which records are exchanged, none of them to the nodes
// given.
func (s *links) some(n int, but ...wire.NodeID) []*link {
	list := slices.DeleteFunc(s.all(), func(l *link) bool { return !l.exchanges || slices.Contains(but, l.node) })
	for i := range min(n, len(list)) {
		k := i + rand.IntN(len(list)-i)
		list[i], list[k] = list[k], list[i]
	}
	return list[:min(n, len(list))]
}

func (s *links) all() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*link, 0, len(s.by))
	for _, l := range s.by {
		list = append(list, l)
	}
	return list
}

// adopt makes l the node's link, or reports that the present link stays. If both sides dialed at once, the connection
// that the node with the smaller name dialed stays: both sides come to the same decision. A node that was restarted has
// lost its old link.
func (s *links) adopt(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.by[l.node]
	if old != nil && old.instance == l.instance && old.dialed != l.dialed && old.dialed == (s.self < l.node) {
		return false
	}
	s.by[l.node] = l
	s.countPlain(l, 1)
	if old != nil {
		s.countPlain(old, -1)
		old.once.Do(func() { close(old.gone) })
		go old.below.Close()
	}
	return true
}

func (s *links) drop(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[l.node] == l {
		delete(s.by, l.node)
		s.countPlain(l, -1)
	}
}

// countPlain adds n to the number of links without the exchange of records. s.mu is held.
func (s *links) countPlain(l *link, n int) {
	if !l.exchanges {
		s.plainly += n
	}
}

// openLink dials the node and runs a link until it ends.
func (f *Federation) openLink(ctx context.Context, to wire.NodeID) {
	s, err := f.dialStream(ctx, to, protoGossip2, protoGossip)
	f.linking.opened(to, err, time.Now())
	f.wake(f.linkNow)
	if err != nil {
		f.cfg.Logger.Debug("no link", "node", to, "error", err)
		return
	}
	begun := time.Now()
	defer func() {
		f.linking.ended(to, time.Since(begun), f.links.has(to), time.Now())
		f.wake(f.linkNow)
	}()
	stop := context.AfterFunc(ctx, func() { s.below.Close() })
	defer stop()
	if _, err := s.Write([]byte{purposeLink}); err != nil {
		s.below.Close()
		return
	}
	f.runLink(ctx, s, true)
}

// serveGossip serves a gossip connection that another node opened.
func (f *Federation) serveGossip(ctx context.Context, s *peerConn) {
	if err := f.greet(s); err != nil {
		return
	}
	if err := s.SetReadDeadline(time.Now().Add(f.cfg.Timers.Stall)); err != nil {
		return
	}
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		f.linkEnded(s, stalled(err))
		return
	}
	switch b[0] {
	case purposeLink:
		f.runLink(ctx, s, false)
	case purposeStream:
		f.serveStream(ctx, s)
	default:
		f.linkEnded(s, wire.Errorf(wire.Malformed, "link", "a stream for purpose %q", b[0]))
	}
}

// runLink exchanges hellos, and then frames until the connection ends.
func (f *Federation) runLink(ctx context.Context, s *peerConn, dialed bool) {
	l := &link{peerConn: s, dialed: dialed, exchanges: s.below.proto == protoGossip2, out: make(chan []byte, f.cfg.Limits.Queue), gone: make(chan struct{})}
	defer l.close()
	in := bufio.NewReaderSize(s, linkBuffer)
	record, err := f.greetLink(l, in)
	if err != nil {
		f.linkEnded(s, err)
		return
	}
	adopted := f.links.adopt(l)
	f.learn(record, s.node) // after adopt: a new node would be dialed if it had no link
	if !adopted {
		return
	}
	f.state.report(s.node, nil, false)
	f.linking.linked(s.node, f.links.count(), time.Now())
	f.joined(l)
	defer f.wake(f.linkNow)
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer l.close()
		if err := f.writeLink(ctx, l); err != nil {
			f.lines.log.Debug("link not written", "node", s.node, "error", err)
		}
	}()
	ended := f.readLink(l, in)
	f.faulty(s, ended)
	f.links.drop(l)
	f.state.report(s.node, ended, ctx.Err() != nil)
	l.close()
	<-written
}

// greetLink sends the own hello and reads the other's. It returns the other node's record.
func (f *Federation) greetLink(l *link, in *bufio.Reader) (record []byte, err error) {
	b, err := wire.Encode(&hello{Version: helloVersion, Instance: f.instance, Record: f.ownRecord()})
	if err != nil {
		return nil, err
	}
	if err := l.SetDeadline(time.Now().Add(f.cfg.Timers.Handshake)); err != nil {
		return nil, err
	}
	if _, err := l.Write(appendFrame(nil, frameHello, b)); err != nil {
		return nil, err
	}
	kind, payload, err := readFrame(in, f.maxFrame(), nil, func(bool) error { return nil })
	if err != nil {
		return nil, stalled(err)
	}
	if kind != frameHello {
		return nil, wire.Errorf(wire.Malformed, "link", "a frame of type %q before hello", kind)
	}
	var h hello
	if err := wire.Decode(payload, f.maxFrame(), &h); err != nil {
		return nil, err
	}
	l.instance = h.Instance
	return h.Record, l.SetDeadline(time.Time{})
}

// maxFrame is the largest payload of a frame: a hello has a record and a few fields more.
func (f *Federation) maxFrame() int { return max(f.cfg.Limits.Packet, f.cfg.Limits.Record+64) }

// linkBuffer is the size of a link's two buffers, in bytes: enough for a record. TLS has buffers of its
// own below, which shrink while nothing comes.
const linkBuffer = 1 << 10

func (f *Federation) writeLink(ctx context.Context, l *link) error {
	out := bufio.NewWriterSize(l, linkBuffer)
	beat := time.NewTicker(f.cfg.Timers.KeepAlive)
	defer beat.Stop()
	for {
		var frame []byte
		select {
		case <-ctx.Done():
			return nil
		case <-l.gone:
			return nil
		case frame = <-l.out:
		case <-beat.C:
			frame = appendFrame(nil, frameBeat, nil)
		}
		if err := l.SetWriteDeadline(time.Now().Add(f.cfg.Timers.Stall)); err != nil {
			return err
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
		if len(l.out) > 0 {
			continue
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// readLink takes frames in until the connection ends, or the other side breaks the protocol.
func (f *Federation) readLink(l *link, in *bufio.Reader) error {
	deadline := func(begun bool) error {
		if begun {
			return l.SetReadDeadline(time.Now().Add(f.cfg.Timers.Stall))
		}
		return l.SetReadDeadline(time.Now().Add(3 * f.cfg.Timers.KeepAlive))
	}
	budget := f.budgets.of(l.node.Organization())
	var buf []byte
	for {
		kind, payload, err := readFrame(in, f.maxFrame(), buf, deadline)
		if err != nil {
			return err
		}
		buf = payload
		if !budget.packet(f.cfg.Clock.Now(), len(payload)) {
			f.dropPacket(l.node, dropRate, nil)
			continue
		}
		switch kind {
		case frameBeat:
		case frameRecord:
			f.learnFrom(l, payload)
		case frameAsk, frameState:
			if err := f.exchange(l, budget, kind, payload); err != nil {
				return err
			}
		case framePacket:
			f.takePacket(l.node, payload)
		default:
			return wire.Errorf(wire.Malformed, "link", "a frame of type %q", kind)
		}
	}
}

// linkEnded logs the end of a connection for gossip that has not become a link, if it is the other side's fault.
func (f *Federation) linkEnded(s *peerConn, err error) {
	if reason := f.faulty(s, err); reason != "" {
		f.lines.warn("link cut", "node", s.node, "reason", reason, "error", err)
	}
}

// faulty counts and records the end of a connection for gossip if the other side is at fault. It returns the reason, or
// "".
func (f *Federation) faulty(s *peerConn, err error) (reason string) {
	reason = cutReason(err)
	if reason == "" {
		return ""
	}
	f.faults.note(s.node.Organization(), fmt.Errorf("link to %s: %w", s.node, err))
	f.metrics.cut.WithLabelValues(reason).Inc()
	return reason
}

// cutReason returns why a connection was closed, "" if it has ended by itself.
func cutReason(err error) string {
	var e *wire.Error
	switch {
	case errors.Is(err, errStalled):
		return cutStalled
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cutTimeout
	case errors.As(err, &e):
		return cutProtocol
	}
	return ""
}

// Reasons for closed connections, in addition to those for refused ones.
const (
	cutStalled  = "stalled"
	cutFrames   = "frames"
	cutTimeout  = "silent"
	cutProtocol = "malformed"
	cutRemoved  = "removed"
	cutMoved    = "moved" // the node is elsewhere now
)
