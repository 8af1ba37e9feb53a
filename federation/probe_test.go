package federation

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestProbe asks nodes that let this one in, do not, are others, or are not there.
func TestProbe(t *testing.T) {
	a, b := start(t, newOrganization(t, "a.example"), echoing), start(t, newOrganization(t, "b.example"), echoing)
	probe := func(to wire.NodeID, address string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return Probe(ctx, a.id, a.peers, to, address, time.Now)
	}
	want := func(what string, err error, text string) {
		t.Helper()
		if err == nil && text != "" || err != nil && (text == "" || !strings.Contains(err.Error(), text)) {
			t.Errorf("%s: %v, wanted %q", what, err, text)
		}
	}
	want("one that is not admitted here", probe(b.id.Node, b.Address()), "not in the allow-list")
	a.admit(t, b)
	want("one that has not admitted this one", probe(b.id.Node, b.Address()), "may not have admitted")
	b.admit(t, a)
	want("one that has", probe(b.id.Node, b.Address()), "")
	want("another node", probe("n9.b.example", b.Address()), "where n9.b.example was expected")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	want("nobody", probe(b.id.Node, closed.Addr().String()), "is not reached")
}
