package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Reading does not wake: a sleeping conversation is read from its snapshot and its log, up to the last entry known to
// be committed. After a crash that may be less than other nodes have seen, never more.

// view calls fn with the conversation's state, which fn must not keep. A replica that has just been opened learns
// only from its leader which entries are committed; until it has applied the entries known to be committed before, it
// is read as if it slept.
func (m *Manager) view(c *conversation, fn func(*machine.Machine)) error {
	if err := c.refused("read"); err != nil {
		return err
	}
	return m.viewAny(c, fn)
}

// viewAny does the work of view also for a conversation in quarantine.
func (m *Manager) viewAny(c *conversation, fn func(*machine.Machine)) error {
	return m.viewAnyAt(c, func(s *machine.Machine, _ uint64) { fn(s) })
}

// viewAnyAt does the work of look, and passes the index of Raft's log up to which the state has applied it.
func (m *Manager) viewAnyAt(c *conversation, fn func(s *machine.Machine, at uint64)) (err error) {
	defer m.quarantineOnPanic(c, "read", &err)
	for {
		l := c.awake()
		if l.caughtUp() {
			l.fsm.readAt(fn)
			return nil
		}
		if (l == nil || l.r.Load() == nil) && c.settle() {
			continue // the replica is being opened or closed
		}
		s, at, err := m.readAsleep(c)
		if now := c.awake(); now != l || now.caughtUp() {
			continue // the replica may know more, or have moved the data that was read
		}
		if err != nil {
			return err
		}
		fn(s, at)
		return nil
	}
}

// caughtUp reports whether an awake replica has applied the entries that were known to be committed when it was
// opened. Entries of Raft's own at the end of these are not counted: in that case the answer is false, though both
// ways of reading see the same state.
func (l *live) caughtUp() bool {
	if l == nil || l.r.Load() == nil {
		return false
	}
	l.fsm.mu.RLock()
	defer l.fsm.mu.RUnlock()
	return l.fsm.index >= l.rec.Load().Applied
}

func (m *Manager) readAsleep(c *conversation) (s *machine.Machine, at uint64, err error) {
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil, 0, err
	}
	if s, ok := m.asleep.get(c.id, rec.Applied); ok {
		return s, rec.Applied, nil
	}
	f, _, err := m.replay(c, rec.Applied, func(index uint64, _ *machine.Machine) bool { return index < rec.Applied })
	if err != nil {
		m.damaged(c, err)
		return nil, 0, fmt.Errorf("read %v: %w", c.id, err)
	}
	m.asleep.put(&sleeper[*machine.Machine]{c.id, rec.Applied, f.m, f.m.Size()})
	return f.m, rec.Applied, nil
}

// replay builds a state from the newest snapshot and from the log, entry by entry while more returns true for the
// last index and the state. It returns that index. committed is the last index that is known to be committed: a leader
// may still replace entries after it, so their signatures are verified now and again when they are applied.
func (m *Manager) replay(c *conversation, committed uint64, more func(uint64, *machine.Machine) bool) (f *fsm, index uint64, err error) {
	f = m.newFSM(c.id)
	f.useArchive(&entryArchive{log: m.cfg.Log.Group(c.group), snaps: m.snaps.store(c.group)})
	if index, err = m.restoreLatest(c, f); err != nil {
		return nil, 0, err
	}
	log := m.cfg.Log.Group(c.group)
	generation := c.generation()
	c.checked.begin(generation, index)
	for more(index, f.m) {
		var e raft.Log
		if err := log.GetLog(index+1, &e); err != nil {
			return nil, 0, fmt.Errorf("entry %d: %w", index+1, err)
		}
		if e.Type == raft.LogCommand {
			checked := e.Index <= committed && c.checked.has(generation, e.Index)
			if out := f.m.ApplyLogged(e.Data, machine.Known{Checked: checked}, e.Index); e.Index <= committed {
				c.checked.note(generation, e.Index, out)
			}
		}
		index++
	}
	return f, index, nil
}

