package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mlsfed/mlsfed/wire"
)

// contentType is that of all bodies but /version and the texts of the health checks.
const contentType = "application/cbor"

const enrolPath = "/v1/enrol"

// Handler serves /v1/ws, /v1/enrol, /v1/organization, /healthz, /readyz and /version, with Config.Issuer /v1/issuer,
// /v1/flow and /v1/flow/poll, with Config.Provision /scim/v2/, and the rest with Config.Web. Serve uses it. Elsewhere a session lives in the goroutine of its request, and ends with its
// connection or with Disconnect.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", g.serveSocket)
	mux.HandleFunc("POST "+enrolPath, g.serveEnrol)
	mux.HandleFunc("GET /v1/organization", g.serveOrganization)
	mux.HandleFunc("OPTIONS /v1/", g.servePreflight)
	g.handleIssuer(mux)
	g.health(mux, func(error) string { return "not ready" }, nil)
	if g.cfg.Web != nil {
		mux.Handle("/", g.cfg.Web)
	}
	return g.bounded(mux)
}

// bounded bounds the requests of an address, what a request may bring besides its headers, and how long its body
// and the answer may take.
func (g *Gateway) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, limit, text := g.refuses(r); status != 0 {
			g.metrics.over(limit)
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "10")
			}
			w.Header().Set("Connection", "close") // the body is not read
			plain(w, status, text)
			return
		}
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Now().Add(g.cfg.FrameWait)) // of a session it is lifted again
		_ = c.SetWriteDeadline(time.Now().Add(g.cfg.RequestWait + g.cfg.WriteWait))
		h.ServeHTTP(w, r)
	})
}

// refuses says which limit a request is over before anything of it is served; status 0 is none. A body is taken by
// what enrols and what provisions alone, and whole: chunks may be of one byte each, with extensions and trailers (RFC 9112 §7.1).
func (g *Gateway) refuses(r *http.Request) (status int, limit, text string) {
	switch {
	case !paidAsConnection(r.Context()) && !g.requests.Take(clientOf(r, g.cfg.TrustedProxies), g.cfg.Clock.Now()):
		return http.StatusTooManyRequests, overHTTP, "too many requests from this address: come back later"
	case len(r.TransferEncoding) > 0 || r.ContentLength < 0:
		return http.StatusLengthRequired, overHTTPBody, "a body is taken with a Content-Length only, not in chunks"
	case r.ContentLength > 0 && !g.takesBody(r.URL.Path):
		return http.StatusRequestEntityTooLarge, overHTTPBody, "this path takes no body"
	}
	return 0, "", ""
}

// AdminHandler serves /metrics, /debug/pprof/, /healthz, /readyz and /version: for the operator alone.
func (g *Gateway) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	g.health(mux, error.Error, g.cfg.Notes)
	if g.cfg.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(g.cfg.Gatherer, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// health serves what monitors ask. reason returns why the node is not ready, nil if it is; notes, which may be nil,
// follow if it is.
func (g *Gateway) health(mux *http.ServeMux, reason func(error) string, notes func() []string) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if g.stopping.Load() > 0 {
			plain(w, http.StatusServiceUnavailable, "stopping")
		} else if err := g.cfg.Ready(); err != nil {
			plain(w, http.StatusServiceUnavailable, reason(err))
		} else if notes != nil {
			plain(w, http.StatusOK, strings.Join(append([]string{"ok"}, notes()...), "\n"))
		} else {
			plain(w, http.StatusOK, "ok")
		}
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(g.cfg.Version)
	})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

// serveSocket opens a session.
func (g *Gateway) serveSocket(w http.ResponseWriter, r *http.Request) {
	if !g.allowed(r) {
		g.metrics.over(overOrigin)
		plain(w, http.StatusForbidden, "pages of this origin may not connect")
		return
	}
	address := clientOf(r, g.cfg.TrustedProxies)
	over := g.registry.enter(address, g.cfg.MaxSessions, g.cfg.MaxOfAddress)
	conn, err := g.upgrade(w, r)
	if err != nil {
		if over == "" {
			g.registry.leave(address)
		}
		return // the upgrader has answered
	}
	s := newSession(g, conn, address)
	s.visit = visitOf(r.Context())
	s.hasPlace = over == ""
	switch {
	case over != "":
		g.metrics.over(over)
		s.end(wire.CloseTooMany, wire.Errorf(wire.Busy, "connect", "the node has as many sessions as it may, or as one address may: come back later"))
	case conn.Subprotocol() != wire.Subprotocol:
		s.end(wire.CloseSubprotocol, wire.Errorf(wire.Version, "connect", "the client did not offer the subprotocol %s", wire.Subprotocol))
	}
	served := runOf(r.Context())
	if served == nil {
		s.run()
		return
	}
	if !served.add(s) {
		s.end(wire.CloseStopping, nil)
		s.run() // it only closes
		return
	}
	// Not in the goroutine of the request, which keeps its buffers as long as it lives.
	go func() {
		defer served.remove(s)
		s.run()
	}()
}

