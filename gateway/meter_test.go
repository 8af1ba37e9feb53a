package gateway

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Opcodes and bits of RFC 6455 §5.2.
const (
	opText   = 1
	opBinary = 2
	opPing   = 9
	opPong   = 10
	bitFinal = 0x80
	bitRSV1  = 0x40
)

// webSocketFrame is a masked frame: a device's.
func webSocketFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0) // a key of zeros leaves the payload as it is
	return append(b, payload...)
}

// write sends bytes below the WebSocket library, until the node does not take more.
func (c *device) write(b []byte) error {
	n := c.conn.NetConn()
	_ = n.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, err := n.Write(b)
	return err
}

// fragmented is one message in n fragments, of which all but the first and the last are empty.
func fragmented(message []byte, n int) []byte {
	if n == 1 {
		return webSocketFrame(bitFinal|opBinary, message)
	}
	b := webSocketFrame(opBinary, message[:1])
	for range n - 2 {
		b = append(b, webSocketFrame(opContinuation, nil)...)
	}
	return append(b, webSocketFrame(bitFinal|opContinuation, message[1:])...)
}

// loginFrame is a good login as the bytes of its message.
func (c *device) loginFrame(d wire.DeviceID) []byte {
	c.t.Helper()
	input, err := c.challenge.LoginInput(d)
	if err != nil {
		c.t.Fatal(err)
	}
	l := &wire.Login{Device: d, Signature: ed25519.Sign(keyOf(d), input)}
	return c.encode(&wire.Frame{Type: wire.FrameLogin, Body: c.encode(l)})
}

// TestLimitOfLoginFrames: a stranger's login may come in so many frames, and so may pings before it.
func TestLimitOfLoginFrames(t *testing.T) {
	const limit = 6
	few := func(c *Config) { c.LoginFrames = limit }
	pings := func(n int) []byte { return bytes.Repeat(webSocketFrame(bitFinal|opPing, []byte("x")), n) }
	for name, bytesOf := range map[string]func(message []byte, n int) []byte{
		"fragments": fragmented,
		"pings":     func(m []byte, n int) []byte { return append(pings(n-1), fragmented(m, 1)...) },
		"pongs": func(m []byte, n int) []byte {
			return append(bytes.Repeat(webSocketFrame(bitFinal|opPong, nil), n-1), fragmented(m, 1)...)
		},
		"pings among the rest": func(m []byte, n int) []byte {
			return append(webSocketFrame(opBinary, nil), append(pings(n-2), webSocketFrame(bitFinal, m)...)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, few)
			c := w.connect()
			if err := c.write(bytesOf(c.loginFrame(phone), limit)); err != nil {
				t.Fatal(err)
			}
			c.body(wire.FrameSession, &c.session)
			if err := c.do(wire.MethodCount, nil, nil); err != nil {
				t.Error(err)
			}
			c = w.connect()
			_ = c.write(bytesOf(c.loginFrame(phone), limit+1))
			if why := c.wantClose(wire.CloseFlood); why == nil || why.Code != wire.Busy {
				t.Errorf("reported %v", why)
			}
			w.counted("refused_total", overLoginFrames, 1)
		})
	}
}

// TestEmptyFragmentsEnd: the bytes that a stranger gets read with empty fragments are as many as a login may have,
// however long the node is sent more.
func TestEmptyFragmentsEnd(t *testing.T) {
	read := &readBytes{}
	w := newWorld(t, nil)
	c := w.connect()
	m := &meter{Conn: read, headed: (&session{g: w.Gateway}).headed}
	read.next = append(webSocketFrame(opBinary, nil), bytes.Repeat(webSocketFrame(opContinuation, nil), 1<<20)...)
	if _, err := io.Copy(io.Discard, m); err == nil || read.given > 8<<10 {
		t.Errorf("read %d bytes of a flood, %v", read.given, err)
	}
	flood := bytes.Repeat(webSocketFrame(opContinuation, nil), 1<<12)
	err := c.write(webSocketFrame(opBinary, nil))
	for sent := 0; err == nil; sent += len(flood) {
		if sent > 64<<20 {
			t.Fatal("64 MiB of empty fragments were taken before a login")
		}
		err = c.write(flood)
	}
	w.counted("refused_total", overLoginFrames, 2)
	w.counted("closes_total", "4005", 1)
}

