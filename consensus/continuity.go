package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Applied entries stay. Raft trusts its leader: entries that conflict with the leader's are deleted, applied or not,
// and a snapshot replaces the state. In a genuine log neither affects committed entries. So each request is compared
// with the entries that this replica has applied before Raft receives it. The log checks once more before it deletes
// or replaces entries (guard.go), since the commit index may move in between.
//
// The comparison costs nothing for a new entry: it covers only entries up to the commit index.

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

// checkRPC validates a Raft message before Raft receives it.
func (l *live) checkRPC(from wire.NodeID, cmd any) error {
	switch q := cmd.(type) {
	case *raft.AppendEntriesRequest:
		if q.Term < l.term() {
			return nil // Raft answers with the later term, and does nothing
		}
		if l.m.holds(ruleApplied) {
			if err := l.contradiction(q); err != nil {
				return l.m.handleContradiction(l.c, ReasonRewritten, RefusedRewrite, from, fmt.Errorf("entries from %s: %w", from, err))
			}
		}
		if err := l.checkTerm(from, q.Term); err != nil {
			return err
		}
		if err := l.mayLead(from, q.Term); err != nil {
			return err
		}
		return l.validateRequest(from, q)
	case *raft.RequestVoteRequest:
		if err := l.checkCandidate(from, q.Term); err != nil {
			return err
		}
		return l.mayBeCandidate(from, q)
	case *raft.RequestPreVoteRequest:
		return l.checkCandidate(from, q.Term)
	case *raft.TimeoutNowRequest:
		// Raft begins a term of its own after such a message, with a vote or without.
		if l.m.holds(ruleRoles) && !l.isVoter() {
			return l.m.refuse(from, l.c.id, RefusedRole, wire.Errorf(wire.NotReplica, "raft", "this replica of %v has no vote, and begins no election", l.c.id))
		}
		// Only the leader gives its leadership away.
		if leader := l.leader(); l.m.holds(ruleUnrest) && leader != from {
			return l.m.refuse(from, l.c.id, RefusedRole, wire.Errorf(wire.NotReplica, "raft", "%s asks for an election in %v, which %q leads", from, l.c.id, leader))
		}
	}
	return nil
}

// checkCandidate validates a request for a vote.
func (l *live) checkCandidate(from wire.NodeID, term uint64) error {
	if l.c.voteDenied(from) && !l.needsLeader(from) {
		return l.m.refuse(from, l.c.id, RefusedUnordered, wire.Errorf(wire.Unavailable, "raft", "%s gets no vote here in %v for %v: it did not order what this node was shown", from, l.c.id, muteLife))
	}
	return l.checkTerm(from, term)
}

// noLeaderFor is after how many of Timers.Election without a leader a replica votes again for a node that did not order
// what it was shown.
const noLeaderFor = 4

// needsLeader reports whether a node that was denied votes for not ordering something gets one all the same: nobody has
// led here for some time, so that no other voter can win, for example since it lacks an entry. A leader that ignores
// one organization is better than none.
func (l *live) needsLeader(n wire.NodeID) bool {
	denied, r := l.c.mutedUntil(n), l.r.Load()
	if !denied.leads || r == nil || l.leader() != "" {
		return false
	}
	patience := noLeaderFor * l.m.cfg.Timers.Election
	return time.Since(denied.since) >= patience && time.Since(r.LastContact()) >= patience
}

// contradiction returns the first difference between a request of the current leader and the entries committed here.
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
		case err != nil: // the snapshot covers the entry, or the disk fails, which Raft will notice
			if s := l.store.snap.Load(); s != nil && s.Index == e.Index && s.Term != e.Term {
				return fmt.Errorf("entry %d of term %d, the snapshot ends with it in term %d: %w", e.Index, e.Term, s.Term, errRewrite)
			}
		}
	}
	return nil
}

// recentTerms holds the terms of the last entries written, so that a request's previous entry is compared without
// reading the disk.
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

// termAt returns the term of an entry of this log, or of the last entry of the snapshot.
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

// refuseRewrite refuses writes of a running replica that would replace an entry at or before the floor.
func (g *guard) refuseRewrite(first uint64) error {
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

// removesSuffix distinguishes the removal of a conflicting suffix from the removal of entries that a snapshot covers.
// The latter begins at the start of the log and ends at the snapshot at the latest.
func (g *guard) removesSuffix(first, last uint64) bool {
	begin, err := g.FirstIndex()
	s := g.snap.Load()
	return err == nil && (first > begin || s == nil || last > s.Index)
}
