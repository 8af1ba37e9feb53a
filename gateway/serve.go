package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/mlsfed/mlsfed/internal/admission"
	"github.com/mlsfed/mlsfed/wire"
)

// run is one call of Serve: what it has to wait for.
type run struct {
	mu       sync.Mutex
	stopped  bool
	sessions map[*session]struct{}
	all      sync.WaitGroup // of sessions, and of handlers
}

type runKey struct{}

// runOf is the call of Serve that a request came by, nil without one.
func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// enter says whether more may be begun, and has Serve wait for it.
func (r *run) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.all.Add(1)
	}
	return !r.stopped
}

// add is enter for a session.
func (r *run) add(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.all.Add(1)
	r.sessions[s] = struct{}{}
	return true
}

func (r *run) remove(s *session) {
	r.mu.Lock()
	delete(r.sessions, s)
	r.mu.Unlock()
	r.all.Done()
}

// stop lets no more begin, and returns the sessions.
func (r *run) stop() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	list := make([]*session, 0, len(r.sessions))
	for s := range r.sessions {
		list = append(list, s)
	}
	return list
}

// Serve serves devices on a listener, which it closes, until ctx ends. Then it takes no more, lets
// requests under way end for Config.DrainWait, closes its sessions with wire.CloseStopping, and returns nil
// when all its goroutines have ended. t is of TLSFiles or ACME; nil serves without TLS, for a proxy in
// front. It can be called for several listeners; limits count them together.
func (g *Gateway) Serve(ctx context.Context, l net.Listener, t *tls.Config) error {
	r := &run{sessions: make(map[*session]struct{})}
	server := g.server(r.handler(g.Handler()))
	server.BaseContext = func(net.Listener) context.Context {
		return context.WithValue(context.WithoutCancel(ctx), runKey{}, r)
	}
	server.ConnContext = withSocket
	guarded := net.Listener(&guard{Listener: l, g: g})
	if t != nil {
		guarded = tls.NewListener(guarded, overHTTP1(t))
	}
	return g.until(ctx, server, guarded, r)
}

// ServeAdmin serves AdminHandler without TLS on a listener, which it closes, until ctx ends.
func (g *Gateway) ServeAdmin(ctx context.Context, l net.Listener) error {
	r := &run{}
	return g.until(ctx, g.server(r.handler(g.AdminHandler())), l, r)
}

func (g *Gateway) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: g.cfg.HeaderWait,
		IdleTimeout:       g.cfg.KeepAliveWait,
		MaxHeaderBytes:    g.cfg.MaxHeader,
		ErrorLog:          slog.NewLogLogger(g.cfg.Log.Handler(), slog.LevelDebug), // clients' faults
	}
}

// handler has Serve wait for the requests of h.
func (r *run) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !r.enter() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		defer r.all.Done()
		visitOf(q.Context())
		h.ServeHTTP(w, q)
	})
}

// until serves until ctx ends or the listener fails.
func (g *Gateway) until(ctx context.Context, server *http.Server, l net.Listener, r *run) error {
	failed := make(chan error, 1)
	r.all.Go(func() { failed <- server.Serve(l) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("gateway: serve on %v: %w", l.Addr(), err)
	}
	g.stopping.Add(1)
	defer g.stopping.Add(-1)
	g.drain(ctx, server, r)
	if cerr := l.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) && err == nil {
		err = fmt.Errorf("gateway: close %v: %w", l.Addr(), cerr)
	}
	return err
}

// drain ends a run: what is under way has DrainWait to end.
func (g *Gateway) drain(ctx context.Context, server *http.Server, r *run) {
	sessions := r.stop()
	for _, s := range sessions {
		s.drainRequests()
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.DrainWait)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.all.Wait()
	}()
	if err := server.Shutdown(wait); err != nil {
		_ = server.Close()
	}
	select {
	case <-ended:
	case <-wait.Done():
	}
	for _, s := range sessions {
		s.end(wire.CloseStopping, nil)
	}
	<-ended
}

// guard bounds the connections of a listener before anything is spent on them: their number, and their
// rate for each client address. One that is over is closed without an answer.
type guard struct {
	net.Listener
	g *Gateway
}

func (l *guard) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		visit, over := l.over(c)
		if over != "" {
			l.g.metrics.over(over)
			admission.Abort(c)
			continue
		}
		return &socket{Conn: c, g: l.g, visit: visit}, nil
	}
}

// over says which limit a connection is over, and counts it if none. A connection of a trusted proxy carries many
// clients, so that admission control does not count it.
func (l *guard) over(c net.Conn) (visit *admission.Connection, limit string) {
	cfg := &l.g.cfg
	if a := parseAddress(c.RemoteAddr().String()); !trusted(cfg.TrustedProxies, a) {
		if !l.g.connects.Take(admission.Network(a), cfg.Clock.Now()) {
			return nil, overConnects
		}
		var why admission.Reason
		if visit, why = l.g.admission.Open(admission.Network(a)); why != "" {
			return nil, string(why)
		}
	}
	if l.g.sockets.Add(1) > int64(cfg.MaxSockets) {
		l.g.sockets.Add(-1)
		visit.Through()
		return nil, overSockets
	}
	return visit, ""
}

// socket counts itself until it is closed. One that ends before a request has come over it has failed: what is
// no TLS, a handshake that breaks off or stalls, what is no HTTP.
type socket struct {
	net.Conn
	g     *Gateway
	visit *admission.Connection // nil for a proxy's
	asked atomic.Bool
	first atomic.Bool // a request was admitted by the rate of connections
	once  sync.Once
}

func (s *socket) Close() error {
	s.once.Do(func() {
		s.g.sockets.Add(-1)
		if !s.asked.Load() && s.g.stopping.Load() == 0 {
			s.visit.Failed()
		}
		s.visit.Through()
	})
	return s.Conn.Close()
}

type socketKey struct{}

// withSocket puts the socket of a connection into the context of its requests.
func withSocket(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, socketKey{}, c)
}

// visitOf is the visit that a request belongs to, which has now come through; nil without one.
func visitOf(ctx context.Context) *admission.Connection {
	s, ok := ctx.Value(socketKey{}).(*socket)
	if !ok {
		return nil
	}
	s.asked.Store(true)
	s.visit.Through()
	return s.visit
}

// paidAsConnection says, once of each connection, that the rate of connections has paid for a request: the first one,
// if the client has connected without a proxy.
func paidAsConnection(ctx context.Context) bool {
	s, ok := ctx.Value(socketKey{}).(*socket)
	return ok && s.visit != nil && s.first.CompareAndSwap(false, true)
}

// CloseWrite ends what is sent, where the socket can do so alone.
func (s *socket) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// idleWriteBuffer is the size of a buffer for writing, which sessions share: larger frames go past it.
const idleWriteBuffer = 4 << 10

// readBuffer is what each session keeps for reading, in bytes.
const readBuffer = 1 << 10

// writeBuffers is a websocket.BufferPool.
type writeBuffers struct{ pool sync.Pool }

func (b *writeBuffers) Get() any  { return b.pool.Get() }
func (b *writeBuffers) Put(v any) { b.pool.Put(v) }
