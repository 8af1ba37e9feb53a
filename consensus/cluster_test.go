package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// memSnapshots keeps snapshots in memory. As with files, a snapshot takes effect at its Close.
type memSnapshots struct {
	mu sync.Mutex // guards by
	by map[uint32]*memSnapshot
}

type memSnapshot struct {
	meta    raft.SnapshotMeta
	content []byte
}

func newMemSnapshots() *memSnapshots { return &memSnapshots{by: make(map[uint32]*memSnapshot)} }

func (s *memSnapshots) store(group uint32) raft.SnapshotStore { return memStore{s, group} }

func (s *memSnapshots) sizes() (map[uint32]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := make(map[uint32]uint64)
	for g, snap := range s.by {
		sizes[g] = uint64(len(snap.content))
	}
	return sizes, nil
}

func (s *memSnapshots) drop(group uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, group)
	return nil
}

type memStore struct {
	all   *memSnapshots
	group uint32
}

func (s memStore) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &memSink{store: s, snap: &memSnapshot{meta: raft.SnapshotMeta{Version: v, ID: fmt.Sprintf("%d-%d", index, term), Index: index, Term: term, Configuration: c, ConfigurationIndex: ci}}}, nil
}

func (s memStore) List() ([]*raft.SnapshotMeta, error) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if snap := s.all.by[s.group]; snap != nil {
		meta := snap.meta
		return []*raft.SnapshotMeta{&meta}, nil
	}
	return nil, nil
}

func (s memStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	snap := s.all.by[s.group]
	if snap == nil || snap.meta.ID != id {
		return nil, nil, errors.New("no snapshot")
	}
	meta := snap.meta
	return &meta, io.NopCloser(bytes.NewReader(snap.content)), nil
}

type memSink struct {
	store memStore
	snap  *memSnapshot
	buf   bytes.Buffer
}

func (s *memSink) ID() string                  { return s.snap.meta.ID }
func (s *memSink) Write(b []byte) (int, error) { return s.buf.Write(b) }
func (s *memSink) Cancel() error               { return nil }
func (s *memSink) Close() error {
	s.store.all.mu.Lock()
	defer s.store.all.mu.Unlock()
	s.snap.content, s.snap.meta.Size = s.buf.Bytes(), int64(s.buf.Len())
	s.store.all.by[s.store.group] = s.snap
	return nil
}

// memConsumer stores deliveries with their positions, and survives its node's crashes.
type memConsumer struct {
	mu   sync.Mutex // guards the fields below
	got  map[wire.ConversationID][]Delivery
	fail int // number of calls for which Consume fails
}

func newMemConsumer() *memConsumer {
	return &memConsumer{got: make(map[wire.ConversationID][]Delivery)}
}

func (c *memConsumer) Position(id wire.ConversationID) (wire.SequenceNumber, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if list := c.got[id]; len(list) > 0 {
		return list[len(list)-1].Committed.Sequence, nil
	}
	return 0, nil
}

func (c *memConsumer) Consume(_ context.Context, d Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail > 0 {
		c.fail--
		return errors.New("the mailbox is full")
	}
	c.got[d.Conversation] = append(c.got[d.Conversation], d)
	return nil
}

// Reads implements Forgetter. Config.Owns determines the readers.
func (c *memConsumer) Reads(context.Context, wire.ConversationID) (bool, error) { return false, nil }

// Forget implements Forgetter.
func (c *memConsumer) Forget(_ context.Context, id wire.ConversationID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.got, id)
	return nil
}

func (c *memConsumer) sequences(id wire.ConversationID) []wire.SequenceNumber {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []wire.SequenceNumber
	for _, d := range c.got[id] {
		list = append(list, d.Committed.Sequence)
	}
	return list
}

// memRoster lists the organizations' nodes.
type memRoster struct {
	mu  sync.Mutex // guards the fields below
	by  map[wire.Domain][]wire.NodeID
	old map[wire.NodeID]bool // nodes of the first release: they announce nothing

	second map[wire.NodeID]bool // nodes that know the rules up to level 2
}

