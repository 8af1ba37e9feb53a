package federation

import (
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

// startMany starts n organizations, each with one node. All use one allow-list, which has a seed for each.
func startMany(t testing.TB, n int, edit ...func(*Config)) []*node {
	t.Helper()
	shared, err := organization.OpenPeers(filepath.Join(t.TempDir(), "peers"))
	if err != nil {
		t.Fatal(err)
	}
	nodes := make([]*node, n)
	for i := range nodes {
		dir := newOrganization(t, wire.Domain(fmt.Sprintf("o%03d.example", i)))
		nodes[i] = start(t, dir, append([]func(*Config){func(c *Config) {
			c.Peers = shared
			c.Logger = slog.New(slog.DiscardHandler)
			c.Timers.Poll, c.Timers.PushPull = 250*time.Millisecond, time.Minute
			c.Limits.Admission.Unproved = 1024
		}}, edit...)...)
		nodes[i].peers = shared
	}
	for _, o := range nodes {
		if err := shared.Add(o.bundle(t, true)); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

// TestLinksOfManyOrganizations holds that a node keeps any number of links that it has opened itself: the
// bound on links being opened is none on links.
func TestLinksOfManyOrganizations(t *testing.T) {
	t.Run("66 with each other", func(t *testing.T) {
		if testing.Short() {
			t.Skip("opens 2,145 links: not with -short, which the race detector's run has")
		}
		nodes := startMany(t, 66)
		for _, n := range nodes {
			federationtest.Within(t, 5*federationtest.Patience, fmt.Sprintf("%s has all links", n.id.Node), func() bool { return n.links.count() == len(nodes)-1 })
		}
	})
	t.Run("130 of one", func(t *testing.T) {
		hub := start(t, newOrganization(t, "hub.example"))
		var bundles []*organization.Bundle
		for i := range 130 {
			leaf := start(t, newOrganization(t, wire.Domain(fmt.Sprintf("o%03d.example", i))))
			leaf.admit(t, hub)
			bundles = append(bundles, leaf.bundle(t, true))
		}
		for _, b := range bundles {
			if err := hub.peers.Add(b); err != nil {
				t.Fatal(err)
			}
		}
		federationtest.Within(t, 5*federationtest.Patience, "the hub has all links", func() bool { return hub.links.count() == len(bundles) })
	})
}

// TestLinksAreBounded holds Limits.Links at its edge: a node opens so many links to other organizations,
// and takes those that the others open.
func TestLinksAreBounded(t *testing.T) {
	s := newLinking(testConfig(Limits{Links: 3}, Timers{}))
	var others []wire.NodeID
	for i := range 10 {
		others = append(others, wire.NodeID(fmt.Sprintf("n1.o%d.example", i)))
	}
	s.set(append(wishes(others...), wish{"n2.a.example", true, 0}, wish{"n3.a.example", true, 0}))
	none := func(wire.NodeID) bool { return false }
	open := func(wire.NodeID) time.Duration { return 0 }
	now := time.Now()
	list, _ := s.next(now, none, 0, open)
	own := 0
	for _, n := range list {
		if n.Organization() == "a.example" {
			own++
		}
	}
	if own != 2 || len(list) > 5 || len(list) < 3 {
		t.Errorf("%d attempts, %d of them in the own organization, wanted 3 to 5, and 2", len(list), own)
	}
	if list, _ = s.next(now, none, 3, open); len(list) > 0 {
		t.Errorf("%d further attempts at the bound", len(list))
	}
}

func wishes(nodes ...wire.NodeID) (list []wish) {
	for _, n := range nodes {
		list = append(list, wish{n, false, 1})
	}
	return list
}

func testConfig(l Limits, t Timers) Config {
	return Config{
		Identity: &organization.Identity{Node: "n1.a.example", Domain: "a.example"}, Limits: l.withDefaults(), Timers: t.withDefaults(),
		jitter: func() float64 { return 1 },
	}
}

// TestLooksPassOverTheDead holds that a look asks for the link and the breaker of few nodes, however many are dead:
// each look would else take as long as thousands of look-ups.
func TestLooksPassOverTheDead(t *testing.T) {
	const n = 3000
	s := newLinking(testConfig(Limits{}, Timers{}))
	var others []wire.NodeID
	for i := range n {
		others = append(others, wire.NodeID(fmt.Sprintf("n1.o%04d.example", i)))
	}
	s.set(wishes(others...))
	now, asked := time.Now(), 0
	look := func() {
		list, again := s.next(now, func(wire.NodeID) bool { asked++; return false }, 0, func(wire.NodeID) time.Duration { return 0 })
		for _, d := range list {
			s.opened(d, errors.New("dead"), now)
		}
		if again.After(now) {
			now = again
		}
	}
	dead := func() (count int) {
		for _, o := range s.targets {
			if o.failures >= slowAfter {
				count++
			}
		}
		return count
	}
	for range 20_000 {
		if dead() == n {
			break
		}
		look()
	}
	if dead() != n {
		t.Fatalf("%d of %d nodes count as dead", dead(), n)
	}
	asked = 0
	before, _ := s.counts()
	const looks = 500
	for range looks {
		look()
	}
	after, _ := s.counts()
	if dials := int(after - before); dials == 0 || asked > dials+2*looks {
		t.Errorf("%d look-ups for %d attempts in %d looks", asked, dials, looks)
	}
}

// world drives a linking in virtual time. Attempts take as long as answer says, and fail unless alive.
type world struct {
	s     *linking
	now   time.Time
	alive map[wire.NodeID]bool
	links map[wire.NodeID]bool
	dials map[wire.NodeID]int
	done  []attempt
	takes time.Duration
	total int
}

type attempt struct {
	node wire.NodeID
	at   time.Time
}

func newWorld(s *linking, takes time.Duration) *world {
	return &world{s: s, now: time.Now(), alive: map[wire.NodeID]bool{}, links: map[wire.NodeID]bool{}, dials: map[wire.NodeID]int{}, takes: takes}
}

// step looks once, and goes on to when something is due.
func (w *world) step() {
	list, again := w.s.next(w.now, func(n wire.NodeID) bool { return w.links[n] }, len(w.links), func(wire.NodeID) time.Duration { return 0 })
	for _, n := range list {
		w.dials[n]++
		w.total++
		w.done = append(w.done, attempt{n, w.now.Add(w.takes)})
	}
	if len(w.done) > 0 && !w.done[0].at.After(again) {
		again = w.done[0].at
	}
	w.now = again
	for len(w.done) > 0 && !w.done[0].at.After(w.now) {
		n := w.done[0].node
		w.done = w.done[1:]
		if !w.alive[n] {
			w.s.opened(n, errors.New("refused"), w.now)
			continue
		}
		w.s.opened(n, nil, w.now)
		w.links[n] = true
		w.s.linked(n, len(w.links), w.now)
	}
}

func deadNodes(n int) []wire.NodeID {
	list := make([]wire.NodeID, n)
	for i := range list {
		list[i] = wire.NodeID(fmt.Sprintf("n1.d%04d.example", i))
	}
	return list
}

// TestLinkingIsFair holds that a live node is dialed within the first round, however many dead ones hang
// until the time for dialing is over, and that no node is dialed twice before all were dialed once.
func TestLinkingIsFair(t *testing.T) {
	s := newLinking(testConfig(Limits{}, Timers{}))
	w := newWorld(s, 5*time.Second)
	const live wire.NodeID = "n1.zz.example"
	nodes := append(deadNodes(1000), live)
	s.set(wishes(nodes...))
	w.alive[live] = true
	begun := w.now
	for !w.links[live] {
		w.step()
	}
	if took := w.now.Sub(begun); took > time.Minute {
		t.Errorf("the live node has a link after %v of virtual time", took)
	}
	for len(w.dials) < len(nodes) {
		w.step()
		for n, times := range w.dials {
			if times > 1 && len(w.dials) < len(nodes) {
				t.Fatalf("%s was dialed %d times when %d of %d nodes had been dialed", n, times, len(w.dials), len(nodes))
			}
		}
	}
}

// TestDeadNodesShareARate holds that the attempts to reach nodes that failed several times do not grow
// with their number, that none of them is left out, and that looking costs no more than the attempts.
func TestDeadNodesShareARate(t *testing.T) {
	for _, n := range []int{10, 2000} {
		s := newLinking(testConfig(Limits{}, Timers{}))
		w := newWorld(s, time.Millisecond)
		s.set(wishes(deadNodes(n)...))
		begun := w.now
		for w.now.Sub(begun) < 10*time.Minute {
			w.step()
		}
		dials, looks, from := w.total, s.looks, w.now
		clear(w.dials)
		for w.now.Sub(from) < time.Hour {
			w.step()
		}
		a := w.total - dials
		if most := 5*3600 + 10; a > most || a > n*9 {
			t.Errorf("%d dead nodes: %d attempts an hour, at most %d, and 9 a node", n, a, most)
		}
		if len(w.dials) != n {
			t.Errorf("%d of %d dead nodes were dialed in an hour", len(w.dials), n)
		}
		if idle := int(time.Hour / (lookAgain * s.timers.Poll)); int(s.looks-looks) > 3*a+idle+10 {
			t.Errorf("%d dead nodes: %d looks for %d attempts", n, s.looks-looks, a)
		}
	}
}

// TestLinkingEndsPauses holds what ends a pause, and how often.
func TestLinkingEndsPauses(t *testing.T) {
	s := newLinking(testConfig(Limits{}, Timers{}))
	s.set(wishes("n1.b.example", "n1.c.example", "n1.d.example"))
	now := time.Now()
	fail := func() {
		for _, n := range []wire.NodeID{"n1.b.example", "n1.c.example", "n1.d.example"} {
			for range 8 {
				s.mu.Lock()
				s.failed(s.by[n], now)
				s.mu.Unlock()
			}
		}
	}
	paused := func() (n int) {
		for _, at := range s.targets {
			if at.until.After(now) {
				n++
			}
		}
		return n
	}
	fail()
	for _, c := range []struct {
		what string
		do   func()
		want int
	}{
		{"nothing", func() {}, 3},
		{"b was heard of", func() { s.heard("n1.b.example", now) }, 2},
		{"b was heard of again at once", func() { fail(); s.heard("n1.b.example", now) }, 3},
		{"b was heard of after RetryMax", func() { now = now.Add(s.timers.RetryMax); fail(); s.heard("n1.b.example", now) }, 2},
		{"a stranger was heard of", func() { s.heard("n1.x.example", now) }, 2},
		{"the entry of c has changed", func() {
			s.set([]wish{{"n1.b.example", false, 1}, {"n1.c.example", false, 2}, {"n1.d.example", false, 1}})
		}, 1},
		{"a further link", func() { fail(); s.linked("n1.c.example", 2, now) }, 2},
		{"the first link", func() { fail(); s.linked("n1.c.example", 1, now) }, 0},
		{"the first link again at once", func() { fail(); s.linked("n1.c.example", 1, now) }, 2},
	} {
		if c.do(); paused() != c.want {
			t.Errorf("%s: %d pauses, wanted %d", c.what, paused(), c.want)
		}
	}
}

// TestLinkingAnyOrder holds that places are neither lost nor used twice, whatever happens in which order.
func TestLinkingAnyOrder(t *testing.T) {
	for range 50 {
		s := newLinking(testConfig(Limits{Dialing: 4}, Timers{}))
		nodes := deadNodes(12)
		linked, under := map[wire.NodeID]bool{}, map[wire.NodeID]bool{}
		now := time.Now()
		for range 400 {
			now = now.Add(time.Duration(rand.IntN(1000)) * time.Millisecond)
			n := nodes[rand.IntN(len(nodes))]
			switch rand.IntN(6) {
			case 0:
				s.set(wishes(nodes[:rand.IntN(len(nodes)+1)]...))
			case 1, 2:
				list, _ := s.next(now, func(n wire.NodeID) bool { return linked[n] }, len(linked), func(wire.NodeID) time.Duration { return 0 })
				for _, n := range list {
					if linked[n] {
						t.Fatalf("%s has a link and is dialed", n)
					}
					under[n] = true
				}
			case 3:
				if under[n] {
					delete(under, n)
					s.opened(n, errors.New("no"), now)
				}
			case 4:
				if under[n] {
					delete(under, n)
					s.opened(n, nil, now)
					linked[n] = true
					s.linked(n, len(linked), now)
				}
			case 5:
				if linked[n] {
					delete(linked, n)
					s.ended(n, time.Second, false, now)
				}
			}
			if s.opening > 4 || s.opening < len(under) {
				t.Fatalf("%d places in use, %d attempts under way", s.opening, len(under))
			}
		}
	}
}

// TestListChangeKeepsPauses holds that a change of the allow-list has no dead organization dialed again
// but the one whose entry has changed.
func TestListChangeKeepsPauses(t *testing.T) {
	a := start(t, newOrganization(t, "a.example"), func(c *Config) {
		c.Timers.RetryMin, c.Timers.RetryMax, c.Timers.LinkRest = time.Hour, time.Hour, time.Hour
	})
	b := start(t, newOrganization(t, "b.example"))
	b.admit(t, a)
	a.admitSeed(t, b)
	federationtest.Eventually(t, "the first one has a link", func() bool { return a.links.has(b.id.Node) })
	const dead = 20
	var bundles []*organization.Bundle
	for i := range dead {
		id, err := organization.LoadIdentity(newOrganization(t, wire.Domain(fmt.Sprintf("d%02d.example", i))))
		if err != nil {
			t.Fatal(err)
		}
		b, err := organization.NewBundle(id.Domain, id.Root, organization.Seed{Node: id.Node, Address: "127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.peers.Add(b); err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, b)
	}
	dials := func() uint64 { n, _ := a.linking.counts(); return n }
	idle := func() bool {
		a.linking.mu.Lock()
		defer a.linking.mu.Unlock()
		return a.linking.opening == 0
	}
	federationtest.Eventually(t, "each is dialed", func() bool { return dials() >= 1+dead && idle() })
	c := start(t, newOrganization(t, "c.example"))
	c.admit(t, a)
	a.admitSeed(t, c)
	federationtest.Eventually(t, "the new one has a link", func() bool { return a.links.has(c.id.Node) })
	if n := dials(); n != dead+2 {
		t.Errorf("%d attempts, wanted %d", n, dead+2)
	}
	bundles[3].Seeds[0].Address = "127.0.0.1:2"
	if err := a.peers.Add(bundles[3]); err != nil {
		t.Fatal(err)
	}
	federationtest.Eventually(t, "the changed one is dialed", func() bool { return dials() == dead+3 && idle() })
}

// writePeer puts an organization without seeds on an allow-list, as another process would, and does not wait for the
// disk.
func writePeer(t *testing.T, folder string, d wire.Domain) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{string(d)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := organization.NewBundle(d, root)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]any{"state": organization.Admitted, "bundle": bundle})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(folder, string(d)+".json")
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// TestIdleOrganizationsCostNothing holds that an organization of which no node is known costs no
// goroutine, no connection and no attempt.
func TestIdleOrganizationsCostNothing(t *testing.T) {
	a := start(t, newOrganization(t, "a.example"))
	before := runtime.NumGoroutine()
	for i := range 1000 {
		writePeer(t, a.peersFolder(), wire.Domain(fmt.Sprintf("d%03d.example", i)))
	}
	federationtest.Eventually(t, "the list is seen", func() bool { return a.log.Has("allow-list changed", "admitted=1000") })
	b := start(t, newOrganization(t, "b.example"))
	b.admit(t, a)
	a.admitSeed(t, b)
	federationtest.Eventually(t, "one more has a link", func() bool { return a.links.has(b.id.Node) })
	if n, _ := a.linking.counts(); n > 3 {
		t.Errorf("%d attempts", n)
	}
	if now := runtime.NumGoroutine(); now > before+100 {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	a.conns.mu.Lock()
	defer a.conns.mu.Unlock()
	if n := len(a.conns.all); n > 4 {
		t.Errorf("%d connections", n)
	}
}

// TestLongManyLinks is TestLinksOfManyOrganizations for more organizations, all with each other: 130 in the full form.
// The short one has 80, more than twice the links that a node opened when they were bounded by places that were never
// freed.
func TestLongManyLinks(t *testing.T) {
	if os.Getenv("MLSFED_LONG") == "" {
		t.Skip("links 80 or 130 organizations with each other: set MLSFED_LONG to short or full")
	}
	n := 80
	if os.Getenv("MLSFED_LONG") == "full" {
		n = 130
	}
	nodes := startMany(t, n)
	for _, n := range nodes {
		for end := time.Now().Add(5 * time.Minute); n.links.count() < len(nodes)-1; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s has %d links", n.id.Node, n.links.count())
			}
		}
	}
}