// readBytes is a connection that only gives bytes.
type readBytes struct {
	net.Conn
	next  []byte
	given int
}

func (r *readBytes) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), 4<<10)], r.next)
	if r.next = r.next[n:]; n == 0 {
		return 0, io.EOF
	}
	r.given += n
	return n, nil
}

// TestLimitOfFragments: a message of a session may come in so many fragments, and the small ones of them count as
// frames.
func TestLimitOfFragments(t *testing.T) {
	const limit = 8
	few := func(c *Config) { c.Fragments = limit }
	request := func(c *device) []byte {
		return c.encode(&wire.Frame{Type: wire.FrameRequest, ID: 7, Method: wire.MethodCount})
	}
	w := newWorld(t, nil, few)
	c := w.login(phone, false)
	for range 3 { // each message is counted alone
		if err := c.write(fragmented(request(c), limit)); err != nil {
			t.Fatal(err)
		}
		c.body(wire.FrameAnswer, nil)
	}
	_ = c.write(fragmented(request(c), limit+1))
	c.wantClose(wire.CloseFlood)
	w.counted("refused_total", overFragments, 1)

	w = newWorld(t, nil, few, func(c *Config) { c.FrameRate = Rate{Burst: 10, Every: time.Hour} })
	c = w.login(phone, false)
	large := c.encode(&wire.Frame{Type: wire.FrameRequest, ID: 8, Method: wire.MethodPutBlob, Body: c.encode(
		&wire.PutBlobRequest{Conversation: "conversation-one", Data: make([]byte, 5*fullFragment)})})
	for range 3 { // four full fragments are free: 3 for the requests, 3 for their last fragments
		b := webSocketFrame(opBinary, large[:fullFragment])
		for i := 1; i < 5; i++ {
			b = append(b, webSocketFrame(0, large[i*fullFragment:(i+1)*fullFragment])...)
		}
		if err := c.write(append(b, webSocketFrame(bitFinal, large[5*fullFragment:])...)); err != nil {
			t.Fatal(err)
		}
		c.body(wire.FrameAnswer, nil)
	}
	if err := c.write(fragmented(request(c), 4)); err != nil { // 3 small ones and the request
		t.Fatal(err)
	}
	c.body(wire.FrameAnswer, nil)
	_ = c.write(webSocketFrame(bitFinal|opPong, nil))
	c.wantClose(wire.CloseFlood)
	w.counted("refused_total", overFrames, 1)
}

