package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Link opens byte streams to other nodes. Both ends must have proved their identity before a byte is exchanged: the
// Manager relies on the names.
type Link interface {
	Dial(ctx context.Context, to wire.NodeID) (net.Conn, error)
}

// Roster lists the nodes of each organization, from the admitted organizations only. The order does not matter.
// Placement uses it.
type Roster interface {
	// OrdersOnly reports whether a node holds replicas and no devices. If an organization takes part, each of its
	// nodes that is not orders-only always holds a replica: devices receive entries from that replica.
	OrdersOnly(wire.NodeID) bool
	Nodes(org wire.Domain) []wire.NodeID
	// Announced reports whether a node is known to understand a feature. It does not block: a node that has not been
	// asked yet is asked in the background.
	Announced(wire.NodeID, wire.Feature) bool
}

// Consumer stores committed entries. Its position makes delivery exactly-once: Consume must store the
// entry and the position in one atomic write.
type Consumer interface {
	// Position returns the last entry of the conversation that is stored, or 0 for none.
	Position(wire.ConversationID) (wire.SequenceNumber, error)
	// Consume stores the entry after Position. An error is retried.
	Consume(context.Context, Delivery) error
}

// Forgetter is a Consumer that can forget a conversation. The Manager calls Forget after this node has given up a
// replica that no device here reads: a conversation that arrives later under the same id may be another one, which
// begins at its first entry.
type Forgetter interface {
	// Reads reports whether a device here reads a conversation, or has left it and has not yet read to its end.
	Reads(context.Context, wire.ConversationID) (bool, error)
	// Forget drops everything stored for a conversation, including its position, unless a device reads it.
	Forget(context.Context, wire.ConversationID) error
}

// Delivery is one committed entry for this node's organization.
type Delivery struct {
	Conversation wire.ConversationID
	Committed    wire.Committed
	// Missed is the number of entries before this one that this node no longer keeps: the consumer was away for too
	// long.
	Missed uint64
}

// Admission is the admission control for other organizations: it limits how often they cost this node work. A refusal
// has code wire.Busy, and the request may be retried.
type Admission interface {
	// Handshake is called before a proposal or commit from another organization's node is examined.
	Handshake(org wire.Domain, id wire.ConversationID) error
	// Replica is called before an organization's invitation to a conversation is accepted.
	Replica(org wire.Domain) error
}

// noAdmission has no limit.
type noAdmission struct{}

func (noAdmission) Handshake(wire.Domain, wire.ConversationID) error { return nil }
func (noAdmission) Replica(wire.Domain) error                        { return nil }

// Timers are the Manager's timers. Zero means the default, which is in brackets.
type Timers struct {
	Heartbeat     time.Duration // [2 s] a follower that has not heard from its leader for this long campaigns; also the lease
	Election      time.Duration // [2 s] a candidate tries again after this time
	LeaderTimeout time.Duration // [1 s, half of Heartbeat at most] a leader is replaced if a majority has not heard from its node for this long
	Stall         time.Duration // [3 s] if a disk write takes longer than this, no Raft message leaves the node until the write ends
	Commit        time.Duration // [1 s] an idle leader repeats its commit index after this time
	Coalesce      time.Duration // [50 ms] heartbeats to one node wait this long to be sent together
	Sleep         time.Duration // [10 s] a conversation without entries for this long goes to sleep
	Call          time.Duration // [2 s] time limit of a call to another node
	Absence       time.Duration // [10 s] a leader that waits for the connection to a node checks at this interval whether it still leads
	Flush         time.Duration // [1 s] interval at which the progress of each conversation is recorded
	Repair        time.Duration // [5 s] interval at which placement examines its conversations
	Farewell      time.Duration // [60 s] a leader waits this long for a removed replica that cannot be reached
	Snapshot      time.Duration // [30 s] interval at which logs are examined for truncation
	Exchange      time.Duration // [10 min] interval at which every node is sent the list of what this node holds
	Ahead         time.Duration // [10 min] an entry is refused if its time is this far ahead of this node's clock
	Idle          time.Duration // [10 min] state for a node without a connection is dropped after this time
	Wake          time.Duration // [10 s] after Limits.Wakes wakes of a conversation, a peer may wake it again at this interval
	Compare       time.Duration // [5 s] conversations with new entries are compared with another organization's replica at this interval
	Lost          time.Duration // [1 h] a replica whose node has been up for this long contradicts a recovery of another replica while its conversation lives
	Claim         time.Duration // [1 min] a replica that no device here reads for this long gives way to another organization's claim to its id
	Invite        time.Duration // [5 min] after Limits.Invites invitations to a conversation, an organization may send another one at this interval
	Upset         time.Duration // [2 min] after Limits.Upsets, a voter may end the leadership of another one again at this interval
	Term          time.Duration // [1 s] after Limits.Terms, a voter may begin another term at this interval while nobody leads
	Unowned       time.Duration // [10 min] another organization's conversation without a device here is given back after this time
}

