// Command orderpeer measures dragonboat, a library for many Raft groups, as package consensus/orderbench measures ours:
// three nodes in one process, loopback TCP, fsync, one entry under way in each group at any time. It uses the
// library's own log engine, tan, and a state machine that does nothing. 'mlsfed bench order --peers' builds and runs
// it; it prints one JSON object with the commits per second and the milliseconds of processor time per commit.
//
// It is a module of its own, so that the library is no dependency of mlsfed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/statemachine"
)

const (
	nodes   = 3
	patient = 2 * time.Minute // for the elections
	// A tick is the library's unit of time: an election begins after electionTicks without a leader.
	tickMilliseconds = 100
	electionTicks    = 20
	heartbeatTicks   = 2
)

type settings struct {
	dir     string
	engine  string
	profile string
	groups  int
	entry   int
	round   time.Duration
}

// pace is the output.
type pace struct {
	Rate float64 `json:"rate"` // commits per second
	CPU  float64 `json:"cpu"`  // milliseconds of processor time per commit
}

func main() {
	var s settings
	flag.StringVar(&s.dir, "dir", "", "empty `folder` on the disk to be measured")
	flag.StringVar(&s.engine, "engine", "tan", "log engine: tan or pebble")
	flag.StringVar(&s.profile, "profile", "", "write a processor profile of the round to this `file`")
	flag.IntVar(&s.groups, "groups", 100, "number of Raft groups, all of them busy")
	flag.IntVar(&s.entry, "entry", 4096, "size of an entry in bytes")
	flag.DurationVar(&s.round, "round", 5*time.Second, "duration of the round that is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := run(ctx, s)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "orderpeer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) (p pace, err error) {
	if s.dir == "" || s.groups < 1 || s.entry < 1 || s.round <= 0 {
		return p, errors.New("wanted -dir, and -groups, -entry and -round above 0")
	}
	for _, name := range []string{"raft", "rsm", "transport", "dragonboat", "logdb", "raftpb", "config", "tan", "pebblekv", "grpc", "settings", "order", "utils"} {
		logger.GetLogger(name).SetLevel(logger.CRITICAL)
	}
	hosts, addresses, err := open(s)
	defer func() {
		for _, h := range hosts {
			h.Close()
		}
	}()
	if err != nil {
		return p, err
	}
	if err := start(hosts, addresses, s.groups); err != nil {
		return p, err
	}
	leaders, err := elect(ctx, hosts, s.groups)
	if err != nil {
		return p, err
	}
	return drive(ctx, leaders, s)
}

// open starts the nodes.
func open(s settings) (hosts []*dragonboat.NodeHost, addresses []string, err error) {
	for k := range nodes {
		address, err := freeAddress()
		if err != nil {
			return hosts, nil, err
		}
		c := config.NodeHostConfig{
			WALDir: filepath.Join(s.dir, fmt.Sprint(k)), NodeHostDir: filepath.Join(s.dir, fmt.Sprint(k)),
			RTTMillisecond: tickMilliseconds, RaftAddress: address,
		}
		switch s.engine {
		case "tan":
			c.Expert.LogDBFactory = tan.Factory
		case "pebble": // the default of the library
		default:
			return hosts, nil, fmt.Errorf("-engine %s: wanted tan or pebble", s.engine)
		}
		h, err := dragonboat.NewNodeHost(c)
		if err != nil {
			return hosts, nil, fmt.Errorf("node %d: %w", k+1, err)
		}
		hosts, addresses = append(hosts, h), append(addresses, address)
	}
	return hosts, addresses, nil
}

// freeAddress returns a loopback address that was free a moment ago: the library opens the port itself.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start starts a replica of each group on each node.
func start(hosts []*dragonboat.NodeHost, addresses []string, groups int) error {
	members := make(map[uint64]dragonboat.Target)
	for k, address := range addresses {
		members[uint64(k+1)] = address
	}
	for shard := range groups {
		for k, h := range hosts {
			err := h.StartReplica(members, false, newNothing, config.Config{
				ReplicaID: uint64(k + 1), ShardID: uint64(shard + 1), ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks,
				CheckQuorum: true, PreVote: true,
			})
			if err != nil {
				return fmt.Errorf("replica %d of group %d: %w", k+1, shard+1, err)
			}
		}
	}
	return nil
}

// elect waits until each group has a leader, and returns the leading nodes.
func elect(ctx context.Context, hosts []*dragonboat.NodeHost, groups int) ([]*dragonboat.NodeHost, error) {
	leaders := make([]*dragonboat.NodeHost, groups)
	deadline := time.Now().Add(patient)
	for shard := range leaders {
		for leaders[shard] == nil {
			id, _, known, err := hosts[shard%nodes].GetLeaderID(uint64(shard + 1))
			switch {
			case err == nil && known && id >= 1 && id <= nodes:
				leaders[shard] = hosts[id-1]
				continue
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case time.Now().After(deadline):
				return nil, fmt.Errorf("group %d has no leader after %v (%v)", shard+1, patient, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return leaders, nil
}

// drive keeps one entry under way in each group, and counts the commits of a round after a short start-up time. The
// client of a group uses the node that leads it: no entry is forwarded.
func drive(ctx context.Context, leaders []*dragonboat.NodeHost, s settings) (p pace, err error) {
	entry := make([]byte, s.entry)
	var count atomic.Int64
	var stop atomic.Bool
	var first atomic.Pointer[error]
	var all sync.WaitGroup
	for shard, h := range leaders {
		session := h.GetNoOPSession(uint64(shard + 1))
		all.Go(func() {
			for ctx.Err() == nil && !stop.Load() {
				within, cancel := context.WithTimeout(ctx, 10*time.Second)
				_, err := h.SyncPropose(within, session, entry)
				cancel()
				if err == nil {
					count.Add(1)
				} else {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	pause(ctx, s.round/5)
	if s.profile != "" {
		f, err := os.Create(s.profile)
		if err != nil {
			return p, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return p, err
		}
	}
	before, began, cpu := count.Load(), time.Now(), processorTime()
	pause(ctx, s.round)
	committed, took, used := count.Load()-before, time.Since(began), processorTime()-cpu
	pprof.StopCPUProfile()
	stop.Store(true)
	all.Wait()
	if committed == 0 {
		if f := first.Load(); f != nil {
			return p, fmt.Errorf("nothing was committed: %w", *f)
		}
		return p, errors.New("nothing was committed")
	}
	return pace{
		Rate: float64(committed) / took.Seconds(),
		CPU:  float64(used) / float64(time.Millisecond) / float64(committed),
	}, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// nothing is a state machine that does nothing.
type nothing struct{}

func newNothing(uint64, uint64) statemachine.IStateMachine { return nothing{} }

func (nothing) Update(e statemachine.Entry) (statemachine.Result, error) {
	return statemachine.Result{Value: uint64(len(e.Cmd))}, nil
}
func (nothing) Lookup(any) (any, error) { return nil, nil }
func (nothing) SaveSnapshot(io.Writer, statemachine.ISnapshotFileCollection, <-chan struct{}) error {
	return nil
}
func (nothing) RecoverFromSnapshot(io.Reader, []statemachine.SnapshotFile, <-chan struct{}) error {
	return nil
}
func (nothing) Close() error { return nil }
