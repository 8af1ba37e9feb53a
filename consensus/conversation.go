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

// conversation is this node's replica of one conversation. Asleep it is this struct and what is on
// disk; awake it has a live.
type conversation struct {
	id    wire.ConversationID
	group uint32
	m     *Manager
	gen   atomic.Uint64
	led   atomic.Int64               // when this replica last knew a leader, nanoseconds since 1970; 0: not since the node started
	out   atomic.Bool                // its records are lost: it waits for an invitation
	shut  atomic.Pointer[Quarantine] // in quarantine, and why; nil where it is served
	book  book

	passed atomic.Uint64 // the last entry that the consumer took since this node started, whether it stored it or not

	owned   atomic.Bool  // a device here has an address in it, as far as was looked; see unowned.go
	unowned atomic.Int64 // since when none has, in nanoseconds since 1970; 0: not known
	// forgotten: no device here reads it; the consumer forgets it when it goes.
	forgotten atomic.Bool
	waiting   atomic.Bool  // nodes that were too busy for a replica are invited again in a while
	later     atomic.Int64 // after so many nanoseconds, the last time

	confirmed  atomic.Uint64 // terms up to here were confirmed by other voters
	confirming atomic.Int64  // when they were asked last; nanoseconds since 1970
	turn       atomic.Uint32 // whom to compare with next
	rounds     atomic.Int32  // with how many more to compare
	installing atomic.Bool   // a snapshot is being taken in

	probation atomic.Pointer[Aside] // the replica before this one, which this one has to continue
	returning atomic.Bool           // to that one

	mu      sync.Mutex                // guards what follows; never held across I/O
	live    *live                     // nil while asleep; set before Raft has started, so that frames can queue
	change  chan struct{}             // not nil while it is being opened or closed; closed at the end
	gone    bool                      // removed from this node
	vouched map[wire.NodeID]voucher   // what the known voters said of others
	muted   map[wire.NodeID]muted     // who contradicted what is here, or does not order what is shown here
	health  map[wire.NodeID]health    // what nodes that a leader takes out said of their replicas
	past    map[wire.Hash]health      // entries that take nodes out, and whether others have them
	seen    map[wire.NodeID]bool      // who has spoken here in this generation since the node started
	before  map[wire.NodeID]bool      // who speaks in the generation of the replica that was set aside; see return.go
	lost    map[wire.NodeID]time.Time // who said that it has lost its log, and when
}

func (c *conversation) generation() uint64 { return c.gen.Load() }

// awake is the live replica, which may still be starting, or nil.
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
	r     atomic.Pointer[raft.Raft]
	kick  chan struct{} // holds one: something to look at

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	used      atomic.Int64           // when an entry last came, or a submission; nanoseconds since 1970
	rec       atomic.Pointer[record] // as it was when the replica was opened
	inflight  atomic.Int32           // submissions under way: no sleep
	ready     atomic.Uint64          // the term in which this leader has applied an entry of its own
	sleepers  sync.Map               // NodeID → time of the last wake frame to it
	alone     atomic.Bool            // a peer said that it sleeps, and there is no leader
	expelling atomic.Bool            // a member that lost its replica is being taken out
	deposing  atomic.Bool            // this node is about to replace a silent leader

	resting atomic.Bool  // it falls asleep for want of memory
	weight  atomic.Int64 // bytes that its state is accounted with; see memory.go
	waiters sync.Map     // *byte, the first of an entry proposed here → *waiter, until it is applied or its term ends
	steps   atomic.Int64 // changes of the configuration made
	// voting is since when further learners wait for votes, and votingGot how many there were then; for run alone.
	voting    time.Time
	votingGot int
	asking    time.Time // since when nodes are asked which rules they know, and nobody was added; for run alone

	pending pendingConfigurations // guarded by judging
	judging sync.Mutex            // held while a request of a leader's is judged

	mu       sync.Mutex           // guards what follows
	turned   chan struct{}        // closed and made anew when a role changes; see turns
	joined   map[wire.NodeID]bool // by the record: who may speak before Raft knows a configuration
	missing  []wire.NodeID
	giving   int                       // entries on their way into Raft
	choosing chan struct{}             // closed when a change of replicas is chosen; nil while none is
	departed map[wire.NodeID]time.Time // nodes on their way out, and since when
}

// wake returns the live replica and opens it if it sleeps. It does not start an election.
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

// open starts the replica. c.change is set; it is closed and reset here.
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
			l.weighNothing()
		}
		m.damaged(c, err)
		return nil, fmt.Errorf("wake %v: %w", c.id, err)
	}
	m.stats.wakes.Add(1)
	return l, nil
}

