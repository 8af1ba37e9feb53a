package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/wire"
)

// TestIssuerThatIsAway checks that a node whose login service is down continues to serve, reports this to clients
// that ask for the service, and uses the service when it is back.
func TestIssuerThatIsAway(t *testing.T) {
	var s *httptest.Server
	var up atomic.Bool
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys", "authorization_endpoint": s.URL + "/a", "token_endpoint": s.URL + "/t"})
	}))
	defer s.Close()
	cfg := config.Default()
	cfg.OIDC.URL, cfg.OIDC.Audience = s.URL, "mlsfed"
	issuer, err := issuerOf(&cfg.OIDC)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{cfg: cfg, log: slog.New(slog.DiscardHandler), now: time.Now, issuer: issuer, devices: new(devices)}
	if _, err := n.devices.Issuer(); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("without an issuer: %v", err)
	}
	n.devices.issuer.configured = true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	if err := n.askIssuer(ctx, issuerStart); err == nil {
		t.Error("an issuer that is away answers")
	}
	go func() { ended <- n.useIssuer(ctx) }()
	if _, err := n.devices.Issuer(); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("while it is away: %v", err)
	}
	up.Store(true)
	for {
		if got, err := n.devices.Issuer(); err == nil {
			if got.URL != s.URL || got.Client != "mlsfed" {
				t.Errorf("issuer %+v", got)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
