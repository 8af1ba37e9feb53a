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

	// panicked hears of a panic in one of Raft's callbacks, with what it was at; nil in a trial, where the
	// caller catches it.
	panicked func(what string, p any, err *error)

	// newest is the newest snapshot on disk, nil without any; nil where nobody asks.
	newest func() *raft.SnapshotMeta
	// configured is called when another configuration is known to be committed, without the lock; nil for none.
	configured func()

	mu          sync.RWMutex // guards what follows
	m           *machine.Machine
	index       uint64 // the last entry of the log applied
	configIndex uint64 // the entry of the latest configuration applied, and that configuration
	config      raft.Configuration
	broken      bool // an entry was applied in part: this state is not gone on with, nor kept
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

// errBroken is the outcome of entries after one at which the state machine panicked.
var errBroken = &wire.Error{Code: wire.Unavailable, Op: "apply", Text: "the state machine panicked at an earlier entry: the conversation is in quarantine"}

// caught is deferred by each callback.
func (f *fsm) caught(what string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	if f.panicked == nil {
		panic(p)
	}
	f.panicked(what, p, err)
}

// Apply applies one entry and returns a machine.Outcome.
func (f *fsm) Apply(l *raft.Log) (result any) {
	result = machine.Outcome{Err: errBroken}
	defer f.caught("apply", nil)
	var key wire.SubmissionKey
	if f.verified != nil {
		key = f.verified(l.Data)
	}
	out, ok := f.apply(l, key)
	if !ok {
		return result
	}
	if f.applied != nil {
		f.applied(l.Data, out)
	}
	return out
}

func (f *fsm) apply(l *raft.Log, key wire.SubmissionKey) (machine.Outcome, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return machine.Outcome{}, false
	}
	f.broken = true // until it has returned
	out := f.m.ApplyVerified(l.Data, key)
	f.index, f.broken = l.Index, false
	return out, true
}

// StoreConfiguration hears of each committed configuration, with the index that Raft's own
// GetConfiguration does not tell.
func (f *fsm) StoreConfiguration(index uint64, c raft.Configuration) {
	f.setConfiguration(index, c)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = index
}

// Snapshot takes an image, which is written while entries go on being applied.
func (f *fsm) Snapshot() (_ raft.FSMSnapshot, err error) {
	defer f.caught("snapshot", &err)
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.broken {
		return nil, errBroken
	}
	return &fsmImage{f.m.Snapshot(), f}, nil
}

// Restore replaces the state. A damaged snapshot leaves it as it was.
func (f *fsm) Restore(r io.ReadCloser) (err error) {
	defer f.caught("restore", &err)
	m, err := machine.Restore(f.id, f.rules, r)
	if err != nil {
		return err
	}
	f.set(m)
	if f.newest != nil { // Raft does not say which snapshot it is; it has just been finished, or found
		if s := f.newest(); s != nil {
			f.mu.Lock()
			f.index = max(f.index, s.Index)
			f.mu.Unlock()
			f.setConfiguration(s.ConfigurationIndex, s.Configuration)
		}
	}
	if f.applied != nil {
		f.applied(nil, machine.Outcome{Committed: &wire.Committed{}, Moved: true})
	}
	return nil
}

// read calls fn with the machine; fn must not keep it, nor call anything that takes f.mu again: an entry that waits to
// be applied between the two would stop both for good.
func (f *fsm) read(fn func(*machine.Machine)) {
	f.readAt(func(m *machine.Machine, _ uint64) { fn(m) })
}

// readAt is read that tells up to which entry of the log the machine has applied.
func (f *fsm) readAt(fn func(m *machine.Machine, at uint64)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fn(f.m, f.index)
}

type fsmImage struct {
	*machine.Image
	of *fsm
}

func (i *fsmImage) Persist(sink raft.SnapshotSink) (err error) {
	defer i.of.caught("persist", &err)
	if _, err := i.WriteTo(sink); err != nil {
		return fmt.Errorf("persist: %w", err)
	}
	return sink.Close()
}

func (i *fsmImage) Release() {}
