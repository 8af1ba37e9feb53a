package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/wire"
)

// answering serves the method "fail" with an error of the test's choice.
func answering(err error) func(*Config) {
	return func(c *Config) {
		echoing(c)
		c.Handlers["fail"] = func(context.Context, wire.NodeID, []byte) (any, error) { return nil, err }
	}
}

// TestErrorsCross holds that an error arrives with its code and all that belongs to it, and that what is
// no wire.Error says nothing of the node.
func TestErrorsCross(t *testing.T) {
	stale := &wire.Error{Code: wire.StaleEpoch, Op: "submit", Text: "too late", Stale: &wire.Stale{Epoch: 7, Head: 9,
		Winner: &wire.Committed{Sequence: 9, Entry: make([]byte, wire.MaxEntry)}}}
	for name, c := range map[string]struct {
		err  error
		want *wire.Error
	}{
		"with its winner": {stale, stale},
		"wrapped":         {fmt.Errorf("around: %w", wire.Errorf(wire.Denied, "x", "no")), wire.Errorf(wire.Denied, "x", "no")},
		"a code":          {wire.NotFound, &wire.Error{Code: wire.NotFound, Op: "fail"}},
		"of the node":     {errors.New("open /secret: no"), wire.AsError("fail", errors.New(""))},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := federate(t, answering(c.err))
			err := a.Call(t.Context(), b.id.Node, "fail", nil, nil)
			if !reflect.DeepEqual(err, c.want) {
				t.Fatalf("got %.300v, wanted %.300v", err, c.want)
			}
			if name == "of the node" && (strings.Contains(err.Error(), "secret") || !b.log.Has("level=ERROR", "call failed", "secret")) {
				t.Errorf("got %v; the node's log should have it", err)
			}
			if n := a.metric(t, "mlsfed_federation_calls_total", "method", "fail", "code", string(c.want.Code)); n != 1 {
				t.Errorf("metric %v", n)
			}
		})
	}
}

