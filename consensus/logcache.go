package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// cacheBytes bounds the entries that a logCache keeps, in bytes. Raft's own cache is bounded by their number
// only: with large entries, a few awake conversations would fill the memory.
const cacheBytes = 1 << 20

// logCache keeps the newest entries of one log in memory, from which a leader serves its followers.
type logCache struct {
	raft.LogStore

	mu    sync.Mutex // guards what follows
	logs  [maxAppend]*raft.Log
	bytes int
}

func newLogCache(store raft.LogStore) *logCache { return &logCache{LogStore: store} }

// GetLog reads an entry.
func (c *logCache) GetLog(index uint64, l *raft.Log) error {
	c.mu.Lock()
	have := c.logs[index%maxAppend]
	c.mu.Unlock()
	if have != nil && have.Index == index {
		*l = *have
		return nil
	}
	return c.LogStore.GetLog(index, l)
}

// StoreLog stores an entry.
func (c *logCache) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, and keeps those that fit.
func (c *logCache) StoreLogs(logs []*raft.Log) error {
	if err := c.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		c.put(l)
	}
	return nil
}

func (c *logCache) put(l *raft.Log) {
	c.drop(l.Index)
	size := len(l.Data) + len(l.Extensions)
	for i := l.Index + 1; i < l.Index+maxAppend && c.bytes+size > cacheBytes; i++ {
		c.drop(i) // the oldest first
	}
	if c.bytes+size > cacheBytes {
		return
	}
	c.logs[l.Index%maxAppend] = l
	c.bytes += size
}

// drop empties the place of an index.
func (c *logCache) drop(index uint64) {
	if have := c.logs[index%maxAppend]; have != nil {
		c.bytes -= len(have.Data) + len(have.Extensions)
		c.logs[index%maxAppend] = nil
	}
}

// DeleteRange deletes entries.
func (c *logCache) DeleteRange(first, last uint64) error {
	c.mu.Lock()
	c.logs, c.bytes = [maxAppend]*raft.Log{}, 0
	c.mu.Unlock()
	return c.LogStore.DeleteRange(first, last)
}