// Limits are the Manager's limits. Zero means the default, which is in brackets.
type Limits struct {
	Conversations   int    // [0: none] replicas on this node
	PerOrganization int    // [10,000] replicas to which nodes of one other organization invited this node
	Opening         int    // [64] conversations that are woken at the same time
	Inflight        int    // [1,024] submissions in progress at the same time
	Trailing        uint64 // [64] entries kept in the log before a snapshot
	SnapshotAfter   uint64 // [128] entries after which the log is truncated
	Wakes           int    // [32] wakes of one conversation that one peer may cause in a burst
	Invites         int    // [8] invitations to one conversation that one organization may send in a burst
	TermJump        uint64 // [1,024] terms by which one message may be ahead without confirmation by other voters
	Upsets          int    // [4] leaderships and candidacies of others that one voter may end in a burst, in one conversation
	Terms           int    // [16] terms that one voter may begin in a burst while nobody leads, in one conversation
	RecentBytes     int    // [16 MiB] bytes of recent entries that a conversation's policy may keep
	RecentEntries   int    // [1,024] recent entries that a conversation's policy may keep
	Organizations   int    // [256, which is the maximum] organizations in one conversation: each needs a replica
	Commit          int    // [32 MiB] bytes of a commit that is transferred separately from its entry
	Awake           int    // [1 GiB] bytes of the states of awake conversations that one other organization brought
	Sleepers        int    // [64 MiB] bytes of the states of sleeping conversations in memory
	SleepingHeads   int    // [64 MiB] bytes of the heads of sleeping conversations
}

// Config configures a Manager. Node, Dir, Log and Link are required.
type Config struct {
	Node    wire.NodeID
	Dir     string       // directory of snapshots
	Log     *raftlog.Log // the caller opens and closes it
	Blobs   BlobStore    // nil: entries that name blobs are refused
	Account Account      // nil: nothing is charged
	// Holds reports whether this node keeps a blob of a conversation for devices that have yet to join, although the
	// log no longer names the blob; nil: it keeps none.
	Holds func(wire.ConversationID, wire.BlobRef) bool
	// Admission limits the requests of other organizations; nil: no limit.
	Admission Admission
	// Owns reports whether an address of this organization belongs to a device of this node in a conversation; nil:
	// every address does.
	Owns     func(wire.ConversationID, wire.Token) (bool, error)
	Link     Link
	Roster   Roster   // nil: placement is off, and the set of replicas does not change
	Consumer Consumer // nil: nothing is delivered
	Public   machine.PublicRules
	Timers   Timers
	Limits   Limits
	// Restored says that Log and Dir come from a backup: the replicas may have acknowledged entries since, and have
	// lost them. Replicas of conversations with other voters give up their data and are invited again. Set it once,
	// at the first start; New records the consequences.
	Restored bool
	// Alarm is called for each conversation that goes into quarantine; it must not block. nil: not called.
	Alarm func(wire.ConversationID, Quarantine)
	// Suspect is called when a peer has sent something that contradicts this node or breaks a rule, and this node did
	// not follow it; the conversation continues. Suspect must not block. nil: not called.
	Suspect func(id wire.ConversationID, why Refusal, peer wire.NodeID, err error)
	Logger  *slog.Logger // nil: silent
	// Refused counts submissions that were refused before any work was done for them, by the code of the error. It
	// must not block. May be nil.
	Refused func(wire.Code)
	// Now returns the time to write into entries; nil: time.Now.
	Now func() time.Time

	without   map[rule]bool          // tests: rules that are broken on purpose
	snapshots snapshotFactory        // tests: storage of snapshots; nil: files in Dir
	tamper    func(*machine.Machine) // tests: breaks a state machine on purpose
	tune      func(*raft.Config)     // tests
}

