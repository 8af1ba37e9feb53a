package consensus

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// TestKeptEntriesAreOnDisk checks that conversations whose policies keep many large entries hold few of them in
// memory, awake and asleep, and deliver all of them: from the log, from snapshots, and after a restart.
func TestKeptEntriesAreOnDisk(t *testing.T) {
	for _, backend := range []string{raftlog.BackendBolt, raftlog.BackendPebble} {
		t.Run(backend, func(t *testing.T) { keptOnDisk(t, backend) })
	}
}

func keptOnDisk(t *testing.T, backend string) {
	const policy, size = 8 << 20, 300 << 10
	nodes, start := tcpCluster(t, backend, func(c *Config) {
		c.Timers.Sleep, c.Timers.Snapshot, c.Limits.SnapshotAfter, c.Limits.Trailing = time.Hour, 20*time.Millisecond, 16, 4
	}, nodeA, nodeB)
	before := liveHeap()
	var next uint64
	ids := []wire.ConversationID{"conversation-1", "conversation-2"}
	for _, id := range ids {
		next++
		e := author.Create(id, author.Submission(next), wire.Policy{RecentBytes: policy}, author.Addresses(2, "a.example", "b.example"))
		r, err := nodes[nodeA].m.Create(t.Context(), e)
		for range 36 {
			if err != nil {
				t.Fatal(err)
			}
			p := author.After(e, r)
			next++
			e = p.Commit(author.Submission(next), size, wire.DeliveryChange{})
			r, err = nodes[nodeA].m.Order(t.Context(), e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(n wire.NodeID) (bytes int) {
		t.Helper()
		for _, id := range ids {
			last, err := nodes[nodeA].m.Status(id)
			if err != nil {
				t.Fatal(err)
			}
			var have []wire.Committed
			within(t, func() bool {
				if have, _, err = nodes[n].m.Entries(id, 0, math.MaxInt, math.MaxInt); err != nil {
					t.Fatal(err)
				}
				return len(have) > 0 && have[len(have)-1].Order == last.Order
			})
			for i := 1; i < len(have); i++ {
				if bytes += len(have[i].Entry); have[i].Order != wire.NextOrder(have[i-1].Order, have[i].Entry) {
					t.Fatalf("%s: entry %d of %v has other content", n, have[i].Sequence, id)
				}
			}
			if len(have) < 25 {
				t.Fatalf("%s: %d entries of %v", n, len(have), id)
			}
		}
		return bytes
	}
	kept := read(nodeA) + read(nodeB)
	measured := !testing.Short() // under the race detector Pebble's tables and cache are a part of the heap
	var used int
	within(t, func() bool { // buffers of streams and snapshots that have just ended are still in use
		used = liveHeap() - before
		return !measured || used <= kept/3
	})
	t.Logf("awake: %d KiB of heap for %d KiB of kept entries", used>>10, kept>>10)
	for _, n := range []wire.NodeID{nodeA, nodeB} {
		nodes[n].stop()
		start(n)
	}
	read(nodeB) // from its snapshot and its log, asleep
	read(nodeA)
	within(t, func() bool {
		used = liveHeap() - before
		return !measured || used <= kept/3
	})
	t.Logf("asleep: %d KiB of heap for %d KiB of kept entries", used>>10, kept>>10)
}

// liveHeap returns the bytes of the heap that are in use.
func liveHeap() int {
	runtime.GC()
	runtime.GC() // objects in pools are freed with the second collection
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int(s.HeapAlloc)
}

// within waits for an event that is expected.
func within(t testing.TB, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !f() {
		if !pause(ctx, 2*time.Millisecond) {
			t.Fatal("did not come")
		}
	}
}
