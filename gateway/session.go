package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// session is one socket. Its reader's goroutine owns its life: it logs in, reads, and at the end closes.
type session struct {
	g       *Gateway
	conn    *websocket.Conn
	address netip.Addr // what limits count as the client
	visit   *admission.Connection

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	wake   chan struct{} // wakes the writer
	work   sync.WaitGroup
	heard  atomic.Int64 // when the device gave a sign of life, in milliseconds since 1970

	hasPlace bool // in the registry

	features atomic.Pointer[wire.Features] // that the device has announced; nil for none

	// Of the login; not changed afterwards.
	user    *backlog // nil until the session is admitted
	device  wire.DeviceID
	receive bool
	ends    wire.Time

	admitted, replaced bool  // guarded by registry.mu
	share              share // guarded by user.mu

	// Of the reader.
	meter         *meter
	frames, bytes tokenbucket.Bucket
	early         int  // WebSocket frames before the login has come
	asked         bool // the login has come
	fragments     int  // continuations of the message that is read
	overloads     int  // requests in a row that were too many

	mu       sync.Mutex
	reason   wire.CloseCode // 0 while it lives
	why      *wire.Error    // sent in a last frame; may be nil
	kill     *time.Timer    // closes the socket of a side that does not close
	draining bool
	under    map[uint64]int                  // requests under way, and the bytes of each or of its answer
	held     int                             // the sum of these
	ordered  map[wire.ConversationID][]*task // conversations with a request under way, and the requests that wait for it
	out      []outgoing
	// discarded: answers are dropped, because the session is closed to free memory.
	discarded bool
	pong      []byte // that waits for the writer; nil for none
	window    window
	acks      map[Stream]uint64 // acknowledged, but not yet handed on
	acking    bool
	acked     *sync.Cond // acks was taken, or the session has ended
}

// outgoing is a frame that waits for the writer.
type outgoing struct {
	frame []byte
	id    uint64 // of the request that it ends; 0 for none
}

func newSession(g *Gateway, conn *websocket.Conn, address netip.Addr) *session {
	s := &session{g: g, conn: conn, meter: meterOf(conn), address: address, wake: make(chan struct{}, 1)}
	s.meter.headed = s.headed
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.acked = sync.NewCond(&s.mu)
	s.sign()
	conn.SetPingHandler(s.pinged)
	conn.SetPongHandler(func(string) error { s.sign(); return nil })
	return s
}

// sign notes that the device gives a sign of life.
func (s *session) sign() { s.heard.Store(s.g.cfg.Clock.Now().UnixMilli()) }

func (s *session) pinged(data string) error {
	s.sign()
	s.mu.Lock()
	s.pong = []byte(data) // of several, the last is answered (RFC 6455 §5.5.3)
	s.mu.Unlock()
	s.signal()
	return nil
}

// ended is why a session ends, as an error on the way to end.
type ended struct {
	code wire.CloseCode
	err  *wire.Error
}

func (e *ended) Error() string {
	if e.err == nil {
		return "session closed"
	}
	return e.err.Error()
}

func closing(code wire.CloseCode, err *wire.Error) error { return &ended{code, err} }

// end ends the session, once: the first reason counts. It does not wait.
func (s *session) end(code wire.CloseCode, why *wire.Error) {
	s.mu.Lock()
	first := s.reason == 0
	if first {
		s.reason, s.why = code, why
		s.kill = time.AfterFunc(s.g.cfg.CloseWait+s.g.cfg.CloseWait, func() { _ = raw(s.conn).Close() })
	}
	s.acked.Broadcast()
	s.mu.Unlock()
	if first {
		_ = s.conn.SetReadDeadline(past()) // the reader looks at the reason after each deadline that it sets
		s.cancel()
	}
}

// over says whether the session ends.
func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason != 0
}

// endBy ends the session by an error of reading or writing.
func (s *session) endBy(err error) {
	var e *ended
	var closed *websocket.CloseError
	var timeout net.Error
	switch {
	case errors.As(err, &e):
		s.end(e.code, e.err)
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		s.end(closeNormal, nil)
	case errors.As(err, &timeout) && timeout.Timeout():
		s.end(wire.CloseSlow, nil)
	default:
		s.end(closeLost, nil)
	}
}

func past() time.Time { return time.Unix(1, 0) }

// raw is the socket below TLS, whose Close waits for nothing.
func raw(c *websocket.Conn) net.Conn {
	n := c.NetConn()
	for {
		above, ok := n.(interface{ NetConn() net.Conn })
		if !ok {
			return n
		}
		n = above.NetConn()
	}
}

// run is the session's life.
func (s *session) run() {
	if s.over() {
		s.close()
	} else if err := s.login(); err != nil {
		if s.blames(err) {
			s.visit.Failed()
		}
		s.endBy(err)
		s.close()
	} else {
		s.live()
	}
	s.work.Wait()
	s.g.registry.unname(s)
	if s.user != nil {
		s.g.backlogs.leave(s)
	}
	if s.hasPlace {
		s.g.registry.leave(s.address)
	}
	s.g.metrics.closed(s.reason)
	s.g.cfg.Log.Debug("session ended", "device", s.device, "address", s.address, "code", int(s.reason))
}

