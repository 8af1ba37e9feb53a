package consensus

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// fsm puts a Machine under Raft.
type fsm struct {
	id     wire.ConversationID
	rules  machine.PublicRules
	tamper func(*machine.Machine)
	// applied is called after each entry, without the lock, on Raft's goroutine; nil for none.
	applied func(data []byte, out machine.Outcome)
	// verified is the key under which this node has verified the submission in these very bytes, zero for
	// none; nil for never.
	verified func(data []byte) wire.SubmissionKey

	// newest is the entry that the newest snapshot on disk ends with; nil where nobody asks.
	newest func() uint64

	mu          sync.RWMutex // guards what follows
	m           *machine.Machine
	index       uint64 // the last entry of the log applied
	configIndex uint64 // the entry of the latest configuration applied
}

var (
	_ raft.FSM                = (*fsm)(nil)
	_ raft.ConfigurationStore = (*fsm)(nil)
)

func (m *Manager) newFSM(id wire.ConversationID) *fsm {
	f := &fsm{id: id, rules: m.cfg.Public, tamper: m.cfg.tamper}
	f.set(machine.New(id, f.rules))
	return f
}

func (f *fsm) set(m *machine.Machine) {
	if f.tamper != nil {
		f.tamper(m)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m = m
}

// Apply applies one entry and returns a machine.Outcome.
func (f *fsm) Apply(l *raft.Log) any {
	var key wire.SubmissionKey
	if f.verified != nil {
		key = f.verified(l.Data)
	}
	f.mu.Lock()
	out := f.m.ApplyVerified(l.Data, key)
	f.index = l.Index
	f.mu.Unlock()
	if f.applied != nil {
		f.applied(l.Data, out)
	}
	return out
}

// StoreConfiguration hears of each committed configuration, with the index that Raft's own
// GetConfiguration does not tell.
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.configIndex = index, index
}

// Snapshot takes an image, which is written while entries go on being applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return &fsmImage{f.m.Snapshot()}, nil
}

// Restore replaces the state. A damaged snapshot leaves it as it was.
func (f *fsm) Restore(r io.ReadCloser) error {
	m, err := machine.Restore(f.id, f.rules, r)
	if err != nil {
		return err
	}
	f.set(m)
	if f.newest != nil { // Raft does not say which snapshot it is; it has just been finished, or found
		f.mu.Lock()
		f.index = max(f.index, f.newest())
		f.mu.Unlock()
	}
	if f.applied != nil {
		f.applied(nil, machine.Outcome{Committed: &wire.Committed{}, Moved: true})
	}
	return nil
}

// read calls fn with the machine; fn must not keep it.
func (f *fsm) read(fn func(*machine.Machine)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fn(f.m)
}

type fsmImage struct{ *machine.Image }

func (i *fsmImage) Persist(sink raft.SnapshotSink) error {
	if _, err := i.WriteTo(sink); err != nil {
		return fmt.Errorf("persist: %w", err)
	}
	return sink.Close()
}

func (i *fsmImage) Release() {}
