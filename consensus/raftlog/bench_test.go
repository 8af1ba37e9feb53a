package raftlog

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/mlsfed/mlsfed/internal/platform"
)

const benchSize = 4 << 10

// BenchmarkFloor appends 4 KiB to a plain file and syncs it: the cost of one durable write on this machine.
func BenchmarkFloor(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	must(b, err)
	defer f.Close()
	data := noise(1, 1, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		_, err := f.Write(data)
		must(b, err)
		must(b, platform.SyncData(f))
	}
}

// BenchmarkStore stores entries of 4 KiB, one per call, from a number of groups at once; every call waits until its
// entry is durable. 'naive' is a raft-boltdb file for each group.
func BenchmarkStore(b *testing.B) {
	for _, groups := range []int{1, 10, 100, 1000} {
		for _, backend := range []string{"naive", BackendBolt, BackendPebble} {
			b.Run(fmt.Sprintf("groups=%d/%s", groups, backend), func(b *testing.B) {
				if backend == "naive" {
					benchNaive(b, groups)
				} else {
					benchLog(b, backend, groups)
				}
			})
		}
	}
}

func benchLog(b *testing.B, backend string, groups int) {
	l := newPlace(b, backend).open(b)
	stores := make([]raft.LogStore, groups)
	for n := range stores {
		stores[n] = l.Group(uint32(n))
	}
	benchStores(b, stores)
	b.StopTimer()
	s := l.Stats()
	b.ReportMetric(float64(s.Entries)/float64(s.Transactions), "entries/tx")
}

func benchNaive(b *testing.B, groups int) {
	dir := b.TempDir()
	stores := make([]raft.LogStore, groups)
	for n := range stores {
		s, err := raftboltdb.NewBoltStore(filepath.Join(dir, fmt.Sprint(n)))
		must(b, err)
		defer s.Close()
		stores[n] = s
	}
	benchStores(b, stores)
	b.StopTimer()
}

// benchStores makes every store append, each as often as it can.
func benchStores(b *testing.B, stores []raft.LogStore) {
	data := noise(1, 1, benchSize)
	b.SetBytes(benchSize)
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			for i := uint64(1); left.Add(-1) >= 0; i++ {
				if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: data}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkGet reads stored entries of 4 KiB.
func BenchmarkGet(b *testing.B) {
	for _, backend := range []string{BackendBolt, BackendPebble} {
		b.Run(backend, func(b *testing.B) {
			l := newPlace(b, backend).open(b)
			g := l.Group(1)
			for i := uint64(1); i <= 128; i++ {
				must(b, g.StoreLog(&raft.Log{Index: i, Data: noise(1, i, benchSize)}))
			}
			b.SetBytes(benchSize)
			b.ReportAllocs()
			i := uint64(0)
			for b.Loop() {
				var e raft.Log
				must(b, g.GetLog(i%128+1, &e))
				i++
			}
		})
	}
}
