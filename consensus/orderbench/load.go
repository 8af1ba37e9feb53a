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
	"time"

	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// signedAhead is the number of commits per second for which clients sign in advance. Clients of faster conversations
// sign during the round.
const signedAhead = 8000

// pace is the commit rate of a design, and its processor time.
type pace struct {
	rate float64 // commits per second
	cpu  float64 // milliseconds per commit, of all nodes and clients
}

// drive keeps one submission in progress in each of n conversations and counts the commits, after a short start-up
// time.
func drive(ctx context.Context, s system, n int, round time.Duration) (pace, error) {
	warm(ctx, s, n)
	s.prepare(int(signedAhead*round.Seconds()*6/5)/n + 1)
	var count atomic.Int64
	var stop atomic.Bool // submissions in progress are awaited: the answer determines the place of the next commit
	var first atomic.Pointer[error]
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil && !stop.Load() {
				if err := s.orderNext(ctx, i); err == nil {
					count.Add(1)
				} else {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	pause(ctx, round/5)
	before, start, cpu := count.Load(), time.Now(), platform.ProcessorTime()
	pause(ctx, round)
	committed, took, used := count.Load()-before, time.Since(start), platform.ProcessorTime()-cpu
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

// warm commits once in each conversation: the change of replicas that follows its creation is then over, and clients
// know what their next commit follows. Failed commits are not counted yet.
func warm(ctx context.Context, s system, n int) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { _ = s.orderNext(ctx, i) })
	}
	all.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// floor returns the lower limit of a commit with hashicorp/raft, which writes its own disk before it replicates: two
// appends with fdatasync one after the other, and a round trip, in milliseconds.
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
		return platform.SyncData(f)
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
