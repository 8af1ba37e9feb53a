package federation

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Paths and types of calls over HTTP.
const (
	callPath    = "/v1/"
	contentType = "application/cbor"
	errorType   = "application/vnd.mlsfed.error+cbor" // of an answer that is a wire.Error
)

// idleCalls is how long a connection without calls is kept: the next call is spared a handshake.
const idleCalls = 10 * time.Minute

// callServer serves the calls of other nodes. Connections come to it with their handshake done.
type callServer struct {
	f        *Federation
	http     *http.Server
	accepted *connListener

	bodies sync.Pool // of *[]byte

	mu      sync.Mutex // guards what follows
	stopped bool
	serving sync.WaitGroup // calls
}

func newCallServer(f *Federation) *callServer {
	s := &callServer{f: f, accepted: newConnListener()}
	s.bodies.New = func() any { return new([]byte) }
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // over TLS of this package, which a meter covers
	t := f.cfg.Timers
	s.http = &http.Server{
		Handler:      s,
		Protocols:    protocols,
		ReadTimeout:  t.Stall, // of one call's body
		WriteTimeout: t.Handle + t.Stall,
		IdleTimeout:  idleCalls, // without it, ReadTimeout would count
		ErrorLog:     slog.NewLogLogger(f.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: f.cfg.Limits.UnderWay,
			SendPingTimeout:      t.KeepAlive,
			PingTimeout:          2 * t.KeepAlive,
			WriteByteTimeout:     t.Stall,
		},
		MaxHeaderBytes: 8 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, c.(*meter).node)
		},
	}
	return s
}

// callerKey is the key of the authenticated node in the context of its calls.
type callerKey struct{}

// run serves until ctx ends.
func (s *callServer) run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.accepted) }()
	<-ctx.Done()
	err := s.http.Close()
	if serveErr := <-ended; serveErr != nil && !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// serve gives the connection to the HTTP server, which closes it.
func (s *callServer) serve(ctx context.Context, c *peerConn) {
	select {
	case s.accepted.queue <- newMeter(s.f, c, false):
	case <-ctx.Done():
		c.below.Close()
	}
}

// connListener hands authenticated connections to the HTTP server as if it had accepted them.
type connListener struct {
	queue  chan *meter
	closed chan struct{}
	once   sync.Once
}

func newConnListener() *connListener {
	return &connListener{queue: make(chan *meter), closed: make(chan struct{})}
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *connListener) Addr() net.Addr { return &net.TCPAddr{} }

// begin counts a call for wait, unless the server is stopping.
func (s *callServer) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.serving.Add(1)
	return true
}

// wait prevents further calls and waits for those under way.
func (s *callServer) wait() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.serving.Wait()
}

// ServeHTTP serves one call.
func (s *callServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		s.fail(w, wire.Errorf(wire.Unavailable, "call", "the node is stopping"))
		return
	}
	defer s.serving.Done()
	from, _ := r.Context().Value(callerKey{}).(wire.NodeID)
	if !s.f.verifier.Admits(from.Organization()) {
		http.Error(w, "", http.StatusForbidden) // removed a moment ago: watch is about to close the connection
		return
	}
	method, answer, err := s.call(r, from)
	if err != nil {
		var e *wire.Error
		if !errors.As(err, &e) {
			s.f.cfg.Logger.Error("call failed", "node", from, "method", method, "error", err)
		}
		s.f.metrics.served.WithLabelValues(method, code(err)).Inc()
		s.fail(w, wire.AsError(method, err))
		return
	}
	s.f.metrics.served.WithLabelValues(method, "ok").Inc()
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(answer) // the other side may have closed the connection
}

func (s *callServer) fail(w http.ResponseWriter, e *wire.Error) {
	b, err := wire.Encode(e)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", errorType)
	w.WriteHeader(httpStatus(e.Code))
	_, _ = w.Write(b)
}

// httpStatus returns a status for tools that know only HTTP. Nodes use the code in the body.
func httpStatus(c wire.Code) int {
	switch c {
	case wire.Busy, wire.Quota:
		return http.StatusTooManyRequests
	case wire.TooLarge:
		return http.StatusRequestEntityTooLarge
	case wire.Unavailable, wire.NoQuorum:
		return http.StatusServiceUnavailable
	case wire.Internal:
		return http.StatusInternalServerError
	}
	return http.StatusUnprocessableEntity
}

// unknownMethod is the label of calls that name none of the node's methods.
const unknownMethod = "unknown"

// call admits, reads and answers one call. It returns a method that is fit for a label.
func (s *callServer) call(r *http.Request, from wire.NodeID) (method string, answer []byte, err error) {
	name, ok := strings.CutPrefix(r.URL.Path, callPath)
	handle := s.f.cfg.Handlers[wire.Method(name)]
	if !ok || handle == nil {
		return unknownMethod, nil, wire.Errorf(wire.Malformed, "call", "this node has no method %.40q", name)
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != contentType {
		return name, nil, wire.Errorf(wire.Malformed, name, "wanted a POST of %s", contentType)
	}
	limits := s.f.cfg.Limits
	if r.ContentLength < 0 || r.ContentLength > int64(limits.Request) {
		s.f.lines.warn("call refused", "node", from, "method", name, "reason", "too_large", "bytes", r.ContentLength)
		return name, nil, wire.Errorf(wire.TooLarge, name, "a body of %d bytes, wanted its length and at most %d", r.ContentLength, limits.Request)
	}
	b := s.f.budgets.of(from.Organization())
	if err := b.call(s.f.cfg.Clock.Now(), int(r.ContentLength), from); err != nil {
		s.f.lines.warn("call refused", "node", from, "method", name, "reason", "rate", "error", err)
		return name, nil, err
	}
	select {
	case b.working <- struct{}{}:
		defer func() { <-b.working }()
	default:
		s.f.lines.warn("call refused", "node", from, "method", name, "reason", "too_many")
		return name, nil, wire.Errorf(wire.Busy, name, "%d calls of %s are under way: retry later", limits.UnderWay, from.Organization())
	}
	space := s.bodies.Get().(*[]byte)
	defer s.bodies.Put(space)
	body, err := s.body(r, from, name, space)
	if err != nil {
		return name, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.f.cfg.Timers.Handle)
	defer cancel()
	v, err := handle(ctx, from, body)
	if err != nil || v == nil {
		if code(err) == string(wire.Malformed) {
			s.f.lines.warn("call refused", "node", from, "method", name, "reason", "malformed", "error", err)
		}
		return name, nil, err
	}
	answer, err = wire.Encode(v)
	return name, answer, err
}

// body reads a call's body, whose length is known and allowed, into space, which grows.
func (s *callServer) body(r *http.Request, from wire.NodeID, name string, space *[]byte) ([]byte, error) {
	if int64(cap(*space)) < r.ContentLength {
		*space = make([]byte, r.ContentLength)
	}
	b := (*space)[:r.ContentLength]
	_, err := io.ReadFull(r.Body, b)
	if err == nil {
		return b, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.f.lines.warn("call cut", "node", from, "method", name, "reason", cutStalled)
		s.f.metrics.cut.WithLabelValues(cutStalled).Inc()
		return nil, wire.Errorf(wire.Unavailable, name, "the body did not come whole within %v", s.f.cfg.Timers.Stall)
	}
	return nil, wire.Errorf(wire.Malformed, name, "the body ended early: %v", err)
}
