package consensus

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// Followers learn of a commit with the next AppendEntries only, which an idle leader sends after
// Timers.Commit. The nudge tells them at once: a well-formed AppendEntries without entries, whose
// previous entry is the last that this follower has acknowledged, and whose commit index does not go
// beyond it.

// ack is what a follower holds as far as this leader knows.
type ack struct {
	term  uint64 // the leader's, when it was acknowledged
	index uint64 // the last entry acknowledged
	of    uint64 // its term
	told  uint64 // the highest commit index sent
}

type acks struct {
	mu sync.Mutex // guards by
	by map[wire.NodeID]ack
}

// note takes in a successful AppendEntries.
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
		have.index, have.of = index, of
	}
	have.told = max(have.told, min(req.LeaderCommitIndex, index))
	a.by[from] = have
}

// of is what is known of a follower in the given term.
func (a *acks) get(n wire.NodeID, term uint64) (ack, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.by[n]
	return have, ok && have.term == term
}

// tell records that commit is about to be sent to n; false if n has been told already.
func (a *acks) tell(n wire.NodeID, term, commit uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.by[n]
	if have.term != term || have.told >= commit {
		return false
	}
	have.told = commit
	a.by[n] = have
	return true
}

// peers are those of which anything is known.
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

// nudge tells one follower how far it may apply.
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
	if commit == 0 || r.State() != raft.Leader || r.CurrentTerm() != term || !t.acks.tell(to, term, commit) {
		return
	}
	a := &raft.AppendEntriesRequest{Term: term, PrevLogEntry: have.index, PrevLogTerm: have.of, LeaderCommitIndex: commit}
	// Without a number: nobody waits for the answer, and a nudge that is lost is repeated by Raft.
	if err := t.m.mesh.send(to, t.frame(kindAppend, encodeAppend(a))); err != nil {
		t.m.log.Debug("nudge not sent", "peer", to, "error", err)
	}
}
