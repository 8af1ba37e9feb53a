package orderbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/stats"
)

// signedAhead is the number of commits a second for which clients sign ahead. Those of faster
// conversations sign while they go on.
const signedAhead = 8000

// pace is how fast a design commits, and what it takes of the processors.
type pace struct {
	rate float64 // commits a second
	cpu  float64 // milliseconds a commit, of all nodes and clients
}

// drive keeps one submission under way in each of n conversations and counts what is committed, after a
// moment to get going.
func drive(ctx context.Context, s system, n int, round time.Duration) (pace, error) {
	warm(ctx, s, n)
	s.prepare(int(signedAhead*round.Seconds()*6/5)/n + 1)
	var count atomic.Int64
	var stop atomic.Bool // what is under way is waited for: its answer says where the next commit goes
	var first atomic.Pointer[error]
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil && !stop.Load() {
				if err := s.submit(ctx, i); err == nil {
					count.Add(1)
				} else {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	pause(ctx, round/5)
	before, start, cpu := count.Load(), time.Now(), cpuTime()
	pause(ctx, round)
	committed, took, used := count.Load()-before, time.Since(start), cpuTime()-cpu
	stop.Store(true)
	all.Wait()
	if committed == 0 {
		err := errors.New("nothing was committed")
		if f := first.Load(); f != nil {
			err = fmt.Errorf("nothing was committed: %w", *f)
		}
		return pace{}, err
	}
	return pace{float64(committed) / took.Seconds(), milliseconds(used) / float64(committed)}, nil
}

// warm commits once in each conversation: the change of replicas that follows its creation is then over,
// and clients know what their next commit follows. Those that fail are counted by nobody yet.
func warm(ctx context.Context, s system, n int) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { _ = s.submit(ctx, i) })
	}
	all.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// floor is what a commit cannot go below with hashicorp/raft, which writes its own disk before it
// replicates: two appends with fdatasync one after the other, and a round trip, in milliseconds.
func (b *bench) floor(n int) (float64, error) {
	write, err := b.floorWrite(n)
	if err != nil {
		return 0, err
	}
	trip, err := floorTrip(n)
	return 2*write + trip, err
}

func (b *bench) floorWrite(n int) (_ float64, err error) {
	path := filepath.Join(b.cfg.Dir, "floor")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	entry := make([]byte, EntrySize)
	times, err := sample(n, func() error {
		if _, err := f.Write(entry); err != nil {
			return err
		}
		return syscall.Fdatasync(int(f.Fd()))
	})
	return stats.Median(times), err
}

// floorTrip sends an entry over loopback TCP and waits for a short answer.
func floorTrip(n int) (_ float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		entry := make([]byte, EntrySize)
		for {
			if _, err := io.ReadFull(conn, entry); err != nil {
				return
			}
			if _, err := conn.Write(entry[:8]); err != nil {
				return
			}
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	entry := make([]byte, EntrySize)
	times, err := sample(n, func() error {
		if _, err := conn.Write(entry); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, entry[:8])
		return err
	})
	return stats.Median(times), err
}
