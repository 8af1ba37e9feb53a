package orderbench

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// woken measures how long it takes until conversations that all slept, and that get a commit each at the same
// moment, have all committed.
func (b *bench) woken() error {
	n := b.cfg.Woken
	dir := b.dir("woken")
	b.cfg.Progress("%d conversations are created and put to sleep, to be woken at once", n)
	o, err := newOurs(b.ctx, dir, raftlog.BackendPebble, n, b.cfg.Progress)
	if err != nil {
		return err
	}
	err = b.measureWoken(o, n)
	return errors.Join(err, o.close(), os.RemoveAll(dir))
}

func (b *bench) measureWoken(o *ours, n int) error {
	var times []float64
	for round := range b.cfg.Rounds {
		if err := b.settle(o, n); err != nil {
			return err
		}
		took, err := b.wakeAll(o, n)
		if err != nil {
			return err
		}
		wakes, elections := int64(0), int64(0)
		for _, node := range o.nodes {
			c := node.manager.Counts()
			wakes, elections = wakes+c.Wakes, elections+c.Elections
		}
		b.cfg.Progress("round %d of %d: all %d have committed after %.2f s (%d wakes and %d elections so far)", round+1, b.cfg.Rounds, n, took, wakes, elections)
		times = append(times, took)
	}
	b.show(Row{Name: "order/woken", N: n, Value: stats.Median(times), Unit: "s"})
	return nil
}

// wakeAll commits once in each conversation, in all of them at the same time, and returns the time in seconds.
func (b *bench) wakeAll(o *ours, n int) (float64, error) {
	o.prepare(1)
	start := time.Now()
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	for i := range n {
		all.Go(func() {
			for b.ctx.Err() == nil {
				err := o.orderNext(b.ctx, i)
				if err == nil {
					return
				}
				failed.Store(&err)
				if time.Since(start) > wakeLimit {
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	if took > wakeLimit || b.ctx.Err() != nil {
		err := b.ctx.Err()
		if f := failed.Load(); f != nil {
			err = *f
		}
		return 0, fmt.Errorf("not all of %d conversations committed within %v: %w", n, wakeLimit, err)
	}
	return took.Seconds(), nil
}

// wakeLimit is the time after which conversations that do not commit end the benchmark.
const wakeLimit = 5 * time.Minute