// TestCallDeadlines holds who is waited for, and how long.
func TestCallDeadlines(t *testing.T) {
	ended := make(chan error, 1)
	waiting := func(c *Config) {
		echoing(c)
		c.Handlers["wait"] = func(ctx context.Context, _ wire.NodeID, _ []byte) (any, error) {
			<-ctx.Done()
			select {
			case ended <- ctx.Err():
			default: // of a call that was repeated
			}
			return nil, ctx.Err()
		}
	}
	// learns makes a call until one gets as far as the handler: on a busy machine its time may be over before.
	learns := func(call func()) {
		for {
			call()
			select {
			case <-ended:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	t.Run("the caller's federationtest.Patience", func(t *testing.T) {
		a, b := federate(t, waiting)
		learns(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := a.Call(ctx, b.id.Node, "wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("of a call", func(t *testing.T) {
		a, b := federate(t, waiting, func(c *Config) { c.Timers.Call = 50 * time.Millisecond })
		learns(func() {
			if err := a.Call(t.Context(), b.id.Node, "wait", nil, nil); !errors.Is(err, wire.Unavailable) {
				t.Errorf("got %v", err)
			}
		})
		if err := ask(t.Context(), a, b.id.Node, "hello"); err != nil {
			t.Errorf("another method is not to suffer: %v", err)
		}
	})
	t.Run("of a handler", func(t *testing.T) {
		a, b := federate(t, waiting, func(c *Config) { c.Timers.Handle = 50 * time.Millisecond })
		select {
		case <-ended: // of a call that was repeated above
		default:
		}
		if err := a.Call(t.Context(), b.id.Node, "wait", nil, nil); !errors.Is(err, wire.Internal) {
			t.Errorf("got %v", err)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCallNobody holds what a call to nobody says.
func TestCallNobody(t *testing.T) {
	a := start(t, newOrganization(t, "a.example"))
	b := start(t, newOrganization(t, "b.example"))
	if err := a.Call(t.Context(), "n1.b.example", "echo", nil, nil); !errors.Is(err, wire.NotAdmitted) || !strings.Contains(err.Error(), "not in the allow-list") {
		t.Errorf("not admitted: %v", err)
	}
	if err := a.CallOrganization(t.Context(), "b.example", "echo", nil, nil); !errors.Is(err, wire.NotAdmitted) || !strings.Contains(err.Error(), "not in the allow-list") {
		t.Errorf("not admitted: %v", err)
	}
	a.admit(t, b)
	if err := a.CallOrganization(t.Context(), "b.example", "echo", nil, nil); !errors.Is(err, wire.Unavailable) || !strings.Contains(err.Error(), "no node") {
		t.Errorf("no node known: %v", err)
	}
	if err := a.Call(t.Context(), "B", "echo", nil, nil); !errors.Is(err, wire.Malformed) {
		t.Errorf("no name: %v", err)
	}
	a.admitSeed(t, b)
	err := error(nil)
	federationtest.Eventually(t, "it is said that the other side refuses", func() bool {
		err = a.CallOrganization(t.Context(), "b.example", "echo", nil, nil)
		return errors.Is(err, wire.Unavailable) && strings.Contains(err.Error(), "may not have admitted a.example")
	})
}

// TestCallOrganization holds that another node of the organization is asked when one is down.
func TestCallOrganization(t *testing.T) {
	a, b := federate(t, echoing)
	dir := filepath.Join(t.TempDir(), "n2")
	if err := organization.InitNode(dir, b.id.Authority, organization.InitOptions{Node: "n2.b.example"}); err != nil {
		t.Fatal(err)
	}
	second := start(t, dir, echoing, func(c *Config) { c.seeds = []organization.Seed{{Node: b.id.Node, Address: b.Address()}} })
	if err := second.peers.Add(a.bundle(t, true)); err != nil {
		t.Fatal(err)
	}
	connected(t, a, b, second)
	call := func() error {
		var answer echo
		return a.CallOrganization(t.Context(), "b.example", "echo", &echo{[]byte("x")}, &answer)
	}
	for _, down := range []*node{b, second} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
		down.end()
		if down == b {
			if err := call(); err != nil {
				t.Fatalf("with one node down: %v", err)
			}
		} else if err := call(); !errors.Is(err, wire.Unavailable) {
			t.Fatalf("with both down: %v", err)
		}
	}
}

// TestOrdersOnly holds that a node which says so in its record is not asked for what it does not have.
func TestOrdersOnly(t *testing.T) {
	a, b := federate(t, echoing)
	dir := filepath.Join(t.TempDir(), "n2")
	if err := organization.InitNode(dir, b.id.Authority, organization.InitOptions{Node: "n2.b.example"}); err != nil {
		t.Fatal(err)
	}
	asked := false
	second := start(t, dir, func(c *Config) {
		c.seeds, c.OrdersOnly = []organization.Seed{{Node: b.id.Node, Address: b.Address()}}, true
		c.Handlers = map[wire.Method]Handler{"echo": func(context.Context, wire.NodeID, []byte) (any, error) {
			asked = true
			return &echo{}, nil
		}}
	})
	if err := second.peers.Add(a.bundle(t, true)); err != nil {
		t.Fatal(err)
	}
	connected(t, a, b, second)
	if !a.OrdersOnly("n2.b.example") || a.OrdersOnly("n1.b.example") || a.OrdersOnly("n3.b.example") || !second.OrdersOnly("n2.b.example") {
		t.Error("it is not known which node orders only")
	}
	if got := fmt.Sprint(a.Nodes("b.example")); got != "[n1.b.example n2.b.example]" {
		t.Errorf("nodes %s", got)
	}
	var answer echo
	if err := a.CallOrganization(t.Context(), "b.example", "echo", &echo{[]byte("x")}, &answer); err != nil {
		t.Fatal(err)
	}
	b.end()
	if err := a.CallOrganization(t.Context(), "b.example", "echo", &echo{[]byte("x")}, &answer); !errors.Is(err, wire.Unavailable) {
		t.Errorf("with the node of devices down: %v", err)
	}
	second.end()
	if asked {
		t.Error("the node that orders only was asked")
	}
}

// TestNotify holds the way of messages from an outbox to a handler: all results come back to their items.
func TestNotify(t *testing.T) {
	a, b := federate(t, func(c *Config) {
		c.Handlers = map[wire.Method]Handler{wire.CallNotify: func(_ context.Context, _ wire.NodeID, body []byte) (any, error) {
			var r wire.NotifyRequest
			if err := wire.Decode(body, len(body), &r); err != nil {
				return nil, err
			}
			answer := &wire.NotifyAnswer{Results: make([]*wire.Error, len(r.Messages))}
			for i, m := range r.Messages {
				if bytes.Equal(m.Content, []byte("bad")) {
					answer.Results[i] = wire.Errorf(wire.Forged, "notify", "no")
				}
			}
			return answer, nil
		}}
	})
	message := func(content string) []byte {
		m := wire.Message{Version: wire.MessageVersion, Conversation: conv, ID: subID(1), Content: []byte(content), Signature: make([]byte, 64)}
		payload, err := wire.Encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	damaged := message("x")[1:]
	other := []byte{0xa0} // well-formed, and no message
	if _, err := a.Notify(t.Context(), b.id.Domain, conv, [][]byte{message("good"), other}); !errors.Is(err, wire.Malformed) {
		t.Errorf("with a payload that is no message: %v", err)
	}
	results, err := a.Notify(t.Context(), b.id.Domain, conv, [][]byte{message("good"), damaged, message("bad"), message("good")})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, wire.Malformed, wire.Forged, nil} {
		if !errors.Is(results[i], want) {
			t.Errorf("item %d: %v, wanted %v", i, results[i], want)
		}
	}
	if _, err := a.Notify(t.Context(), "c.example", conv, [][]byte{message("good")}); !outbox.Temporary(err) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestStopping holds that nothing works before Run and after it, and that New twice with one registry is
// an error, not a panic.
func TestStopping(t *testing.T) {
	a, b := federate(t, echoing)
	cfg := a.cfg
	if _, err := New(cfg); err == nil {
		t.Error("two federations share one registry")
	}
	cfg.Registerer = nil
	idle, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Call(t.Context(), b.id.Node, "echo", nil, nil); !errors.Is(err, wire.Unavailable) {
		t.Errorf("before Run: %v", err)
	}
	a.end()
	if _, err := a.Dial(t.Context(), b.id.Node); !errors.Is(err, wire.Unavailable) {
		t.Errorf("after Run: %v", err)
	}
	if err := a.Run(t.Context()); err == nil {
		t.Error("it ran twice")
	}
	for name, edit := range map[string]func(*Config){
		"no identity":             func(c *Config) { c.Identity = nil },
		"no address to listen on": func(c *Config) { c.Listen = "" },
		"seed of another":         func(c *Config) { c.seeds = []organization.Seed{{Node: "n1.b.example", Address: "127.0.0.1:9"}} },
	} {
		cfg := cfg
		edit(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: it was made", name)
		}
	}
	cfg.Listen, cfg.Advertise = "0.0.0.0:0", ""
	everywhere, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := everywhere.Run(t.Context()); !errors.Is(err, wire.Invalid) {
		t.Errorf("an address that nobody can reach: %v", err)
	}
}

// TestNotifyRequest holds that requests are made as wire.Encode makes them, whatever their length.
func TestNotifyRequest(t *testing.T) {
	m := wire.Message{Version: wire.MessageVersion, Conversation: conv, ID: subID(1), Content: []byte("x"), Signature: make([]byte, 64)}
	payload, err := wire.Encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 23, 24, 255, 256, 65535, 65536} {
		r := wire.NotifyRequest{Messages: make([]wire.Message, n)}
		payloads := make([][]byte, n)
		for i := range n {
			r.Messages[i], payloads[i] = m, payload
		}
		want, err := wire.Encode(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(notifyRequest(payloads), want) {
			t.Errorf("%d messages are encoded otherwise", n)
		}
	}
}
