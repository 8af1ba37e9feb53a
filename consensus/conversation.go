package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// conversation is this node's replica of one conversation. An asleep replica consists of this struct and the data on
// disk; an awake replica also has a live.
type conversation struct {
	id    wire.ConversationID
	group uint32
	m     *Manager
	gen   atomic.Uint64
	led   atomic.Int64               // when this replica last knew a leader, nanoseconds since 1970; 0: never since the node started
	out   atomic.Bool                // the records are lost: the replica waits for an invitation
	shut  atomic.Pointer[Quarantine] // the quarantine with its reason; nil if the conversation is served
	book  book

	checked checkedRange // signatures that this process has verified in this conversation's log

	passed atomic.Uint64 // the last entry that the consumer accepted since this node started, whether it stored the entry or not

	owned   atomic.Bool  // a device here has an address in the conversation, as of the last check; see unowned.go
	unowned atomic.Int64 // since when no device has one, nanoseconds since 1970; 0: not known
	// forgotten: no device here reads the conversation; the consumer forgets it when the replica is removed.
	forgotten atomic.Bool
	waiting   atomic.Bool  // nodes that were too busy for a replica are invited again later
	later     atomic.Int64 // the last pause before that, in nanoseconds

	confirmed  atomic.Uint64      // terms up to this one were confirmed by other voters
	confirming atomic.Int64       // when the voters were last asked, nanoseconds since 1970
	turn       atomic.Uint32      // the next node to compare with
	rounds     atomic.Int32       // number of further nodes to compare with
	installing atomic.Bool        // a snapshot is being installed
	refusals   submissionRefusals // refusals of submissions from this node

	probation atomic.Pointer[Aside] // the previous replica, which this one has to continue
	returning atomic.Bool           // to the previous replica

	mu      sync.Mutex                // guards the fields below; never held across I/O
	live    *live                     // nil while asleep; set before Raft has started, so that frames can queue
	change  chan struct{}             // not nil while the replica is being opened or closed; closed at the end
	gone    bool                      // removed from this node
	vouched map[wire.NodeID]voucher   // statements of the known voters about other nodes
	muted   map[wire.NodeID]muted     // nodes that contradicted this replica, or do not order what is shown here
	unrest  map[wire.NodeID]unrest    // how often voters have begun terms
	health  map[wire.NodeID]health    // statements about their replicas by nodes that a leader removes
	past    map[wire.Hash]health      // entries that remove nodes, and whether others have them
	seen    map[wire.NodeID]bool      // nodes that have sent a frame in this generation since the node started
	before  map[wire.NodeID]bool      // nodes that send frames of the generation of the replica that was set aside; see return.go
	lost    map[wire.NodeID]time.Time // nodes that reported the loss of their log, and when
}

func (c *conversation) generation() uint64 { return c.gen.Load() }

// awake returns the live replica, which may still be starting, or nil.
func (c *conversation) awake() *live {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live
}

func (c *conversation) raft() *raft.Raft {
	if l := c.awake(); l != nil {
		return l.r.Load()
	}
	return nil
}

// live is an awake replica.
type live struct {
	c     *conversation
	m     *Manager
	fsm   *fsm
	trans *transport
	store *guard
	logs  *logCache // a cache in front of store
	r     atomic.Pointer[raft.Raft]
	kick  chan struct{} // capacity one: run has something to check

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	used      atomic.Int64           // time of the last entry or submission, nanoseconds since 1970
	rec       atomic.Pointer[record] // as it was when the replica was opened
	inflight  atomic.Int32           // submissions in progress: no sleep
	ready     atomic.Uint64          // the term in which this leader has applied an entry of its own
	sleepers  sync.Map               // NodeID → time of the last wake frame to it
	alone     atomic.Bool            // a peer said that it sleeps, and there is no leader
	expelling atomic.Bool            // a member that lost its replica is being removed
	deposing  atomic.Bool            // this node is about to replace a silent leader

	resting atomic.Bool  // the replica falls asleep because memory is short
	weight  atomic.Int64 // bytes that are charged for its state; see memory.go
	waiters sync.Map     // *byte, the first byte of an entry proposed here → *waiter, until the entry is applied or its term ends
	steps   atomic.Int64 // number of changes of the configuration
	// voting is the time since when further learners wait for votes; votingGot is their number at that time. Only run
	// uses both.
	voting    time.Time
	votingGot int
	asking    time.Time // since when nodes are asked which rules they know without a node being added; only run uses it

	decoded decodedEntries    // entries of the leader that are not applied yet
	proven  provenSubmissions // forwarded submissions

	courted    candidacies           // the candidacies that this replica has seen
	pending    pendingConfigurations // guarded by validating
	validating sync.Mutex            // held while a request of a leader is validated

	mu       sync.Mutex           // guards the fields below
	turned   chan struct{}        // closed and replaced when a role changes; see turns
	joined   map[wire.NodeID]bool // nodes of the record: they may send frames before Raft knows a configuration
	missing  []wire.NodeID
	giving   int                       // number of entries on their way into Raft
	choosing chan struct{}             // closed when a change of replicas has been chosen; nil if none is being chosen
	departed map[wire.NodeID]time.Time // nodes that are leaving, and since when
}

