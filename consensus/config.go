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

// Link opens byte streams to other nodes. Both ends must have proved who they are before a byte is
// exchanged: the Manager believes the names.
type Link interface {
	Dial(ctx context.Context, to wire.NodeID) (net.Conn, error)
}

// Roster knows which nodes an organization has, from the admitted organizations only. The order does
// not matter. Placement asks it.
type Roster interface {
	// OrdersOnly reports whether a node holds replicas and no devices. Where an organization takes part, a
	// node that is not such a one always holds a replica: entries reach devices from there.
	OrdersOnly(wire.NodeID) bool
	Nodes(org wire.Domain) []wire.NodeID
	// Announced reports whether a node is known to understand a feature. It does not block: a node that
	// has not been asked yet is asked in the background.
	Announced(wire.NodeID, wire.Feature) bool
}

// Consumer stores committed entries. Its position makes delivery exactly-once: Consume must store the
// entry and the position in one atomic write.
type Consumer interface {
	// Position is the last entry of the conversation that is stored, 0 for none.
	Position(wire.ConversationID) (wire.SequenceNumber, error)
	// Consume stores the entry after Position. An error is retried.
	Consume(context.Context, Delivery) error
}

// Forgetter is a Consumer that can forget a conversation. It is asked to where this node has given up a replica that no
// device here reads: what comes under the same id may be another conversation, which begins at its first entry.
type Forgetter interface {
	// Reads reports whether a device here reads a conversation, or has left it and not read up to its end yet.
	Reads(context.Context, wire.ConversationID) (bool, error)
	// Forget drops what is stored of a conversation, with its position, unless somebody reads it.
	Forget(context.Context, wire.ConversationID) error
}

// Delivery is one committed entry for this node's organization.
type Delivery struct {
	Conversation wire.ConversationID
	Committed    wire.Committed
	// Missed is how many entries before this one are no longer kept anywhere here: the consumer was
	// away for too long.
	Missed uint64
}

// Admission limits how often other organizations cost this node something. What it refuses comes with
// wire.Busy and may be tried again.
type Admission interface {
	// Handshake is asked before a proposal or commit of another organization's node is looked at.
	Handshake(org wire.Domain, id wire.ConversationID) error
	// Replica is asked before an organization's invitation to a conversation is taken.
	Replica(org wire.Domain) error
}

// noAdmission limits nothing.
type noAdmission struct{}

func (noAdmission) Handshake(wire.Domain, wire.ConversationID) error { return nil }
func (noAdmission) Replica(wire.Domain) error                        { return nil }

// Timers are the Manager's. Zero stands for the default, in brackets.
type Timers struct {
	Heartbeat time.Duration // [2 s] a follower without word from its leader for this long campaigns; also the lease
	Election  time.Duration // [2 s] a candidate tries again after this
	Silence   time.Duration // [1 s, half of Heartbeat at most] a leader's node that a majority has not heard of for this long is replaced
	Stall     time.Duration // [3 s] a write that the disk has not ended for this long: nothing of Raft's leaves the node until it has
	Commit    time.Duration // [1 s] an idle leader repeats its commit index
	Coalesce  time.Duration // [50 ms] heartbeats to one node wait this long for company
	Sleep     time.Duration // [10 s] a conversation without entries for this long goes to sleep
	Call      time.Duration // [2 s] a call to another node is given up
	Absence   time.Duration // [10 s] a leader that waits for the connection to a node looks this often whether it still leads it
	Flush     time.Duration // [1 s] how far each conversation has got is written down
	Repair    time.Duration // [5 s] placement looks at its conversations again
	Farewell  time.Duration // [60 s] a removed replica that cannot be reached is waited for
	Snapshot  time.Duration // [30 s] logs are looked at for shortening
	Greet     time.Duration // [10 min] every node is told again what this one holds
	Ahead     time.Duration // [10 min] entries that bear a time so far ahead of this node's clock are refused
	Idle      time.Duration // [10 min] what is kept for a node without a connection is dropped after this
	Wake      time.Duration // [10 s] a peer may wake a conversation once more, after Limits.Wakes
	Compare   time.Duration // [5 s] conversations that have got on are compared with another organization's replica
	Lost      time.Duration // [1 h] a replica whose node has been up for this long contradicts a recovery of another one while its conversation lives
	Claim     time.Duration // [1 min] a replica that no device here reads for this long gives way to another organization's claim to its id
	Invite    time.Duration // [5 min] an organization may invite this node to a conversation once more, after Limits.Invites
	Unowned   time.Duration // [10 min] a conversation of another organization's without a device here is given back
}

