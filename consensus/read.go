package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// Reading does not wake: a sleeping conversation is read from its snapshot and its log, up to what is
// known to be committed. After a crash that may be less than what others have seen, never more.

// view calls fn with the conversation's state, which fn must not keep. A replica that has just been
// opened hears only from its leader what is committed; until it has applied what was known before, it
// is read as if it slept.
func (m *Manager) view(c *conversation, fn func(*machine.Machine)) error {
	if err := c.refused("read"); err != nil {
		return err
	}
	return m.look(c, fn)
}

// look is view for a conversation that may be in quarantine.
func (m *Manager) look(c *conversation, fn func(*machine.Machine)) error {
	return m.lookAt(c, func(s *machine.Machine, _ uint64) { fn(s) })
}

// lookAt is look that tells up to which entry of Raft's log the state has applied.
func (m *Manager) lookAt(c *conversation, fn func(s *machine.Machine, at uint64)) (err error) {
	defer m.caught(c, "read", &err)
	for {
		l := c.awake()
		if l.caughtUp() {
			l.fsm.readAt(fn)
			return nil
		}
		if (l == nil || l.r.Load() == nil) && c.settle() {
			continue // it is being opened or closed
		}
		s, at, err := m.readAsleep(c)
		if now := c.awake(); now != l || now.caughtUp() {
			continue // it may know more, or have moved what was being read
		}
		if err != nil {
			return err
		}
		fn(s, at)
		return nil
	}
}

// caughtUp reports whether an awake replica has applied what was known to be committed when it was
// opened. An entry of Raft's own at the end of that is not counted: there the answer is false, though
// both ways of reading see the same.
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
	f, _, err := m.replay(c, func(index uint64, _ *machine.Machine) bool { return index < rec.Applied })
	if err != nil {
		m.damaged(c, err)
		return nil, 0, fmt.Errorf("read %v: %w", c.id, err)
	}
	m.asleep.put(&sleeper[*machine.Machine]{c.id, rec.Applied, f.m, f.m.Size()})
	return f.m, rec.Applied, nil
}

// replay makes a state of the newest snapshot and of the log, entry by entry while more says so of the last index
// and the state. It returns that index.
func (m *Manager) replay(c *conversation, more func(uint64, *machine.Machine) bool) (f *fsm, index uint64, err error) {
	f = m.newFSM(c.id)
	if index, err = m.restoreLatest(c, f); err != nil {
		return nil, 0, err
	}
	log := m.cfg.Log.Group(c.group)
	for more(index, f.m) {
		var e raft.Log
		if err := log.GetLog(index+1, &e); err != nil {
			return nil, 0, fmt.Errorf("entry %d: %w", index+1, err)
		}
		if e.Type == raft.LogCommand {
			f.m.Apply(e.Data)
		}
		index++
	}
	return f, index, nil
}

// recall brings a record up to what the consumer has stored. The record is written now and then, so that after a
// crash it says less; what devices may have been given is not to be replaced.
func (m *Manager) recall(c *conversation, rec *record) error {
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
	f, index, err := m.replay(c, func(index uint64, s *machine.Machine) bool { return index < last && s.Sequence() < at })
	if err != nil || f.m.Sequence() != at || index <= rec.Applied {
		return err // a log that ends before that, as one that begins again
	}
	rec.Applied, rec.Sequence = index, at
	return m.writeRecord(c.id, rec)
}

// restoreLatest fills f from the newest snapshot and returns its index, 0 where there is none.
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
	return meta.Index, f.Restore(content)
}

// Entries returns the committed entries after since, at most count of them and bytes bytes but at least
// one. gap says that the first ones after since are no longer kept. Of a conversation in quarantine, those
// that the consumer has stored are returned, where they can still be read.
func (m *Manager) Entries(id wire.ConversationID, since wire.SequenceNumber, count, bytes int) (entries []wire.Committed, gap bool, err error) {
	c, err := m.held(id)
	if err != nil {
		return nil, false, err
	}
	if c.shut.Load() != nil {
		return m.delivered(c, since, count, bytes)
	}
	err = m.view(c, func(s *machine.Machine) { entries, gap = s.Entries(since, count, bytes) })
	return entries, gap, err
}

// Heads returns the epochs that can be committed to, with their submission keys and delivery lists; GroupInfos has
// their Info and Tree. Each message asks for them, and a conversation that only chats sleeps: those of sleeping ones are
// kept in memory.
func (m *Manager) Heads(id wire.ConversationID) (heads []machine.Head, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if heads, ok := m.headsAsleep(c); ok {
		return heads, nil
	}
	err = m.view(c, func(s *machine.Machine) { heads, _ = slimHeads(s) })
	return heads, err
}

