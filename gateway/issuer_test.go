package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// scripted is a login service: the whole of one is tested with a node (test.TestLoginByCode).
type scripted struct{ issuer *wire.Issuer }

func (s *scripted) Issuer() (*wire.Issuer, error) {
	if s.issuer == nil {
		return nil, wire.Errorf(wire.NotFound, "issuer", "none")
	}
	return s.issuer, nil
}

func (s *scripted) BeginFlow(_ context.Context, q *wire.FlowRequest) (*wire.FlowAnswer, error) {
	return &wire.FlowAnswer{Flow: wire.Token{1}, Code: string(q.Key), URL: "https://login.a.example", Interval: 5000}, nil
}

func (s *scripted) PollFlow(_ context.Context, q *wire.FlowPoll) (*wire.FlowState, error) {
	if q.Flow != (wire.Token{1}) {
		return nil, wire.Errorf(wire.Denied, "flow", "not known")
	}
	return &wire.FlowState{User: "mimi://a.example/u/alice"}, nil
}

// TestIssuerPaths: what concerns a login service is there only where there is one, and within the limits of enrolment.
func TestIssuerPaths(t *testing.T) {
	none := newWorld(t, nil)
	for _, path := range []string{"/v1/flow", "/v1/flow/poll", "/scim/v2/Users"} {
		if r, _ := none.call("POST", path, []byte{1}); r.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s without a login service takes a body: %s", path, r.Status)
		}
	}
	if r, _ := none.call("GET", "/.well-known/mlsfed", nil); r.StatusCode != http.StatusNotFound {
		t.Errorf("a place that nobody has named: %s", r.Status)
	}
	s := new(scripted)
	w := newWorld(t, nil, func(c *Config) {
		c.Issuer, c.EnrolRate = s, Rate{Burst: 2, Every: time.Hour}
		c.WellKnown = func() any { return map[string]string{"gateway": "n1.a.example:8443"} }
	})
	decode := func(b []byte, v any) {
		t.Helper()
		if err := wire.Decode(b, wire.MaxError, v); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
	}
	if r, b := w.call("GET", "/.well-known/mlsfed", nil); r.StatusCode != 200 || !strings.Contains(string(b), "n1.a.example:8443") {
		t.Errorf("%s, %s", r.Status, b)
	}
	var refused wire.Error
	r, b := w.call("GET", "/v1/issuer", nil)
	if decode(b, &refused); r.StatusCode != http.StatusNotFound || refused.Code != wire.NotFound {
		t.Errorf("no issuer: %s, %v", r.Status, &refused)
	}
	s.issuer = &wire.Issuer{URL: "https://login.a.example", Client: "mlsfed", Scopes: []string{"openid"}, Claim: "name"}
	var reported wire.Issuer
	r, b = w.call("GET", "/v1/issuer", nil)
	if decode(b, &reported); r.StatusCode != 200 || reported.URL != s.issuer.URL {
		t.Errorf("%s, %+v", r.Status, reported)
	}
	var begun wire.FlowAnswer
	r, b = w.call("POST", "/v1/flow", encoded(t, &wire.FlowRequest{Key: []byte("k")}))
	if decode(b, &begun); r.StatusCode != 200 || begun.Code != "k" {
		t.Errorf("%s, %+v", r.Status, begun)
	}
	var state wire.FlowState
	r, b = w.call("POST", "/v1/flow/poll", encoded(t, &wire.FlowPoll{Flow: wire.Token{1}}))
	if decode(b, &state); r.StatusCode != 200 || state.User == "" {
		t.Errorf("%s, %+v", r.Status, state)
	}
	if r, _ := w.call("POST", "/v1/flow/poll", encoded(t, &wire.FlowPoll{Flow: wire.Token{2}})); r.StatusCode != http.StatusForbidden {
		t.Errorf("another flow: %s", r.Status)
	}
	if r, _ := w.call("POST", "/v1/flow", []byte("nonsense")); r.StatusCode != http.StatusBadRequest {
		t.Errorf("nonsense: %s", r.Status)
	}
	if r, _ := w.call("POST", "/v1/flow", encoded(t, &wire.FlowRequest{Key: []byte("k")})); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("over the rate of enrolments: %s", r.Status)
	}
	w.counted("refused_total", overEnrol, 1)
}

// TestProvisionPaths: an identity provider is served below its path alone, with bodies within their bound.
func TestProvisionPaths(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) {
		c.Provision = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			switch {
			case err != nil:
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			case string(b) == "guess":
				w.WriteHeader(http.StatusUnauthorized)
			default:
				w.WriteHeader(http.StatusTeapot)
			}
		})
	})
	for body, status := range map[string]int{"": http.StatusTeapot, strings.Repeat("x", maxProvision): http.StatusTeapot, strings.Repeat("x", maxProvision+1): http.StatusRequestEntityTooLarge} {
		if r, _ := w.call("PATCH", "/scim/v2/Users/alice", []byte(body)); r.StatusCode != status {
			t.Errorf("a body of %d bytes: %s", len(body), r.Status)
		}
	}
	if r, _ := w.call("POST", "/scim/v1/Users", []byte("x")); r.StatusCode == http.StatusTeapot {
		t.Errorf("another path: %s", r.Status)
	}
	if r, _ := w.call("GET", "/scim/v2/Users", []byte("guess")); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("a guess: %s", r.Status)
	}
}
