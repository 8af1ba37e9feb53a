package federation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/federation/internal/federationtest"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if childOfCrashTest() {
		return
	}
	goleak.VerifyTestMain(m)
}

// node is one federation under test.
type node struct {
	*Federation
	dir     string
	id      *organization.Identity
	peers   *organization.Peers
	log     *federationtest.Journal
	metrics *prometheus.Registry
	end     func()
	edit    []func(*Config)
}

// peersFolder is the folder of the node's allow-list.
func (n *node) peersFolder() string { return filepath.Join(n.dir, "peers") }

// newOrganization makes an identity and an empty allow-list in a folder.
func newOrganization(t testing.TB, d wire.Domain, edit ...func(*organization.InitOptions)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(d))
	o := organization.InitOptions{Domain: d}
	for _, e := range edit {
		e(&o)
	}
	if err := organization.Init(dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fast are timers for tests.
func fast(c *Config) {
	c.Timers = Timers{
		Poll: 20 * time.Millisecond, Save: 10 * time.Millisecond, RetryMin: 10 * time.Millisecond, RetryMax: 200 * time.Millisecond,
		Gossip: 50 * time.Millisecond, Probe: 200 * time.Millisecond, PushPull: time.Second, LinkRest: 500 * time.Millisecond,
	}
}

// start runs the node in dir until the test or end ends it.
func start(t testing.TB, dir string, edit ...func(*Config)) *node {
	t.Helper()
	id, err := organization.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := organization.OpenPeers(filepath.Join(dir, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, id: id, peers: peers, log: new(federationtest.Journal), metrics: prometheus.NewRegistry(), edit: edit}
	cfg := Config{
		Identity: id, Peers: peers, Listen: "127.0.0.1:0", Dir: dir, Registerer: n.metrics,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", id.Node),
	}
	fast(&cfg)
	for _, e := range edit {
		e(&cfg)
	}
	if n.Federation, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	select {
	case <-n.Ready():
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	n.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", id.Node, err)
		}
	})
	t.Cleanup(n.end)
	return n
}

// again ends the node and starts it again, with its files.
func (n *node) again(t testing.TB) *node {
	t.Helper()
	n.end()
	return start(t, n.dir, n.edit...)
}

// bundle is the node's organization, with the node as seed if it runs.
func (n *node) bundle(t testing.TB, seed bool) *organization.Bundle {
	t.Helper()
	var seeds []organization.Seed
	if seed {
		seeds = []organization.Seed{{Node: n.id.Node, Address: n.Address()}}
	}
	b, err := organization.NewBundle(n.id.Domain, n.id.Root, seeds...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// admit puts other organizations on the node's list, without seeds.
func (n *node) admit(t testing.TB, others ...*node) {
	t.Helper()
	for _, o := range others {
		if err := n.peers.Add(o.bundle(t, false)); err != nil {
			t.Fatal(err)
		}
	}
}

// admitSeed puts another organization on the node's list, with the node as seed.
func (n *node) admitSeed(t testing.TB, other *node) {
	t.Helper()
	if err := n.peers.Add(other.bundle(t, true)); err != nil {
		t.Fatal(err)
	}
}

// federate makes two organizations that know each other.
func federate(t testing.TB, edit ...func(*Config)) (a, b *node) {
	t.Helper()
	a, b = start(t, newOrganization(t, "a.example"), edit...), start(t, newOrganization(t, "b.example"), edit...)
	a.admitSeed(t, b)
	b.admit(t, a)
	connected(t, a, b)
	return a, b
}

// connected waits until all nodes have links to each other, and gossip says that they live.
func connected(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		for _, o := range nodes {
			if n == o {
				continue
			}
			federationtest.Eventually(t, fmt.Sprintf("%s has a link to %s", n.id.Node, o.id.Node), func() bool {
				k := n.records.get(o.id.Node)
				return n.links.get(o.id.Node) != nil && k != nil && k.Address == o.Address() && n.gossip.alive()[o.id.Node]
			})
		}
	}
}

// metric is the value of a counter or gauge with these labels: pairs of name and value.
func (n *node) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	return federationtest.Metric(t, n.metrics, name, labels...)
}

const (
	orgB = wire.Domain("b.example")
	conv = wire.ConversationID("conversation")
)

func subID(n int) wire.SubmissionID {
	return wire.SubmissionID{1, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

// echo answers with what it was sent.
type echo struct {
	Text []byte `cbor:"1,keyasint"`
}

func echoing(c *Config) {
	c.Handlers = map[wire.Method]Handler{"echo": func(_ context.Context, _ wire.NodeID, body []byte) (any, error) {
		var e echo
		if err := wire.Decode(body, len(body), &e); err != nil {
			return nil, err
		}
		return &e, nil
	}}
	c.Ordering = func(_ context.Context, from wire.NodeID, conn net.Conn) error {
		var b [1]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return err
			}
			if _, err := conn.Write(append(b[:], from...)); err != nil {
				return err
			}
		}
	}
}

// ask makes a call that b answers.
func ask(ctx context.Context, from *node, to wire.NodeID, text string) error {
	var answer echo
	if err := from.Call(ctx, to, "echo", &echo{[]byte(text)}, &answer); err != nil {
		return err
	}
	if string(answer.Text) != text {
		return fmt.Errorf("answer %q, wanted %q", answer.Text, text)
	}
	return nil
}
