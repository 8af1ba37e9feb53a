package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"

	"github.com/gorilla/websocket"

	"github.com/mlsfed/mlsfed/wire"
)

// The opcodes of RFC 6455 §5.2 that the meter distinguishes: from opControl on, a frame controls.
const (
	opContinuation = 0
	opControl      = 8 // close
)

// fullFragment is the size from which a fragment is paid for by its bytes alone.
const fullFragment = 1 << 10

// header is what a meter reads of the beginning of a WebSocket frame (RFC 6455 §5.2).
type header struct {
	opcode byte
	final  bool
	size   uint64 // of the payload, in bytes
}

// meter is a connection that reports the header of each WebSocket frame before the WebSocket library sees the
// frame. The library joins the fragments of a message, and answers pings, inside one read, so that nothing above
// it can count them. Only one goroutine may read.
type meter struct {
	net.Conn
	// headed is called with each header. An error ends reading, and nothing of the frame is handed on.
	headed func(header) error

	part  [14]byte // of a header that has not come whole
	have  int      // bytes of part
	skip  uint64   // bytes of payload still to come
	bytes int      // read since taken was called
}

// Read implements net.Conn.
func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.bytes += n
	if herr := m.parse(b[:n]); herr != nil {
		return 0, herr
	}
	return n, err
}

// taken returns the bytes that were read since the last call, with all headers and control frames.
func (m *meter) taken() int {
	n := m.bytes
	m.bytes = 0
	return n
}

// parse goes through the bytes, which begin where the last ones ended.
func (m *meter) parse(b []byte) error {
	for len(b) > 0 {
		if m.skip > 0 {
			n := min(m.skip, uint64(len(b)))
			m.skip -= n
			b = b[n:]
			continue
		}
		n := copy(m.part[m.have:headerSize(m.part[:m.have])], b)
		m.have += n
		b = b[n:]
		if m.have < headerSize(m.part[:m.have]) {
			continue
		}
		h := headerOf(m.part[:m.have])
		m.have, m.skip = 0, h.size
		if err := m.headed(h); err != nil {
			return err
		}
	}
	return nil
}

// headerSize returns the length of a header of which a part is known, as far as that part determines it.
func headerSize(part []byte) int {
	if len(part) < 2 {
		return 2
	}
	size := 2
	switch part[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if part[1]&0x80 != 0 {
		size += 4 // the masking key
	}
	return size
}

func headerOf(b []byte) header {
	h := header{opcode: b[0] & 0x0f, final: b[0]&0x80 != 0, size: uint64(b[1] & 0x7f)}
	switch h.size {
	case 126:
		h.size = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.size = binary.BigEndian.Uint64(b[2:])
	}
	return h
}

// NetConn is the connection below.
func (m *meter) NetConn() net.Conn { return m.Conn }

// CloseWrite ends what is sent, where the connection can do so alone.
func (m *meter) CloseWrite() error {
	if c, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// metered puts a meter below the WebSocket library when it takes the connection over.
type metered struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (w metered) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, b, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &meter{Conn: c, headed: func(header) error { return errors.New("gateway: a frame before its session") }}, b, nil
}

// meterOf is the meter below a socket that upgrade has made.
func meterOf(c *websocket.Conn) *meter {
	m, _ := c.NetConn().(*meter)
	return m
}

// headed counts a frame of the socket before anything of it is used. Frames of requests are paid for when they
// are handled; those that the WebSocket library keeps to itself are paid for here.
func (s *session) headed(h header) error {
	cfg := &s.g.cfg
	if !s.asked { // until the message that logs in has come whole
		if s.early++; s.early > cfg.LoginFrames {
			return s.flood(overLoginFrames, "more than %d WebSocket frames before the login has come", cfg.LoginFrames)
		}
		s.asked = h.opcode < opControl && h.final
	}
	switch {
	case h.opcode == opControl:
		return nil // the last one
	case h.opcode > opControl:
		return s.paid()
	case h.opcode != opContinuation:
		s.fragments = 0
		return nil
	}
	if s.fragments++; s.fragments >= cfg.Fragments {
		return s.flood(overFragments, "a message in more than %d fragments", cfg.Fragments)
	}
	if h.size >= fullFragment {
		return nil
	}
	return s.paid()
}

// flood is how a session ends that sends too many frames.
func (s *session) flood(limit, format string, args ...any) error {
	s.g.metrics.over(limit)
	return closing(wire.CloseFlood, wire.Errorf(wire.Busy, "session", format, args...))
}
