package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// buffers are what frames are read into: what is decoded from one is a copy.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *bytes.Buffer {
	if buf, ok := b.pool.Get().(*bytes.Buffer); ok {
		return buf
	}
	return new(bytes.Buffer)
}

func (b *buffers) put(buf *bytes.Buffer) {
	buf.Reset()
	b.pool.Put(buf)
}

// malformed is how a session ends after a frame that breaks the protocol.
func malformed(err error) error {
	return closing(wire.CloseMalformed, wire.AsError("frame", err))
}

// readFrame reads one frame. until bounds the wait for its beginning, unless it is zero; Config.FrameWait
// that for its rest.
func (s *session) readFrame(limit int, until time.Time) (*wire.Frame, error) {
	_ = s.conn.SetReadDeadline(until)
	if s.over() {
		return nil, closing(closeLost, nil)
	}
	kind, r, err := s.conn.NextReader()
	if err != nil {
		return nil, readError(err)
	}
	s.sign()
	if kind != websocket.BinaryMessage {
		return nil, malformed(wire.Errorf(wire.Malformed, "frame", "a text message, wanted a binary one"))
	}
	if until.IsZero() {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.g.cfg.FrameWait))
		if s.over() {
			return nil, closing(closeLost, nil)
		}
	}
	buf := s.g.buffers.get()
	defer s.g.buffers.put(buf)
	n, err := buf.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, readError(err)
	}
	if n > int64(limit) {
		s.g.metrics.over(overFrame)
		return nil, closing(wire.CloseTooLarge, wire.Errorf(wire.TooLarge, "frame", "more than %d bytes", limit))
	}
	s.g.metrics.frame("in", int(n))
	if err := s.throttle(s.meter.taken()); err != nil {
		return nil, err
	}
	f := new(wire.Frame)
	if err := wire.Decode(buf.Bytes(), limit, f); err != nil {
		return nil, malformed(err)
	}
	return f, nil
}

// readError distinguishes a breach of RFC 6455 from a connection that broke.
func readError(err error) error {
	var e *ended
	var closed *websocket.CloseError
	if errors.As(err, &e) || errors.As(err, &closed) || isNetwork(err) {
		return err
	}
	return malformed(wire.Errorf(wire.Malformed, "frame", "%v", err))
}

// isNetwork reports whether an error is a failure of the connection, and not of its content.
func isNetwork(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// throttle waits until the rate of bytes allows what was read, with headers and control frames: the socket then
// slows the device down.
func (s *session) throttle(n int) error {
	clock := s.g.cfg.Clock
	wait := s.bytes.Take(s.g.cfg.ByteRate, clock.Now(), 1+n/1024)
	if wait == 0 {
		return nil
	}
	s.g.metrics.over(overBytes)
	select {
	case <-clock.After(wait):
		s.sign() // it was not listened to meanwhile
		return nil
	case <-s.ctx.Done():
		return closing(closeLost, nil)
	}
}

// paid takes a frame from the session's rate, and ends the session when there is none left.
func (s *session) paid() error {
	now := s.g.cfg.Clock.Now()
	if !s.frames.Has(s.g.cfg.FrameRate, now) {
		s.g.metrics.over(overFrames)
		return closing(wire.CloseFlood, wire.Errorf(wire.Busy, "session", "more than %d frames at once, or one in %v",
			s.g.cfg.FrameRate.Burst, s.g.cfg.FrameRate.Every))
	}
	s.frames.Take(s.g.cfg.FrameRate, now, 1)
	return nil
}

// read takes frames until the session ends.
func (s *session) read() {
	for {
		f, err := s.readFrame(s.g.cfg.MaxFrame, time.Time{})
		if err == nil {
			err = s.handle(f)
		}
		if err != nil {
			s.endBy(err)
			return
		}
	}
}

// handle does what a frame asks. The error says how the session ends.
func (s *session) handle(f *wire.Frame) error {
	switch f.Type {
	case wire.FrameRequest:
		if err := s.paid(); err != nil {
			return err
		}
		return s.request(f)
	case wire.FrameAck:
		return s.acknowledge(f)
	}
	return malformed(wire.Errorf(wire.Malformed, "frame", "type %d does not come from a device, or only once", f.Type))
}