// Limits are the Manager's. Zero stands for the default, in brackets.
type Limits struct {
	Conversations   int    // [0: none] replicas on this node
	PerOrganization int    // [10,000] replicas that nodes of one other organization invited this node to
	Opening         int    // [64] conversations being woken at once
	Inflight        int    // [1,024] submissions under way at once
	Trailing        uint64 // [64] entries kept in the log behind a snapshot
	SnapshotAfter   uint64 // [128] entries until the log is shortened
	Wakes           int    // [32] wakes of one conversation that one peer may cause at once
	Invites         int    // [8] invitations of one organization to one conversation that are taken at once
	TermJump        uint64 // [1,024] terms by which one message may be ahead without being confirmed by other voters
	RecentBytes     int    // [16 MiB] bytes of entries that a conversation's policy may keep
	RecentEntries   int    // [1,024] entries that it may keep
	Organizations   int    // [256, which is the most] organizations in one conversation: each needs a replica
	Awake           int    // [1 GiB] bytes of the states of awake conversations that one other organization brought
	Sleepers        int    // [64 MiB] bytes of sleeping conversations' states in memory
	SleepingHeads   int    // [64 MiB] bytes of their heads
}

// Config is what a Manager is made of. Node, Dir, Log and Link are needed.
type Config struct {
	Node    wire.NodeID
	Dir     string       // for snapshots
	Log     *raftlog.Log // the caller opens and closes it
	Blobs   BlobStore    // nil: entries that name blobs are refused
	Account Account      // nil: nobody is charged
	// Holds reports whether this node keeps a blob of a conversation for devices that have yet to join, although the log
	// no longer names it; nil: it keeps none.
	Holds func(wire.ConversationID, wire.BlobRef) bool
	// Admission limits what other organizations ask; nil: nothing does.
	Admission Admission
	// Owns reports whether an address of this organization is a device's of this node in a conversation; nil:
	// every one is.
	Owns     func(wire.ConversationID, wire.Token) (bool, error)
	Link     Link
	Roster   Roster   // nil: placement is off, and replicas stay as they are
	Consumer Consumer // nil: nothing is delivered
	Public   machine.PublicRules
	Timers   Timers
	Limits   Limits
	// Restored says that Log and Dir come from a backup: replicas have forgotten what they acknowledged
	// since. Those of conversations with other voters give up their data and are invited anew. Set once,
	// at the first start; New writes down what follows from it.
	Restored bool
	// Alarm hears of each conversation that goes into quarantine; it must not block. nil: nobody.
	Alarm func(wire.ConversationID, Quarantine)
	// Suspect hears that a peer has sent, or says, what contradicts this node or breaks a rule, and that was not
	// followed; the conversation goes on. It must not block. nil: nobody.
	Suspect func(id wire.ConversationID, why Refusal, peer wire.NodeID, err error)
	Logger  *slog.Logger // nil: silent
	// Refused counts submissions that were refused before any work was done for them, by their error's code.
	// It must not block. May be nil.
	Refused func(wire.Code)
	// Now is the clock for the time in entries; nil: time.Now.
	Now func() time.Time

	without   map[rule]bool          // tests: promises that are broken on purpose
	snapshots snapshotFactory        // tests: where snapshots live; nil: files in Dir
	tamper    func(*machine.Machine) // tests: break a state machine on purpose
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

// Defaults are what zero timers and limits stand for. They are those of the configuration that 'mlsfed init' writes: a
// test compares them.
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
		{&t.Flush, time.Second}, {&t.Repair, 5 * time.Second}, {&t.Farewell, time.Minute}, {&t.Snapshot, 30 * time.Second}, {&t.Greet, 10 * time.Minute}, {&t.Ahead, 10 * time.Minute}, {&t.Idle, 10 * time.Minute},
		{&t.Wake, 10 * time.Second}, {&t.Lost, time.Hour}, {&t.Compare, 5 * time.Second},
		{&t.Unowned, 10 * time.Minute}, {&t.Claim, time.Minute}, {&t.Invite, 5 * time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if t.Silence <= 0 {
		t.Silence = min(time.Second, t.Heartbeat/2)
	}
	t.Election = max(t.Election, t.Heartbeat) // Raft's rule
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.RecentBytes, 16 << 20}, {&l.RecentEntries, 1024}, {&l.Organizations, wire.MaxReplicas}, {&l.Sleepers, 64 << 20}, {&l.SleepingHeads, 64 << 20}, {&l.Awake, 1 << 30}, {&l.PerOrganization, 10_000}, {&l.Opening, 64}, {&l.Inflight, 1024}, {&l.Wakes, 32}, {&l.Invites, 8}} {
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

// raftConfig is for one conversation.
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