// advanceToConsumer advances a record to the position that the consumer has stored. The record is written only from
// time to time, so after a crash it is behind; entries that devices may have received must not be replaced.
func (m *Manager) advanceToConsumer(c *conversation, rec *record) error {
	if m.cfg.Consumer == nil || !m.holds(ruleApplied) || rec.fresh() || rec.Rejoin {
		return nil
	}
	at, err := m.cfg.Consumer.Position(c.id)
	if err != nil || at <= rec.Sequence {
		return err
	}
	last, err := m.cfg.Log.Group(c.group).LastIndex()
	if err != nil || last <= rec.Applied {
		return err
	}
	f, index, err := m.replay(c, rec.Applied, func(index uint64, s *machine.Machine) bool { return index < last && s.Sequence() < at })
	if err != nil || f.m.Sequence() != at || index <= rec.Applied {
		return err // a log that ends before the position, such as one that begins again
	}
	rec.Applied, rec.Sequence = index, at
	return m.writeRecord(c.id, rec)
}

// restoreLatest fills f from the newest snapshot and returns its index, or 0 if there is none.
func (m *Manager) restoreLatest(c *conversation, f *fsm) (uint64, error) {
	snaps := m.snaps.store(c.group)
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	meta, content, err := snaps.Open(list[0].ID)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	f.stored = list[0].ID
	return meta.Index, f.Restore(content)
}

// Entries returns the committed entries after since, at most count entries and bytes bytes, but at least one entry.
// gap reports that the first entries after since are no longer kept. For a conversation in quarantine, Entries
// returns entries that the consumer has stored, as far as they can still be read.
func (m *Manager) Entries(id wire.ConversationID, since wire.SequenceNumber, count, bytes int) (entries []wire.Committed, gap bool, err error) {
	c, err := m.held(id)
	if err != nil {
		return nil, false, err
	}
	if c.shut.Load() != nil {
		return m.delivered(c, since, count, bytes)
	}
	entries, err = m.readKept(c, m.view, func(s *machine.Machine) (kept machine.EntryRange) {
		kept, gap = s.Entries(since, count, bytes)
		return kept
	})
	return entries, gap, err
}

// Heads returns the epochs that can be committed to, with their submission keys and delivery lists; use GroupInfos
// for their Info and Tree. Each message needs the heads, and a conversation with messages only may sleep, so the
// heads of sleeping conversations are kept in memory.
func (m *Manager) Heads(id wire.ConversationID) (heads []machine.Head, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if heads, ok := m.headsAsleep(c); ok {
		return heads, nil
	}
	err = m.view(c, func(s *machine.Machine) { heads, _ = s.SlimHeads() })
	return heads, err
}

// GroupInfos returns the result of Heads, with the Info and Tree of each head.
func (m *Manager) GroupInfos(id wire.ConversationID) (heads []machine.Head, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	err = m.view(c, func(s *machine.Machine) { heads = s.Heads() })
	return heads, err
}

// headsAsleep returns the heads of a sleeping conversation. It returns false if the conversation is awake or cannot
// be read.
func (m *Manager) headsAsleep(c *conversation) (heads []machine.Head, ok bool) {
	if c.awake() != nil || c.refused("read") != nil {
		return nil, false
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil, false
	}
	if heads, ok = m.heads.get(c.id, rec.Applied); !ok {
		size := 0
		if err := m.view(c, func(s *machine.Machine) { heads, size = s.SlimHeads() }); err != nil {
			return nil, false
		}
		if now, err := m.readRecord(c.id); c.awake() != nil || err != nil || now.Applied != rec.Applied {
			return nil, false // the state may be newer than the record
		}
		m.heads.put(&sleeper[[]machine.Head]{c.id, rec.Applied, heads, size})
	}
	return heads, c.awake() == nil
}

// forgetAsleep drops the cached data of a sleeping conversation.
func (m *Manager) forgetAsleep(id wire.ConversationID) {
	m.asleep.forget(id)
	m.heads.forget(id)
}

// Policy returns the policy with which the conversation was created.
func (m *Manager) Policy(id wire.ConversationID) (policy wire.Policy, err error) {
	c, err := m.find(id)
	if err != nil {
		return policy, err
	}
	err = m.view(c, func(s *machine.Machine) { policy = s.Policy() })
	return policy, err
}

