package consensus

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// What was applied stays. Raft believes its leader: entries that conflict with the leader's are deleted,
// applied or not, and a snapshot replaces the state. In a genuine log neither touches what is committed. So
// each request is compared with what this replica has applied before Raft sees it, and the log refuses
// once more to delete or replace (guard.go), since the commit index may move in between.
//
// The comparison costs nothing on the way of a new entry: it begins behind the commit index.

var errRewrite = errors.New("would replace what was applied")

// floor is an index up to which this replica knows the log to be committed.
func (l *live) floor() uint64 {
	at := l.rec.Load().Applied
	if s := l.store.snap.Load(); s != nil {
		at = max(at, s.Index)
	}
	if r := l.r.Load(); r != nil {
		at = max(at, r.CommitIndex())
	}
	return at
}

// examine judges a message of Raft's before Raft sees it.
func (l *live) examine(from wire.NodeID, cmd any) error {
	switch q := cmd.(type) {
	case *raft.AppendEntriesRequest:
		if err := l.checkTerm(from, q.Term); err != nil || q.Term < l.term() {
			return err // Raft answers with the later term, and does nothing
		}
		if l.m.holds(ruleApplied) {
			if err := l.contradiction(q); err != nil {
				return l.m.contradicted(l.c, ReasonRewritten, RefusedRewrite, from, fmt.Errorf("entries from %s: %w", from, err))
			}
		}
		return l.judge(from, q)
	case *raft.RequestVoteRequest:
		return l.checkCandidate(from, q.Term)
	case *raft.RequestPreVoteRequest:
		return l.checkCandidate(from, q.Term)
	case *raft.TimeoutNowRequest:
		// Raft begins a term of its own for it, with a vote or without.
		if l.m.holds(ruleRoles) && !l.votes() {
			return l.m.refuse(from, l.c.id, RefusedRole, wire.Errorf(wire.NotReplica, "raft", "this replica of %v has no vote, and begins no election", l.c.id))
		}
	}
	return nil
}

// checkCandidate judges a request for a vote.
func (l *live) checkCandidate(from wire.NodeID, term uint64) error {
	if l.c.getsNoVote(from) {
		return l.m.refuse(from, l.c.id, RefusedSilence, wire.Errorf(wire.Unavailable, "raft", "%s gets no vote here in %v for %v: it did not order what this node was shown", from, l.c.id, muteLife))
	}
	return l.checkTerm(from, term)
}

// contradiction is where a request of the current leader differs from what is committed here.
func (l *live) contradiction(a *raft.AppendEntriesRequest) error {
	floor := l.floor()
	if a.PrevLogEntry > 0 && a.PrevLogEntry <= floor {
		if term, known := l.store.termAt(a.PrevLogEntry); known && term != a.PrevLogTerm {
			return fmt.Errorf("entry %d of term %d is said to be of term %d: %w", a.PrevLogEntry, term, a.PrevLogTerm, errRewrite)
		}
	}
	for _, e := range a.Entries {
		if e.Index > floor {
			break
		}
		var have raft.Log
		switch err := l.store.GroupLog.GetLog(e.Index, &have); {
		case err == nil && (have.Term != e.Term || have.Type != e.Type || !bytes.Equal(have.Data, e.Data)):
			return fmt.Errorf("entry %d of term %d: %w", e.Index, e.Term, errRewrite)
		case err != nil: // the snapshot covers it, or the disk fails, which Raft will find out
			if s := l.store.snap.Load(); s != nil && s.Index == e.Index && s.Term != e.Term {
				return fmt.Errorf("entry %d of term %d, the snapshot ends with it in term %d: %w", e.Index, e.Term, s.Term, errRewrite)
			}
		}
	}
	return nil
}

// recentTerms remembers the terms of the last entries written, so that a request's previous entry is
// compared without reading the disk.
type recentTerms struct {
	at [64]struct{ index, term uint64 }
}

func (r *recentTerms) note(logs []*raft.Log) {
	for _, e := range logs {
		r.at[e.Index%uint64(len(r.at))] = struct{ index, term uint64 }{e.Index, e.Term}
	}
}

func (r *recentTerms) forget() { *r = recentTerms{} }

func (r *recentTerms) get(index uint64) (uint64, bool) {
	at := r.at[index%uint64(len(r.at))]
	return at.term, at.index == index && index > 0
}

// termAt is the term of an entry of this log, or of the one that the snapshot ends with.
func (g *guard) termAt(index uint64) (uint64, bool) {
	g.termsMu.Lock()
	term, ok := g.terms.get(index)
	g.termsMu.Unlock()
	if ok {
		return term, true
	}
	var have raft.Log
	if err := g.GroupLog.GetLog(index, &have); err == nil {
		return have.Term, true
	}
	if s := g.snap.Load(); s != nil && s.Index == index {
		return s.Term, true
	}
	return 0, false
}

// keeps refuses writes of a running replica that would replace an entry at or behind the floor.
func (g *guard) keeps(first uint64) error {
	if g.floor == nil || !g.running.Load() {
		return nil
	}
	floor := g.floor()
	if first > floor {
		return nil
	}
	err := fmt.Errorf("entries from %d on, where the log is committed up to %d: %w", first, floor, errRewrite)
	g.rewritten(err)
	return err
}

// truncates tells the removal of a conflicting suffix from that of what a snapshot covers, which begins
// where the log begins and ends with the snapshot at the latest.
func (g *guard) truncates(first, last uint64) bool {
	begin, err := g.FirstIndex()
	s := g.snap.Load()
	return err == nil && (first > begin || s == nil || last > s.Index)
}
