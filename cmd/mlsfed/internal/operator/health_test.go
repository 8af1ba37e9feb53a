package operator

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthReportsTheGateway(t *testing.T) {
	ready := true
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if !ready {
			http.Error(w, "the node's certificate has ended", http.StatusServiceUnavailable)
		}
	}))
	address := s.Listener.Addr().String()
	if err := askReady(t.Context(), address); err != nil {
		t.Errorf("a node that can serve: %v", err)
	}
	if err := askReady(t.Context(), address, "n1.a.example", "chat.a.example"); err == nil || !strings.Contains(err.Error(), "another node answers") {
		t.Errorf("another node: %v", err)
	}
	if err := askReady(t.Context(), address, "n1.a.example", "example.com"); err != nil { // in the certificate
		t.Errorf("the public name: %v", err)
	}
	_, port, _ := strings.Cut(address, ":")
	if err := askReady(t.Context(), ":"+port); err != nil {
		t.Errorf("a gateway that listens on all addresses: %v", err)
	}
	ready = false
	if err := askReady(t.Context(), address); err == nil || !strings.Contains(err.Error(), "certificate has ended") {
		t.Errorf("a node that cannot serve: %v", err)
	}
	s.Close()
	if err := askReady(t.Context(), address); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("no node: %v", err)
	}
}
