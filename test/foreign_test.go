package test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestForeignErrorsArePrintable checks that for any error of another organization's node, the user gets an error that
// a terminal can show.
func TestForeignErrorsArePrintable(t *testing.T) {
	c := newCluster(t, "a.example", "mallory.example")
	alice := device(t, c, "a.example", "alice", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	const hostile = "\x1b]0;pwned\x07\x1b[2J"
	var answer atomic.Pointer[wire.Error]
	var asked atomic.Int64
	newEvilWith(t, c, "mallory.example", map[wire.Method]federation.Handler{wire.CallKeyMaterial: func(context.Context, wire.NodeID, []byte) (any, error) {
		asked.Add(1)
		return nil, answer.Load()
	}})
	for name, e := range map[string]*wire.Error{
		"code":           {Code: hostile},
		"code with text": {Code: wire.Code("busy\n" + hostile), Text: "wait"},
		"code in 8 bits": {Code: "\u009b2J"},
		"long code":      {Code: wire.Code(strings.Repeat("a", 33))},
		"operation":      {Code: wire.Invalid, Op: hostile},
		"text":           {Code: wire.Invalid, Text: "no " + hostile + "\u202egnp.exe"},
		"node":           {Code: wire.NoQuorum, Nodes: []wire.NodeID{hostile}},
	} {
		answer.Store(e)
		before := asked.Load()
		var err error
		if e := cluster.Await(ctx, alice, func() (bool, error) { // the evil node is found first
			err = alice.Add(ctx, id, "mimi://mallory.example/u/eve")
			return asked.Load() > before, nil
		}); e != nil {
			t.Fatalf("%s: %v; last %v", name, e, err)
		}
		if err == nil {
			t.Errorf("%s: eve was added", name)
			continue
		}
		if text := err.Error(); text == "" || text != wire.Printable(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%s: ON THE TERMINAL: %q", name, text)
		}
		if !wire.CodeOf(err).Known() {
			t.Errorf("%s: code %q", name, wire.CodeOf(err))
		}
	}
}

// TestRecordLeadsNowhereInside checks that no node connects to an internal service that the record of an admitted
// organization names, and that an honest organization continues to talk.
func TestRecordLeadsNowhereInside(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	domains := []wire.Domain{"a.example", "b.example", "mallory.example"}
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Admin.Listen = "127.0.0.1:0"
		cfg.Federation.Advertise = "198.51.100.1:7443" // so that no node announces a loopback address
		if cfg.Domain == "mallory.example" {
			cfg.Federation.Advertise = l.Addr().String()
		}
	}}, domains...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, here := range domains {
		for _, there := range domains {
			if here != there {
				seedAt(t, c, here, there)
			}
		}
	}
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(d wire.Domain) float64 {
		return counter(t, c.Node(d).AdminAddress(), `mlsfed_federation_addresses_refused_total{reason="loopback"}`)
	}
	if err := cluster.Await(ctx, alice, func() (bool, error) { // mallory.example has announced its address
		err = alice.Add(ctx, id, "mimi://mallory.example/u/eve")
		return refused("a.example") > 2, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+", a loopback address, and neither") {
		t.Errorf("eve is added: %v", err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	await(t, ctx, id, 2, alice, bob)
	if n := connections.Load(); n != 0 {
		t.Errorf("CONNECTED: %d connections to the inner service", n)
	}
}

// seedAt writes the address of another organization's node into an organization's list, except for mallory.example.
func seedAt(t *testing.T, c *cluster.Cluster, here, there wire.Domain) {
	t.Helper()
	cfg := c.Config(there)
	b, err := organization.ReadBundle(filepath.Join(cfg.Identity, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	b.Seeds = nil
	if there != "mallory.example" {
		b.Seeds = []organization.Seed{{Node: cfg.Node, Address: cfg.Federation.Listen}}
	}
	peers, err := organization.OpenPeers(filepath.Join(c.Config(here).Identity, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	if err := peers.Add(b); err != nil {
		t.Fatal(err)
	}
}
