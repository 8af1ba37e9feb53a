package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/raftlog"
)

// Raft writes its term and then, in two halves, its vote: three writes for one vote. A crash between the halves would
// leave an old candidate's name with the new term, and Raft would repeat that vote without checking the candidate's
// log. Here both halves are one value under a key of their own.
//
// A new term is not written at once either: it waits for the vote that usually follows, and one sync writes both. The
// delay cannot be observed: the term is settled before this replica writes anything else and before any request or
// answer leaves the replica.

var errStalled = errors.New("the disk does not end a write")

// stalled reports whether the disk is stalled: a write has taken longer than Timers.Stall.
func (m *Manager) stalled() bool { return m.cfg.Log.Writing() > m.cfg.Timers.Stall }

// The stable keys of Raft and of this package.
const (
	currentTerm   = "CurrentTerm"
	voteTerm      = "LastVoteTerm"
	voteCandidate = "LastVoteCand"
	wholeVote     = "Vote" // term, eight bytes big-endian, and candidate
)

// SetUint64 stores a term. A new current term, and the term of a vote, are written together with the value that
// follows.
func (g *guard) SetUint64(key []byte, v uint64) error {
	switch {
	case string(key) == voteTerm:
		g.vote = &v
		return nil
	case string(key) == currentTerm && g.running.Load():
		g.term.Store(&v)
		return nil
	}
	return g.GroupLog.SetUint64(key, v)
}

// Set stores a value. It stores a vote as a whole, with the term that waits.
func (g *guard) Set(key, value []byte) error {
	if string(key) != voteCandidate || g.vote == nil {
		if err := g.settled(); err != nil {
			return err
		}
		return g.GroupLog.Set(key, value)
	}
	vote := append(binary.BigEndian.AppendUint64(nil, *g.vote), value...)
	g.vote = nil
	err := g.writeTerm(raftlog.StableValue{Key: []byte(wholeVote), Value: vote})
	if err != nil {
		g.end(err)
	}
	return err
}

// settle makes sure that the current term is on disk, and that the disk still accepts writes: no Raft message leaves
// the replica otherwise. So a leader with a stalled disk falls silent, and is replaced. settle may be called on any
// goroutine.
func (g *guard) settle() error {
	if g.stalled() {
		return errStalled
	}
	if g.term.Load() == nil {
		return nil
	}
	err := g.writeTerm()
	if err != nil {
		g.fail(err)
	}
	return err
}

// settled calls settle on a goroutine of Raft, and ends that goroutine if the disk fails.
func (g *guard) settled() error {
	if g.term.Load() == nil {
		return nil
	}
	err := g.writeTerm()
	if err != nil {
		g.end(err)
	}
	return err
}

// writeTerm writes the term that waits, if there is one, together with more.
func (g *guard) writeTerm(more ...raftlog.StableValue) error {
	g.writing <- struct{}{} // one at a time: an older term must not be written after a newer one
	defer func() { <-g.writing }()
	term := g.term.Load()
	if term != nil {
		value := binary.BigEndian.AppendUint64(nil, *term)
		more = append([]raftlog.StableValue{{Key: []byte(currentTerm), Value: value}}, more...)
	}
	if err := g.GroupLog.SetAll(more...); err != nil {
		return fmt.Errorf("write term or vote: %w", err)
	}
	g.term.CompareAndSwap(term, nil)
	return nil
}

// GetUint64 returns a term.
func (g *guard) GetUint64(key []byte) (uint64, error) {
	switch term := g.term.Load(); {
	case string(key) == voteTerm:
		of, _, err := g.readVote()
		return of, err
	case string(key) == currentTerm && term != nil:
		return *term, nil
	}
	return g.GroupLog.GetUint64(key)
}

// Get returns a value.
func (g *guard) Get(key []byte) ([]byte, error) {
	if string(key) != voteCandidate {
		return g.GroupLog.Get(key)
	}
	_, candidate, err := g.readVote()
	return candidate, err
}

func (g *guard) readVote() (uint64, []byte, error) {
	vote, err := g.GroupLog.Get([]byte(wholeVote))
	if err != nil {
		return 0, nil, err
	}
	if len(vote) < 8 {
		return 0, nil, fmt.Errorf("vote of %d bytes", len(vote))
	}
	return binary.BigEndian.Uint64(vote), vote[8:], nil
}

// StoreLog stores an entry.
func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries.
func (g *guard) StoreLogs(logs []*raft.Log) error {
	if err := g.settled(); err != nil {
		return err
	}
	if len(logs) > 0 {
		if err := g.refuseRewrite(logs[0].Index); err != nil {
			return err
		}
	}
	foreign := !g.leads()
	if foreign && g.checkMemory != nil {
		if err := g.checkMemory(); err != nil {
			return err
		}
	}
	if err := g.book.store(logs, foreign, g.GroupLog.StoreLogs); err != nil {
		return err
	}
	g.termsMu.Lock()
	g.terms.note(logs)
	g.termsMu.Unlock()
	return nil
}

// DeleteRange deletes entries.
func (g *guard) DeleteRange(first, last uint64) error {
	if err := g.settled(); err != nil {
		return err
	}
	if g.removesSuffix(first, last) {
		if err := g.refuseRewrite(first); err != nil {
			return err
		}
	}
	g.termsMu.Lock()
	g.terms.forget()
	g.termsMu.Unlock()
	if err := g.GroupLog.DeleteRange(first, last); err != nil {
		return err
	}
	g.book.shortened(g.GroupLog)
	return nil
}
