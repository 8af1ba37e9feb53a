package consensus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// tcpLink is loopback TCP. Each side first sends its name, which mutual TLS proves in production.
type tcpLink struct {
	at wire.NodeID
	mu *sync.Mutex // guards addresses
	by map[wire.NodeID]string
}

func (l tcpLink) Dial(ctx context.Context, to wire.NodeID) (net.Conn, error) {
	l.mu.Lock()
	address := l.by[to]
	l.mu.Unlock()
	if address == "" {
		return nil, errCut
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(conn, l.at); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// named is a connection whose name has been read.
type named struct {
	net.Conn
	in *bufio.Reader
}

func (n named) Read(b []byte) (int, error) { return n.in.Read(b) }

// tcpNode is a node with real sockets and real files.
type tcpNode struct {
	m    *Manager
	stop func()
}

// tcpCluster starts nodes with one backend of the log.
func tcpCluster(t testing.TB, backend string, edit func(*Config), names ...wire.NodeID) (map[wire.NodeID]*tcpNode, func(wire.NodeID)) {
	link := tcpLink{mu: new(sync.Mutex), by: make(map[wire.NodeID]string)}
	roster := &memRoster{by: make(map[wire.Domain][]wire.NodeID)}
	dir := t.TempDir()
	nodes := make(map[wire.NodeID]*tcpNode)
	start := func(n wire.NodeID) {
		roster.add(n)
		nodes[n] = startTCP(t, filepath.Join(dir, string(n)), backend, link, roster, edit, n)
	}
	for _, n := range names {
		start(n)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			n.stop()
		}
	})
	return nodes, start
}

func startTCP(t testing.TB, dir, backend string, link tcpLink, roster Roster, edit func(*Config), n wire.NodeID) *tcpNode {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := raftlog.Open(raftlog.Config{Dir: filepath.Join(dir, "log"), Backend: backend})
	if err != nil {
		t.Fatal(err)
	}
	link.at = n
	cfg := Config{Node: n, Dir: dir, Log: log, Link: link, Roster: roster, Timers: Timers{Repair: 500 * time.Millisecond}}
	if os.Getenv("MLSFED_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n)
	}
	if edit != nil {
		edit(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for m.context() == nil || !m.mesh.spawn(func(context.Context) {}) {
		runtime.Gosched()
	}
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				in := bufio.NewReader(conn)
				from, err := in.ReadString('\n')
				if err != nil {
					conn.Close()
					return
				}
				_ = m.Accept(ctx, wire.NodeID(strings.TrimSpace(from)), named{conn, in})
			})
		}
	})
	link.mu.Lock()
	link.by[n] = listener.Addr().String()
	link.mu.Unlock()
	var once sync.Once
	return &tcpNode{m: m, stop: func() {
		once.Do(func() {
			listener.Close()
			cancel()
			all.Wait()
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
	}}
}

// TestOnRealSocketsAndFiles tests the life of a conversation on both backends of the log.
func TestOnRealSocketsAndFiles(t *testing.T) {
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		t.Run(backend, func(t *testing.T) {
			edit := func(cfg *Config) {
				cfg.Timers.Sleep = 600 * time.Millisecond
				cfg.Timers.Snapshot = 100 * time.Millisecond
				cfg.Limits.SnapshotAfter, cfg.Limits.Trailing = 16, 8
			}
			nodes, start := tcpCluster(t, backend, edit, three...)
			b := &tcpBench{t: t, nodes: nodes}
			p := b.found(conv, "a.example", "b.example", "c.example")
			b.wait("three voters", func() bool {
				s, err := nodes[nodeA].m.Status(conv)
				return err == nil && len(s.Voters) == 3
			})
			for i := range 50 {
				p = b.commit(three[i%3], p, 200)
			}
			b.wait("all asleep", func() bool {
				for _, n := range three {
					if nodes[n].m.Counts().Awake > 0 {
						return false
					}
				}
				return true
			})
			files, err := filepath.Glob(filepath.Join(nodes[nodeA].m.cfg.Dir, "snapshots", "*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("snapshots %v (%v), wanted one", files, err)
			}
			nodes[nodeC].stop()
			p = b.commit(nodeB, p, 200)
			start(nodeC)
			if entries, gap, err := nodes[nodeC].m.Entries(conv, 45, 100, 1<<20); err != nil || gap || len(entries) == 0 {
				t.Fatalf("after a restart: %d entries, gap %v, %v", len(entries), gap, err)
			}
			p = b.commit(nodeC, p, 200)
			b.wait("one order hash", func() bool {
				var orders []wire.Hash
				for _, n := range three {
					if s, err := nodes[n].m.Status(conv); err == nil && s.Sequence >= p.Parent {
						orders = append(orders, s.Order)
					}
				}
				return len(orders) == 3 && orders[0] == orders[1] && orders[1] == orders[2]
			})
		})
	}
}

type tcpBench struct {
	t     testing.TB
	nodes map[wire.NodeID]*tcpNode
	subs  uint64
}

func (b *tcpBench) id() wire.SubmissionID { b.subs++; return author.Submission(b.subs) }

func (b *tcpBench) found(id wire.ConversationID, orgs ...wire.Domain) author.Place {
	b.t.Helper()
	return b.foundAt(nodeA, id, orgs...)
}

func (b *tcpBench) foundAt(at wire.NodeID, id wire.ConversationID, orgs ...wire.Domain) author.Place {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e := author.Create(id, b.id(), wire.Policy{}, author.Addresses(1, orgs...))
	r, err := b.nodes[at].m.Create(ctx, e)
	if err != nil {
		b.t.Fatal(err)
	}
	return author.After(e, r)
}

func (b *tcpBench) commit(at wire.NodeID, p author.Place, size int) author.Place {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e := p.Commit(b.id(), size, wire.DeliveryChange{})
	r, err := b.nodes[at].m.Order(ctx, e)
	if err != nil {
		b.t.Fatal(err)
	}
	return author.After(e, r)
}

func (b *tcpBench) wait(what string, f func() bool) {
	b.t.Helper()
	for range 3000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("never: %s", what)
}

func median(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}

// report prints two quantiles in milliseconds.
func report(b *testing.B, name string, d []time.Duration) {
	p50, p99 := median(d)
	b.ReportMetric(float64(p50.Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(p99.Microseconds())/1000, name+"-p99-ms")
}

// BenchmarkOneConversation measures commits one after the other, 4 KiB, three nodes, real files and sockets, and the
// time between the leader's answer and the application on a follower.
func BenchmarkOneConversation(b *testing.B) {
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		b.Run(backend, func(b *testing.B) {
			nodes, _ := tcpCluster(b, backend, nil, three...)
			t := &tcpBench{t: b, nodes: nodes}
			p := t.found(conv, "a.example", "b.example", "c.example")
			t.wait("three voters", func() bool { s, err := nodes[nodeA].m.Status(conv); return err == nil && len(s.Voters) == 3 })
			follower, err := nodes[nodeB].m.find(conv)
			if err != nil {
				b.Fatal(err)
			}
			var took, lag []time.Duration
			for b.Loop() {
				e := p.Commit(t.id(), 4096, wire.DeliveryChange{})
				start := time.Now()
				r, err := nodes[nodeA].m.Order(context.Background(), e)
				if err != nil {
					b.Fatal(err)
				}
				answered := time.Now()
				took = append(took, answered.Sub(start))
				for l := follower.awake(); ; time.Sleep(50 * time.Microsecond) {
					l.fsm.mu.RLock()
					seq := l.fsm.m.Sequence()
					l.fsm.mu.RUnlock()
					if seq >= r.Sequence {
						break
					}
				}
				lag = append(lag, time.Since(answered))
				p = author.After(e, r)
			}
			report(b, "commit", took)
			report(b, "follower-lag", lag)
		})
	}
}

// BenchmarkWake measures the first commit in a conversation that is asleep on all three nodes.
func BenchmarkWake(b *testing.B) {
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		b.Run(backend, func(b *testing.B) {
			nodes, _ := tcpCluster(b, backend, nil, three...)
			t := &tcpBench{t: b, nodes: nodes}
			p := t.found(conv, "a.example", "b.example", "c.example")
			t.wait("three voters", func() bool { s, err := nodes[nodeA].m.Status(conv); return err == nil && len(s.Voters) == 3 })
			var took []time.Duration
			for b.Loop() {
				t.wait("sleep", func() bool {
					for _, n := range three {
						_ = nodes[n].m.Sleep(conv)
					}
					for _, n := range three {
						if nodes[n].m.Counts().Awake > 0 {
							return false
						}
					}
					return true
				})
				start := time.Now()
				p = t.commit(nodeA, p, 4096)
				took = append(took, time.Since(start))
			}
			report(b, "wake", took)
		})
	}
}

