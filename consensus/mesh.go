package consensus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// The mesh is this node's connections: one to each node that it shares a conversation with, for the
// frames of all conversations. Streams for snapshots and blobs are opened beside it, one each.

// What a new stream is for: its first bytes.
const (
	streamMagic    = "mlsfed consensus 1 "
	streamFrames   = 'F'
	streamSnapshot = 'S'
	streamBlob     = 'B'
)

// Bounds of what waits for one node.
const (
	maxQueue      = 1024     // frames
	maxQueueBytes = 64 << 20 // bytes
	maxPeerFrame  = maxAppend*(wire.MaxEntry+64) + 1024
)

var errUnreachable = errors.New("node is unreachable")

// mesh owns the peers. deliver is called for each frame on its connection's read loop and must not block.
type mesh struct {
	node    wire.NodeID
	link    Link
	call    time.Duration
	log     *slog.Logger
	deliver func(from wire.NodeID, f *frame)
	known   func(wire.NodeID) bool // whether an admitted organization has the node; nil: every name is a node
	idle    time.Duration          // a peer without a connection and without work is dropped after this
	up      func(wire.NodeID)      // a connection came up; called on a goroutine of its own

	mu    sync.Mutex // guards peers, ctx
	peers map[wire.NodeID]*peer
	ctx   context.Context // set by run; nil before it and after its end
	tasks sync.WaitGroup
}

func (s *mesh) run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil
	peers := s.peers
	s.peers = make(map[wire.NodeID]*peer)
	s.mu.Unlock()
	for _, p := range peers {
		p.dropConn(nil)
	}
	s.tasks.Wait()
}

// spawn runs fn on a goroutine that run waits for, unless the mesh has ended.
func (s *mesh) spawn(fn func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return false
	}
	ctx := s.ctx
	s.tasks.Go(func() {
		defer s.caught(s.node)
		fn(ctx)
	})
	return true
}

// caught is deferred by what serves a connection or a frame: a panic ends that alone. Work for one
// conversation has caught it before, where it was known to be the conversation's.
func (s *mesh) caught(n wire.NodeID) {
	if p := recover(); p != nil {
		s.log.Error("panic", "work", "connection", "peer", n, "panic", p, "stack", string(debug.Stack()))
	}
}

// peer is one other node.
type peer struct {
	mesh  *mesh
	node  wire.NodeID
	queue chan *frame
	bytes atomic.Int64
	heard atomic.Int64 // when the last frame came, nanoseconds since 1970

	mu      sync.Mutex // guards what follows
	gone    bool       // its writer has ended: another peer stands for the node
	conn    net.Conn   // the one to write to, nil while there is none
	dialed  bool       // conn was dialed by this node
	pending map[uint64]*call
	number  uint64
	retry   time.Time // no dialing before this
	failed  int
	beats   []*beat       // heartbeats that wait for company
	up      chan struct{} // closed when a connection stands; nil while nobody waits for one

	wanted chan struct{} // holds one: somebody waits for a connection
}

// call is a request that awaits its reply.
type call struct {
	done chan reply // holds one
}

type reply struct {
	payload []byte
	err     error
}

// peer returns the node's peer and starts its writer when it is new; nil when the mesh has ended, and for a
// name that no admitted organization gives to a node: others name them, and must not make this node keep
// anything for them.
func (s *mesh) peer(n wire.NodeID) *peer {
	if p := s.existing(n); p != nil {
		return p
	}
	if s.known != nil && !s.known(n) {
		return nil
	}
	return s.caller(n)
}

func (s *mesh) existing(n wire.NodeID) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[n]
}

// caller is peer for a node that has proved its name.
func (s *mesh) caller(n wire.NodeID) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.peers[n]; ok || s.ctx == nil {
		return p
	}
	p := &peer{mesh: s, node: n, queue: make(chan *frame, maxQueue), pending: make(map[uint64]*call), wanted: make(chan struct{}, 1)}
	s.peers[n] = p
	ctx := s.ctx
	s.tasks.Go(func() { p.write(ctx) })
	return p
}

