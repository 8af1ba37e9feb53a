package orderbench

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// sleepers measures the cost of sleeping conversations, and the time to wake them.
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

// measureSleepers restarts the nodes when all conversations sleep: the memory of a node is then that of the sleeping
// conversations, without the memory that Go keeps for conversations that were awake (the descriptors of goroutines
// that have ended, half a kilobyte each, are reused and never freed).
func (b *bench) measureSleepers(o *ours, n int) error {
	err := b.settle(o, n)
	if err = errors.Join(err, o.close()); err != nil {
		return err
	}
	heapBefore := heap()
	if err := o.run(b.ctx); err != nil {
		return err
	}
	b.cfg.Progress("the nodes have started again")
	pause(b.ctx, 8*time.Second) // the nodes read their records, and exchange state
	perReplica := float64(heap()-min(heap(), heapBefore)) / float64(3*n)
	before, start := platform.ProcessorTime(), time.Now()
	pause(b.ctx, 10*time.Second)
	share := (platform.ProcessorTime() - before).Seconds() / time.Since(start).Seconds() * 100
	b.show(Row{Name: "asleep/cpu", N: n, Value: share, Unit: "% of a core, three nodes"})
	b.show(Row{Name: "asleep/heap", N: n, Value: perReplica, Unit: "B a replica"})
	b.cfg.Progress("%d wakes", b.cfg.Wakes)
	o.prepare(1)
	var times []float64
	for k := range b.cfg.Wakes {
		// Spread over all conversations, so that each has slept.
		t, err := sample(1, func() error { return o.orderNext(b.ctx, k*n/b.cfg.Wakes) })
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

// heap returns the bytes in use after a collection. Freed memory is returned to the system at once, so that this does
// not take time later.
func heap() uint64 {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

var _ consensus.Consumer = (*arrivals)(nil)
var _ consensus.Roster = (*ours)(nil)