// Status describes a replica for operators.
type Status struct {
	ID         wire.ConversationID
	State      string // asleep, quarantine, lost (this node has lost its log, and waits), or Raft's: Follower, Candidate, Leader
	Leader     wire.NodeID
	Voters     []wire.NodeID
	Learners   []wire.NodeID
	Lost       []wire.NodeID // voters that have lost their logs, as far as this node knows
	Generation uint64
	Sequence   wire.SequenceNumber
	Order      wire.Hash
	Epochs     []wire.Epoch // of the heads
	Level      uint8        // of the state machine's rules
	Closed     bool
	Commit     uint64 // index in Raft's log
	Last       uint64
	Idle       time.Duration // since the last entry or submission; 0 while asleep
	Quarantine *Quarantine   // nil for a conversation that is served
}

// Status describes this node's replica without waking it.
func (m *Manager) Status(id wire.ConversationID) (Status, error) {
	c, err := m.held(id)
	if err != nil {
		return Status{}, err
	}
	s, err := m.replicaStatus(c)
	if err != nil || s.Quarantine != nil {
		return s, err // in quarantine, the state itself may be wrong
	}
	err = m.view(c, func(st *machine.Machine) {
		s.Sequence, s.Order, s.Closed, s.Level = st.Sequence(), st.Order(), st.Closed(), st.Level()
		for _, h := range st.Heads() {
			s.Epochs = append(s.Epochs, h.Epoch)
		}
	})
	if err != nil && c.out.Load() {
		s.State, err = "lost", nil
	}
	return s, err
}

// replicaStatus returns the Status without the state machine's part.
func (m *Manager) replicaStatus(c *conversation) (Status, error) {
	s := Status{ID: c.id, State: "asleep", Generation: c.generation(), Quarantine: c.shut.Load()}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return Status{}, err
	}
	s.Leader, s.Voters, s.Learners, s.Commit, s.Last = rec.Leader, rec.Voters, rec.Learners, rec.Applied, rec.Last
	if s.Quarantine != nil {
		s.State, s.Sequence = "quarantine", rec.Sequence
	} else if r := c.raft(); r != nil {
		s.State, s.Commit, s.Last = r.State().String(), r.CommitIndex(), r.LastIndex()
		s.Voters, s.Learners = splitServers(r.GetConfiguration().Configuration().Servers)
		if l := c.awake(); l != nil {
			s.Leader, s.Idle = l.leader(), l.idle(time.Now())
		}
	}
	s.Lost = m.lostVoters(c, s.Voters)
	return s, nil
}

// Digest returns the digest of a conversation's whole state here: it is equal on replicas that have applied the same
// entries. Digest encodes the state.
func (m *Manager) Digest(id wire.ConversationID) (digest wire.Hash, err error) {
	c, err := m.find(id)
	if err != nil {
		return digest, err
	}
	var image *machine.Image
	if err := m.view(c, func(st *machine.Machine) { image = st.Snapshot() }); err != nil {
		return digest, err
	}
	return image.Digest()
}

// Conversations lists the conversations with a replica on this node.
func (m *Manager) Conversations() []wire.ConversationID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]wire.ConversationID, 0, len(m.conversations))
	for id := range m.conversations {
		ids = append(ids, id)
	}
	return ids
}

// Counts holds the Manager's counters since it was created.
type Counts struct {
	Held, Awake, Quarantined int
	Wakes, Sleeps, Elections int64
	BlobStreams              int64 // opened to other nodes
	GivenBack                int64 // conversations without a device here
	RefusedPolicies          int64 // conversations whose policy keeps more than the configuration allows
	MemoryRefusals           int64 // wakes and entries refused because an organization's awake conversations take too much memory
}

// Counts returns the current counters.
func (m *Manager) Counts() Counts {
	n := Counts{Wakes: m.stats.wakes.Load(), Sleeps: m.stats.sleeps.Load(), Elections: m.stats.elections.Load(),
		GivenBack: m.stats.givenBack.Load(), RefusedPolicies: m.stats.refused.Load(), MemoryRefusals: m.stats.memoryRefusals.Load(), BlobStreams: m.stats.blobStreams.Load()}
	for _, c := range m.list() {
		n.Held++
		if c.shut.Load() != nil {
			n.Quarantined++
		}
		if c.awake() != nil {
			n.Awake++
		}
	}
	return n
}

// flushLoop records the progress of the awake conversations at intervals: a lower bound of the committed entries,
// which makes them readable after a crash. Many records share one write.
func (m *Manager) flushLoop(ctx context.Context) {
	for pause(ctx, m.cfg.Timers.Flush) {
		m.flush()
	}
}
