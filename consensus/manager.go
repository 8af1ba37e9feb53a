package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Manager holds this node's replicas. Its methods are safe for concurrent use; methods that change or wake a
// conversation work only while Run runs.
type Manager struct {
	cfg      Config
	log      *slog.Logger
	mesh     *mesh
	snaps    snapshotFactory
	opening  chan struct{} // one place for each conversation that may be opened at once
	waking   chan struct{} // one place for each conversation that this node wakes at the same time
	wakers   sync.Map      // wire.Domain → chan struct{}, the part of waking for an organization's conversations
	inflight chan struct{} // one place for each submission in progress
	pump     *pump
	failures *failureDetector
	dirty    *idSet // conversations whose record is out of date
	compared *idSet // conversations with new entries since they were last compared
	asleep   *sleeperCache[*machine.Machine]
	heads    *sleeperCache[[]machine.Head]
	stats    stats
	refused  refusals
	blobs    blobStreams
	meter    meter
	intake   intake    // of snapshots
	began    time.Time // when New was called
	offers   sync.Map  // of offer: blobs that submissions in progress here name
	declined declined
	claims   claims
	memory   memory
	exchange stateExchange

	mu            sync.Mutex // guards the fields below
	conversations map[wire.ConversationID]*conversation
	free          []uint32 // numbers of dropped groups
	next          uint32   // lowest number never used
	invited       map[wire.Domain]int
	asides        map[wire.ConversationID][]*Aside
	ctx           context.Context // nil while Run does not run
	tasks         sync.WaitGroup
}

type stats struct {
	wakes, sleeps, elections atomic.Int64
	panics                   atomic.Int64 // in work that belongs to no conversation here
	blobStreams              atomic.Int64 // opened to other nodes
	quarantined              quarantineStats
	givenBack, refused       atomic.Int64
	memoryRefusals           atomic.Int64 // wakes and entries refused because memory is short
	copies                   atomic.Int64 // copies of a state, to validate a change of replicas
}

// codeAsleep is used between nodes only: the conversation sleeps here, and this frame does not wake it.
const codeAsleep wire.Code = "asleep"

// codeSuperseded is used between nodes only: the sender's generation of the configuration has been replaced.
const codeSuperseded wire.Code = "superseded"

// codeNotLeader is used between nodes only: the sender should ask the node in Error.Nodes.
const codeNotLeader wire.Code = "not_leader"

func errAsleep() *wire.Error { return &wire.Error{Code: codeAsleep, Op: "raft"} }

// New reads the stored replicas of this node and starts nothing.
func New(cfg Config) (*Manager, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, log: cfg.Logger,
		meter: newMeter(), opening: make(chan struct{}, cfg.Limits.Opening), inflight: make(chan struct{}, cfg.Limits.Inflight),
		waking: make(chan struct{}, maxWaking),
		dirty:  newIDSet(), compared: newIDSet(), asleep: newSleeperCache[*machine.Machine](cfg.Limits.Sleepers), heads: newSleeperCache[[]machine.Head](cfg.Limits.SleepingHeads),
		memory:        memory{most: cfg.Limits.Awake},
		conversations: make(map[wire.ConversationID]*conversation), invited: make(map[wire.Domain]int),
		asides: make(map[wire.ConversationID][]*Aside),
		snaps:  cfg.snapshots, began: cfg.Now(),
	}
	if m.snaps == nil {
		files, err := openSnapshots(cfg.Dir)
		if err != nil {
			return nil, err
		}
		m.snaps = files
	}
	m.pump = newPump(m)
	m.failures = &failureDetector{m: m, followers: make(map[wire.NodeID]map[*live]bool)}
	m.mesh = &mesh{node: cfg.Node, link: cfg.Link, call: cfg.Timers.Call, log: cfg.Logger, deliver: m.receive, up: m.exchangeState, idle: cfg.Timers.Idle,
		peers: make(map[wire.NodeID]*peer)}
	if cfg.Roster != nil {
		m.mesh.known = m.knows
	}
	return m, m.load()
}

// load creates a sleeping conversation from each record.
func (m *Manager) load() error {
	used := make(map[uint32]bool)
	var forgotten []raftlog.MetaChange
	sizes, err := m.snaps.sizes()
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	err = m.cfg.Log.Meta().Scan([]byte(recordPrefix), func(key, value []byte) error {
		id := wire.ConversationID(key[len(recordPrefix):])
		rec, err := decodeRecord(value)
		if err != nil {
			return fmt.Errorf("conversation %v: %w", id, err)
		}
		if m.cfg.Restored && rec.fenceIfOutdated(m.cfg.Node) {
			change, err := recordChange(id, rec)
			if err != nil {
				return err
			}
			forgotten = append(forgotten, change)
		}
		m.adopt(m.add(id, rec), sizes[rec.Group])
		used[rec.Group] = true
		return nil
	})
	if err == nil {
		err = m.cfg.Log.Meta().Apply(forgotten...)
	}
	if err == nil {
		err = m.loadQuarantines()
	}
	if err == nil {
		err = m.loadAsides(used, sizes)
	}
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	return m.sweepGroups(used)
}

