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

// guard stands between Raft and its log, because Raft panics where a term cannot be written or a
// committed entry cannot be read: one full disk or one flipped bit would end the whole node. Instead,
// the conversation is reported as failed and the goroutine ends with its deferred calls, which Raft's
// own shutdown then finds done. While Raft is being made, the error is returned.
//
// It also answers for the entry that the newest snapshot ends with, where the log does not have it: a
// follower that was given a snapshot and then entries of a leader that lost its office must be able to
// compare what comes before them, or it refuses the new leader's entries for ever, snapshot after
// snapshot. Only the term is known; the stand-in bears a mark, so that it is never sent on.
type guard struct {
	*raftlog.GroupLog
	running atomic.Bool // Raft has its goroutines
	fail    func(error) // tells the conversation; does not block
	leads   func() bool
	stalled func() bool                       // a write has been under way for too long
	snap    atomic.Pointer[raft.SnapshotMeta] // the newest
	vote    *uint64                           // a vote's term that is not written yet; Raft's main goroutine alone votes
	term    atomic.Pointer[uint64]            // the current term, while it is not written yet; see stable.go
	writing chan struct{}                     // holds one: who writes the term
	book    *book                             // is charged; nil for nobody
	crowded func() error                      // refuses entries of other nodes for want of memory; nil: never

	floor     func() uint64 // up to here the log is committed; nil: not guarded
	rewritten func(error)   // hears of an attempt to replace what is; does not block
	incoming  atomic.Pointer[incoming]

	termsMu sync.Mutex // guards terms
	terms   recentTerms
}

// standIn is the type of the entry that stands for a snapshot's last one.
const standIn raft.LogType = 255

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
	// A leader must not find it: that is how it knows that a follower needs the snapshot.
	if s := g.snap.Load(); s != nil && s.Index == index && g.running.Load() && !g.leads() {
		*l = raft.Log{Index: s.Index, Term: s.Term, Type: standIn}
		return nil
	}
	return err
}

// isHole reports whether an entry is missing that Raft would panic about: between entries of the log, behind
// all that a snapshot covers.
func (g *guard) isHole(index uint64) bool {
	first, err := g.FirstIndex()
	if err != nil || index < first || index <= g.newest() {
		return false
	}
	last, err := g.LastIndex()
	return err == nil && index < last
}

// align makes sense of a request that begins before this replica's snapshot, in entries that its log
// does not have: those are committed, so every leader of this term has the same, and the request is as
// good without them. Raft itself would refuse it for ever.
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

// newest is the last entry in the newest snapshot, 0 without any.
func (g *guard) newest() uint64 {
	if s := g.snap.Load(); s != nil {
		return s.Index
	}
	return 0
}

// isStandIn reports whether a request that is to be sent has the stand-in in it: its sender has just
// lost its office.
func isStandIn(a *raft.AppendEntriesRequest) bool {
	for _, l := range a.Entries {
		if l.Type == standIn {
			return true
		}
	}
	return false
}

// watchedSnapshots tells the guard of each snapshot that is finished.
type watchedSnapshots struct {
	raft.SnapshotStore
	g *guard
}

// watch returns the store to give to Raft.
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
	w := &watchedSink{s.g.book.sink(sink, index, term), s.g, &raft.SnapshotMeta{Index: index, Term: term, Configuration: c, ConfigurationIndex: ci}, nil}
	if in := s.g.incoming.Load(); in != nil && in.index == index && in.term == term {
		w.check = in.check
	}
	return w, nil
}

type watchedSink struct {
	raft.SnapshotSink
	g     *guard
	meta  *raft.SnapshotMeta
	check func() error // for another node's: whether it still continues what is here; nil for an own one
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

// newRaft makes a replica; a panic of Raft's on damaged or unwritable storage becomes an error.
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
