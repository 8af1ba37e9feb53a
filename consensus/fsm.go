package consensus

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// fsm implements raft.FSM with a Machine.
type fsm struct {
	id     wire.ConversationID
	rules  machine.PublicRules
	tamper func(*machine.Machine)
	// applied is called after each entry, without the lock, on Raft's goroutine; nil for none.
	applied func(data []byte, out machine.Outcome)
	// known returns the facts about an entry that this node has found out before; nil: none.
	known func(l *raft.Log) machine.Known
	// checked receives the indices of the applied entries; nil if it is not needed.
	checked *checkedBy

	// handlePanic handles a panic in one of Raft's callbacks, with the name of the callback; nil in a trial, where the
	// caller recovers.
	handlePanic func(what string, p any, err *error)

	// newest returns the newest snapshot on disk, or nil if there is none. The field is nil if it is not needed.
	newest func() *raft.SnapshotMeta
	// checkConfigured is called when another configuration is known to be committed, without the lock; nil for none.
	configured func()
	// entryArchive reads entries that the machine does not hold in memory; nil if the machine holds all.
	archive machine.Archive
	// stored is the snapshot to restore; "" for the newest.
	stored string

	mu          sync.RWMutex // guards the fields below
	m           *machine.Machine
	index       uint64 // index of the last applied entry of the log
	configIndex uint64 // the index of the latest configuration applied, and that configuration
	config      raft.Configuration
	broken      bool // an entry was applied in part: this state is neither used further nor stored
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

// useArchive lets the machine drop entries from memory that are on disk.
func (f *fsm) useArchive(s machine.Archive) {
	f.archive = s
	f.m.UseArchive(s, "")
}

func (f *fsm) set(m *machine.Machine) {
	if f.tamper != nil {
		f.tamper(m)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m = m
}

// errBroken is the outcome of entries after an entry at which the state machine panicked.
var errBroken = &wire.Error{Code: wire.Unavailable, Op: "apply", Text: "the state machine panicked at an earlier entry: the conversation is in quarantine"}

// quarantineOnPanic is deferred by each callback.
func (f *fsm) recoverPanic(what string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	if f.handlePanic == nil {
		panic(p)
	}
	f.handlePanic(what, p, err)
}

// Apply applies one entry and returns a machine.Outcome.
func (f *fsm) Apply(l *raft.Log) (result any) {
	result = machine.Outcome{Err: errBroken}
	defer f.recoverPanic("apply", nil)
	var known machine.Known
	if f.known != nil {
		known = f.known(l)
	}
	out, ok := f.apply(l, known)
	if !ok {
		return result
	}
	if f.applied != nil {
		f.applied(l.Data, out)
	}
	return out
}

func (f *fsm) apply(l *raft.Log, known machine.Known) (machine.Outcome, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return machine.Outcome{}, false
	}
	f.broken = true // reset when ApplyLogged returns; a panic leaves it set
	out := f.m.ApplyLogged(l.Data, known, l.Index)
	f.index, f.broken = l.Index, false
	f.checked.note(l.Index, out)
	return out, true
}

// StoreConfiguration is called for each committed configuration, with its index, which Raft's own GetConfiguration
// does not return.
func (f *fsm) StoreConfiguration(index uint64, c raft.Configuration) {
	f.setConfiguration(index, c)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = index
}

// Snapshot takes an image of the state. The image is written while further entries are applied.
func (f *fsm) Snapshot() (_ raft.FSMSnapshot, err error) {
	defer f.recoverPanic("snapshot", &err)
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.broken {
		return nil, errBroken
	}
	return &fsmImage{f.m.Snapshot(), f}, nil
}

// Restore replaces the state. A damaged snapshot leaves the state unchanged.
func (f *fsm) Restore(r io.ReadCloser) (err error) {
	defer f.recoverPanic("restore", &err)
	m, err := machine.Restore(f.id, f.rules, r)
	if err != nil {
		return err
	}
	stored := f.stored
	if f.newest != nil { // Raft does not pass the snapshot's name; the snapshot has just been finished, or found
		if s := f.newest(); s != nil {
			stored = s.ID
		}
	}
	if f.archive != nil {
		m.UseArchive(f.archive, stored)
	}
	f.set(m)
	if f.newest != nil {
		if s := f.newest(); s != nil {
			f.mu.Lock()
			f.index = max(f.index, s.Index)
			f.mu.Unlock()
			f.checked.begin(s.Index)
			f.setConfiguration(s.ConfigurationIndex, s.Configuration)
		}
	}
	if f.applied != nil {
		f.applied(nil, machine.Outcome{Committed: &wire.Committed{}, Moved: true})
	}
	return nil
}

// read calls fn with the machine. fn must not keep the machine, and must not call anything that takes f.mu again: an
// entry that waits to be applied between the two locks would cause a deadlock.
func (f *fsm) read(fn func(*machine.Machine)) {
	f.readAt(func(m *machine.Machine, _ uint64) { fn(m) })
}

// readAt does the work of read, and passes the index of the log up to which the machine has applied it.
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
	defer i.of.recoverPanic("persist", &err)
	if _, err := i.WriteTo(sink); err != nil {
		return fmt.Errorf("persist: %w", err)
	}
	if err := sink.Close(); err != nil {
		return err
	}
	i.of.mu.Lock()
	defer i.of.mu.Unlock()
	i.of.m.Moved(i.Image, sink.ID())
	return nil
}

func (i *fsmImage) Release() {}