// sweepGroups drops groups that no record names. Such a group exists if the node stopped between the two steps of a
// removal.
func (m *Manager) sweepGroups(used map[uint32]bool) error {
	groups, err := m.cfg.Log.Groups()
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	for _, n := range groups {
		if !used[n] {
			if err := errors.Join(m.cfg.Log.Drop(n), m.snaps.drop(n)); err != nil {
				return fmt.Errorf("consensus: remove what is left of group %d: %w", n, err)
			}
		}
	}
	for n := uint32(0); n < m.next; n++ {
		if !used[n] {
			m.free = append(m.free, n)
		}
	}
	return nil
}

// add creates a conversation from a record. The caller holds m.mu, or is the only user of m.
func (m *Manager) add(id wire.ConversationID, rec *record) *conversation {
	c := &conversation{id: id, group: rec.Group, m: m}
	c.book.account, c.book.payer = m.cfg.Account, m.payer(rec.Inviter)
	c.gen.Store(rec.Generation)
	c.out.Store(rec.Rejoin || rec.Fenced)
	for _, a := range m.asides[id] {
		if a.Probation {
			c.probation.Store(a)
		}
	}
	m.conversations[id] = c
	m.next = max(m.next, rec.Group+1)
	if rec.Inviter != "" {
		m.invited[rec.Inviter]++
	}
	return c
}

// Run serves until ctx ends, and returns when all conversations are shut down and all goroutines have ended. Call it
// once.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.ctx != nil {
		m.mu.Unlock()
		return errors.New("consensus: Run runs already")
	}
	m.ctx = ctx
	m.mu.Unlock()
	var loops sync.WaitGroup
	started := make(chan struct{})
	loops.Go(func() { close(started); m.mesh.run(ctx) })
	<-started
	loops.Go(func() { m.flushLoop(ctx) })
	loops.Go(func() { m.pump.run(ctx) })
	loops.Go(func() { m.sweepBlobs(ctx) })
	loops.Go(func() { m.sweepAsides(ctx) })
	loops.Go(func() { m.compareLoop(ctx) })
	m.spawn(m.catchUp)
	m.spawn(m.exchangeLoop)
	m.spawn(m.giveBackLoop)
	m.resumeRejoins()
	<-ctx.Done()
	m.mu.Lock()
	m.ctx = nil
	m.mu.Unlock()
	m.closeAll()
	m.blobs.close()
	loops.Wait()
	m.tasks.Wait()
	return nil
}

func (m *Manager) context() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ctx
}

// spawn runs fn on a goroutine that Run waits for. It returns false if the node does not run.
func (m *Manager) spawn(fn func(context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return false
	}
	ctx := m.ctx
	m.tasks.Go(func() {
		defer m.quarantineOnPanicIn("", "background work", nil)
		fn(ctx)
	})
	return true
}

// closeAll shuts every awake conversation down, many concurrently.
func (m *Manager) closeAll() {
	var all sync.WaitGroup
	for _, c := range m.list() {
		l := c.awake()
		if l == nil {
			continue
		}
		all.Go(func() {
			defer m.quarantineOnPanic(c, "close", nil)
			for l.r.Load() == nil && c.awake() == l {
				if !c.settle() {
					break
				}
			}
			if l.r.Load() != nil {
				l.close(0, nil)
			}
		})
	}
	all.Wait()
}

// settle waits until no goroutine opens or closes c. It returns false if none did.
func (c *conversation) settle() bool {
	c.mu.Lock()
	wait := c.change
	c.mu.Unlock()
	if wait == nil {
		return false
	}
	<-wait
	return true
}

func (m *Manager) list() []*conversation {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*conversation, 0, len(m.conversations))
	for _, c := range m.conversations {
		list = append(list, c)
	}
	return list
}

