package federation

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// TestThreeOrganizations lets three organizations find each other through one seed, and again after
// each of them has moved to another address.
func TestThreeOrganizations(t *testing.T) {
	var nodes []*node
	for _, d := range []wire.Domain{"a.example", "b.example", "c.example"} {
		nodes = append(nodes, start(t, newOrganization(t, d), echoing))
	}
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.admit(t, b, c)
	b.admitSeed(t, a) // the one seed is a
	b.admit(t, c)
	c.admitSeed(t, a)
	c.admit(t, b)
	connected(t, a, b, c)
	callAll(t, nodes)
	for i := range nodes {
		old := nodes[i].Address()
		nodes[i] = nodes[i].again(t)
		if nodes[i].Address() == old {
			t.Fatal("the node was started at the same address")
		}
		connected(t, nodes...)
		callAll(t, nodes)
	}
}

// callAll calls from each to each.
func callAll(t *testing.T, nodes []*node) {
	t.Helper()
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			if err := ask(t.Context(), from, to.id.Node, "hello"); err != nil {
				t.Fatalf("%s to %s: %v", from.id.Node, to.id.Node, err)
			}
			var answer echo
			if err := from.CallOrganization(t.Context(), to.id.Domain, "echo", &echo{[]byte("x")}, &answer); err != nil {
				t.Fatalf("%s to %s: %v", from.id.Node, to.id.Domain, err)
			}
		}
	}
}

// TestDial opens a stream for ordering, on which each side knows the other's name.
func TestDial(t *testing.T) {
	a, b := federate(t, echoing)
	conn, err := a.Dial(t.Context(), b.id.Node)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1+len(a.id.Node))
	for n := 0; n < len(got); {
		m, err := conn.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if string(got) != "x"+string(a.id.Node) {
		t.Fatalf("got %q", got)
	}
	if _, err := a.Dial(t.Context(), "n9.b.example"); !errors.Is(err, wire.Unavailable) {
		t.Fatalf("dial of an unknown node: %v", err)
	}
}

// TestSecondNode holds that an organization can have nodes in several places, of which one has the root
// key, and that they find each other.
func TestSecondNode(t *testing.T) {
	first := start(t, newOrganization(t, "a.example"), echoing)
	dir := filepath.Join(t.TempDir(), "n2")
	if err := organization.InitNode(dir, first.id.Authority, organization.InitOptions{Node: "n2.a.example"}); err != nil {
		t.Fatal(err)
	}
	if err := organization.InitNode(dir, first.id.Authority, organization.InitOptions{Node: "n2.a.example"}); !errors.Is(err, wire.Exists) {
		t.Errorf("again: %v", err)
	}
	second := start(t, dir, echoing, func(c *Config) { c.seeds = []organization.Seed{{Node: first.id.Node, Address: first.Address()}} })
	if second.id.Authority != nil {
		t.Error("the second node has the root key")
	}
	connected(t, first, second)
	if got := fmt.Sprint(first.Nodes("a.example")); got != "[n1.a.example n2.a.example]" {
		t.Errorf("nodes %s", got)
	}
	if err := ask(t.Context(), first, second.id.Node, "hello"); err != nil {
		t.Error(err)
	}
	s := first.Status()
	if len(s.Peers) != 1 || !s.Peers[0].Own || len(s.Peers[0].Nodes) != 2 || !s.Peers[0].Nodes[1].Connected || !s.Peers[0].Nodes[1].Alive {
		t.Errorf("status %+v", s)
	}
}
