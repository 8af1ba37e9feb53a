package orderbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// naive is the design without our changes: each replica has a raft-boltdb file and a TCP transport, and the library's
// default timers. Its state machine is ours: the leader judges, every replica applies. An empty one orders the same
// number of bytes and does nothing with them.
type naive struct {
	*clients
	empty  bool
	groups [][3]naiveReplica
	closer []io.Closer
	entry  []byte // content of the entries of an empty design

	patience time.Duration // time for which a submission waits for a leader
}

type naiveReplica struct {
	raft *raft.Raft
	fsm  *naiveFSM
}

// naivePatience is the time in which a group may elect a leader before it counts as a group without one.
const naivePatience = 30 * time.Second

func newNaive(ctx context.Context, dir string, n int, empty bool, progress func(string, ...any)) (*naive, error) {
	s := &naive{clients: newClients(n), empty: empty, groups: make([][3]naiveReplica, n), entry: make([]byte, EntrySize), patience: 10 * time.Second}
	// Only some at a time: a thousand elections at once do not end.
	const together = 25
	without := 0
	for from := 0; from < n; from += together {
		to := min(from+together, n)
		for i := from; i < to; i++ {
			err := s.open(filepath.Join(dir, fmt.Sprint(i)), i)
			if err != nil && !errors.Is(err, syscall.EMFILE) { // each replica has five files, which may exceed the limit
				return nil, errors.Join(err, s.close())
			}
		}
		deadline := time.Now().Add(naivePatience)
		for i := from; i < to; i++ {
			if err := s.found(ctx, i, deadline); err != nil {
				without++
			}
		}
		if to%250 == 0 {
			progress("%d conversations: naive: %d are set up", n, to)
		}
	}
	if without > 0 {
		progress("%d conversations: naive: %d of them have no leader after %v, for want of time or of files; until they do, they commit nothing",
			n, without, naivePatience)
	}
	return s, nil
}

// found waits for a leader and creates the conversation.
func (s *naive) found(ctx context.Context, i int, deadline time.Time) error {
	if _, err := s.leader(ctx, i, time.Until(deadline)); err != nil || s.empty {
		return err
	}
	return s.orderNext(ctx, i)
}

func (s *naive) open(dir string, group int) error {
	var servers []raft.Server
	var transports [3]*raft.NetworkTransport
	for k := range 3 {
		t, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
		if err != nil {
			return err
		}
		s.closer = append(s.closer, naiveTransport{t})
		transports[k] = t
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint(k)), Address: t.LocalAddr()})
	}
	for k := range 3 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, fmt.Sprint(k))})
		if err != nil {
			return err
		}
		s.closer = append(s.closer, store)
		c := raft.DefaultConfig()
		c.LocalID = servers[k].ID
		c.Logger = hclog.NewNullLogger()
		snaps := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(c, store, store, snaps, transports[k], raft.Configuration{Servers: servers}); err != nil {
			return err
		}
		replica := &s.groups[group][k]
		replica.fsm = &naiveFSM{id: s.talks[group].id, empty: s.empty, m: machine.New(s.talks[group].id, nil)}
		if replica.raft, err = raft.NewRaft(c, replica.fsm, store, store, snaps, transports[k]); err != nil {
			return err
		}
	}
	return nil
}

// leader returns the replica that leads a group.
func (s *naive) leader(ctx context.Context, i int, patience time.Duration) (*naiveReplica, error) {
	for deadline := time.Now().Add(patience); ; pause(ctx, 5*time.Millisecond) {
		for k := range s.groups[i] {
			if r := &s.groups[i][k]; r.raft != nil && r.raft.State() == raft.Leader {
				return r, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("group %d has no leader", i), ctx.Err())
		}
	}
}

func (s *naive) orderNext(ctx context.Context, i int) error {
	r, err := s.leader(ctx, i, s.patience)
	if err != nil {
		return err
	}
	if s.empty {
		return r.raft.Apply(s.entry, 10*time.Second).Error()
	}
	entry := &wire.Entry{Version: wire.EntryVersion, Time: wire.TimeOf(time.Now()), Proposer: "n1.a.example", Envelope: s.next(i)}
	receipt, err := r.fsm.judge(entry)
	if err == nil && receipt == nil {
		receipt, err = r.order(entry)
	}
	if err == nil {
		s.answered(i, *receipt)
	}
	return err
}

func (r *naiveReplica) order(e *wire.Entry) (*wire.Receipt, error) {
	raw, err := wire.Encode(e)
	if err != nil {
		return nil, err
	}
	future := r.raft.Apply(raw, 10*time.Second)
	if err := future.Error(); err != nil {
		return nil, err
	}
	out, ok := future.Response().(machine.Outcome)
	switch {
	case !ok:
		return nil, fmt.Errorf("answer is a %T", future.Response())
	case out.Err != nil:
		return nil, out.Err
	}
	return &out.Receipt, nil
}

func (s *naive) close() error {
	var all sync.WaitGroup
	for _, g := range s.groups {
		for _, r := range g {
			if r.raft != nil {
				all.Go(func() { _ = r.raft.Shutdown().Error() })
			}
		}
	}
	all.Wait()
	var errs []error
	for _, c := range s.closer {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// naiveTransport also closes the idle connections that the library keeps open.
type naiveTransport struct{ *raft.NetworkTransport }

// Close implements io.Closer.
func (t naiveTransport) Close() error {
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	return err
}

// naiveFSM implements raft.FSM with only our state machine.
type naiveFSM struct {
	id    wire.ConversationID
	empty bool

	mu sync.RWMutex // guards m
	m  *machine.Machine
}

func (f *naiveFSM) judge(e *wire.Entry) (*wire.Receipt, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.m.Judge(e)
}

// Apply implements raft.FSM.
func (f *naiveFSM) Apply(l *raft.Log) any {
	if f.empty {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m.Apply(l.Data)
}

// Snapshot implements raft.FSM.
func (f *naiveFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return naiveImage{f.m.Snapshot()}, nil
}

// Restore implements raft.FSM.
func (f *naiveFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	m, err := machine.Restore(f.id, nil, r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m = m
	return nil
}

type naiveImage struct{ *machine.Image }

// Persist implements raft.FSMSnapshot.
func (i naiveImage) Persist(sink raft.SnapshotSink) error {
	if _, err := i.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (naiveImage) Release() {}