func (m *Manager) prepare(ctx context.Context, c *conversation) (_ *live, err error) {
	defer m.caught(c, "open", &err)
	if err := m.crowded(c); err != nil {
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
	if err := m.recall(c, rec); err != nil {
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
	l.fsm.panicked = func(what string, p any, err *error) { m.panicked(c, what, p, err) }
	l.trans = newTransport(l.ctx, m, c)
	l.store = &guard{GroupLog: m.cfg.Log.Group(c.group), fail: l.fail, leads: l.leads, stalled: m.stalled, writing: make(chan struct{}, 1), book: &c.book}
	l.store.crowded = l.makeRoom
	if m.holds(ruleApplied) {
		l.store.floor = l.floor
		l.store.rewritten = func(err error) {
			_ = m.contradicted(c, ReasonRewritten, RefusedRewrite, l.leader(), fmt.Errorf("leader %s: %w", l.leader(), err))
		}
	}
	l.trans.store = l.store
	l.trans.ready = func() { l.store.running.Store(true) }
	return l, nil
}

// start makes the Raft replica. What is committed is applied again from the snapshot on; those entries
// are old, so nobody is told until Raft runs.
func (l *live) start() (err error) {
	defer l.m.caught(l.c, "open", &err)
	logs := newLogCache(l.store)
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
	l.fsm.applied, l.fsm.verified, l.fsm.newest = l.applied, l.verified, l.store.snap.Load
	l.fsm.configured = l.configurationCommitted
	if err := l.bootstrap(l.rec.Load()); err != nil {
		return err
	}
	r, err := newRaft(l.m.raftConfig(l.c.id), l.fsm, logs, l.store, snaps, l.trans)
	if err != nil {
		return err
	}
	l.r.Store(r)
	l.watchRoles(r)
	if !l.m.serve(l.c, "run", func(context.Context) { l.run() }) {
		l.halt(r)
		return wire.Errorf(wire.Unavailable, "wake", "the node is stopping")
	}
	return nil
}

// configurationCommitted writes the record as soon as another configuration is known to be committed: after a
// crash, the record says who may speak. It is called on Raft's goroutines.
func (l *live) configurationCommitted() {
	l.m.dirty.mark(l.c.id)
	r := l.r.Load()
	if r == nil || l.rec.Load().ConfigIndex >= l.configIndex() {
		return // it is being applied again
	}
	if err := l.note(r, 0, l.leader()); err != nil {
		l.m.log.Warn("configuration not written; it will be, with the next positions", "conversation", l.c.id, "error", err)
	}
}

// halt stops Raft and waits for all its goroutines.
func (l *live) halt(r *raft.Raft) {
	l.cancel()
	done := r.Shutdown()
	l.trans.stop() // whatever waits for another node stops waiting
	if err := done.Error(); err != nil {
		l.m.log.Warn("replica did not shut down cleanly", "conversation", l.c.id, "error", err)
	}
	l.tasks.Wait()
}

// close puts the replica to sleep: Raft is shut down, and how far it got is written down. committed is
// an index known to be committed, 0 for what Raft knows. It returns false when somebody else is at it,
// or when unless holds.
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
	l.halt(r)
	l.weighNothing()
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

// note writes down how far the replica got.
func (l *live) note(r *raft.Raft, committed uint64, leader wire.NodeID) (err error) {
	defer l.m.caught(l.c, "write down", &err)
	rec, err := l.m.readRecord(l.c.id)
	if err != nil {
		return err
	}
	l.fill(rec, r, committed, leader)
	return l.m.writeRecord(l.c.id, rec, l.c.sizeChange())
}

func (l *live) fill(rec *record, r *raft.Raft, committed uint64, leader wire.NodeID) {
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
		rec.Sequence++ // at most: some may be Raft's own
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

// leader is the one that this replica knows, "" for none.
func (l *live) leader() wire.NodeID {
	r := l.r.Load()
	if r == nil || r.State() == raft.Candidate {
		return "" // a candidate may still name the one that it did not hear of for long
	}
	_, id := r.LeaderWithID()
	return wire.NodeID(id)
}

// see notes that n has spoken here in this generation.
func (c *conversation) see(n wire.NodeID) {
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

// configured reports whether n has a part by Raft's latest configuration, by the log's last change of replicas,
// or, before there is any, by the invitation.
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

// waiter is a submission that this node has given to Raft. Who waits is found by the bytes of the entry,
// which nobody else has and nobody writes to.
type waiter struct {
	answer chan machine.Outcome // has room for the one answer
	term   uint64               // of the leader that gave it
	key    wire.SubmissionKey   // under which this node has verified the submission's signature
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

// verified says what is known of an entry that this node has judged before it proposed it.
func (l *live) verified(data []byte) wire.SubmissionKey {
	if w := l.waiter(data); w != nil {
		return w.key
	}
	return wire.SubmissionKey{}
}

// applied hears of each entry, on Raft's goroutine.
func (l *live) applied(data []byte, out machine.Outcome) {
	if w := l.waiter(data); w != nil {
		l.waiters.Delete(&data[0])
		w.answer <- out
	}
	if out.Committed == nil {
		return
	}
	l.weigh()
	l.prove()
	if out.Committed.Sequence <= 1 { // the first entry, or a snapshot
		l.checkPolicy()
	}
	l.used.Store(time.Now().UnixNano())
	l.trans.nudgeAll()
	l.m.pump.mark(l.c.id)
	l.m.dirty.mark(l.c.id)
	l.m.gotOn(l.c)
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

// fail ends a replica whose storage failed: it goes to sleep, and its next use finds out whether the
// storage is well again. Called on a goroutine of Raft's, which must not be waited for.
func (l *live) fail(err error) {
	l.m.log.Error("replica stopped: its storage failed", "conversation", l.c.id, "error", err)
	l.m.serve(l.c, "close", func(context.Context) {
		// A replica that fails while it starts is closed by open.
		for l.r.Load() == nil && l.ctx.Err() == nil {
			pause(l.ctx, 10*time.Millisecond)
		}
		if l.r.Load() != nil && l.close(0, nil) {
			l.m.damaged(l.c, err)
		}
	})
}

// damaged takes a replica out of service whose records are damaged: the other replicas hold what it
// lost. See repair.go.
func (m *Manager) damaged(c *conversation, err error) {
	if c.shut.Load() != nil {
		return // nothing is deleted
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