// GroupInfos is Heads with the Info and Tree of each.
func (m *Manager) GroupInfos(id wire.ConversationID) (heads []machine.Head, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	err = m.view(c, func(s *machine.Machine) { heads = s.Heads() })
	return heads, err
}

func slimHeads(s *machine.Machine) (heads []machine.Head, size int) {
	heads = s.Heads()
	for i := range heads {
		var n int
		heads[i], n = heads[i].Slim()
		size += n
	}
	return heads, size
}

// headsAsleep returns the heads of a sleeping conversation, false for one that is awake or cannot be read.
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
		if err := m.view(c, func(s *machine.Machine) { heads, size = slimHeads(s) }); err != nil {
			return nil, false
		}
		if now, err := m.readRecord(c.id); c.awake() != nil || err != nil || now.Applied != rec.Applied {
			return nil, false // it may be newer than the record
		}
		m.heads.put(&sleeper[[]machine.Head]{c.id, rec.Applied, heads, size})
	}
	return heads, c.awake() == nil
}

// forgetAsleep drops what was read of a sleeping conversation.
func (m *Manager) forgetAsleep(id wire.ConversationID) {
	m.asleep.forget(id)
	m.heads.forget(id)
}

// Policy is what the conversation was created with.
func (m *Manager) Policy(id wire.ConversationID) (policy wire.Policy, err error) {
	c, err := m.find(id)
	if err != nil {
		return policy, err
	}
	err = m.view(c, func(s *machine.Machine) { policy = s.Policy() })
	return policy, err
}

// Keys returns the submission keys under which an application message is taken: those of the current
// epoch and of the one before, of each head.
func (m *Manager) Keys(id wire.ConversationID) ([]wire.SubmissionKey, error) {
	heads, err := m.Heads(id)
	if err != nil {
		return nil, err
	}
	var keys []wire.SubmissionKey
	for _, h := range heads {
		keys = append(keys, h.Key)
		if !h.Previous.IsZero() {
			keys = append(keys, h.Previous)
		}
	}
	return keys, nil
}

// DeliveryList returns all addresses that the conversation is delivered to. It is not to be written to.
func (m *Manager) DeliveryList(id wire.ConversationID) (list []wire.Address, err error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	err = m.view(c, func(s *machine.Machine) { list = s.Delivery() })
	return list, err
}

// Status is what an operator sees of a replica.
type Status struct {
	ID         wire.ConversationID
	State      string // asleep, quarantine, lost (this node's log is, and it waits), or Raft's: Follower, Candidate, Leader
	Leader     wire.NodeID
	Voters     []wire.NodeID
	Learners   []wire.NodeID
	Lost       []wire.NodeID // voters that have lost their logs, as far as this node has heard
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
	s, err := m.standing(c)
	if err != nil || s.Quarantine != nil {
		return s, err // what the state says of a conversation in quarantine may be what is wrong
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

// standing is the Status without what the state machine says.
func (m *Manager) standing(c *conversation) (Status, error) {
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

// Digest is the digest of a conversation's whole state here: equal on replicas that have applied the same
// entries. It encodes the state.
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

// Conversations lists the conversations that this node holds a replica of.
func (m *Manager) Conversations() []wire.ConversationID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]wire.ConversationID, 0, len(m.conversations))
	for id := range m.conversations {
		ids = append(ids, id)
	}
	return ids
}

// Counts are the Manager's numbers since it was made.
type Counts struct {
	Held, Awake, Quarantined int
	Wakes, Sleeps, Elections int64
	BlobStreams              int64 // opened to other nodes
	GivenBack                int64 // conversations without a device here
	RefusedPolicies          int64 // conversations whose policy keeps too much
	Crowded                  int64 // wakes and entries refused, since an organization's awake conversations take too much memory
}

// Counts counts.
func (m *Manager) Counts() Counts {
	n := Counts{Wakes: m.stats.wakes.Load(), Sleeps: m.stats.sleeps.Load(), Elections: m.stats.elections.Load(),
		GivenBack: m.stats.givenBack.Load(), RefusedPolicies: m.stats.refused.Load(), Crowded: m.stats.crowded.Load(), BlobStreams: m.stats.blobStreams.Load()}
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

// flushLoop writes down now and then how far the awake conversations have got: a lower bound of what is
// committed, which makes them readable after a crash. Many share one write.
func (m *Manager) flushLoop(ctx context.Context) {
	for pause(ctx, m.cfg.Timers.Flush) {
		m.flush()
	}
}