// reachable reports whether a connection stands.
func (s *mesh) reachable(n wire.NodeID) bool {
	p := s.existing(n)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// send queues a frame without waiting. What cannot be queued is lost, as on a network.
func (s *mesh) send(to wire.NodeID, f *frame) error {
	p := s.peer(to)
	if p == nil {
		return errUnreachable
	}
	return p.send(f)
}

func (p *peer) send(f *frame) error {
	p.mu.Lock()
	waiting := p.gone || p.conn == nil && time.Now().Before(p.retry)
	p.mu.Unlock()
	if waiting {
		return fmt.Errorf("%s: %w", p.node, errUnreachable)
	}
	if p.bytes.Add(int64(f.size())) > maxQueueBytes {
		p.bytes.Add(-int64(f.size()))
		return fmt.Errorf("%s: %w", p.node, wire.Busy)
	}
	select {
	case p.queue <- f:
		return nil
	default:
		p.bytes.Add(-int64(f.size()))
		return fmt.Errorf("%s: %w", p.node, wire.Busy)
	}
}

// start sends a request and returns what awaits its reply, with the request's number.
func (s *mesh) start(to wire.NodeID, f *frame) (*peer, uint64, *call, error) {
	p := s.peer(to)
	if p == nil {
		return nil, 0, nil, errUnreachable
	}
	c := &call{done: make(chan reply, 1)}
	p.mu.Lock()
	p.number++
	f.number = p.number
	p.pending[f.number] = c
	p.mu.Unlock()
	if err := p.send(f); err != nil {
		p.forget(f.number)
		return nil, 0, nil, err
	}
	return p, f.number, c, nil
}

// ask sends a request and waits for the reply, for the time of one call at most.
func (s *mesh) ask(ctx context.Context, to wire.NodeID, f *frame) ([]byte, error) {
	return s.askFor(ctx, to, f, s.call)
}

func (s *mesh) askFor(ctx context.Context, to wire.NodeID, f *frame, patience time.Duration) ([]byte, error) {
	p, number, c, err := s.start(to, f)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-c.done:
		return r.payload, r.err
	case <-timer.C:
		p.forget(number)
		p.suspect(patience)
		return nil, fmt.Errorf("%s: %w: no answer in %v", to, errUnreachable, patience)
	case <-ctx.Done():
		p.forget(number)
		return nil, ctx.Err()
	}
}

func (p *peer) forget(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, number)
}

// suspect closes the connection when nothing at all came over it for as long as a call may take: a
// path that swallows everything would otherwise stand until the system gives it up.
func (p *peer) suspect(patience time.Duration) {
	if time.Since(time.Unix(0, p.heard.Load())) < patience {
		return
	}
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
	if conn != nil {
		p.dropConn(conn)
	}
}

// answer gives a reply to whoever waits for it. A late or a second one is dropped.
func (p *peer) answer(f *frame) {
	p.mu.Lock()
	c := p.pending[f.number]
	delete(p.pending, f.number)
	p.mu.Unlock()
	if c == nil {
		return
	}
	payload, err := openReply(f.payload)
	c.done <- reply{payload, err}
}

// sealReply is the payload of a reply: 0 and the content, or 1 and an error.
func sealReply(content []byte, err error) []byte {
	if err == nil {
		return append([]byte{0}, content...)
	}
	b, encErr := wire.Encode(wire.AsError("call", err))
	if encErr != nil {
		b = nil
	}
	return append([]byte{1}, b...)
}

func openReply(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] > 1 {
		return nil, errFrame
	}
	if b[0] == 0 {
		return b[1:], nil
	}
	e := new(wire.Error)
	if err := wire.Decode(b[1:], wire.MaxError, e); err != nil {
		return nil, err
	}
	return nil, e
}

// write sends what is queued, and dials when there is no connection.
func (p *peer) write(ctx context.Context) {
	var out *bufio.Writer
	var at net.Conn
	buf := make([]byte, 0, 4096)
	idle := time.NewTimer(p.mesh.idle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			if p.retire() {
				return
			}
			idle.Reset(p.mesh.idle)
		case <-p.wanted:
			if _, err := p.connection(ctx); err != nil {
				p.mesh.log.Debug("no connection", "peer", p.node, "error", err)
			}
		case f := <-p.queue:
			idle.Reset(p.mesh.idle)
			p.bytes.Add(-int64(f.size()))
			conn, err := p.connection(ctx)
			if err != nil {
				p.lose(f)
				continue
			}
			if conn != at {
				at, out = conn, bufio.NewWriterSize(conn, 64<<10)
			}
			buf = f.append(buf[:0])
			if err := p.put(conn, out, buf); err != nil {
				p.dropConn(conn)
				p.lose(f)
			}
			if cap(buf) > 1<<20 {
				buf = make([]byte, 0, 4096)
			}
		}
	}
}

// retire drops a peer that has no connection and nothing to do. Who still has it finds that it is gone, as
// if a frame had been lost.
func (p *peer) retire() bool {
	s := p.mesh
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil || len(p.queue)+len(p.pending)+len(p.beats) > 0 {
		return false
	}
	p.gone = true
	if s.peers[p.node] == p {
		delete(s.peers, p.node)
	}
	return true
}

