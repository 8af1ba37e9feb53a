package consensus

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Followers learn of a commit only with the next AppendEntries, which an idle leader sends after Timers.Commit. A
// nudge informs them at once: it is a well-formed AppendEntries without entries, whose previous entry is the last one
// that this follower has acknowledged, and whose commit index does not exceed it.

// ack is the state of a follower's log as this leader knows it.
type ack struct {
	term       uint64 // the leader's term at the time of the acknowledgement
	index      uint64 // the last acknowledged entry
	indexTerm  uint64 // the term of that entry
	sentCommit uint64 // the highest commit index sent
}

type acks struct {
	mu sync.Mutex // guards by
	by map[wire.NodeID]ack
}

// note records a successful AppendEntries.
func (a *acks) note(from wire.NodeID, req *raft.AppendEntriesRequest) {
	index, of := req.PrevLogEntry, req.PrevLogTerm
	if n := len(req.Entries); n > 0 {
		index, of = req.Entries[n-1].Index, req.Entries[n-1].Term
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[wire.NodeID]ack)
	}
	have := a.by[from]
	if have.term != req.Term {
		have = ack{term: req.Term}
	}
	if index >= have.index {
		have.index, have.indexTerm = index, of
	}
	have.sentCommit = max(have.sentCommit, min(req.LeaderCommitIndex, index))
	a.by[from] = have
}

// get returns the known state of a follower in the given term.
func (a *acks) get(n wire.NodeID, term uint64) (ack, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.by[n]
	return have, ok && have.term == term
}

// markSent records that commit is about to be sent to n. It returns false if n has already received this commit index
// or a higher one, or if nothing is known of n in this term.
func (a *acks) markSent(n wire.NodeID, term, commit uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.by[n]
	if have.term != term || have.sentCommit >= commit {
		return false
	}
	have.sentCommit = commit
	a.by[n] = have
	return true
}

// peers returns the followers with a known state.
func (a *acks) peers() []wire.NodeID {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]wire.NodeID, 0, len(a.by))
	for n := range a.by {
		list = append(list, n)
	}
	return list
}

// nudgeAll is called when an entry has been applied.
func (t *transport) nudgeAll() {
	for _, n := range t.acks.peers() {
		t.nudge(n)
	}
}

// nudge informs one follower how far it may apply the log.
func (t *transport) nudge(to wire.NodeID) {
	r := t.conv.raft()
	if r == nil || r.State() != raft.Leader {
		return
	}
	term := r.CurrentTerm()
	have, ok := t.acks.get(to, term)
	if !ok || have.index == 0 || t.store.settle() != nil {
		return
	}
	commit := min(r.CommitIndex(), have.index)
	// The commit index belongs to this term only if this node has led in it before and after reading it.
	if commit == 0 || r.State() != raft.Leader || r.CurrentTerm() != term || !t.acks.markSent(to, term, commit) {
		return
	}
	a := &raft.AppendEntriesRequest{Term: term, PrevLogEntry: have.index, PrevLogTerm: have.indexTerm, LeaderCommitIndex: commit}
	// The frame has no number: nobody waits for the answer, and Raft repeats the information if the nudge is lost.
	if err := t.m.mesh.send(to, t.frame(kindAppend, encodeAppend(a))); err != nil {
		t.m.log.Debug("nudge not sent", "peer", to, "error", err)
	}
}
