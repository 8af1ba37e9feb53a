package raftlog

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats are counters since Open.
type Stats struct {
	Transactions uint64 // durable transactions, without sweeps
	Entries      uint64 // entries in them
	Bytes        uint64 // bytes of their records
	Failed       uint64 // transactions that failed
	Sweeps       uint64 // ranges of deleted entries removed
	Corrupt      uint64 // damaged records read
	MaxBatch     uint64 // most entries in one transaction
	// Batches counts transactions by entries: Batches[0] those without any,
	// Batches[i] those of 2^(i-1) to 2^i - 1.
	Batches [12]uint64
	Groups  int // groups with a record
	Open    int // groups in memory
}

type counters struct {
	transactions, entries, bytes, failed, sweeps, corrupt, maxBatch atomic.Uint64
	batches                                                         [12]atomic.Uint64
}

func (c *counters) committed(entries, bytes int) {
	c.transactions.Add(1)
	c.entries.Add(uint64(entries))
	c.bytes.Add(uint64(bytes))
	c.batches[min(bits.Len(uint(entries)), len(c.batches)-1)].Add(1)
	if n := uint64(entries); n > c.maxBatch.Load() { // only the committer writes it
		c.maxBatch.Store(n)
	}
}

// Writing returns the duration of the current write, which shows a disk that hangs without an error. It is 0 if no
// write is in progress.
func (l *Log) Writing() time.Duration {
	began := l.began.Load()
	if began == 0 {
		return 0
	}
	return time.Since(time.Unix(0, began))
}

// Stats returns the counters.
func (l *Log) Stats() Stats {
	c := &l.counters
	s := Stats{
		Transactions: c.transactions.Load(),
		Entries:      c.entries.Load(),
		Bytes:        c.bytes.Load(),
		Failed:       c.failed.Load(),
		Sweeps:       c.sweeps.Load(),
		Corrupt:      c.corrupt.Load(),
		MaxBatch:     c.maxBatch.Load(),
	}
	for i := range s.Batches {
		s.Batches[i] = c.batches[i].Load()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Groups, s.Open = len(l.stored), len(l.live)
	return s
}
