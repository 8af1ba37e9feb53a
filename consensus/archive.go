package consensus

import (
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// archive reads kept entries of a conversation from disk: see machine.Archive.
type entryArchive struct {
	cache *logCache // nil for none
	log   *raftlog.GroupLog
	snaps raft.SnapshotStore
}

// Logged implements machine.Archive.
func (s *entryArchive) Logged(index uint64) ([]byte, error) {
	if s.cache != nil {
		if l := s.cache.held(index); l != nil {
			return l.Data, nil
		}
	}
	var l raft.Log
	err := s.log.GetLog(index, &l)
	return l.Data, err
}

// Stored implements machine.Archive.
func (s *entryArchive) Stored(snapshot string) (io.ReadCloser, error) {
	_, content, err := s.snaps.Open(snapshot)
	return content, err
}

// keptAttempts is the number of searches for kept entries that move on disk meanwhile, and keptPause the pause
// between them: a snapshot that another node has sent is on disk for a moment before the state knows of it.
const (
	keptAttempts = 20
	keptPause    = 10 * time.Millisecond
)

// readKept reads the kept entries that choose selects. view is Manager.view or Manager.viewAny.
func (m *Manager) readKept(c *conversation, view func(*conversation, func(*machine.Machine)) error, choose func(*machine.Machine) machine.EntryRange) (entries []wire.Committed, err error) {
	for range keptAttempts {
		var kept machine.EntryRange
		if err := view(c, func(s *machine.Machine) { kept = choose(s) }); err != nil {
			return nil, err
		}
		if entries, err = kept.Read(); !errors.Is(err, machine.ErrMoved) {
			return entries, err
		}
		if c.awake() == nil {
			m.forgetAsleep(c.id)
		}
		if ctx := m.context(); ctx == nil || !pause(ctx, keptPause) {
			break
		}
	}
	m.damaged(c, err)
	return nil, wire.Errorf(wire.Unavailable, "read", "%v: %v", c.id, err)
}
