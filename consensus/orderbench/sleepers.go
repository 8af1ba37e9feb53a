package orderbench

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/stats"
)

// sleepers measures what conversations cost while they sleep, and how fast they wake.
func (b *bench) sleepers() error {
	n := b.cfg.Sleepers
	dir := b.dir("sleepers")
	b.cfg.Progress("%d conversations are created and put to sleep", n)
	o, err := newOurs(b.ctx, dir, raftlog.BackendBolt, n, b.cfg.Progress)
	if err != nil {
		return err
	}
	err = b.measureSleepers(o, n)
	return errors.Join(err, o.close(), os.RemoveAll(dir))
}

// measureSleepers starts the nodes anew when all conversations sleep: what a node then takes is what
// sleepers cost, without what Go keeps of those that were awake (the descriptors of goroutines that have
// ended, half a kilobyte each, are used again and never freed).
func (b *bench) measureSleepers(o *ours, n int) error {
	err := b.settle(o, n)
	if err = errors.Join(err, o.close()); err != nil {
		return err
	}
	heapBefore := heap()
	if err := o.run(b.ctx); err != nil {
		return err
	}
	b.cfg.Progress("the nodes have started anew")
	pause(b.ctx, 8*time.Second) // they look through what they hold, and greet each other
	perReplica := float64(heap()-min(heap(), heapBefore)) / float64(3*n)
	before, start := cpuTime(), time.Now()
	pause(b.ctx, 10*time.Second)
	share := (cpuTime() - before).Seconds() / time.Since(start).Seconds() * 100
	b.show(Row{Name: "asleep/cpu", N: n, Value: share, Unit: "% of a core, three nodes"})
	b.show(Row{Name: "asleep/heap", N: n, Value: perReplica, Unit: "B a replica"})
	b.cfg.Progress("%d wakes", b.cfg.Wakes)
	o.prepare(1)
	var times []float64
	for k := range b.cfg.Wakes {
		// Spread over all of them, so that each has slept.
		t, err := sample(1, func() error { return o.submit(b.ctx, k*n/b.cfg.Wakes) })
		if err != nil {
			return err
		}
		times = append(times, t...)
	}
	b.show(Row{Name: "wake/p50", N: b.cfg.Wakes, Value: stats.Median(times), Unit: "ms"})
	b.show(Row{Name: "wake/p99", N: b.cfg.Wakes, Value: stats.Percentile(times, 0.99), Unit: "ms"})
	return nil
}

// settle waits until all conversations sleep on all nodes.
func (b *bench) settle(o *ours, n int) error {
	awake := 0
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline) && b.ctx.Err() == nil; pause(b.ctx, 500*time.Millisecond) {
		awake = 0
		for _, node := range o.nodes {
			awake += node.manager.Counts().Awake
		}
		if awake == 0 {
			return nil
		}
		b.cfg.Progress("%d replicas are still awake", awake)
	}
	return fmt.Errorf("%d of %d replicas are still awake after five minutes: %w", awake, 3*n, b.ctx.Err())
}

// heap is what is in use after a collection, in bytes. What was freed is given back to the system at
// once, so that this takes no time later.
func heap() uint64 {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// cpuTime is what this process has used of all cores.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var _ consensus.Consumer = (*arrivals)(nil)
var _ consensus.Roster = (*ours)(nil)