func (r *memRoster) Announced(n wire.NodeID, f wire.Feature) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.old[n] && !(r.second[n] && f == wire.FeatureRules3)
}

// secondRelease makes n a node that knows the rules up to level 2 only, or a node of this release again.
func (r *memRoster) secondRelease(n wire.NodeID, old bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.second[n] = old
}

// downgrade makes n appear as a node of the first release to the others, or as a node of this release again.
func (r *memRoster) downgrade(n wire.NodeID, old bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old[n] = old
}

func (r *memRoster) OrdersOnly(wire.NodeID) bool { return false }

func (r *memRoster) Nodes(org wire.Domain) []wire.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.by[org])
}

func (r *memRoster) add(n wire.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.by[n.Organization()], n) {
		r.by[n.Organization()] = append(r.by[n.Organization()], n)
	}
}

// testNode is a node that can crash and start again: its disk, snapshots and consumer stay.
type testNode struct {
	id       wire.NodeID
	disk     *raftlog.Disk
	snaps    *memSnapshots
	consumer *memConsumer
	stalled  atomic.Pointer[chan struct{}] // until the channel is closed, no write to the disk ends
	m        *Manager
	log      *raftlog.Log
	cancel   context.CancelFunc
	done     chan struct{}
}

// cluster is several nodes on one fabric.
type cluster struct {
	t      testing.TB
	f      *fabric
	roster *memRoster
	nodes  map[wire.NodeID]*testNode
	edit   func(*Config)
	subs   uint64
}

func newCluster(t testing.TB, seed uint64, edit func(*Config), names ...wire.NodeID) *cluster {
	c := &cluster{t: t, f: newFabric(seed), roster: &memRoster{by: make(map[wire.Domain][]wire.NodeID), old: make(map[wire.NodeID]bool), second: make(map[wire.NodeID]bool)}, nodes: make(map[wire.NodeID]*testNode), edit: edit}
	for _, n := range names {
		c.add(n)
	}
	return c
}

// add creates a node and starts it.
func (c *cluster) add(n wire.NodeID) *testNode {
	node := &testNode{id: n, disk: raftlog.NewDisk(), snaps: newMemSnapshots(), consumer: newMemConsumer()}
	node.disk.Sync = func(int) error {
		if goOn := node.stalled.Load(); goOn != nil {
			<-*goOn
		}
		return nil
	}
	c.nodes[n] = node
	c.roster.add(n)
	c.start(node)
	return node
}

func (c *cluster) config(node *testNode) Config {
	cfg := Config{Node: node.id, Log: node.log, Link: fabricLink{c.f, node.id}, Roster: c.roster, Consumer: node.consumer, snapshots: node.snaps,
		Timers: Timers{Coalesce: 10 * time.Millisecond, Repair: time.Second, Flush: 500 * time.Millisecond, Farewell: 5 * time.Second, Exchange: 15 * time.Second},
		Limits: Limits{Trailing: 8, SnapshotAfter: 16, RecentEntries: 4096, RecentBytes: 64 << 20}}
	if os.Getenv("MLSFED_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node.id)
	}
	if c.edit != nil {
		c.edit(&cfg)
	}
	return cfg
}

func (c *cluster) start(node *testNode) {
	c.t.Helper()
	var err error
	if node.log, err = raftlog.Open(raftlog.Config{Disk: node.disk}); err != nil {
		c.t.Fatal(err)
	}
	if node.m, err = New(c.config(node)); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	node.cancel, node.done = cancel, make(chan struct{})
	running := make(chan struct{})
	go func() {
		defer close(node.done)
		close(running)
		if err := node.m.Run(ctx); err != nil {
			c.t.Errorf("%s: %v", node.id, err)
		}
	}()
	<-running
	for node.m.context() == nil || !node.m.mesh.spawn(func(context.Context) {}) {
		time.Sleep(time.Millisecond)
	}
	c.f.join(node.id, node.m)
}