// TestUnnegotiatedExtensionsRefused: compression and text end the session (RFC 6455 §5.2: a bit that no negotiated
// extension defines fails the connection).
func TestUnnegotiatedExtensionsRefused(t *testing.T) {
	w := newWorld(t, nil)
	d := w.dialer()
	d.EnableCompression = true
	conn, r, err := d.Dial(w.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if e := r.Header.Get("Sec-WebSocket-Extensions"); e != "" {
		t.Errorf("negotiated %q", e)
	}
	for name, first := range map[string]byte{"compressed": bitFinal | bitRSV1 | opBinary, "text": bitFinal | opText, "opcode 3": bitFinal | 3} {
		c := w.login(phone, false)
		if err := c.write(webSocketFrame(first, c.encode(&wire.Frame{Type: wire.FrameRequest, ID: 7, Method: wire.MethodCount}))); err != nil {
			t.Fatal(err)
		}
		if _, code := c.closes(); code != wire.CloseMalformed && code != 1002 {
			t.Errorf("%s: closed with %d", name, code)
		}
	}
}

// TestMeterReadsAnyCut: headers are the same however the bytes are cut.
func TestMeterReadsAnyCut(t *testing.T) {
	var stream []byte
	var want []header
	for i, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 0} {
		final := i%2 == 0
		h := header{opcode: byte(i), final: final, size: uint64(n)}
		first := byte(i)
		if final {
			first |= bitFinal
		}
		stream = append(stream, webSocketFrame(first, make([]byte, n))...)
		want = append(want, h)
	}
	stream = append(stream, bitFinal|opBinary, 5) // without a mask, as the library will refuse it
	stream = append(stream, "hello"...)
	want = append(want, header{opcode: opBinary, final: true, size: 5})
	for name, cut := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader} {
		var got []header
		m := &meter{Conn: readConn{r: cut(bytes.NewReader(stream))}, headed: func(h header) error { got = append(got, h); return nil }}
		if b, err := io.ReadAll(m); err != nil || !bytes.Equal(b, stream) || !reflect.DeepEqual(got, want) || m.taken() != len(stream) || m.taken() != 0 {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

// readConn is a connection that only gives what a reader has.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// FuzzMeter: no bytes make the meter fail by itself, and no cut changes what it reports.
func FuzzMeter(f *testing.F) {
	f.Add(webSocketFrame(bitFinal|opBinary, []byte("x")), 1)
	f.Add(webSocketFrame(opContinuation, make([]byte, 70000)), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		headers := func(parts ...[]byte) (got []header) {
			m := &meter{headed: func(h header) error { got = append(got, h); return nil }}
			for _, p := range parts {
				if err := m.parse(p); err != nil {
					t.Fatal(err)
				}
			}
			return got
		}
		cut = min(max(cut, 0), len(b))
		if whole, parts := headers(b), headers(b[:cut], b[cut:]); !reflect.DeepEqual(whole, parts) {
			t.Errorf("%v, cut at %d: %v", whole, cut, parts)
		}
	})
}

// TestLimitOfHTTPRate: requests over one connection are bounded, whatever path they ask for.
func TestLimitOfHTTPRate(t *testing.T) {
	const burst = 3
	w := newWorld(t, nil, func(c *Config) { c.HTTPRate = Rate{Burst: burst, Every: time.Hour} })
	c, in := w.bare()
	for i, path := range []string{"/healthz", "/v1/organization", "/nothing", "/readyz", "/version"} {
		_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if over := i > burst; (r.StatusCode == http.StatusTooManyRequests) != over || r.Close != over {
			t.Errorf("request %d: %s", i+1, r.Status) // the first one is free
		}
	}
	w.counted("refused_total", overHTTP, 1)
	w.login(phone, false) // connections have a rate of their own
}

// bare opens a TLS connection.
func (w *world) bare() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(w.base, "https://"), &tls.Config{RootCAs: w.roots})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

// TestLimitOfHTTPBody: chunks, which may be of one byte with an extension each, are not read, and neither is a body
// that nothing asks for.
func TestLimitOfHTTPBody(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"enrolment in chunks": {"POST /v1/enrol HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n", 411},
		"chunks for nothing":  {"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
		"a body for nothing":  {"GET /v1/organization HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", 413},
		"a body of a socket":  {"GET /v1/ws HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 413},
	} {
		conn, in := w.bare()
		if _, err := io.WriteString(conn, c.head); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil || r.StatusCode != c.status || !r.Close {
			t.Errorf("%s: %v, %v", name, r, err)
			continue
		}
		chunk := bytes.Repeat([]byte("1;extension=x\r\na\r\n"), 1<<12)
		for sent := 0; err == nil; sent += len(chunk) {
			if sent > 64<<20 {
				t.Fatalf("%s: 64 MiB were taken", name)
			}
			_, err = conn.Write(chunk)
		}
		if errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	w.counted("refused_total", overHTTPBody, 4)
}