func (c *Config) setDefaults() error {
	if err := c.Node.Check(); err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	if c.Log == nil || c.Link == nil || c.Dir == "" && c.snapshots == nil {
		return fmt.Errorf("consensus: node %s: Log, Link and Dir are needed", c.Node)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Admission == nil {
		c.Admission = noAdmission{}
	}
	if c.Account == nil {
		c.Account = noAccount{}
	}
	c.Timers.setDefaults()
	c.Limits.setDefaults()
	return nil
}

// Defaults returns the values that replace zero timers and limits. They are the values of the configuration that
// 'mlsfed init' writes: a test compares them.
func Defaults() (Timers, Limits) {
	var t Timers
	var l Limits
	t.setDefaults()
	l.setDefaults()
	return t, l
}

func (t *Timers) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Heartbeat, 2 * time.Second}, {&t.Election, 2 * time.Second}, {&t.Stall, 3 * time.Second}, {&t.Commit, time.Second},
		{&t.Coalesce, 50 * time.Millisecond}, {&t.Sleep, 10 * time.Second}, {&t.Call, 2 * time.Second}, {&t.Absence, 10 * time.Second},
		{&t.Flush, time.Second}, {&t.Repair, 5 * time.Second}, {&t.Farewell, time.Minute}, {&t.Snapshot, 30 * time.Second}, {&t.Exchange, 10 * time.Minute}, {&t.Ahead, 10 * time.Minute}, {&t.Idle, 10 * time.Minute},
		{&t.Wake, 10 * time.Second}, {&t.Lost, time.Hour}, {&t.Compare, 5 * time.Second},
		{&t.Unowned, 10 * time.Minute}, {&t.Claim, time.Minute}, {&t.Invite, 5 * time.Minute},
		{&t.Upset, 2 * time.Minute}, {&t.Term, time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if t.LeaderTimeout <= 0 {
		t.LeaderTimeout = min(time.Second, t.Heartbeat/2)
	}
	t.Election = max(t.Election, t.Heartbeat) // required by Raft
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.RecentBytes, 16 << 20}, {&l.RecentEntries, 1024}, {&l.Organizations, wire.MaxReplicas}, {&l.Commit, 32 << 20}, {&l.Sleepers, 64 << 20}, {&l.SleepingHeads, 64 << 20}, {&l.Awake, 1 << 30}, {&l.PerOrganization, 10_000}, {&l.Opening, 64}, {&l.Inflight, 1024}, {&l.Wakes, 32}, {&l.Invites, 8}, {&l.Upsets, 4}, {&l.Terms, 16}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	l.Organizations = min(l.Organizations, wire.MaxReplicas)
	if l.Trailing == 0 {
		l.Trailing = 64
	}
	if l.SnapshotAfter == 0 {
		l.SnapshotAfter = 128
	}
	if l.TermJump == 0 {
		l.TermJump = 1024
	}
}

// raftConfig returns the configuration of Raft for one conversation.
func (m *Manager) raftConfig(id wire.ConversationID) *raft.Config {
	t := &m.cfg.Timers
	c := &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   t.Heartbeat,
		ElectionTimeout:    t.Election,
		CommitTimeout:      t.Commit,
		LeaderLeaseTimeout: t.Heartbeat,
		MaxAppendEntries:   maxAppend,
		BatchApplyCh:       true,
		ShutdownOnRemove:   false,
		TrailingLogs:       m.cfg.Limits.Trailing,
		SnapshotThreshold:  m.cfg.Limits.SnapshotAfter,
		SnapshotInterval:   t.Snapshot,
		LocalID:            raft.ServerID(m.cfg.Node),
		Logger:             &raftLogger{out: m.log.With("conversation", id), name: "raft"},
		NoLegacyTelemetry:  true,
	}
	if m.cfg.tune != nil {
		m.cfg.tune(c)
	}
	return c
}
