package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// cacheBytes limits the entries in a logCache, in bytes. Raft's own cache limits only their number: with large
// entries, a few awake conversations would fill the memory.
const cacheBytes = 1 << 20

// logCache keeps the newest entries of one log in memory, from which a leader serves its followers.
type logCache struct {
	raft.LogStore

	mu    sync.Mutex // guards the fields below
	logs  [maxAppend]*raft.Log
	bytes int
}

func newLogCache(store raft.LogStore) *logCache { return &logCache{LogStore: store} }

// GetLog reads an entry.
func (c *logCache) GetLog(index uint64, l *raft.Log) error {
	if have := c.held(index); have != nil {
		*l = *have
		return nil
	}
	return c.LogStore.GetLog(index, l)
}

// size returns the number of bytes of entries in memory.
func (c *logCache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// held returns an entry in memory, or nil.
func (c *logCache) held(index uint64) *raft.Log {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.logs[index%maxAppend]; have != nil && have.Index == index {
		return have
	}
	return nil
}

// StoreLog stores an entry.
func (c *logCache) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, and keeps those that fit in memory.
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

// drop removes the entry at an index from memory.
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
