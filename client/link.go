package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mlsfed/mlsfed/wire"
)

// link holds the present session for the goroutines that wait for one.
type link struct {
	mu      sync.Mutex
	session *session      // nil while there is none
	changed chan struct{} // closed when session changes
	most    int           // limit of requests under way
}

func (l *link) init(o Options) {
	l.changed = make(chan struct{})
	l.most = o.Limits.Requests
}

func (l *link) set(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) get() (*session, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session, l.changed
}

// wait returns the session, once there is one other than old.
func (l *link) wait(ctx context.Context, old *session) (*session, error) {
	for {
		s, changed := l.get()
		if s != nil && s != old {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrOffline, ctx.Err())
		}
	}
}

// errSessionEnded means that the connection was lost before the answer came.
var errSessionEnded = errors.New("the session ended before the answer came")

// session is one connection after the login.
type session struct {
	conn    Conn
	node    NodeID
	frame   int           // bytes of the largest frame
	out     chan written  // frames for the writer
	slots   chan struct{} // one for each request that may be under way
	ended   chan struct{}
	endOnce sync.Once
	pushes  chan *wire.Push
	alarm   func(*wire.Alarm)
	held    heldAcks

	withheld []wire.Ack    // of items that wait to be taken in; used by the receiver only
	recheck  chan struct{} // of size 1: items that waited were taken in

	features  atomic.Pointer[wire.Features] // announced by the node; nil for none
	announced chan struct{}                 // closed when features is known, or will not become known
	pace      atomic.Pointer[pace]          // rate of frames; nil while the node has not sent its limits

	mu      sync.Mutex
	err     error
	last    uint64
	answers map[uint64]chan *wire.Frame
}

func newSession(conn Conn, s *wire.Session, most int) *session {
	window := min(int(s.Window), 1<<16)
	return &session{
		conn: conn, node: s.Node, frame: int(s.MaxFrame), out: make(chan written, 16), ended: make(chan struct{}),
		slots: make(chan struct{}, min(most, int(s.Requests))), pushes: make(chan *wire.Push, window), recheck: make(chan struct{}, 1),
		answers: make(map[uint64]chan *wire.Frame), announced: make(chan struct{}),
	}
}

// end ends all waits for the session with err.
func (s *session) end(err error) {
	s.endOnce.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.ended)
	})
}

func (s *session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// written is a frame for the writer. An Ack is free: the node does not count an Ack that makes room for more pushes.
type written struct {
	frame []byte
	free  bool
}

// send passes a frame to the writer.
func (s *session) send(ctx context.Context, f *wire.Frame) error {
	b, err := wire.Encode(f)
	if err != nil {
		return err
	}
	if len(b) > s.frame {
		return wire.Errorf(wire.TooLarge, string(f.Method), "frame of %d bytes, the node takes at most %d", len(b), s.frame)
	}
	select {
	case s.out <- written{b, f.Type == wire.FrameAck}:
		return nil
	case <-s.ended:
		return errSessionEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request sends one request and waits for its answer.
func (s *session) request(ctx context.Context, method wire.Method, body []byte) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
	case <-s.ended:
		return nil, errSessionEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slots }()
	id, answer := s.expect()
	defer s.forget(id)
	if err := s.send(ctx, &wire.Frame{Type: wire.FrameRequest, ID: id, Method: method, Body: body}); err != nil {
		return nil, err
	}
	select {
	case f := <-answer:
		return opened(f)
	case <-s.ended:
		return nil, errSessionEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) expect() (uint64, <-chan *wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	c := make(chan *wire.Frame, 1)
	s.answers[s.last] = c
	return s.last, c
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, id)
}

// opened returns the body of an answer, or the error in it.
func opened(f *wire.Frame) ([]byte, error) {
	if f.Type == wire.FrameAnswer {
		return f.Body, nil
	}
	e := new(Error)
	if err := wire.Decode(f.Body, wire.MaxError, e); err != nil {
		return nil, err
	}
	return nil, e
}

// parting returns why the node ends a session: the error that it has sent, and the close code that follows.
func parting(ctx context.Context, conn Conn, f *wire.Frame) error {
	_, reported := opened(f)
	var closed *CloseError
	if _, err := conn.Read(ctx); errors.As(err, &closed) {
		return fmt.Errorf("%w: %w", closed, reported)
	}
	return reported
}

// answer passes a frame to the goroutine that waits for it. A frame that nobody waits for any more is dropped.
func (s *session) answer(f *wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.answers[f.ID]; ok {
		c <- f
		delete(s.answers, f.ID)
	}
}

// write sends queued frames until the session ends.
func (s *session) write(ctx context.Context) {
	for {
		select {
		case o := <-s.out:
			if !o.free {
				s.wait(ctx)
			}
			if err := s.conn.Write(ctx, o.frame); err != nil {
				s.end(fmt.Errorf("write to the node: %w", err))
				return
			}
		case <-s.ended:
			return
		}
	}
}

// read takes frames in until the session ends.
func (s *session) read(ctx context.Context) {
	for {
		f, err := readFrame(ctx, s.conn)
		if err == nil {
			err = s.take(ctx, f)
		}
		if err != nil {
			s.end(err)
			return
		}
	}
}

func (s *session) take(ctx context.Context, f *wire.Frame) error {
	switch f.Type {
	case wire.FrameAnswer:
		s.answer(f)
		return nil
	case wire.FrameError:
		if f.ID != 0 {
			s.answer(f)
			return nil
		}
		return parting(ctx, s.conn, f)
	case wire.FrameAlarm:
		a := new(wire.Alarm)
		if err := wire.Decode(f.Body, wire.MaxSessionFrame, a); err != nil {
			return err
		}
		s.alarm(a)
		return nil
	case wire.FramePush:
		p := new(wire.Push)
		if err := wire.Decode(f.Body, wire.MaxSessionFrame, p); err != nil {
			return err
		}
		select {
		case s.pushes <- p:
			return nil
		default:
			return wire.Errorf(wire.Malformed, "session", "the node pushed more than its window of %d", cap(s.pushes))
		}
	}
	return wire.Errorf(wire.Malformed, "session", "frame of type %d from the node", f.Type)
}

func readFrame(ctx context.Context, c Conn) (*wire.Frame, error) {
	b, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	f := new(wire.Frame)
	return f, wire.Decode(b, wire.MaxSessionFrame, f)
}

// call sends a request and waits for the answer, for as long as Timing.Call. If the session ends before the answer,
// call repeats the request on the next session. Every request can be repeated. in and out may be nil.
func (d *Device) call(ctx context.Context, method wire.Method, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = wire.Encode(in); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timing.Call)
	defer cancel()
	var s *session
	for {
		var err error
		if s, err = d.link.wait(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		answer, err := s.request(ctx, method, body)
		if errors.Is(err, errSessionEnded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		if out == nil {
			return nil
		}
		return wire.Decode(answer, wire.MaxSessionFrame, out)
	}
}

// Connected reports whether there is a session with a node. Events of a subscription that began before the call report
// each change after it: EventConnected and EventOffline.
func (d *Device) Connected() bool {
	s, _ := d.link.get()
	return s != nil
}