// stop stops a node in order; crash simulates a power failure: unsynced data is lost.
func (c *cluster) stop(node *testNode) {
	if node.m == nil {
		return
	}
	c.f.leave(node.id)
	node.cancel()
	<-node.done
	node.log.Close()
	node.m = nil
}

func (c *cluster) crash(node *testNode, keep bool) {
	if node.m == nil {
		return
	}
	c.f.leave(node.id)
	node.disk.Crash(keep)
	node.cancel()
	<-node.done
	node.log.Close()
	node.m = nil
}

func (c *cluster) stopAll() {
	for _, n := range c.nodes {
		c.stop(n)
	}
}

func (c *cluster) id() wire.SubmissionID { c.subs++; return author.Submission(c.subs) }

func (c *cluster) context(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	c.t.Cleanup(cancel)
	return ctx
}

// foundConversation creates a conversation on a node, with one address of each organization.
func (c *cluster) found(at wire.NodeID, id wire.ConversationID, policy wire.Policy, orgs ...wire.Domain) author.Place {
	c.t.Helper()
	e := author.Create(id, c.id(), policy, author.Addresses(1, orgs...))
	r, err := c.nodes[at].m.Create(c.context(20*time.Second), e)
	if err != nil {
		c.t.Fatalf("create on %s: %v", at, err)
	}
	return author.After(e, r)
}

func (c *cluster) commit(at wire.NodeID, p author.Place, change wire.DeliveryChange) author.Place {
	c.t.Helper()
	e := p.Commit(c.id(), 64, change)
	r, err := c.nodes[at].m.Order(c.context(20*time.Second), e)
	for range 5 {
		if wire.CodeOf(err) != wire.NoQuorum {
			break
		}
		r, err = c.nodes[at].m.Order(c.context(20*time.Second), e) // an election was under way: tried again, as clients do
	}
	if err != nil {
		c.t.Fatalf("commit of epoch %d on %s: %v", p.Epoch, at, err)
	}
	return author.After(e, r)
}

// eventually polls until f returns true, for at most a minute.
func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	for range 6000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, n := range c.nodes {
		if n.m != nil {
			for _, id := range n.m.Conversations() {
				s, err := n.m.Status(id)
				c.t.Logf("%s: %+v %v", n.id, s, err)
			}
		}
	}
	c.t.Fatalf("never: %s", what)
}

// settled waits until the conversation has the given numbers of voters and learners.
func (c *cluster) settled(id wire.ConversationID, voters, learners int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d voters and %d learners", voters, learners), func() bool {
		holders, asleep := 0, 0
		for _, n := range c.nodes {
			if n.m == nil {
				continue
			}
			s, err := n.m.Status(id)
			if err != nil {
				continue
			}
			as := len(s.Voters) == voters && len(s.Learners) == learners
			if s.State == "Leader" {
				return as
			}
			if holders++; s.State == "asleep" && as {
				asleep++
			}
		}
		return holders > 0 && asleep == holders
	})
}

func (c *cluster) leader(id wire.ConversationID) *testNode {
	for _, n := range c.nodes {
		if n.m == nil {
			continue
		}
		if s, err := n.m.Status(id); err == nil && s.State == "Leader" {
			return n
		}
	}
	return nil
}

// level waits until all replicas hold the same log.
func (c *cluster) level(id wire.ConversationID, holders ...wire.NodeID) {
	c.t.Helper()
	c.eventually("all replicas with one order hash", func() bool {
		var order wire.Hash
		for _, n := range holders {
			s, err := c.nodes[n].m.Status(id)
			if err != nil || s.Order == (wire.Hash{}) || order != (wire.Hash{}) && order != s.Order {
				return false
			}
			order = s.Order
		}
		return true
	})
}

func (c *cluster) asleep(id wire.ConversationID, holders ...wire.NodeID) {
	c.t.Helper()
	c.eventually("all replicas asleep", func() bool {
		for _, n := range holders {
			if s, err := c.nodes[n].m.Status(id); err != nil || s.State != "asleep" {
				return false
			}
		}
		return true
	})
}