func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	u := websocket.Upgrader{
		HandshakeTimeout: g.cfg.HeaderWait,
		ReadBufferSize:   readBuffer,
		WriteBufferSize:  idleWriteBuffer,
		WriteBufferPool:  &g.writes,
		Subprotocols:     []string{wire.Subprotocol},
		CheckOrigin:      func(*http.Request) bool { return true }, // was checked
	}
	return u.Upgrade(metered{w}, r, nil)
}

// allowed says whether the page that a request comes from may make it. Without an Origin it is no page.
func (g *Gateway) allowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || g.listed(origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

func (g *Gateway) listed(origin string) bool {
	return slices.Contains(g.cfg.Origins, "*") || slices.Contains(g.cfg.Origins, origin)
}

// crossOrigin lets pages of the origins in the configuration read the answer.
func (g *Gateway) crossOrigin(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" && g.listed(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Add("Vary", "Origin")
	}
}

func (g *Gateway) servePreflight(w http.ResponseWriter, r *http.Request) {
	g.crossOrigin(w, r)
	w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
	w.Header().Set("Access-Control-Allow-Headers", "Content-Type")
	w.WriteHeader(http.StatusNoContent)
}

func (g *Gateway) serveOrganization(w http.ResponseWriter, r *http.Request) {
	g.crossOrigin(w, r)
	g.reply(w, http.StatusOK, &g.cfg.Organization)
}

func (g *Gateway) serveEnrol(w http.ResponseWriter, r *http.Request) {
	answer, err := g.enrol(w, r)
	if err != nil {
		g.refuse(w, r, "enrol", err)
		return
	}
	visitOf(r.Context()).Proved()
	g.metrics.requests.WithLabelValues("enrol", "").Inc()
	g.crossOrigin(w, r)
	g.reply(w, http.StatusOK, answer)
}

func (g *Gateway) enrol(w http.ResponseWriter, r *http.Request) (*wire.ChainAnswer, error) {
	if !g.mayEnrol(clientOf(r, g.cfg.TrustedProxies)) {
		g.metrics.over(overEnrol)
		return nil, wire.Errorf(wire.Busy, "enrol", "too many enrolments from this address: come back later")
	}
	q := new(wire.EnrolRequest)
	if err := g.readBody(w, r, "enrol", q); err != nil {
		return nil, err
	}
	return g.cfg.Devices.Enrol(r.Context(), q)
}

func (g *Gateway) mayEnrol(a netip.Addr) bool { return g.enrolments.Take(a, g.cfg.Clock.Now()) }

func (g *Gateway) reply(w http.ResponseWriter, status int, v any) {
	b, err := wire.Encode(v)
	if err != nil {
		g.cfg.Log.Error("an answer cannot be encoded", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// statusOf is the HTTP status that says the same as a code, as far as one does.
func statusOf(c wire.Code) int {
	switch c {
	case wire.Malformed, wire.Version, wire.Invalid:
		return http.StatusBadRequest
	case wire.TooLarge:
		return http.StatusRequestEntityTooLarge
	case wire.Denied, wire.Forged, wire.NotReplica, wire.NotAdmitted:
		return http.StatusForbidden
	case wire.NotFound, wire.NoneLeft, wire.UnknownConversation, wire.BlobMissing:
		return http.StatusNotFound
	case wire.Exists, wire.Closed, wire.StaleEpoch, wire.SubmissionReused, wire.TooManyHeads, wire.Quota:
		return http.StatusConflict
	case wire.Busy:
		return http.StatusTooManyRequests
	case wire.Unavailable, wire.NoQuorum:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
