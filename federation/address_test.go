package federation

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/internal/netkind"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// TestRecordsArePermitted: what a record of b.example may name, by what this node's operator has admitted of it.
func TestRecordsArePermitted(t *testing.T) {
	none := func(netip.Addr) bool { return false }
	for name, c := range map[string]struct {
		own, seeds, allow string // lists
		yes, no           string // "address" and "address=reason"
	}{
		"a public organization": {
			"n1.a.example:7443", "n1.b.example:7443", "",
			"8.8.8.8:7443 8.8.8.8:443 8.8.8.8:1024 [2a00::1]:7443",
			"8.8.8.8:25=port 8.8.8.8:1023=port 127.0.0.1:5432=loopback [::ffff:127.0.0.1]:7443=loopback 10.0.0.5:7443=private 100.64.0.1:7443=shared 169.254.169.254:7443=metadata 169.254.1.1:7443=link_local 224.0.0.1:7443=multicast 0.0.0.0:7443=reserved [fe80::1%eth0]:7443=link_local [64:ff9b::a00:5]:7443=private",
		},
		"loopback": {
			"n1.a.example:7443", "127.0.0.1:7443", "",
			"127.0.0.1:5432 [::1]:8000 127.9.9.9:7443 8.8.8.8:7443",
			"10.0.0.5:7443=private 127.0.0.1:22=port 169.254.169.254:8000=metadata",
		},
		"a private network": {
			"n1.a.example:7443", "10.1.2.3:99", "",
			"10.9.9.9:7443 192.168.1.1:99 [fd00::1]:7443 8.8.8.8:99",
			"127.0.0.1:99=loopback [fd00:ec2::254]:7443=metadata 100.64.0.1:7443=shared 10.9.9.9:22=port",
		},
		"a carrier's network":        {"n1.a.example:7443", "100.64.0.9:7443", "", "100.64.9.9:7443", "100.100.100.200:7443=metadata 10.0.0.1:7443=private"},
		"this node is inside itself": {"10.0.0.1:7443", "", "", "10.0.0.2:7443 192.168.0.1:7443", "127.0.0.1:7443=loopback"},
		"no seed opens these": {
			"n1.a.example:7443", "169.254.1.1:7443 192.0.2.1:7443 224.0.0.1:7443", "", "",
			"169.254.1.2:7443=link_local 192.0.2.1:7443=reserved 224.0.0.2:7443=multicast",
		},
		"allowed networks": {
			"n1.a.example:7443", "", "10.0.0.0/8 169.254.169.254/32",
			"10.0.0.5:22 169.254.169.254:80 [::ffff:10.0.0.5]:7443",
			"192.168.0.1:7443=private 169.254.169.253:7443=link_local [64:ff9b::a00:5]:7443=private",
		},
	} {
		dir := newOrganization(t, "a.example")
		id, err := organization.LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		peers, err := organization.OpenPeers(dir + "/peers")
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", AllowNetworks: netkind.Prefixes(strings.Fields(c.allow)...)})
		if err != nil {
			t.Fatal(err)
		}
		f.address = c.own
		b, err := organization.ReadBundle(newOrganization(t, "b.example") + "/bundle.json")
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range strings.Fields(c.seeds) {
			b.Seeds = append(b.Seeds, organization.Seed{Node: wire.NodeID(fmt.Sprintf("n%d.b.example", i)), Address: s})
		}
		if err := peers.Add(b); err != nil {
			t.Fatal(err)
		}
		p := f.permitsOf("b.example")
		p.machine = none
		for s := range strings.FieldsSeq(c.yes) {
			if got := p.refuses(netip.MustParseAddrPort(s)); got != "" {
				t.Errorf("%s: %s is refused: %s", name, s, got)
			}
		}
		for s := range strings.FieldsSeq(c.no) {
			at, want, _ := strings.Cut(s, "=")
			if got := p.refuses(netip.MustParseAddrPort(at)); got != want {
				t.Errorf("%s: %s: %q, wanted %q", name, at, got, want)
			}
		}
	}
}