// find returns a conversation that is served.
func (m *Manager) find(id wire.ConversationID) (*conversation, error) {
	c, err := m.held(id)
	if err == nil {
		err = c.refused("find")
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// reserveReplica reserves room for a new replica and writes its record. inviter is "" for our own replicas.
func (m *Manager) reserveReplica(id wire.ConversationID, rec *record) (*conversation, error) {
	m.mu.Lock()
	if c := m.conversations[id]; c != nil {
		m.mu.Unlock()
		return c, nil
	}
	if err := m.quota(rec.Inviter); err != nil {
		m.mu.Unlock()
		return nil, err
	}
	if n := len(m.free); n > 0 {
		rec.Group, m.free = m.free[n-1], m.free[:n-1]
	} else if rec.Group = m.next; rec.Group >= raftlog.MaxGroups {
		m.mu.Unlock()
		return nil, wire.Errorf(wire.Quota, "create", "node %s has no number left for another conversation", m.cfg.Node)
	}
	c := m.add(id, rec)
	c.change = make(chan struct{}) // nobody uses the replica before its record is written
	m.mu.Unlock()
	err := m.writeRecord(id, rec)
	c.mu.Lock()
	close(c.change)
	c.change = nil
	c.gone = err != nil
	c.mu.Unlock()
	if err != nil {
		m.unlist(c, rec.Inviter, true)
		return nil, err
	}
	return c, nil
}

// quota must be called with m.mu held.
func (m *Manager) quota(inviter wire.Domain) error {
	l := &m.cfg.Limits
	if l.Conversations > 0 && len(m.conversations) >= l.Conversations {
		return wire.Errorf(wire.Quota, "create", "node %s holds %d conversations, at most %d", m.cfg.Node, len(m.conversations), l.Conversations)
	}
	if inviter != "" && inviter != m.cfg.Node.Organization() && m.invited[inviter] >= l.PerOrganization {
		return wire.Errorf(wire.Quota, "invite", "node %s holds %d conversations by invitation of %s, at most %d",
			m.cfg.Node, m.invited[inviter], inviter, l.PerOrganization)
	}
	return nil
}

// unlist removes a conversation from the list, and frees the number of its group unless the group's data is kept.
func (m *Manager) unlist(c *conversation, inviter wire.Domain, free bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unlistLocked(c, inviter, free)
}

// unlistLocked does the work of unlist with m.mu held.
func (m *Manager) unlistLocked(c *conversation, inviter wire.Domain, free bool) {
	if m.conversations[c.id] == c {
		delete(m.conversations, c.id)
		if free {
			m.free = append(m.free, c.group)
		}
		if inviter != "" {
			m.invited[inviter]--
		}
	}
}

// leave closes the replica permanently, and reports whether this call did. A replica in quarantine is kept.
func (c *conversation) leave() (bool, error) {
	c.mu.Lock()
	for c.change != nil {
		wait := c.change
		c.mu.Unlock()
		<-wait
		c.mu.Lock()
	}
	if c.gone {
		c.mu.Unlock()
		return false, nil
	}
	if err := c.refused("remove"); err != nil {
		c.mu.Unlock()
		return false, err
	}
	c.gone = true
	l := c.live
	c.mu.Unlock()
	if l != nil {
		l.close(0, nil)
		for l.inflight.Load() > 0 { // a user of the replica might write the record again
			time.Sleep(time.Millisecond)
		}
	}
	return true, nil
}

// remove ends this node's part in a conversation and deletes its data.
func (m *Manager) remove(c *conversation, why string) error { return m.retire(c, why, nil) }

// retire ends this node's part in a conversation. The data is kept if aside is not nil, and deleted otherwise.
func (m *Manager) retire(c *conversation, why string, aside *Aside) error {
	left, err := c.leave()
	if !left {
		return err
	}
	var inviter wire.Domain
	if rec, err := m.readRecord(c.id); err == nil {
		inviter = rec.Inviter
	}
	m.log.Info("replica removed", "conversation", c.id, "why", why, "kept", aside != nil)
	// The record goes first: data without a record is swept at the next start of the node.
	if aside != nil {
		err = m.keepAside(c, aside)
	} else if err = m.cfg.Log.Meta().Apply(raftlog.MetaChange{Key: recordKey(c.id), Delete: true}, raftlog.MetaChange{Key: sizeKey(c.id), Delete: true}); err == nil {
		err = errors.Join(m.cfg.Log.Drop(c.group), m.snaps.drop(c.group))
	}
	m.forgetAsleep(c.id)
	if f, ok := m.cfg.Consumer.(Forgetter); ok && err == nil && c.forgotten.Load() { // before another conversation is delivered under this id
		err = f.Forget(m.context(), c.id)
	}
	if err != nil {
		return fmt.Errorf("remove %v: %w", c.id, err)
	}
	if aside == nil {
		c.book.close()
	}
	m.unlist(c, inviter, aside == nil)
	return nil
}

// Reached reports to the Manager that a node is reachable again: frames that wait for the node are sent at once.
func (m *Manager) Reached(n wire.NodeID) { m.mesh.reached(n) }

// Accept serves a byte stream that another node has opened, until the stream ends. The caller must have verified
// from.
func (m *Manager) Accept(ctx context.Context, from wire.NodeID, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	defer m.mesh.recoverPanic(from)
	purpose, err := readPurpose(conn, m.cfg.Timers.Call)
	if err != nil {
		return fmt.Errorf("stream from %s: %w", from, err)
	}
	switch purpose {
	case streamFrames:
		p := m.mesh.caller(from)
		for p != nil && p.adopt(conn, false) == nil {
			p = m.mesh.caller(from) // the peer was dropped at this moment
		}
		if p == nil {
			return wire.Errorf(wire.Unavailable, "accept", "the node is not running")
		}
		p.read(ctx, conn)
		return nil
	case streamSnapshot:
		return m.receiveSnapshot(ctx, from, m.mesh.sent.stream(conn, purpose))
	case streamBlob:
		return m.serveBlobs(from, m.mesh.sent.stream(conn, purpose))
	}
	return wire.Errorf(wire.Malformed, "accept", "stream from %s for purpose %q", from, purpose)
}

// admit returns the awake replica for a Raft message, if its sender's role is at least need.
func (m *Manager) admit(from wire.NodeID, id wire.ConversationID, generation uint64, need role) (*live, error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if have := c.generation(); generation < have {
		m.heardBefore(c, from, generation)
		return nil, wire.Errorf(codeSuperseded, "raft", "generation %d of %v's configuration was replaced by %d", generation, id, have)
	} else if generation > have {
		return nil, wire.Errorf(wire.Unavailable, "raft", "this node knows generation %d of %v's configuration, not %d: invite it again", have, id, generation)
	}
	if c.out.Load() {
		return nil, m.outOfService("raft", c)
	}
	if err := m.checkRole(from, c, need); err != nil {
		return nil, err
	}
	c.noteFrame(from)
	if l := c.awake(); l != nil {
		return l, nil
	}
	return nil, errAsleep()
}

func notReplica(from wire.NodeID, id wire.ConversationID) *wire.Error {
	return wire.Errorf(wire.NotReplica, "raft", "node %s has no part in conversation %v", from, id)
}

// receive accepts a frame from another node. It runs on the read loop of the connection, so it does not block.
func (m *Manager) receive(from wire.NodeID, f *frame) {
	defer m.quarantineOnPanicIn(f.conversation, "frame", nil)
	switch f.kind {
	case kindAppend, kindVote, kindPreVote, kindTimeoutNow:
		l, err := m.admit(from, f.conversation, f.generation, leastRoles[f.kind])
		switch {
		case err == nil:
			l.trans.receive(from, f)
		case f.kind == kindVote && wire.CodeOf(err) == codeAsleep && m.wakeForVote(from, f):
		default:
			m.mesh.reply(from, f, nil, err)
		}
	case kindBeats:
		m.receiveBeats(from, f)
	default:
		m.receiveOther(from, f)
	}
}

// receiveOther serves frames that may take time, on a goroutine of its own.
func (m *Manager) receiveOther(from wire.NodeID, f *frame) {
	handlers := map[frameKind]handler{
		kindWake: m.receiveWake, kindSleep: m.receiveSleep, kindOrder: m.receiveOrder, kindInvite: m.receiveInvite,
		kindFarewell: m.receiveFarewell, kindSummary: m.receiveSummary, kindGone: m.receiveGone, kindRejoin: m.receiveRejoin,
		kindUnresponsive: m.receiveUnresponsive, kindTestify: m.receiveTestify, kindComplain: m.receiveComplaint,
	}
	serve := handlers[f.kind]
	if serve == nil {
		m.mesh.reply(from, f, nil, wire.Errorf(wire.Malformed, "frame", "kind %d", f.kind))
		return
	}
	m.mesh.spawn(func(ctx context.Context) {
		content, err := m.handle(ctx, serve, from, f)
		if err != nil && wire.CodeOf(err) == wire.Internal {
			m.log.Warn("request failed", "peer", from, "kind", f.kind, "conversation", f.conversation, "error", err)
		}
		m.mesh.reply(from, f, content, err)
	})
}

type handler func(context.Context, wire.NodeID, *frame) ([]byte, error)

// handle calls a handler; a panic in the handler puts the frame's conversation into quarantine.
func (m *Manager) handle(ctx context.Context, fn handler, from wire.NodeID, f *frame) (content []byte, err error) {
	defer m.quarantineOnPanicIn(f.conversation, "frame", &err)
	if err := m.allow(from, f); err != nil {
		return nil, err
	}
	return fn(ctx, from, f)
}
