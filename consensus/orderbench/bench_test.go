package orderbench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/internal/stats"
)

// BenchmarkCommits is for profiles: one design at a time, with a number of busy conversations and b.N commits.
func BenchmarkCommits(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		for _, design := range []string{designNaive, designEmpty, raftlog.BackendBolt, raftlog.BackendPebble} {
			b.Run(fmt.Sprintf("busy=%d/%s", n, design), func(b *testing.B) { benchCommits(b, design, n) })
		}
	}
}

func benchCommits(b *testing.B, design string, n int) {
	m := &bench{cfg: Config{Progress: b.Logf}, ctx: context.Background()}
	s, err := m.open(design, b.TempDir(), n)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			b.Error(err)
		}
	}()
	var left, failed atomic.Int64
	left.Store(int64(b.N))
	warm(m.ctx, s, n)
	s.prepare(b.N*3/2/n + 1)
	b.ResetTimer()
	before := platform.ProcessorTime()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := s.orderNext(m.ctx, i); err != nil && failed.Add(1) == 1 {
					b.Log(err)
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	done := float64(b.N) - float64(failed.Load())
	b.ReportMetric(done/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(milliseconds(platform.ProcessorTime()-before)/done, "cpu-ms/commit")
	b.ReportMetric(0, "ns/op")
	if o, ok := s.(*ours); ok {
		st := o.nodes[0].log.Stats()
		b.ReportMetric(float64(st.Entries)/float64(st.Transactions), "entries/tx")
	}
}

// BenchmarkWake is for profiles: commits wake sleeping conversations, one after the other.
func BenchmarkWake(b *testing.B) {
	const n = 2000
	m := &bench{cfg: Config{Progress: func(string, ...any) {}}, ctx: context.Background()}
	o, err := newOurs(m.ctx, b.TempDir(), raftlog.BackendBolt, n, b.Logf)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.settle(o, n); err != nil {
		b.Fatal(err)
	}
	o.prepare(1)
	b.ReportAllocs()
	b.ResetTimer()
	before := platform.ProcessorTime()
	var times []float64
	for i := range b.N {
		t, err := sample(1, func() error { return o.orderNext(m.ctx, i%n) })
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, t...)
	}
	b.StopTimer()
	b.ReportMetric(milliseconds(platform.ProcessorTime()-before)/float64(b.N), "cpu-ms/wake")
	b.ReportMetric(stats.Percentile(times, 0.5), "p50-ms")
	b.ReportMetric(stats.Percentile(times, 0.99), "p99-ms")
	if err := o.close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWoken is for profiles: conversations that all sleep get a commit each at the same moment.
func BenchmarkWoken(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := &bench{cfg: Config{Progress: b.Logf}, ctx: context.Background()}
			o, err := newOurs(m.ctx, b.TempDir(), raftlog.BackendPebble, n, b.Logf)
			if err != nil {
				b.Fatal(err)
			}
			var took, used float64
			for range b.N {
				if err := m.settle(o, n); err != nil {
					b.Fatal(err)
				}
				before := platform.ProcessorTime()
				seconds, err := m.wakeAll(o, n)
				if err != nil {
					b.Fatal(err)
				}
				took, used = took+seconds, used+milliseconds(platform.ProcessorTime()-before)
			}
			elections := int64(0)
			for _, node := range o.nodes {
				elections += node.manager.Counts().Elections
			}
			b.ReportMetric(took/float64(b.N), "s/woken")
			b.ReportMetric(used/float64(b.N*n), "cpu-ms/wake")
			b.ReportMetric(float64(elections)/float64(b.N*n), "elections/wake")
			if err := o.close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