// BenchmarkBusyConversations measures all conversations at once, each with one commit in progress.
func BenchmarkBusyConversations(b *testing.B) {
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		for _, n := range []int{10, 100} {
			b.Run(fmt.Sprintf("%s/%d", backend, n), func(b *testing.B) {
				nodes, _ := tcpCluster(b, backend, nil, three...)
				t := &tcpBench{t: b, nodes: nodes}
				places := make([]author.Place, n)
				for i := range places {
					places[i] = t.found(wire.ConversationID(fmt.Sprintf("conversation-%04d", i)), "a.example", "b.example", "c.example")
				}
				for i := range places {
					t.wait("three voters", func() bool {
						s, err := nodes[nodeA].m.Status(places[i].Conversation)
						return err == nil && len(s.Voters) == 3
					})
				}
				work := make(chan int, n)
				for i := range n {
					work <- i
				}
				var mu sync.Mutex
				var all sync.WaitGroup
				left := b.N
				b.ResetTimer()
				for range n {
					all.Go(func() {
						for {
							mu.Lock()
							left--
							done := left < 0
							id := t.id()
							mu.Unlock()
							if done {
								return
							}
							i := <-work
							e := places[i].Commit(id, 4096, wire.DeliveryChange{})
							r, err := nodes[nodeA].m.Order(context.Background(), e)
							if err != nil {
								b.Error(err)
								return
							}
							places[i] = author.After(e, r)
							work <- i
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			})
		}
	}
}

// BenchmarkAsleep measures the memory of a sleeping conversation.
func BenchmarkAsleep(b *testing.B) {
	nodes, _ := tcpCluster(b, raftlog.BackendBolt, func(cfg *Config) { cfg.Timers.Sleep = 300 * time.Millisecond }, nodeA)
	t := &tcpBench{t: b, nodes: nodes}
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	n := 0
	for b.Loop() {
		t.found(wire.ConversationID(fmt.Sprintf("conversation-%08d", n)), "a.example")
		n++
	}
	t.wait("all asleep", func() bool { return nodes[nodeA].m.Counts().Awake == 0 })
	b.ReportMetric(float64(int64(heap()-before))/float64(n), "bytes/asleep")
}
