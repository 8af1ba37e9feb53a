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

// The mesh is the set of this node's connections: one to each node that it shares a conversation with, for the frames
// of all conversations. Each snapshot or blob transfer opens an additional stream of its own.

// The first byte of a new stream gives its purpose.
const (
	streamMagic    = "mlsfed consensus 1 "
	streamFrames   = 'F'
	streamSnapshot = 'S'
	streamBlob     = 'B'
)

// Limits of the queue for one node.
const (
	maxQueue      = 1024     // frames
	maxQueueBytes = 64 << 20 // bytes
	maxPeerFrame  = maxAppend*(wire.MaxEntry+64) + 1024
)

var errUnreachable = errors.New("node is unreachable")

// mesh owns the peers. The read loop of a connection calls deliver for each frame; deliver must not block.
type mesh struct {
	node    wire.NodeID
	link    Link
	call    time.Duration
	log     *slog.Logger
	deliver func(from wire.NodeID, f *frame)
	known   func(wire.NodeID) bool             // whether an admitted organization has the node; nil: all names are accepted
	idle    time.Duration                      // a peer without a connection and without work is dropped after this time
	up      func(context.Context, wire.NodeID) // called when a connection is established, on a goroutine of its own
	sent    sent

	mu    sync.Mutex // guards peers, ctx
	peers map[wire.NodeID]*peer
	ctx   context.Context // set by run; nil before run begins and after it ends
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
		defer s.recoverPanic(s.node)
		fn(ctx)
	})
	return true
}

// recoverPanic is deferred by goroutines that serve a connection or a frame: a panic ends only that goroutine. Code
// that works for one conversation recovers earlier, where the conversation is known.
func (s *mesh) recoverPanic(n wire.NodeID) {
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
	heard atomic.Int64 // when the last frame arrived, nanoseconds since 1970

	mu      sync.Mutex // guards the fields below
	gone    bool       // the writer has ended: another peer object represents the node
	conn    net.Conn   // the connection to write to; nil if there is none
	dialed  bool       // conn was dialed by this node
	pending map[uint64]*call
	number  uint64
	retry   time.Time // no dialing before this
	failed  int
	beats   []*beat       // heartbeats that wait to be sent with others
	up      chan struct{} // closed when a connection is established; nil while nobody waits for one

	wanted chan struct{} // capacity one: a caller waits for a connection
}

// call is a request that awaits its reply.
type call struct {
	done chan reply // capacity one
}

type reply struct {
	payload []byte
	err     error
}

// peer returns the node's peer, and starts its writer if the peer is new. It returns nil after the mesh has ended,
// and for a name that no admitted organization gives to a node: other nodes choose such names, and must not make this
// node keep state for them.
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

// caller returns the peer of a node that has proved its name.
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

// reachable reports whether a connection exists.
func (s *mesh) reachable(n wire.NodeID) bool {
	p := s.existing(n)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// send queues a frame without waiting. A frame that cannot be queued is lost, as on a network.
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

// start sends a request and returns the peer, the request's number and the call that receives the reply.
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

// ask sends a request and waits for the reply, at most for the time limit of one call.
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

// rejectChange closes the connection if no frame arrived over it for the time limit of a call. Otherwise a path that
// drops all packets would keep the connection until the operating system closes it.
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

// answer delivers a reply to the waiting call. A late reply or a second reply is dropped.
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

// sealReply returns the payload of a reply: 0 and the content, or 1 and an error.
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

// write sends queued frames, and dials if there is no connection.
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
				p.failCall(f)
				continue
			}
			if conn != at {
				at, out = conn, bufio.NewWriterSize(conn, 64<<10)
			}
			buf = f.append(buf[:0])
			if err := p.put(conn, out, buf); err != nil {
				p.dropConn(conn)
				p.failCall(f)
			} else {
				p.mesh.sent.frames[f.kind].Add(uint64(len(buf)))
			}
			if cap(buf) > 1<<20 {
				buf = make([]byte, 0, 4096)
			}
		}
	}
}

// retire drops a peer that has no connection and no work. A caller that still holds the peer sees it as gone, as if a
// frame had been lost.
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
		return nil // more frames follow: one system call sends all
	}
	return out.Flush()
}

// failCall fails the call that sent f.
func (p *peer) failCall(f *frame) {
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

// connection returns the connection to write to; it dials if there is none, with a growing pause after failures.
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
			return other, nil // the other node connected in the meantime
		}
		return nil, err
	}
	return p.adopt(conn, true), nil
}

// open dials a node and writes the purpose of the stream.
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
		return nil, errors.Join(fmt.Errorf("write the purpose to %s: %w", to, err), conn.Close())
	}
	return s.sent.stream(conn, purpose), nil
}

// adopt makes conn the peer's connection and returns the connection to write to, or nil if the peer is gone. When
// both nodes dial at the same time, both keep the connection that the node with the smaller name dialed.
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
		p.mesh.spawn(func(ctx context.Context) { p.mesh.up(ctx, p.node) })
	}
	return use
}

// dropConn closes conn, or the current connection if conn is nil, and fails the calls in progress.
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

// read delivers frames until the connection ends.
func (p *peer) read(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer p.dropConn(conn)
	defer p.mesh.recoverPanic(p.node)
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

// readPurpose reads the purpose of a stream that another node opened.
func readPurpose(conn net.Conn, patience time.Duration) (byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	var b [len(streamMagic) + 1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return 0, fmt.Errorf("read the purpose of a stream: %w", err)
	}
	if string(b[:len(streamMagic)]) != streamMagic {
		return 0, wire.Errorf(wire.Version, "accept", "purpose of a stream in another protocol or version")
	}
	return b[len(streamMagic)], conn.SetReadDeadline(time.Time{})
}
