package consensus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/consensus/raftlog"
	"github.com/mlsfed/mlsfed/wire"
)

// Quarantine ends a node's service of one conversation, and of no other. The reason is that data from other nodes
// contradicts itself or this replica, or that code working for the conversation panicked. The replica is closed, no
// frame and no submission is served, nothing is deleted, and entries that the consumer has stored can still be read.
// A record of its own on disk keeps the quarantine until an operator releases the conversation. The other replicas
// see a node that answers Unavailable, and continue without it.

// Reason is the reason of a quarantine. Numbers and names do not change: they are on disk and in metrics.
type Reason uint8

// The reasons.
const (
	ReasonInvalidState Reason = 1 // a state that no state machine produces
	ReasonRewritten    Reason = 2 // applied entries would be replaced
	ReasonDiverged     Reason = 3 // the log does not continue the applied entries
	ReasonPanic        Reason = 4 // code that works for the conversation panicked

	lastReason = ReasonPanic
)

var reasonNames = [...]string{ReasonInvalidState: "invalid_state", ReasonRewritten: "rewritten", ReasonDiverged: "diverged", ReasonPanic: "panic"}

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{ReasonInvalidState, ReasonRewritten, ReasonDiverged, ReasonPanic}
}

// String returns the reason's name in metrics and in status.
func (r Reason) String() string {
	if r >= 1 && r <= lastReason {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Quarantine is the record of one quarantine. A build that does not know the reason still keeps the conversation out
// of service.
type Quarantine struct {
	Reason Reason    `cbor:"1,keyasint"`
	Detail string    `cbor:"2,keyasint"` // what happened, for the operator; up to 1,024 bytes
	Since  wire.Time `cbor:"3,keyasint"`
}

const (
	quarantinePrefix = "quarantine/"
	maxDetail        = 1024
	maxQuarantine    = maxDetail + 64 // bytes of a record
)

func quarantineKey(id wire.ConversationID) []byte { return []byte(quarantinePrefix + string(id)) }

// quarantine takes a conversation out of service, once. It does not block, and may be called on any
// goroutine, Raft's own included.
func (m *Manager) quarantine(c *conversation, reason Reason, detail error) {
	text := detail.Error()
	q := &Quarantine{Reason: reason, Detail: strings.ToValidUTF8(text[:min(len(text), maxDetail)], ""), Since: wire.TimeOf(m.cfg.Now())}
	if !c.shut.CompareAndSwap(nil, q) {
		return
	}
	if int(reason) < len(m.stats.quarantined) {
		m.stats.quarantined[reason].Add(1)
	}
	m.log.Error("conversation is in quarantine: this node does not serve it until it is released",
		"conversation", c.id, "reason", reason, "error", detail)
	if m.cfg.Alarm != nil {
		m.cfg.Alarm(c.id, *q)
	}
	if err := m.writeQuarantine(c.id, q); err != nil {
		m.log.Error("quarantine not written: it ends with this node's next start", "conversation", c.id, "error", err)
	}
	m.spawn(func(context.Context) { m.closeQuarantined(c) })
}

func (m *Manager) writeQuarantine(id wire.ConversationID, q *Quarantine) error {
	b, err := wire.Encode(q)
	if err != nil {
		return err
	}
	return m.cfg.Log.Meta().Set(quarantineKey(id), b)
}

// closeQuarantined shuts the replica down if it is awake.
func (m *Manager) closeQuarantined(c *conversation) {
	defer m.quarantineOnPanic(c, "close", nil)
	for l := c.awake(); l != nil && c.shut.Load() != nil; l = c.awake() {
		if c.settle() {
			continue // the replica is being opened or closed
		}
		if l.r.Load() == nil || !l.close(0, nil) {
			pause(l.ctx, time.Millisecond)
		}
	}
}

// loadQuarantines reads the records of quarantines. The conversations are already loaded.
func (m *Manager) loadQuarantines() error {
	return m.cfg.Log.Meta().Scan([]byte(quarantinePrefix), func(key, value []byte) error {
		q := new(Quarantine)
		if err := wire.Decode(value, maxQuarantine, q); err != nil {
			q = &Quarantine{Reason: ReasonInvalidState, Detail: fmt.Sprintf("the record of the quarantine is not readable: %v", err)}
		}
		if c := m.conversations[wire.ConversationID(key[len(quarantinePrefix):])]; c != nil {
			c.shut.Store(q)
			m.log.Warn("conversation is in quarantine still", "conversation", c.id, "reason", q.Reason, "since", q.Since.Std())
		}
		return nil
	})
}

// Release ends a quarantine. It is for operators. The cause of the quarantine may lead to another one.
func (m *Manager) Release(id wire.ConversationID) error {
	c, err := m.held(id)
	if err != nil {
		return err
	}
	q := c.shut.Load()
	if q == nil {
		return wire.Errorf(wire.Invalid, "release", "%v is not in quarantine", id)
	}
	if c.awake() != nil {
		return wire.Errorf(wire.Busy, "release", "the replica of %v is still being closed: try again", id)
	}
	if err := m.cfg.Log.Meta().Delete(quarantineKey(id)); err != nil && !errors.Is(err, raftlog.ErrNotFound) {
		return fmt.Errorf("release %v: %w", id, err)
	}
	m.forgetAsleep(id)
	if c.shut.CompareAndSwap(q, nil) {
		m.log.Warn("conversation is released from quarantine", "conversation", id, "reason", q.Reason)
		m.pump.mark(id)
		m.spawn(func(ctx context.Context) { m.repair(ctx, c) })
	}
	return nil
}

// refused returns the error for requests to a conversation in quarantine, or nil for a served one. Every build treats
// its code as a failure that may pass, so no sender drops its data.
func (c *conversation) refused(op string) error {
	q := c.shut.Load()
	if q == nil {
		return nil
	}
	return wire.Errorf(wire.Unavailable, op, "conversation %v is in quarantine on node %s (%s): its operator has to release it", c.id, c.m.cfg.Node, q.Reason)
}

// recoverPanic is deferred by code that works for one conversation: it converts a panic into a quarantine of the
// conversation, and an error.
func (m *Manager) quarantineOnPanic(c *conversation, what string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	m.handlePanic(c, what, p, err)
}

func (m *Manager) handlePanic(c *conversation, what string, p any, err *error) {
	m.log.Error("panic in the work for one conversation", "conversation", c.id, "work", what, "panic", p, "stack", string(debug.Stack()))
	m.quarantine(c, ReasonPanic, fmt.Errorf("%s: panic: %v", what, p))
	if err != nil {
		*err = c.refused(what)
		if *err == nil { // released at the same moment
			*err = wire.Errorf(wire.Internal, what, "panic: %v", p)
		}
	}
}

// quarantineOnPanicIn is the form of caught for code that knows the conversation by its id, from a frame or a request.
// The conversation may not be on this node at all.
func (m *Manager) quarantineOnPanicIn(id wire.ConversationID, what string, err *error) {
	m.quarantineOnPanicAt(recover(), id, what, err)
}

// quarantineOnPanicAt is the form of quarantineOnPanicIn for code that learns the id during its work; p is the value
// that recover returned.
func (m *Manager) quarantineOnPanicAt(p any, id wire.ConversationID, what string, err *error) {
	if p == nil {
		return
	}
	if c, findErr := m.held(id); findErr == nil {
		m.handlePanic(c, what, p, err)
		return
	}
	m.stats.panics.Add(1)
	m.log.Error("panic", "work", what, "conversation", id, "panic", p, "stack", string(debug.Stack()))
	if err != nil {
		*err = wire.Errorf(wire.Internal, what, "panic: %v", p)
	}
}

// serve runs fn for one conversation on a goroutine that Run waits for. It returns false if the node does not run.
func (m *Manager) serve(c *conversation, what string, fn func(context.Context)) bool {
	return m.spawn(func(ctx context.Context) {
		defer m.quarantineOnPanic(c, what, nil)
		fn(ctx)
	})
}

// held finds a conversation, in quarantine or not.
func (m *Manager) held(id wire.ConversationID) (*conversation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.conversations[id]
	if c == nil {
		return nil, wire.Errorf(wire.UnknownConversation, "find", "node %s holds no replica of %v", m.cfg.Node, id)
	}
	return c, nil
}

// served returns the conversations that are not in quarantine.
func (m *Manager) served() []*conversation {
	list := m.list()
	served := list[:0]
	for _, c := range list {
		if c.shut.Load() == nil {
			served = append(served, c)
		}
	}
	return served
}

// Quarantines returns the number of quarantines since the Manager was created, by reason.
func (m *Manager) Quarantines() map[Reason]int64 {
	n := make(map[Reason]int64)
	for _, r := range Reasons() {
		n[r] = m.stats.quarantined[r].Load()
	}
	return n
}

type quarantineStats [lastReason + 1]atomic.Int64

// each calls fn for every conversation that is served, until fn returns false. A panic ends the service of that
// conversation only; the round continues.
func (m *Manager) each(what string, fn func(*conversation) bool) {
	for _, c := range m.served() {
		goOn := true
		func() {
			defer m.quarantineOnPanic(c, what, nil)
			goOn = fn(c)
		}()
		if !goOn {
			return
		}
	}
}

// delivered returns entries of a conversation in quarantine that the consumer has stored.
func (m *Manager) delivered(c *conversation, since wire.SequenceNumber, count, bytes int) (entries []wire.Committed, gap bool, err error) {
	if m.cfg.Consumer == nil {
		return nil, false, c.refused("read")
	}
	at, err := m.cfg.Consumer.Position(c.id)
	if err != nil {
		return nil, false, err
	}
	entries, err = m.readKept(c, m.viewAny, func(s *machine.Machine) (kept machine.EntryRange) {
		kept, gap = s.Entries(since, count, bytes)
		return kept
	})
	if err != nil {
		return nil, false, errors.Join(c.refused("read"), err)
	}
	for i := range entries {
		if entries[i].Sequence > at {
			return entries[:i], gap, nil
		}
	}
	return entries, gap, nil
}