// wake returns the live replica and opens it if the conversation sleeps. It does not start an election.
func (m *Manager) wake(ctx context.Context, c *conversation) (*live, bool, error) {
	for {
		if err := c.refused("wake"); err != nil {
			return nil, false, err
		}
		c.mu.Lock()
		switch {
		case c.gone:
			c.mu.Unlock()
			return nil, false, wire.Errorf(wire.UnknownConversation, "wake", "this node holds no replica of %v any more", c.id)
		case c.change != nil:
			wait := c.change
			c.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, false, ctx.Err()
			}
		case c.live != nil:
			l := c.live
			c.mu.Unlock()
			return l, false, nil
		case c.out.Load():
			c.mu.Unlock()
			return nil, false, m.outOfService("wake", c)
		}
		c.change = make(chan struct{})
		c.mu.Unlock()
		l, err := m.open(ctx, c)
		return l, true, err
	}
}

// open starts the replica. The caller has set c.change; open closes and resets it.
func (m *Manager) open(ctx context.Context, c *conversation) (*live, error) {
	l, err := m.prepare(ctx, c)
	if err == nil {
		c.mu.Lock()
		c.live = l // frames queue from here on
		c.mu.Unlock()
		err = l.start()
	}
	c.mu.Lock()
	if err != nil {
		c.live = nil
	}
	close(c.change)
	c.change = nil
	c.mu.Unlock()
	if err != nil {
		if l != nil {
			l.cancel()
			l.trans.stop()
			l.releaseMemory()
		}
		m.damaged(c, err)
		return nil, fmt.Errorf("wake %v: %w", c.id, err)
	}
	m.stats.wakes.Add(1)
	return l, nil
}

