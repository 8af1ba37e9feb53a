package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// fabric is a network in memory with faults: it carries byte streams between managers. On the streams that carry
// frames it knows where frames end, and can lose, repeat, delay and so reorder them. Streams for snapshots and blobs
// stay in order, and break.
type fabric struct {
	mu      sync.Mutex // guards the fields below
	rand    *rand.Rand
	nodes   map[wire.NodeID]*Manager
	conns   map[*fabricConn]bool
	cut     map[[2]wire.NodeID]bool // both directions
	delay   time.Duration           // maximum delay of each frame
	lose    float64
	repeat  float64
	carried int                                             // number of frames and connections
	most    int                                             // limit of carried, after which nothing is carried; 0: no limit
	mangle  func(from, to wire.NodeID, frame []byte) []byte // changes the data that a node sends; nil: no change
}

func newFabric(seed uint64) *fabric {
	return &fabric{rand: rand.New(rand.NewPCG(seed, 2)), nodes: make(map[wire.NodeID]*Manager), conns: make(map[*fabricConn]bool),
		cut: make(map[[2]wire.NodeID]bool)}
}

type fabricLink struct {
	f  *fabric
	at wire.NodeID
}

var errCut = errors.New("no route")

func (l fabricLink) Dial(_ context.Context, to wire.NodeID) (net.Conn, error) {
	f := l.f
	f.mu.Lock()
	f.carried++
	if f.over() {
		f.mu.Unlock()
		time.Sleep(time.Second)
		return nil, errCut
	}
	m := f.nodes[to]
	if m == nil || f.nodes[l.at] == nil || f.cut[[2]wire.NodeID{l.at, to}] {
		f.mu.Unlock()
		return nil, errCut
	}
	near, far := f.pair(l.at, to)
	f.mu.Unlock()
	if !m.spawn(func(ctx context.Context) { _ = m.Accept(ctx, l.at, far) }) {
		near.Close()
		return nil, errCut
	}
	return near, nil
}

func (f *fabric) pair(a, b wire.NodeID) (near, far *fabricConn) {
	near, far = &fabricConn{f: f, from: a, to: b}, &fabricConn{f: f, from: b, to: a}
	near.cond, far.cond = sync.NewCond(&near.mu), sync.NewCond(&far.mu)
	near.peer, far.peer = far, near
	far.opened = true // only near sends the purpose
	f.conns[near], f.conns[far] = true, true
	return near, far
}

// setCut cuts or heals the path between two nodes. Open connections stay open and lose all data.
func (f *fabric) setCut(a, b wire.NodeID, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[[2]wire.NodeID{a, b}], f.cut[[2]wire.NodeID{b, a}] = cut, cut
}

func (f *fabric) isCut(a, b wire.NodeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut[[2]wire.NodeID{a, b}]
}

// join and leave connect and disconnect a node; leaving breaks its streams.
func (f *fabric) join(n wire.NodeID, m *Manager) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[n] = m
}

func (f *fabric) leave(n wire.NodeID) {
	f.mu.Lock()
	delete(f.nodes, n)
	var broken []*fabricConn
	for c := range f.conns {
		if c.from == n || c.to == n {
			broken = append(broken, c)
		}
	}
	f.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

func (f *fabric) setFaults(delay time.Duration, lose, repeat float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay, f.lose, f.repeat = delay, lose, repeat
}

// over reports whether the fabric carried more than any terminating history needs. The caller holds f.mu.
func (f *fabric) over() bool { return f.most > 0 && f.carried > f.most }

// fate draws the delays of the copies of one frame.
func (f *fabric) fate() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.carried++
	if f.over() || f.rand.Float64() < f.lose {
		return nil
	}
	one := func() time.Duration {
		if f.delay == 0 {
			return 0
		}
		return time.Duration(f.rand.Int64N(int64(f.delay)))
	}
	if f.rand.Float64() < f.repeat {
		return []time.Duration{one(), one()}
	}
	return []time.Duration{one()}
}

type fabricConn struct {
	f        *fabric
	from, to wire.NodeID
	peer     *fabricConn
	opened   bool // the purpose has been sent
	frames   bool // it carries frames
	pending  bytes.Buffer

	mu       sync.Mutex // guards the fields below
	cond     *sync.Cond
	in       bytes.Buffer
	closed   bool
	deadline time.Time
	alarm    *time.Timer
}

// Write is called by one goroutine at a time.
func (c *fabricConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	n := len(b)
	if !c.opened {
		c.opened = true
		c.frames = b[len(b)-1] == streamFrames
		c.peer.frames = c.frames
		c.peer.arrive(b)
		return n, nil
	}
	if !c.frames {
		if !c.f.isCut(c.from, c.to) {
			c.peer.arrive(b)
		}
		return n, nil
	}
	c.pending.Write(b)
	for c.pending.Len() >= 4 {
		size := 4 + int(binary.BigEndian.Uint32(c.pending.Bytes()))
		if c.pending.Len() < size {
			break
		}
		frame := bytes.Clone(c.pending.Next(size))
		c.f.mu.Lock()
		mangle := c.f.mangle
		c.f.mu.Unlock()
		if mangle != nil {
			frame = mangle(c.from, c.to, frame)
		}
		c.carry(frame)
	}
	return n, nil
}

// carry delivers one frame with the drawn number of copies and delays.
func (c *fabricConn) carry(frame []byte) {
	for _, d := range c.f.fate() {
		if d == 0 {
			c.land(frame)
			continue
		}
		time.AfterFunc(d, func() { c.land(frame) })
	}
}

func (c *fabricConn) land(frame []byte) {
	if !c.f.isCut(c.from, c.to) {
		c.peer.arrive(frame)
	}
}

func (c *fabricConn) arrive(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.Write(b)
	c.cond.Broadcast()
}

func (c *fabricConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.in.Len() == 0 {
		if c.closed {
			return 0, io.EOF
		}
		if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
		c.cond.Wait()
	}
	return c.in.Read(b)
}

func (c *fabricConn) Close() error {
	c.shut()
	c.peer.shut()
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	delete(c.f.conns, c)
	delete(c.f.conns, c.peer)
	return nil
}

func (c *fabricConn) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.alarm != nil {
		c.alarm.Stop()
	}
	c.cond.Broadcast()
}

func (c *fabricConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.alarm != nil {
		c.alarm.Stop()
		c.alarm = nil
	}
	if !t.IsZero() && !c.closed {
		c.alarm = time.AfterFunc(time.Until(t), c.cond.Broadcast)
	}
	c.cond.Broadcast()
	return nil
}

func (c *fabricConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *fabricConn) SetWriteDeadline(time.Time) error { return nil }
func (c *fabricConn) LocalAddr() net.Addr              { return fabricAddr(c.from) }
func (c *fabricConn) RemoteAddr() net.Addr             { return fabricAddr(c.to) }

type fabricAddr string

func (a fabricAddr) Network() string { return "fabric" }
func (a fabricAddr) String() string  { return string(a) }
