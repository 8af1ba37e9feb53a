package raftlog

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// counter is a state machine that counts the applied entries.
type counter struct {
	mu   sync.Mutex
	last string
	n    uint64
}

func (c *counter) Apply(e *raft.Log) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.last = string(e.Data)
	return c.n
}

func (c *counter) Snapshot() (raft.FSMSnapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return counted(fmt.Sprintf("%d %s", c.n, c.last)), nil
}

func (c *counter) Restore(r io.ReadCloser) error {
	defer r.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := fmt.Fscan(r, &c.n, &c.last)
	return err
}

func (c *counter) got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d %s", c.n, c.last)
}

type counted string

func (s counted) Persist(sink raft.SnapshotSink) error {
	if _, err := io.WriteString(sink, string(s)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (counted) Release() {}

// raftNode is a Raft group of one voter on a group of the log.
func raftNode(t *testing.T, l *Log, n uint32, snaps raft.SnapshotStore) (*raft.Raft, *counter) {
	t.Helper()
	conf := raft.DefaultConfig()
	conf.LocalID = "n1"
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	conf.SnapshotThreshold, conf.TrailingLogs, conf.SnapshotInterval = 64, 16, 5*time.Millisecond
	addr, trans := raft.NewInmemTransport("")
	g := l.Group(n)
	if has, err := raft.HasExistingState(g, g, snaps); err != nil {
		t.Fatal(err)
	} else if !has {
		must(t, raft.BootstrapCluster(conf, g, g, snaps, trans, raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: addr}}}))
	}
	fsm := &counter{}
	r, err := raft.NewRaft(conf, fsm, g, g, snaps, trans)
	must(t, err)
	return r, fsm
}

func lead(r *raft.Raft) {
	for r.State() != raft.Leader {
		time.Sleep(time.Millisecond)
	}
}

// Raft itself runs on many groups of one log at the same time, compacts, restores a snapshot over a gap, and starts
// again from the data on disk.
func TestRaftOnTheLog(t *testing.T) {
	forEach(t, func(t *testing.T, p place) {
		const groups = 8
		snaps := make([]raft.SnapshotStore, groups)
		for n := range snaps {
			snaps[n] = raft.NewInmemSnapshotStore()
		}
		want := make([]string, groups)
		for round := range 3 {
			l := p.open(t)
			var wg sync.WaitGroup
			for n := range uint32(groups) {
				wg.Go(func() {
					r, fsm := raftNode(t, l, n, snaps[n])
					lead(r)
					if err := r.Barrier(time.Minute).Error(); err != nil {
						t.Error(err)
					}
					if want[n] != "" && fsm.got() != want[n] {
						t.Errorf("round %d: group %d came back as %q, was %q", round, n, fsm.got(), want[n])
					}
					for i := range 150 {
						if err := r.Apply(fmt.Appendf(nil, "%d/%d/%d", round, n, i), time.Minute).Error(); err != nil {
							t.Error(err)
						}
					}
					if err := r.Snapshot().Error(); err != nil && err != raft.ErrNothingNewToSnapshot {
						t.Error(err)
					}
					if round == 1 {
						restoreOverGap(t, r)
					}
					want[n] = fsm.got()
					if err := r.Shutdown().Error(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for n := range uint32(groups) {
				must(t, l.Group(n).Verify())
				first, err := l.Group(n).FirstIndex()
				must(t, err)
				if first <= 16 {
					t.Errorf("round %d: group %d begins at %d: nothing was compacted", round, n, first)
				}
			}
			must(t, l.Close())
		}
	})
}

func restoreOverGap(t *testing.T, r *raft.Raft) {
	snap := r.Snapshot()
	for snap.Error() != nil { // nothing new since the last snapshot, which Raft made itself
		if err := r.Apply([]byte("for a snapshot"), time.Minute).Error(); err != nil {
			t.Error(err)
			return
		}
		snap = r.Snapshot()
	}
	meta, content, err := snap.Open()
	if err != nil {
		t.Error(err)
		return
	}
	if err := r.Restore(meta, content, time.Minute); err != nil {
		t.Error(err)
	}
}

// Raft treats damage as the package documentation describes: it panics on the goroutine that calls NewRaft.
func TestRaftRefusesDamage(t *testing.T) {
	disk := NewDisk()
	l := place{disk: disk}.open(t)
	snaps := raft.NewInmemSnapshotStore()
	r, _ := raftNode(t, l, 1, snaps)
	lead(r)
	for range 20 {
		must(t, r.Apply([]byte("x"), time.Minute).Error())
	}
	must(t, r.Shutdown().Error())
	disk.FlipBit(1, 10)
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("NewRaft did not panic with the damage: %v", err)
		}
	}()
	raftNode(t, l, 1, snaps)
}

// Ten thousand unused groups cost one entry in a map each.
func TestIdleGroupsCostLittle(t *testing.T) {
	const groups = 10_000
	p := newPlace(t, BackendBolt)
	l := p.open(t, noSync)
	var wg sync.WaitGroup
	for w := range uint32(50) {
		wg.Go(func() {
			for n := w; n < groups; n += 50 {
				if err := l.Group(n).StoreLogs(entries(n, 1, 3, 1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, l.Close())
	heap := func() uint64 {
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l = p.open(t, noSync)
	var held [100]*GroupLog
	for n := range uint32(groups) {
		g := l.Group(n)
		wantBounds(t, g, 1, 3)
		if n < uint32(len(held)) {
			held[n] = g
		}
	}
	for l.Stats().Open > len(held) {
		runtime.GC() // collection runs the cleanups in a goroutine of its own
	}
	per := (int64(heap()) - int64(before)) / groups
	t.Logf("%d groups idle, %d open: %d B of heap each", groups, l.Stats().Open, per)
	if per > 200 {
		t.Errorf("an idle group costs %d B", per)
	}
	for n, g := range held {
		if l.Group(uint32(n)) != g {
			t.Fatal("a group that is in use was opened twice")
		}
	}
}