// live reads and writes until the session ends, and closes it.
func (s *session) live() {
	s.g.metrics.sessions.Inc()
	defer s.g.metrics.sessions.Dec()
	feed, err := s.open()
	if err != nil {
		s.endBy(err)
		s.close()
		return
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.write(feed)
	}()
	s.read()
	<-written
	if feed != nil {
		feed.Close()
	}
	s.close()
}

// open sends the session frame, which confirms the login, and opens the device's feed if it receives.
func (s *session) open() (Feed, error) {
	cfg := &s.g.cfg
	hello := wire.Session{
		Node: cfg.Node, Time: wire.TimeOf(cfg.Day()), CertificateEnds: s.ends,
		MaxFrame: uint32(cfg.MaxFrame), Window: uint32(cfg.Window), Requests: uint32(cfg.Requests),
	}
	frame, err := frameOf(wire.FrameSession, 0, &hello)
	if err != nil {
		return nil, s.fault("session", err)
	}
	if err := s.send(frame); err != nil {
		return nil, err
	}
	if !s.receive {
		return nil, nil
	}
	feed, err := cfg.Feeds.Open(s.ctx, s.device)
	if err != nil {
		return nil, s.fault("open feed", err)
	}
	return feed, nil
}

// fault logs an error of the node itself, and returns the error that ends the session.
func (s *session) fault(op string, err error) error {
	if wire.CodeOf(err) == wire.Unavailable {
		return closing(wire.CloseStopping, wire.AsError(op, err))
	}
	if s.ctx.Err() != nil {
		return closing(closeLost, nil) // the session has ended already, for another reason
	}
	s.g.cfg.Log.Error("a session ends for a fault of the node", "operation", op, "device", s.device, "error", err)
	return closing(wire.CloseInternal, wire.Errorf(wire.Internal, op, "the node failed; its log says more"))
}

// send writes one frame. Only the writing goroutine calls send, or the reading one before the writer starts.
func (s *session) send(frame []byte) error {
	if len(frame) > s.g.cfg.MaxFrame {
		return s.fault("write", wire.Errorf(wire.TooLarge, "write", "a frame of %d bytes, at most %d", len(frame), s.g.cfg.MaxFrame))
	}
	if s.user != nil {
		s.user.writing(s)
		defer s.user.wrote(s)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.g.cfg.WriteWait))
	if err := s.conn.WriteMessage(websocket.BinaryMessage, frame); err != nil {
		return err
	}
	s.g.metrics.frame("out", len(frame))
	return nil
}

// close sends the reason to the other side and waits, up to Config.CloseWait, until it has closed too: closing a
// socket that has unread bytes would discard the last frame.
func (s *session) close() {
	cfg := &s.g.cfg
	<-s.ctx.Done() // the side that ends the session has set its deadlines
	s.mu.Lock()
	code, why, kill := s.reason, s.why, s.kill
	s.mu.Unlock()
	until := time.Now().Add(cfg.CloseWait)
	if code != closeNormal && code != closeLost {
		s.sayWhy(code, why, until)
		_ = s.meter.CloseWrite()
		_ = s.meter.SetReadDeadline(until)
		drain(s.meter.Conn, 2*cfg.MaxFrame)
	}
	_ = s.conn.Close()
	kill.Stop()
}

func (s *session) sayWhy(code wire.CloseCode, why *wire.Error, until time.Time) {
	_ = s.conn.SetWriteDeadline(until)
	for {
		frame, ok := s.nextAnswer() // finished answers are still sent
		if !ok || s.conn.WriteMessage(websocket.BinaryMessage, frame) != nil {
			break
		}
	}
	text := closeText(code)
	if why != nil {
		text = cut(why.Text, 120) // a control frame has 125 bytes, two of them for the code
		if frame, err := frameOf(wire.FrameError, 0, why); err == nil {
			_ = s.conn.WriteMessage(websocket.BinaryMessage, frame)
		}
	}
	_ = s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(int(code), text), until)
}

// closeText returns the text of a close code for a session that ends without an error.
func closeText(code wire.CloseCode) string {
	switch code {
	case wire.CloseStopping:
		return "the node stops: come back after a moment"
	case wire.CloseReplaced:
		return "a newer session of the device receives"
	case wire.CloseSlow:
		return "the device does not read"
	case wire.CloseRevoked:
		return "the device was revoked"
	}
	return ""
}

// drain reads what still comes, until the other side closes, its deadline, or most bytes.
func drain(c net.Conn, most int) {
	var b [512]byte
	for most > 0 {
		n, err := c.Read(b[:])
		if err != nil {
			return
		}
		most -= n
	}
}

// drainRequests ends the session when the requests under way are served; others are refused meanwhile.
func (s *session) drainRequests() {
	s.mu.Lock()
	s.draining = true
	idle := len(s.under) == 0 && len(s.out) == 0
	s.mu.Unlock()
	if idle {
		s.end(wire.CloseStopping, nil)
	}
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// frameOf encodes a frame with the structure that it carries, nil for none.
func frameOf(t wire.FrameType, id uint64, body any) ([]byte, error) {
	f := wire.Frame{Type: t, ID: id}
	if body != nil {
		b, err := wire.Encode(body)
		if err != nil {
			return nil, err
		}
		f.Body = b
	}
	return wire.Encode(&f)
}

// cut shortens a text to n bytes, without a part of a character at its end.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