func (p *peer) put(conn net.Conn, out *bufio.Writer, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(4 * p.mesh.call)); err != nil {
		return err
	}
	if _, err := out.Write(b); err != nil {
		return err
	}
	if len(p.queue) > 0 {
		return nil // more follows: one system call for all
	}
	return out.Flush()
}

// lose fails the call that f was for.
func (p *peer) lose(f *frame) {
	if f.kind == kindReply || f.number == 0 {
		return
	}
	p.mu.Lock()
	c := p.pending[f.number]
	delete(p.pending, f.number)
	p.mu.Unlock()
	if c != nil {
		c.done <- reply{err: fmt.Errorf("%s: %w", p.node, errUnreachable)}
	}
}

// connection is the one to write to; it dials when there is none, with a growing pause after failures.
func (p *peer) connection(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	conn, retry := p.conn, p.retry
	p.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	if time.Now().Before(retry) {
		return nil, errUnreachable
	}
	ctx, cancel := context.WithTimeout(ctx, p.mesh.call)
	defer cancel()
	conn, err := p.mesh.open(ctx, p.node, streamFrames)
	if err != nil {
		p.mu.Lock()
		pause := 50 * time.Millisecond << min(p.failed, 5)
		p.failed++
		p.retry = time.Now().Add(pause)
		other := p.conn
		p.mu.Unlock()
		if other != nil {
			return other, nil // it called us meanwhile
		}
		return nil, err
	}
	return p.adopt(conn, true), nil
}

// open dials and says what the stream is for.
func (s *mesh) open(ctx context.Context, to wire.NodeID, purpose byte) (net.Conn, error) {
	conn, err := s.link.Dial(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetWriteDeadline(deadline)
	}
	if err == nil {
		_, err = conn.Write(append([]byte(streamMagic), purpose))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greet %s: %w", to, err), conn.Close())
	}
	return conn, nil
}

// adopt makes conn the peer's connection and returns the one to write to; nil for a peer that is gone. When
// both nodes dialed at once, the connection that the node with the smaller name dialed stays: both decide
// alike.
func (p *peer) adopt(conn net.Conn, dialed bool) net.Conn {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return nil
	}
	old, oldDialed := p.conn, p.dialed
	keepOld := old != nil && oldDialed != dialed && oldDialed == (p.mesh.node < p.node)
	if !keepOld {
		p.conn, p.dialed = conn, dialed
	}
	p.failed, p.retry = 0, time.Time{}
	if p.up != nil {
		close(p.up)
		p.up = nil
	}
	use := p.conn
	p.mu.Unlock()
	p.heard.Store(time.Now().UnixNano())
	switch {
	case keepOld && dialed:
		conn.Close()
		return use
	case !keepOld && old != nil && (oldDialed || dialed == oldDialed):
		old.Close()
	}
	if dialed {
		p.mesh.spawn(func(ctx context.Context) { p.read(ctx, conn) })
	}
	if old == nil && p.mesh.up != nil {
		p.mesh.spawn(func(context.Context) { p.mesh.up(p.node) })
	}
	return use
}

// dropConn closes conn, or whatever there is for nil, and fails the calls under way.
func (p *peer) dropConn(conn net.Conn) {
	p.mu.Lock()
	if conn == nil {
		conn = p.conn
	}
	if conn == nil || p.conn != conn {
		p.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
		return
	}
	p.conn = nil
	lost := p.pending
	p.pending = make(map[uint64]*call)
	p.mu.Unlock()
	conn.Close()
	for _, c := range lost {
		c.done <- reply{err: fmt.Errorf("%s: %w: the connection broke", p.node, errUnreachable)}
	}
}

// read hands frames on until the connection ends.
func (p *peer) read(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer p.dropConn(conn)
	defer p.mesh.caught(p.node)
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		f, err := readFrame(in, maxPeerFrame)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
				p.mesh.log.Debug("connection ended", "peer", p.node, "error", err)
			}
			return
		}
		p.heard.Store(time.Now().UnixNano())
		if f.kind == kindReply {
			p.answer(f)
			continue
		}
		p.mesh.deliver(p.node, f)
	}
}

// greeting reads what a stream that another node opened is for.
func greeting(conn net.Conn, patience time.Duration) (byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	var b [len(streamMagic) + 1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return 0, fmt.Errorf("read greeting: %w", err)
	}
	if string(b[:len(streamMagic)]) != streamMagic {
		return 0, wire.Errorf(wire.Version, "accept", "greeting of another protocol or version")
	}
	return b[len(streamMagic)], conn.SetReadDeadline(time.Time{})
}
