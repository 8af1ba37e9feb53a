package streams

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// workers runs n calls of do on some goroutines and returns how long that took.
func workers(b *testing.B, count, n int, do func(worker, i int) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for w := range count {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if err := do(w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begin)
}

// BenchmarkAppend compares durable appends with synced writes of the same size straight to Pebble, in
// turns in the same run: 'ratio' is the rate of the former over that of the latter.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10} {
		for _, concurrency := range []int{1, 8, 64, 256} {
			b.Run(fmt.Sprintf("%dB/%d", size, concurrency), func(b *testing.B) { benchmarkAppend(b, size, concurrency) })
		}
	}
}

func benchmarkAppend(b *testing.B, size, concurrency int) {
	plain := openDB(b, b.TempDir(), vfs.Default)
	defer plain.Close()
	db := openDB(b, b.TempDir(), vfs.Default)
	defer db.Close()
	m, stop := start(b, db, Config{MaxItems: 1 << 40, MaxBytes: 1 << 50})
	defer stop()
	name := func(w int) Stream { return Stream(fmt.Sprintf("cconversation-%d", w%32)) }
	for w := range 32 {
		join(b, m, name(w), token(1))
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(rand.Int())
	}
	var ours, theirs time.Duration
	const turns = 8
	total := 0
	for b.Loop() {
		n := max(concurrency*8, 64)
		for range turns {
			ours += workers(b, concurrency, n, func(w, i int) error {
				var id ID
				binary.BigEndian.PutUint64(id[:], uint64(total+i))
				r, err := m.Put(b.Context(), Put{Stream: name(w), ID: id, Kind: KindMessage, Payload: payload})
				if err == nil {
					err = r[0].Err
				}
				return err
			})
			theirs += workers(b, concurrency, n, func(w, i int) error {
				// As many ranges of keys as there are streams: one range alone would never be compacted.
				key := binary.BigEndian.AppendUint64(append(make([]byte, 0, 17), byte(w%32)), uint64(total+i))
				return plain.Set(key, payload, pebble.Sync)
			})
			total += n
		}
	}
	b.ReportMetric(float64(total)/ours.Seconds(), "append/s")
	b.ReportMetric(float64(total)/theirs.Seconds(), "pebble/s")
	b.ReportMetric(float64(theirs)/float64(ours), "ratio")
}

// audience makes one stream that many addresses read.
func audience(tb testing.TB, m *Mailbox, readers int) Stream {
	name := Stream(fmt.Sprintf("cconversation-of-%d", readers))
	list := make([]wire.Token, readers)
	for i := range list {
		list[i] = token(i)
	}
	join(tb, m, name, list...)
	return name
}

// BenchmarkAudience appends to streams with 1,000 and with 100,000 readers in turns.
func BenchmarkAudience(b *testing.B) {
	db := openDB(b, b.TempDir(), vfs.Default)
	defer db.Close()
	m, stop := start(b, db, Config{MaxItems: 1 << 40, MaxBytes: 1 << 50})
	defer stop()
	names := []Stream{audience(b, m, 1_000), audience(b, m, 100_000)}
	if err := db.Flush(); err != nil {
		b.Fatal(err)
	}
	var took [2]time.Duration
	n := 0
	for b.Loop() {
		n++
		for i := range names {
			i = (i + n) % 2
			p := message(n)
			p.Stream, p.Payload = names[i], make([]byte, 1024)
			begin := time.Now()
			put(b, m, p)
			took[i] += time.Since(begin)
		}
	}
	b.ReportMetric(float64(took[0].Microseconds())/float64(n), "µs/1000")
	b.ReportMetric(float64(took[1].Microseconds())/float64(n), "µs/100000")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}

// TestAudienceCostsOneWrite compares what goes to the disk's log, byte for byte.
func TestAudienceCostsOneWrite(t *testing.T) {
	m := memory(t, Config{})
	var wrote [2]uint64
	for i, readers := range []int{1_000, 100_000} {
		name := audience(t, m, readers)
		before := m.db.Metrics().WAL.BytesIn
		p := message(1)
		p.Stream, p.Payload = name, make([]byte, 1024)
		put(t, m, p)
		wrote[i] = m.db.Metrics().WAL.BytesIn - before
	}
	if wrote[0] != wrote[1] || wrote[0] < 1024 || wrote[0] > 1300 {
		t.Fatalf("a message of 1024 bytes wrote %d bytes for 1,000 readers and %d for 100,000", wrote[0], wrote[1])
	}
	t.Logf("%d bytes for either", wrote[0])
}

// BenchmarkBacklog reads 100,000 items in pages, and with a bare iterator that reads each value, in
// turns. The cache is too small for either, so that both read and decompress blocks.
func BenchmarkBacklog(b *testing.B) {
	const items = 100_000
	for _, size := range []int{100, 1024} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			o := Tune(&pebble.Options{Logger: quiet{}})
			o.CacheSize = 1 << 20
			db, err := pebble.Open(b.TempDir(), o)
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			m, stop := start(b, db, Config{MaxItems: 1 << 40, MaxBytes: 1 << 50})
			defer stop()
			join(b, m, talk, token(1))
			for n := 1; n <= items; n += 1000 {
				puts := make([]Put, 1000)
				for i := range puts {
					puts[i] = message(n + i)
					puts[i].Payload = make([]byte, size)
					for j := range puts[i].Payload {
						puts[i].Payload[j] = byte(rand.Int())
					}
				}
				if _, err := m.Put(b.Context(), puts...); err != nil {
					b.Fatal(err)
				}
			}
			if err := db.Flush(); err != nil {
				b.Fatal(err)
			}
			heap := make([]byte, 256<<20) // of a node: with the few MB of this process, the collector would run for each page
			defer runtime.KeepAlive(heap)
			var ours, plain time.Duration
			for b.Loop() {
				ours += timed(func() { backlog(b, m, items) })
				plain += timed(func() { scan(b, m, items) })
			}
			b.ReportMetric(float64(plain)/float64(ours), "ratio")
			b.ReportMetric(items*float64(b.N)/ours.Seconds(), "items/s")
		})
	}
}

func timed(do func()) time.Duration {
	begin := time.Now()
	do()
	return time.Since(begin)
}

func backlog(b *testing.B, m *Mailbox, items uint64) {
	after := uint64(0)
	for more := true; more; {
		p := read(b, m, token(1), after, Limit{})
		after, more = p.Items[len(p.Items)-1].Sequence, p.More
	}
	if after != items {
		b.Fatalf("read %d items", after)
	}
}

func scan(b *testing.B, m *Mailbox, items int) {
	it, err := m.db.NewIter(m.items(1, 0))
	if err != nil {
		b.Fatal(err)
	}
	defer it.Close()
	n, sum := 0, byte(0)
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			b.Fatal(err)
		}
		sum ^= v[len(v)-1]
		n++
	}
	if n != items {
		b.Fatalf("scanned %d items, sum %d", n, sum)
	}
}
