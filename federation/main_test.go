package federation

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if childOfCrashTest() {
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every waiting in these tests; nothing is measured by it.
const patience = 20 * time.Second

// eventually waits until what holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	within(t, patience, what, holds)
}

// within is eventually for what takes long where processors are few.
func within(t testing.TB, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// journal is a log that tests look into.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if os.Getenv("MLSFED_LOG") != "" {
		os.Stderr.Write(b)
	}
	return j.text.Write(b)
}

// has reports whether one line has all the parts.
func (j *journal) has(parts ...string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
lines:
	for line := range strings.Lines(j.text.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		return true
	}
	return false
}

// node is one federation under test.
type node struct {
	*Federation
	dir     string
	id      *Identity
	peers   *Peers
	log     *journal
	metrics *prometheus.Registry
	end     func()
	edit    []func(*Config)
}

// organization makes an identity and an empty allow-list in a folder.
func organization(t testing.TB, d wire.Domain, edit ...func(*InitOptions)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), string(d))
	o := InitOptions{Domain: d}
	for _, e := range edit {
		e(&o)
	}
	if err := Init(dir, o); err != nil {
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
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := OpenPeers(filepath.Join(dir, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, id: id, peers: peers, log: new(journal), metrics: prometheus.NewRegistry(), edit: edit}
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

// again ends the node and starts it anew, with its files.
func (n *node) again(t testing.TB) *node {
	t.Helper()
	n.end()
	return start(t, n.dir, n.edit...)
}

// bundle is the node's organization, with the node as seed if it runs.
func (n *node) bundle(t testing.TB, seed bool) *Bundle {
	t.Helper()
	var seeds []Seed
	if seed {
		seeds = []Seed{{n.id.Node, n.Address()}}
	}
	b, err := NewBundle(n.id.Domain, n.id.Root, seeds...)
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
	a, b = start(t, organization(t, "a.example"), edit...), start(t, organization(t, "b.example"), edit...)
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
			eventually(t, fmt.Sprintf("%s has a link to %s", n.id.Node, o.id.Node), func() bool {
				k := n.records.get(o.id.Node)
				return n.links.get(o.id.Node) != nil && k != nil && k.Address == o.Address() && n.gossip.alive()[o.id.Node]
			})
		}
	}
}

// metric is the value of a counter or gauge with these labels: pairs of name and value.
func (n *node) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	return metricOf(t, n.metrics, name, labels...)
}

func metricOf(t testing.TB, r *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	metrics:
		for _, m := range family.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
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
