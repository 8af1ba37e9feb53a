package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// Issuer lets devices enrol by an OpenID Connect issuer.
type Issuer interface {
	// Issuer is what a client needs to ask the issuer for a token. wire.NotFound if there is none.
	Issuer() (*wire.Issuer, error)
	// BeginFlow begins the device authorization grant for a key.
	BeginFlow(ctx context.Context, q *wire.FlowRequest) (*wire.FlowAnswer, error)
	// PollFlow asks what has become of it.
	PollFlow(ctx context.Context, q *wire.FlowPoll) (*wire.FlowState, error)
}

// Paths of enrolment by an issuer, and of what an identity provider says of users.
const (
	flowPath      = "/v1/flow"
	pollPath      = "/v1/flow/poll"
	provisionPath = "/scim/v2/"
)

// maxProvision bounds the body of an identity provider's request, in bytes.
const maxProvision = 64 << 10

// takesBody reports whether a path takes a body.
func (g *Gateway) takesBody(path string) bool {
	switch path {
	case enrolPath:
		return true
	case flowPath, pollPath:
		return g.cfg.Issuer != nil
	}
	return g.cfg.Provision != nil && strings.HasPrefix(path, provisionPath)
}

// handleIssuer adds what concerns the login service.
func (g *Gateway) handleIssuer(mux *http.ServeMux) {
	if g.cfg.WellKnown != nil {
		mux.HandleFunc("GET /.well-known/mlsfed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(g.cfg.WellKnown())
		})
	}
	if g.cfg.Provision != nil {
		mux.HandleFunc(provisionPath, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxProvision)
			seen := &statusWriter{ResponseWriter: w}
			g.cfg.Provision.ServeHTTP(seen, r)
			if seen.status == http.StatusUnauthorized {
				visitOf(r.Context()).Failed()
			} else {
				visitOf(r.Context()).Proved()
			}
		})
	}
	if g.cfg.Issuer == nil {
		return
	}
	mux.HandleFunc("GET /v1/issuer", func(w http.ResponseWriter, r *http.Request) {
		g.crossOrigin(w, r)
		i, err := g.cfg.Issuer.Issuer()
		if err != nil {
			e := wire.AsError("issuer", err)
			g.reply(w, statusOf(e.Code), e)
			return
		}
		g.reply(w, http.StatusOK, i)
	})
	mux.HandleFunc("POST "+flowPath, func(w http.ResponseWriter, r *http.Request) {
		if !g.mayEnrol(clientOf(r, g.cfg.TrustedProxies)) {
			g.metrics.over(overEnrol)
			g.refuse(w, r, "flow", wire.Errorf(wire.Busy, "flow", "too many logins from this address: come back later"))
			return
		}
		posted(g, w, r, "flow", g.cfg.Issuer.BeginFlow)
	})
	mux.HandleFunc("POST "+pollPath, func(w http.ResponseWriter, r *http.Request) { posted(g, w, r, "flow", g.cfg.Issuer.PollFlow) })
}

// posted serves a request with a CBOR body.
func posted[Q, A any](g *Gateway, w http.ResponseWriter, r *http.Request, op string, serve func(context.Context, *Q) (*A, error)) {
	q := new(Q)
	if err := g.readBody(w, r, op, q); err != nil {
		g.refuse(w, r, op, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.RequestWait)
	defer cancel()
	a, err := serve(ctx, q)
	if err != nil {
		g.refuse(w, r, op, err)
		return
	}
	g.metrics.requests.WithLabelValues(op, "").Inc()
	g.crossOrigin(w, r)
	g.reply(w, http.StatusOK, a)
}

// readBody decodes the body of a request that enrols.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request, op string, q any) error {
	if !g.allowed(r) {
		g.metrics.over(overOrigin)
		return wire.Errorf(wire.Denied, op, "pages of this origin may not enrol")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(g.cfg.MaxEnrol)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		g.metrics.over(overEnrolBody)
		return wire.Errorf(wire.TooLarge, op, "a request of more than %d bytes", g.cfg.MaxEnrol)
	case err != nil:
		return wire.Errorf(wire.Malformed, op, "the request broke off")
	}
	return wire.Decode(b, g.cfg.MaxEnrol, q)
}

// refuse answers a request of somebody who has not logged in with an error.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, op string, err error) {
	g.crossOrigin(w, r)
	if !isWire(err) {
		g.cfg.Log.Error("a request failed", "method", op, "error", err)
	}
	if refusal(err) {
		visitOf(r.Context()).Failed()
	}
	e := wire.AsError(op, err)
	g.metrics.requests.WithLabelValues(op, string(e.Code)).Inc()
	if e.Code == wire.Busy || e.Code == wire.Unavailable {
		w.Header().Set("Retry-After", "10")
	}
	g.reply(w, statusOf(e.Code), e)
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
