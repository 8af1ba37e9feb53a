package raftlog

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// MaxGroups is the number of groups that a log can hold; valid numbers are
// below it.
const MaxGroups = maxGroup

// Config configures a log.
type Config struct {
	Dir      string // folder; the backend makes its file or files in it
	Backend  string // BackendBolt, the default, or BackendPebble
	MaxBatch int    // entries per transaction, default 250; one StoreLogs call is never split
	// MinFree is the number of bytes that must stay free on the disk: below it
	// a write of entries fails with ErrNoSpace, and below a quarter of it any
	// write does. The default is 0 for Bolt and 64 MiB for
	// Pebble. Negative means none.
	MinFree int64
	// OnCorrupt is called for each damaged record that is read, on the reader's goroutine; index 0 is the group's
	// state record, and group MaxGroups the node's own area. It must not call back into the group. May be nil.
	OnCorrupt func(group uint32, index uint64, err error)
	Disk      *Disk // tests and simulations only: keep everything in this simulated disk, Dir and Backend are ignored

	noSync   bool   // tests only: a write is not durable when it returns
	pebbleFS vfs.FS // tests only: a file system that loses unsynced data
}

const (
	defaultMaxBatch      = 250
	defaultPebbleReserve = 64 << 20
)

func (c *Config) setDefaults() error {
	if c.Backend == "" {
		c.Backend = BackendBolt
	}
	if c.Disk == nil && c.Backend != BackendBolt && c.Backend != BackendPebble {
		return fmt.Errorf("raftlog: backend %q is unknown: use %q or %q", c.Backend, BackendBolt, BackendPebble)
	}
	if c.Disk == nil && c.Dir == "" {
		return errors.New("raftlog: no folder given")
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = defaultMaxBatch
	}
	if c.MinFree == 0 && c.Backend == BackendPebble {
		c.MinFree = defaultPebbleReserve
	}
	if c.Disk != nil {
		c.MinFree = 0
	}
	return nil
}

// Log is the log of all groups of a node. Its methods are safe for concurrent use.
type Log struct {
	cfg  Config
	back backend

	counters counters
	readers  sync.WaitGroup        // reads in progress; joined under mu, and only before closing
	failed   atomic.Pointer[error] // the reason why no more writes are accepted
	began    atomic.Int64          // when the current write began, in Unix nanoseconds; 0 for none
	done     chan struct{}         // closed when the committer has ended
	wake     chan struct{}         // wakes the committer, which then looks at queue and sweeps

	mu      sync.Mutex // guards the fields below; never held across I/O
	queue   []*request
	sweeps  []*GroupLog // groups with deleted records to remove
	closing bool
	live    map[uint32]weak.Pointer[GroupLog]
	stored  map[uint32]struct{} // groups with a record

	meta metaIndex
}

// Open opens or creates the log in cfg.Dir, and starts the committer goroutine, which Close ends. It fails with
// ErrDamagedFile when the file's structure is damaged.
func Open(cfg Config) (*Log, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	l := &Log{
		cfg:    cfg,
		done:   make(chan struct{}),
		wake:   make(chan struct{}, 1),
		live:   make(map[uint32]weak.Pointer[GroupLog]),
		stored: make(map[uint32]struct{}),
	}
	var slots []uint64
	back, err := openBackend(cfg, func(key uint64) uint64 {
		if g := keyGroup(key); g != metaGroup {
			l.stored[g] = struct{}{}
			return groupKeys(g).last + 1
		}
		slots = append(slots, keyIndex(key))
		return key + 1
	})
	if err != nil {
		return nil, err
	}
	l.back = back
	if w, ok := back.(interface{ warning() string }); ok && w.warning() != "" {
		_ = l.damaged(&CorruptError{metaGroup, 0, w.warning()})
	}
	if err := l.loadMeta(slots); err != nil {
		return nil, errors.Join(err, back.close())
	}
	go l.commitLoop()
	return l, nil
}

// Close waits for the pending writes and the committer, and closes the files. Later calls fail with ErrClosed.
// Closing twice does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closing = true
	l.mu.Unlock()
	l.signal()
	<-l.done
	l.readers.Wait()
	if err := l.back.close(); err != nil {
		return fmt.Errorf("raftlog: close: %w", err)
	}
	return nil
}

// Group returns group n, for n below MaxGroups; the methods of one out of range return ErrBadGroup. A group without
// references costs only an entry in a map; there is nothing to close. All callers of one number share one GroupLog.
func (l *Log) Group(n uint32) *GroupLog {
	g := l.handle(n)
	g.load()
	return g
}

func (l *Log) handle(n uint32) *GroupLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.live[n]; ok {
		if g := w.Value(); g != nil {
			return g
		}
	}
	g := &GroupLog{log: l, n: n}
	l.live[n] = weak.Make(g)
	runtime.AddCleanup(g, l.forget, n)
	return g
}

// forget drops the map's entry of a group that was collected, unless the group has been opened again.
func (l *Log) forget(n uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.live[n]; ok && w.Value() == nil {
		delete(l.live, n)
	}
}

// Drop removes all records of group n: entries, stable keys, damage. Its GroupLog is empty afterwards and can be used
// again. The group's Raft instance must have been shut down.
func (l *Log) Drop(n uint32) error {
	if n >= MaxGroups {
		return fmt.Errorf("group %d: %w", n, ErrBadGroup)
	}
	g := l.Group(n)
	return l.do(&request{op: opDrop, g: g})
}

// Groups returns the numbers of the groups that have a record, ascending. A
// group stays in the list until Drop, even if all its entries were deleted.
func (l *Log) Groups() ([]uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil, ErrClosed
	}
	out := make([]uint32, 0, len(l.stored))
	for n := range l.stored {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// has reports whether any record of group n was stored.
func (l *Log) has(n uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.stored[n]
	return ok
}

// damaged counts and reports a damaged record, and returns err unchanged.
func (l *Log) damaged(err *CorruptError) error {
	l.counters.corrupt.Add(1)
	if l.cfg.OnCorrupt != nil {
		l.cfg.OnCorrupt(err.Group, err.Index, err)
	}
	return err
}

// read reads a record, unless the log is closing. Close waits for it: Pebble
// panics when it is closed under a reader.
func (l *Log) read(key uint64) ([]byte, error) {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	l.readers.Add(1)
	l.mu.Unlock()
	defer l.readers.Done()
	return l.back.get(key)
}

// isClosed reports whether Close was called.
func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

var (
	_ raft.LogStore    = (*GroupLog)(nil)
	_ raft.StableStore = (*GroupLog)(nil)
)