func (m *Manager) prepare(ctx context.Context, c *conversation) (_ *live, err error) {
	defer m.quarantineOnPanic(c, "open", &err)
	if err := m.checkMemory(c); err != nil {
		return nil, err
	}
	root := m.context()
	if root == nil {
		return nil, wire.Errorf(wire.Unavailable, "wake", "the node is not running")
	}
	select {
	case m.opening <- struct{}{}:
		defer func() { <-m.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return nil, err
	}
	if err := m.advanceToConsumer(c, rec); err != nil {
		m.damaged(c, err)
		return nil, err
	}
	l := &live{c: c, m: m, kick: make(chan struct{}, 1), turned: make(chan struct{}), joined: make(map[wire.NodeID]bool), departed: make(map[wire.NodeID]time.Time)}
	l.rec.Store(rec)
	for _, n := range rec.members() {
		l.joined[n] = true
	}
	l.ctx, l.cancel = context.WithCancel(root)
	l.used.Store(time.Now().UnixNano())
	l.fsm = m.newFSM(c.id)
	l.fsm.handlePanic = func(what string, p any, err *error) { m.handlePanic(c, what, p, err) }
	l.trans = newTransport(l.ctx, m, c)
	l.store = &guard{GroupLog: m.cfg.Log.Group(c.group), fail: l.fail, leads: l.leads, stalled: m.stalled, writing: make(chan struct{}, 1), book: &c.book}
	l.store.checkMemory = l.makeRoom
	l.logs = newLogCache(l.store)
	if m.holds(ruleApplied) {
		l.store.floor = l.floor
		l.store.rewritten = func(err error) {
			_ = m.handleContradiction(c, ReasonRewritten, RefusedRewrite, l.leader(), fmt.Errorf("leader %s: %w", l.leader(), err))
		}
	}
	l.trans.store = l.store
	l.trans.ready = func() { l.store.running.Store(true) }
	return l, nil
}

// start makes the Raft replica. Raft applies the committed entries after the snapshot again; they are old, so no
// events are sent for them until Raft runs.
func (l *live) start() (err error) {
	defer l.m.quarantineOnPanic(l.c, "open", &err)
	if err := l.applyRecovery(); err != nil {
		return err
	}
	snaps, err := l.store.watch(l.m.snaps.store(l.c.group))
	if err != nil {
		return err
	}
	if s := l.store.snap.Load(); s != nil {
		l.fsm.setConfiguration(s.ConfigurationIndex, s.Configuration)
	}
	l.fsm.applied, l.fsm.known, l.fsm.newest = l.applied, l.known, l.store.snap.Load
	l.fsm.checked = &checkedBy{&l.c.checked, l.c.generation()}
	l.fsm.checked.begin(0)
	l.fsm.configured = l.configurationCommitted
	l.fsm.useArchive(&entryArchive{l.logs, l.store.GroupLog, l.m.snaps.store(l.c.group)})
	if err := l.bootstrap(l.rec.Load()); err != nil {
		return err
	}
	r, err := newRaft(l.m.raftConfig(l.c.id), l.fsm, l.logs, l.store, snaps, l.trans)
	if err != nil {
		return err
	}
	l.r.Store(r)
	l.watchRoles(r)
	if !l.m.serve(l.c, "run", func(context.Context) { l.run() }) {
		l.stopRaft(r)
		return wire.Errorf(wire.Unavailable, "wake", "the node is stopping")
	}
	return nil
}

// configurationCommitted writes the record as soon as another configuration is known to be committed: after a crash,
// the record determines which nodes may send frames. It runs on Raft's goroutines.
func (l *live) configurationCommitted() {
	l.m.dirty.mark(l.c.id)
	r := l.r.Load()
	if r == nil || l.rec.Load().ConfigIndex >= l.configIndex() {
		return // the entry is being applied again
	}
	if err := l.note(r, 0, l.leader()); err != nil {
		l.m.log.Warn("configuration not written; it will be, with the next positions", "conversation", l.c.id, "error", err)
	}
}

// stopRaft stops Raft and waits for all its goroutines.
func (l *live) stopRaft(r *raft.Raft) {
	l.cancel()
	done := r.Shutdown()
	l.trans.stop() // code that waits for another node stops waiting
	if err := done.Error(); err != nil {
		l.m.log.Warn("replica did not shut down cleanly", "conversation", l.c.id, "error", err)
	}
	l.tasks.Wait()
}

// close puts the replica to sleep: it shuts Raft down and records the progress. committed is an index known to be
// committed, 0 for the one that Raft knows. close returns false if another goroutine opens or closes the replica, or
// if unless returns true.
func (l *live) close(committed uint64, unless func() bool) bool {
	c := l.c
	c.mu.Lock()
	if c.live != l || c.change != nil || unless != nil && unless() {
		c.mu.Unlock()
		return false
	}
	c.change = make(chan struct{})
	c.mu.Unlock()
	r := l.r.Load()
	leader := l.leader()
	l.stopRaft(r)
	l.releaseMemory()
	if err := l.note(r, committed, leader); err != nil && !errors.Is(err, wire.UnknownConversation) {
		l.m.log.Warn("conversation's position not written; it will be read again", "conversation", c.id, "error", err)
	}
	c.mu.Lock()
	c.live = nil
	close(c.change)
	c.change = nil
	c.mu.Unlock()
	l.m.forgetAsleep(c.id)
	return true
}

// note records the progress of the replica.
func (l *live) note(r *raft.Raft, committed uint64, leader wire.NodeID) (err error) {
	defer l.m.quarantineOnPanic(l.c, "write down", &err)
	rec, err := l.m.readRecord(l.c.id)
	if err != nil {
		return err
	}
	l.fillRecord(rec, r, committed, leader)
	return l.m.writeRecord(l.c.id, rec, l.c.sizeChange())
}

func (l *live) fillRecord(rec *record, r *raft.Raft, committed uint64, leader wire.NodeID) {
	rec.Applied = max(rec.Applied, committed, r.CommitIndex())
	rec.Last = r.LastIndex()
	var last raft.Log
	if err := l.store.GroupLog.GetLog(rec.Last, &last); err == nil {
		rec.LastTerm = last.Term
	}
	if leader != "" {
		rec.Leader = leader
	}
	l.fsm.mu.RLock()
	if i := l.fsm.configIndex; i > 0 && i >= rec.ConfigIndex {
		rec.ConfigIndex = i
		rec.Voters, rec.Learners = splitServers(l.fsm.config.Servers)
	}
	at := l.fsm.index
	rec.Sequence = l.fsm.m.Sequence()
	l.fsm.mu.RUnlock()
	for index := at + 1; index <= rec.Applied; index++ { // committed, and not applied here yet
		rec.Sequence++ // an upper limit: some entries may be Raft's own
		var e raft.Log
		if index <= rec.ConfigIndex || l.store.GroupLog.GetLog(index, &e) != nil || e.Type != raft.LogConfiguration {
			continue
		}
		if config, err := decodeConfiguration(e.Data); err == nil {
			rec.ConfigIndex = index
			rec.Voters, rec.Learners = splitServers(config.Servers)
		}
	}
	l.mu.Lock()
	rec.Missing = l.missing
	l.mu.Unlock()
	rec.Generation = l.c.generation()
}

func splitServers(servers []raft.Server) (voters, learners []wire.NodeID) {
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, wire.NodeID(s.ID))
		} else {
			learners = append(learners, wire.NodeID(s.ID))
		}
	}
	return voters, learners
}

