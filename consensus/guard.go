package consensus

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
)

// guard is a layer between Raft and its log. Raft panics if a term cannot be written or a committed entry cannot be
// read, so one full disk or one flipped bit would end the whole node. The guard instead reports the conversation as
// failed and ends the goroutine with its deferred calls, which Raft's own shutdown then finds done. While Raft is
// being constructed, the guard returns the error.
//
// The guard also answers for the last entry of the newest snapshot if the log does not have that entry. A follower
// that received a snapshot, and then entries from a leader that was deposed, must be able to compare the entry before
// them. Otherwise it refuses the new leader's entries without end, snapshot after snapshot. Only the term of that
// entry is known; the snapshot's end is marked, so that it is never sent.
type guard struct {
	*raftlog.GroupLog
	running     atomic.Bool // Raft has started its goroutines
	fail        func(error) // reports the failure to the conversation; does not block
	leads       func() bool
	stalled     func() bool                       // whether a write has exceeded its time limit
	snap        atomic.Pointer[raft.SnapshotMeta] // the newest snapshot
	vote        *uint64                           // term of a vote that is not written yet; only Raft's main goroutine votes
	term        atomic.Pointer[uint64]            // the current term while it is not written yet; see stable.go
	writing     chan struct{}                     // capacity one: held by the writer of the term
	book        *book                             // memory is charged to this account; nil: to none
	checkMemory func() error                      // refuses entries of other nodes if memory is short; nil: never

	floor     func() uint64 // the log is committed up to this index; nil: not guarded
	rewritten func(error)   // called on an attempt to replace a committed entry; does not block
	incoming  atomic.Pointer[incoming]

	termsMu sync.Mutex // guards terms
	terms   recentTerms
}

// snapshotEnd is the type of the entry that represents the last entry of a snapshot.
const snapshotEnd raft.LogType = 255

// GetLog reads an entry.
func (g *guard) GetLog(index uint64, l *raft.Log) error {
	err := g.GroupLog.GetLog(index, l)
	if err == nil {
		return nil
	}
	if !errors.Is(err, raft.ErrLogNotFound) {
		g.end(fmt.Errorf("read entry %d: %w", index, err))
		return err
	}
	if g.running.Load() && g.isHole(index) {
		g.end(fmt.Errorf("read entry %d: it is missing between others", index))
		return err
	}
	// A leader must not find the snapshot's end: a missing entry is how the leader learns that a follower needs the
	// snapshot.
	if s := g.snap.Load(); s != nil && s.Index == index && g.running.Load() && !g.leads() {
		*l = raft.Log{Index: s.Index, Term: s.Term, Type: snapshotEnd}
		return nil
	}
	return err
}

// isHole reports whether an entry is missing whose absence makes Raft panic: an entry between others of the log,
// after everything that a snapshot covers.
func (g *guard) isHole(index uint64) bool {
	first, err := g.FirstIndex()
	if err != nil || index < first || index <= g.newest() {
		return false
	}
	last, err := g.LastIndex()
	return err == nil && index < last
}

// align adjusts a request that begins before this replica's snapshot, in entries that its log does not have. Those
// entries are committed, so every leader of this term has the same ones, and the request means the same without them.
// Without align, Raft would refuse the request each time.
func (g *guard) align(a *raft.AppendEntriesRequest) {
	s := g.snap.Load()
	if s == nil || isBeat(a) || a.PrevLogEntry >= s.Index {
		return
	}
	var l raft.Log
	if a.PrevLogEntry > 0 && g.GroupLog.GetLog(a.PrevLogEntry, &l) == nil {
		return
	}
	for len(a.Entries) > 0 && a.Entries[0].Index <= s.Index {
		a.Entries = a.Entries[1:]
	}
	a.PrevLogEntry, a.PrevLogTerm = s.Index, s.Term
}

// newest returns the index of the last entry in the newest snapshot, or 0 without a snapshot.
func (g *guard) newest() uint64 {
	if s := g.snap.Load(); s != nil {
		return s.Index
	}
	return 0
}

// holdsSnapshotEnd reports whether a request to be sent contains the snapshot's end: the sender was deposed a moment ago.
func holdsSnapshotEnd(a *raft.AppendEntriesRequest) bool {
	for _, l := range a.Entries {
		if l.Type == snapshotEnd {
			return true
		}
	}
	return false
}

// watchedSnapshots reports each finished snapshot to the guard.
type watchedSnapshots struct {
	raft.SnapshotStore
	g *guard
}

// watch returns the snapshot store to give to Raft.
func (g *guard) watch(s raft.SnapshotStore) (raft.SnapshotStore, error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	if len(list) > 0 {
		g.snap.Store(list[0])
	}
	return watchedSnapshots{s, g}, nil
}

// Create begins a snapshot.
func (s watchedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := s.g.settled(); err != nil {
		return nil, err
	}
	sink, err := s.SnapshotStore.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	w := &watchedSink{
		SnapshotSink: s.g.book.sink(sink, index, term), g: s.g,
		meta: &raft.SnapshotMeta{ID: sink.ID(), Index: index, Term: term, Configuration: c, ConfigurationIndex: ci},
	}
	if in := s.g.incoming.Load(); in != nil && in.index == index && in.term == term {
		w.check = in.check
	}
	return w, nil
}

type watchedSink struct {
	raft.SnapshotSink
	g     *guard
	meta  *raft.SnapshotMeta
	check func() error // for another node's snapshot: whether it still continues the local log; nil for an own snapshot
}

// Close finishes the snapshot.
func (s *watchedSink) Close() error {
	if s.check != nil {
		if err := s.check(); err != nil {
			return errors.Join(err, s.Cancel())
		}
	}
	err := s.SnapshotSink.Close()
	if have := s.g.snap.Load(); err == nil && (have == nil || have.Index <= s.meta.Index) {
		s.g.snap.Store(s.meta)
	}
	return err
}

func (g *guard) end(err error) {
	if g.running.Load() {
		g.fail(err)
		runtime.Goexit()
	}
}

// newRaft constructs a replica; it converts a panic of Raft on damaged or unwritable storage into an error.
func newRaft(c *raft.Config, fsm raft.FSM, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, t raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("start replica: %w", p)
		default:
			err = fmt.Errorf("start replica: %v", p)
		}
	}()
	return raft.NewRaft(c, fsm, logs, stable, snaps, t)
}