// TestRecordNamesThisMachine: a public address of this machine is connected to at ports that the bundle names.
func TestRecordNamesThisMachine(t *testing.T) {
	own := netip.MustParseAddr("8.8.8.8")
	p := &permits{ports: map[uint16]bool{7443: true}, machine: func(a netip.Addr) bool { return a == own }}
	for at, want := range map[string]string{"8.8.8.8:7443": "", "8.8.8.8:5432": string(netkind.Machine), "8.8.4.4:5432": ""} {
		if got := p.refuses(netip.MustParseAddrPort(at)); got != want {
			t.Errorf("%s: %q, wanted %q", at, got, want)
		}
	}
}

// service is an inner one: it counts the connections that reach it.
func service(t *testing.T, at string) (port string, count *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, count
}

// outside is a node that does not say that it is on loopback.
func outside(c *Config) { c.Advertise = "n1.a.example:7443" }

// TestRecordsLeadNowhereInside: records of an organization that is admitted make no node connect to an inner service,
// however they name it, while an honest organization is still reached. Allowed by the configuration, the same records
// lead there.
func TestRecordsLeadNowhereInside(t *testing.T) {
	port, connections := service(t, "127.0.0.1:0")
	a := start(t, newOrganization(t, "a.example"), echoing, outside)
	b := start(t, newOrganization(t, "b.example"), echoing)
	mallory := start(t, newOrganization(t, "mallory.example"), echoing, func(c *Config) { c.Advertise = "127.0.0.1:" + port })
	a.admitSeed(t, b)
	a.admit(t, mallory) // whose bundle names no address
	toA, err := organization.NewBundle("a.example", a.id.Root, organization.Seed{Node: a.id.Node, Address: a.bound})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{b, mallory} {
		if err := n.peers.Add(toA); err != nil {
			t.Fatal(err)
		}
	}
	federationtest.Eventually(t, "mallory.example has a link to a.example", func() bool { return a.links.get(mallory.id.Node) != nil && a.records.get(mallory.id.Node) != nil })
	if err := ask(t.Context(), mallory, a.id.Node, "hello"); err != nil { // it is admitted
		t.Error(err)
	}
	mallory.end() // it would look for its further nodes itself
	names := []string{"127.0.0.1", "[::ffff:127.0.0.1]", "localhost"}
	record := func(i int, host string) []byte {
		n := wire.NodeID(fmt.Sprintf("n%d.mallory.example", i+2))
		return forge(t, credential(t, mallory.id.Authority, n, time.Now(), nil), host+":"+port, time.Now(), nil, nil)
	}
	for i, host := range names { // further nodes, which a.example looks for by itself
		a.learn(record(i, host), "")
	}
	for i := range names {
		n := wire.NodeID(fmt.Sprintf("n%d.mallory.example", i+2))
		federationtest.Eventually(t, fmt.Sprintf("%s is refused", n), func() bool { return a.log.Has("address not connected to", "node="+string(n), "reason=loopback") })
	}
	for what, err := range map[string]error{
		"a call":             a.Call(t.Context(), mallory.id.Node, "echo", &echo{}, nil),
		"an ordering stream": func() error { _, err := a.Dial(t.Context(), mallory.id.Node); return err }(),
		"a gossip stream":    func() error { _, err := a.dialStream(t.Context(), mallory.id.Node, protoGossip); return err }(),
	} {
		if !errors.Is(err, wire.Unavailable) || !strings.Contains(err.Error(), "n1.mallory.example cannot be reached: its record names 127.0.0.1:"+port+", a loopback address, and neither") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := a.metric(t, "mlsfed_federation_addresses_refused_total", "reason", string(netkind.Loopback)); n < float64(len(names)+1) {
		t.Errorf("%v refusals are counted", n)
	}
	for _, p := range a.Status().Peers {
		if p.Domain == "mallory.example" && !strings.Contains(p.LastError, "federation.allow_networks") {
			t.Errorf("status says %q", p.LastError)
		}
	}
	if err := errors.Join(ask(t.Context(), b, a.id.Node, "hello"), ask(t.Context(), a, b.id.Node, "hello")); err != nil {
		t.Error(err)
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("CONNECTED: %d connections to the inner service", n)
	}

	a.edit = append(a.edit, func(c *Config) { c.AllowNetworks = netkind.Prefixes("127.0.0.1/32") })
	a = a.again(t)
	for i, host := range names {
		a.learn(record(i, host), "")
	}
	federationtest.Eventually(t, "records lead to where the configuration allows", func() bool { return connections.Load() > 0 })
}

// TestNamesInBundles: the operator admits the name in a seed, and not whatever its owner has it lead to later; an
// IP address in a seed is connected to.
func TestNamesInBundles(t *testing.T) {
	port, connections := service(t, "127.0.0.1:0")
	a := start(t, newOrganization(t, "a.example"), outside)
	b := start(t, newOrganization(t, "b.example"))
	b.end()
	bundle := b.bundle(t, false)
	bundle.Seeds = []organization.Seed{{Node: b.id.Node, Address: "localhost:" + port}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the name is refused", func() bool {
		return a.log.Has("address not connected to", "its bundle names localhost:"+port+", which is ", "a loopback address")
	})
	if n := connections.Load(); n != 0 {
		t.Errorf("CONNECTED: %d connections by a name", n)
	}
	bundle.Seeds = []organization.Seed{{Node: b.id.Node, Address: "127.0.0.1:" + port}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the address is connected to", func() bool { return connections.Load() > 0 })
}

// TestRefusalStaysInTheError: where a record's address is refused and a seed is down, an operator hears of both.
func TestRefusalStaysInTheError(t *testing.T) {
	a := start(t, newOrganization(t, "a.example"), outside)
	b := start(t, newOrganization(t, "b.example"))
	b.end()
	bundle := b.bundle(t, false)
	bundle.Seeds = []organization.Seed{{Node: b.id.Node, Address: "127.0.0.1:1"}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	a.learn(forge(t, credential(t, b.id.Authority, b.id.Node, time.Now(), nil), "10.0.0.5:7443", time.Now(), nil, nil), "")
	federationtest.Eventually(t, "both are named", func() bool {
		_, err := a.Dial(t.Context(), b.id.Node)
		return err != nil && strings.Contains(err.Error(), "10.0.0.5:7443, a private address") && strings.Contains(err.Error(), "127.0.0.1:1")
	})
}

// TestMovesAreBounded: a node whose record names another address again and again is not dialed each time.
func TestMovesAreBounded(t *testing.T) {
	clock := federationtest.NewClock()
	cfg := Config{Clock: clock, jitter: func() float64 { return 1 }, Timers: Timers{RetryMin: time.Minute, RetryMax: time.Minute}}
	g := newBreakers()
	down := errors.New("down")
	dials := 0
	for range 100 { // a record each second, and a dial whenever the breaker is not open
		g.moved("n1.b.example", cfg)
		if g.check("n1.b.example", clock.Now()) == nil {
			dials++
			g.trip("n1.b.example", down, cfg)
		}
		clock.Advance(time.Second)
	}
	if dials > 4 {
		t.Errorf("%d dials in 100 s, wanted one for each minute and each move of a minute", dials)
	}
	if dials == 0 {
		t.Error("never dialed")
	}
	clock.Advance(time.Hour)
	g.moved("n2.b.example", cfg)
	if len(g.moves) != 1 {
		t.Errorf("%d moves are remembered", len(g.moves))
	}
}

func TestNetworksAreChecked(t *testing.T) {
	dir := newOrganization(t, "a.example")
	id, err := organization.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := organization.OpenPeers(dir + "/peers")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104")} {
		if _, err := New(Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", AllowNetworks: []netip.Prefix{p}}); !errors.Is(err, wire.Invalid) {
			t.Errorf("%v: %v", p, err)
		}
	}
}