// leader returns the leader that this replica knows, or "".
func (l *live) leader() wire.NodeID {
	r := l.r.Load()
	if r == nil || r.State() == raft.Candidate {
		return "" // a candidate may still name a leader that has been silent for long
	}
	_, id := r.LeaderWithID()
	return wire.NodeID(id)
}

// noteFrame records that n has sent a frame in this generation.
func (c *conversation) noteFrame(n wire.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[wire.NodeID]bool)
	}
	if len(c.seen) < wire.MaxReplicas {
		c.seen[n] = true
	}
}

func (l *live) leads() bool {
	r := l.r.Load()
	return r != nil && r.State() == raft.Leader
}

// checkConfigured reports whether n has a part according to Raft's latest configuration, the log's last change of
// replicas, or, before there is such a change, the invitation.
func (l *live) configured(n wire.NodeID) bool {
	if r := l.r.Load(); r != nil {
		servers := r.GetConfiguration().Configuration().Servers
		for _, s := range servers {
			if wire.NodeID(s.ID) == n {
				return true
			}
		}
		if len(servers) > 0 {
			return l.replicaByLog(n)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.joined[n]
}

func (l *live) replicaByLog(n wire.NodeID) (found bool) {
	l.fsm.read(func(m *machine.Machine) {
		if r, _ := m.Replicas(); r != nil {
			found = contains(r.Voters, n) || contains(r.Learners, n)
		}
	})
	return found
}

func contains(list []wire.NodeID, n wire.NodeID) bool {
	for _, have := range list {
		if have == n {
			return true
		}
	}
	return false
}

// waiter is a submission that this node has given to Raft. It is found by the address of the entry's bytes: no other
// entry shares these bytes, and nobody writes to them.
type waiter struct {
	answer chan machine.Outcome       // capacity for the one answer
	term   uint64                     // term of the leader that proposed the entry
	key    wire.SubmissionKey         // the key with which this node has verified the submission's signature
	entry  atomic.Pointer[wire.Entry] // the decoded bytes, once they are decoded
}

func (l *live) waiter(data []byte) *waiter {
	if len(data) == 0 {
		return nil
	}
	if w, ok := l.waiters.Load(&data[0]); ok {
		return w.(*waiter)
	}
	return nil
}

// applied is called for each entry, on Raft's goroutine.
func (l *live) applied(data []byte, out machine.Outcome) {
	if w := l.waiter(data); w != nil {
		l.waiters.Delete(&data[0])
		w.answer <- out
	}
	if out.Committed == nil {
		return
	}
	l.chargeMemory()
	l.prove()
	if out.Committed.Sequence <= 1 { // the first entry, or a snapshot
		l.checkPolicy()
	}
	l.used.Store(time.Now().UnixNano())
	l.trans.nudgeAll()
	l.m.pump.mark(l.c.id)
	l.m.dirty.mark(l.c.id)
	l.m.scheduleComparison(l.c)
	l.c.owned.Store(false)
	if out.Moved {
		if namesReplicas(data) && out.Committed.Sequence > l.rec.Load().Sequence {
			l.noteRecovery(out)
		}
		l.wakeLoop()
	}
}

func (l *live) wakeLoop() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// fail ends a replica whose storage failed: the replica goes to sleep, and its next use shows whether the storage
// works again. fail runs on a goroutine of Raft, so it must not wait for that goroutine.
func (l *live) fail(err error) {
	l.m.log.Error("replica stopped: its storage failed", "conversation", l.c.id, "error", err)
	l.m.serve(l.c, "close", func(context.Context) {
		// open closes a replica that fails while it starts.
		for l.r.Load() == nil && l.ctx.Err() == nil {
			pause(l.ctx, 10*time.Millisecond)
		}
		if l.r.Load() != nil && l.close(0, nil) {
			l.m.damaged(l.c, err)
		}
	})
}

// damaged takes a replica with damaged records out of service: the other replicas hold what it lost. See repair.go.
func (m *Manager) damaged(c *conversation, err error) {
	if c.shut.Load() != nil {
		return // no data is deleted
	}
	damage := m.snapshotDamage(c)
	if errors.Is(damage, machine.ErrInvalid) {
		m.quarantine(c, ReasonInvalidState, damage)
		return
	}
	if errors.Is(err, raftlog.ErrCorrupt) || damage != nil || errors.Is(m.cfg.Log.Group(c.group).Verify(), raftlog.ErrCorrupt) {
		m.repairDamage(c, err)
	}
}
