package orderbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// naive is the design without any of ours: each replica has a raft-boltdb file and a TCP transport, and
// the library's default timers.
type naive struct {
	groups [][3]*raft.Raft
	closer []io.Closer
	entry  []byte
}

func newNaive(ctx context.Context, dir string, n int, progress func(string, ...any)) (*naive, error) {
	s := &naive{groups: make([][3]*raft.Raft, n), entry: make([]byte, EntrySize)}
	// Some at a time: elections of a thousand at once do not end.
	const together = 25
	for from := 0; from < n; from += together {
		to := min(from+together, n)
		for i := from; i < to; i++ {
			if err := s.open(filepath.Join(dir, fmt.Sprint(i)), i); err != nil {
				return nil, errors.Join(err, s.close())
			}
		}
		for i := from; i < to; i++ {
			if _, err := s.leader(ctx, i, 2*time.Minute); err != nil {
				return nil, errors.Join(err, s.close())
			}
		}
		if to%250 == 0 {
			progress("%d conversations: naive: %d are set up", n, to)
		}
	}
	return s, nil
}

func (s *naive) open(dir string, group int) error {
	var servers []raft.Server
	var transports [3]*raft.NetworkTransport
	for k := range 3 {
		t, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
		if err != nil {
			return err
		}
		s.closer = append(s.closer, t)
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
		if s.groups[group][k], err = raft.NewRaft(c, counter{}, store, store, snaps, transports[k]); err != nil {
			return err
		}
	}
	return nil
}

// leader finds the one that leads a group.
func (s *naive) leader(ctx context.Context, i int, patience time.Duration) (*raft.Raft, error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 5*time.Millisecond) {
		for _, r := range s.groups[i] {
			if r != nil && r.State() == raft.Leader {
				return r, nil
			}
		}
	}
	return nil, errors.Join(fmt.Errorf("group %d has no leader", i), ctx.Err())
}

func (s *naive) submit(ctx context.Context, i int) error {
	r, err := s.leader(ctx, i, 10*time.Second)
	if err != nil {
		return err
	}
	return r.Apply(s.entry, 10*time.Second).Error()
}

func (s *naive) close() error {
	var all sync.WaitGroup
	for _, g := range s.groups {
		for _, r := range g {
			if r != nil {
				all.Go(func() { _ = r.Shutdown().Error() })
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

// counter is a state machine that does nothing: all the time belongs to the ordering.
type counter struct{}

func (counter) Apply(*raft.Log) any                 { return nil }
func (counter) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }
func (counter) Restore(r io.ReadCloser) error       { return r.Close() }

type nothing struct{}

func (nothing) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (nothing) Release()                             {}
