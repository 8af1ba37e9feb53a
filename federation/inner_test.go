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

	"github.com/mlsfed/mlsfed/wire"
)

// TestKindsOfAddresses: every way to write an inner address is known for what it is, at the edges of the networks too.
func TestKindsOfAddresses(t *testing.T) {
	for kind, list := range map[string]string{
		"":            "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 100.63.255.255 100.128.0.0 169.253.0.1 128.0.0.1 223.255.255.255 2a00:1450::1 2606:4700::1111 2002:808:808::1 64:ff9b::808:808 ::ffff:8.8.8.8",
		kindLoopback:  "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::7f00:1 2002:7f00:1::1 2a00:1::5efe:7f00:1 2a00:1::200:5efe:7f00:1",
		kindPrivate:   "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.255.255 fc00::1 fdff:ffff::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:c0a8:101::",
		kindShared:    "100.64.0.0 100.127.255.255 64:ff9b::6440:1",
		kindLinkLocal: "169.254.0.1 169.254.255.255 fe80::1 febf::1 fe80::1%1 ::ffff:169.254.1.1",
		kindMetadata:  "169.254.169.254 ::ffff:a9fe:a9fe 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: fd00:ec2::254 100.100.100.200 168.63.129.16 192.0.0.192",
		kindMulticast: "224.0.0.1 239.255.255.255 ff02::1 ff0e::1",
		kindReserved:  "0.0.0.0 0.0.0.1 :: 240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 192.0.0.1 2001:db8::1 2001:0:1::1 3fff::1 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b:1::7f00:1 fec0::1 100::1 4000::1 5f00::1",
	} {
		for s := range strings.FieldsSeq(list) {
			if got := kindOf(netip.MustParseAddr(s)); got != kind {
				t.Errorf("%s is of kind %q, wanted %q", s, got, kind)
			}
		}
	}
	for _, k := range kinds {
		if kindNames[k.kind] == "" {
			t.Errorf("kind %s has no name", k.kind)
		}
	}
}

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
		dir := organization(t, "a.example")
		id, err := LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		peers, err := OpenPeers(dir + "/peers")
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", AllowNetworks: prefixes(strings.Fields(c.allow)...)})
		if err != nil {
			t.Fatal(err)
		}
		f.address = c.own
		b, err := ReadBundle(organization(t, "b.example") + "/bundle.json")
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range strings.Fields(c.seeds) {
			b.Seeds = append(b.Seeds, Seed{wire.NodeID(fmt.Sprintf("n%d.b.example", i)), s})
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
	for at, want := range map[string]string{"8.8.8.8:7443": "", "8.8.8.8:5432": kindMachine, "8.8.4.4:5432": ""} {
		if got := p.refuses(netip.MustParseAddrPort(at)); got != want {
			t.Errorf("%s: %q, wanted %q", at, got, want)
		}
	}
	if !ofMachine(netip.MustParseAddr("127.0.0.1")) || ofMachine(own) {
		t.Error("the machine's addresses are not known")
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

// TestRecordsLeadNowhereInside: records of an organization that is admitted make no node connect to an inner
// service, however they name it, while an honest organization beside it is reached. Allowed by the configuration,
// the same records lead there.
func TestRecordsLeadNowhereInside(t *testing.T) {
	port, connections := service(t, "127.0.0.1:0")
	a := start(t, organization(t, "a.example"), echoing, outside)
	b := start(t, organization(t, "b.example"), echoing)
	mallory := start(t, organization(t, "mallory.example"), echoing, func(c *Config) { c.Advertise = "127.0.0.1:" + port })
	a.admitSeed(t, b)
	a.admit(t, mallory) // whose bundle names no address
	toA, err := NewBundle("a.example", a.id.Root, Seed{a.id.Node, a.bound})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{b, mallory} {
		if err := n.peers.Add(toA); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "mallory.example has a link to a.example", func() bool { return a.links.get(mallory.id.Node) != nil && a.records.get(mallory.id.Node) != nil })
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
		eventually(t, fmt.Sprintf("%s is refused", n), func() bool { return a.log.has("address not connected to", "node="+string(n), "reason=loopback") })
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
	if n := a.metric(t, "mlsfed_federation_addresses_refused_total", "reason", kindLoopback); n < float64(len(names)+1) {
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

	a.edit = append(a.edit, func(c *Config) { c.AllowNetworks = prefixes("127.0.0.1/32") })
	a = a.again(t)
	for i, host := range names {
		a.learn(record(i, host), "")
	}
	eventually(t, "records lead to where the configuration allows", func() bool { return connections.Load() > 0 })
}

// TestNamesInBundles: the operator admits the name in a seed, and not whatever its owner has it lead to later; an
// IP address in a seed is connected to.
func TestNamesInBundles(t *testing.T) {
	port, connections := service(t, "127.0.0.1:0")
	a := start(t, organization(t, "a.example"), outside)
	b := start(t, organization(t, "b.example"))
	b.end()
	bundle := b.bundle(t, false)
	bundle.Seeds = []Seed{{b.id.Node, "localhost:" + port}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the name is refused", func() bool {
		return a.log.has("address not connected to", "its bundle names localhost:"+port+", which is ", "a loopback address")
	})
	if n := connections.Load(); n != 0 {
		t.Errorf("CONNECTED: %d connections by a name", n)
	}
	bundle.Seeds = []Seed{{b.id.Node, "127.0.0.1:" + port}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the address is connected to", func() bool { return connections.Load() > 0 })
}

// TestRefusalStaysInTheError: where a record's address is refused and a seed is down, an operator hears of both.
func TestRefusalStaysInTheError(t *testing.T) {
	a := start(t, organization(t, "a.example"), outside)
	b := start(t, organization(t, "b.example"))
	b.end()
	bundle := b.bundle(t, false)
	bundle.Seeds = []Seed{{b.id.Node, "127.0.0.1:1"}}
	if err := a.peers.Add(bundle); err != nil {
		t.Fatal(err)
	}
	a.learn(forge(t, credential(t, b.id.Authority, b.id.Node, time.Now(), nil), "10.0.0.5:7443", time.Now(), nil, nil), "")
	eventually(t, "both are named", func() bool {
		_, err := a.Dial(t.Context(), b.id.Node)
		return err != nil && strings.Contains(err.Error(), "10.0.0.5:7443, a private address") && strings.Contains(err.Error(), "127.0.0.1:1")
	})
}

// TestMovesAreBounded: a node whose record names another address again and again is not dialed anew each time.
func TestMovesAreBounded(t *testing.T) {
	clock := newClock()
	cfg := Config{Clock: clock, Jitter: func() float64 { return 1 }, Timers: Timers{RetryMin: time.Minute, RetryMax: time.Minute}}
	g := &gates{by: make(map[wire.NodeID]*gate), moves: make(map[wire.NodeID]time.Time)}
	down := errors.New("down")
	dials := 0
	for range 100 { // a record each second, and a dial wherever the gate is open
		g.moved("n1.b.example", cfg)
		if g.check("n1.b.example", clock.Now()) == nil {
			dials++
			g.shut("n1.b.example", down, cfg)
		}
		clock.advance(time.Second)
	}
	if dials > 4 {
		t.Errorf("%d dials in 100 s, wanted one for each minute and each move of a minute", dials)
	}
	if dials == 0 {
		t.Error("never dialed")
	}
	clock.advance(time.Hour)
	g.moved("n2.b.example", cfg)
	if len(g.moves) != 1 {
		t.Errorf("%d moves are remembered", len(g.moves))
	}
}

func TestNetworksAreChecked(t *testing.T) {
	dir := organization(t, "a.example")
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := OpenPeers(dir + "/peers")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104")} {
		if _, err := New(Config{Identity: id, Peers: peers, Listen: "127.0.0.1:0", AllowNetworks: []netip.Prefix{p}}); !errors.Is(err, wire.Invalid) {
			t.Errorf("%v: %v", p, err)
		}
	}
}
