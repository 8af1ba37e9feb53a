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

// Quarantine ends a node's service of one conversation, and of no other: what came from other nodes
// contradicts itself or what is here, or the code that works for it panicked. The replica is closed, no
// frame and no submission is served, nothing is deleted, and what the consumer has stored can still be
// read. The fact is on disk, in a record of its own, and holds until an operator releases the
// conversation. The other replicas see a node that answers Unavailable, and go on without it.

// Reason says why a conversation is in quarantine. Numbers and names do not change: they are on disk and
// in metrics.
type Reason uint8

// The reasons.
const (
	ReasonInvalidState Reason = 1 // a state that no state machine makes
	ReasonRewritten    Reason = 2 // entries that were applied here would be replaced
	ReasonDiverged     Reason = 3 // the log does not continue what was applied here
	ReasonPanic        Reason = 4 // the code that works for the conversation panicked

	lastReason = ReasonPanic
)

var reasonNames = [...]string{ReasonInvalidState: "invalid_state", ReasonRewritten: "rewritten", ReasonDiverged: "diverged", ReasonPanic: "panic"}

// Reasons are all reasons.
func Reasons() []Reason {
	return []Reason{ReasonInvalidState, ReasonRewritten, ReasonDiverged, ReasonPanic}
}

// String is the reason's name in metrics and in status.
func (r Reason) String() string {
	if r >= 1 && r <= lastReason {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Quarantine is what is written down of one. A build that does not know the reason still keeps the
// conversation out of service.
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

// closeQuarantined shuts the replica down where it is awake.
func (m *Manager) closeQuarantined(c *conversation) {
	defer m.caught(c, "close", nil)
	for l := c.awake(); l != nil && c.shut.Load() != nil; l = c.awake() {
		if c.settle() {
			continue // it is being opened, or closed
		}
		if l.r.Load() == nil || !l.close(0, nil) {
			pause(l.ctx, time.Millisecond)
		}
	}
}

// loadQuarantines reads what was written down. The conversations stand already.
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

// Release ends a quarantine: an operator's act. What led to it may lead to it again.
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

// refused is the answer to whoever asks for a conversation in quarantine; nil for one that is served.
// Its code is one that every build takes for a failure that may pass: nobody drops what he wants to bring.
func (c *conversation) refused(op string) error {
	q := c.shut.Load()
	if q == nil {
		return nil
	}
	return wire.Errorf(wire.Unavailable, op, "conversation %v is in quarantine on node %s (%s): its operator has to release it", c.id, c.m.cfg.Node, q.Reason)
}

// caught is deferred by whatever works for one conversation: a panic becomes its quarantine, and an error.
func (m *Manager) caught(c *conversation, what string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	m.panicked(c, what, p, err)
}

func (m *Manager) panicked(c *conversation, what string, p any, err *error) {
	m.log.Error("panic in the work for one conversation", "conversation", c.id, "work", what, "panic", p, "stack", string(debug.Stack()))
	m.quarantine(c, ReasonPanic, fmt.Errorf("%s: panic: %v", what, p))
	if err != nil {
		*err = c.refused(what)
		if *err == nil { // released in the same moment
			*err = wire.Errorf(wire.Internal, what, "panic: %v", p)
		}
	}
}

// caughtIn is caught where the conversation is known by its id, from a frame or a request, and may not be
// here at all.
func (m *Manager) caughtIn(id wire.ConversationID, what string, err *error) {
	m.caughtAt(recover(), id, what, err)
}

// caughtAt is caughtIn where the id becomes known on the way; p is what recover returned.
func (m *Manager) caughtAt(p any, id wire.ConversationID, what string, err *error) {
	if p == nil {
		return
	}
	if c, findErr := m.held(id); findErr == nil {
		m.panicked(c, what, p, err)
		return
	}
	m.stats.panics.Add(1)
	m.log.Error("panic", "work", what, "conversation", id, "panic", p, "stack", string(debug.Stack()))
	if err != nil {
		*err = wire.Errorf(wire.Internal, what, "panic: %v", p)
	}
}

// serve runs work for one conversation on a goroutine that Run waits for; false when the node does not run.
func (m *Manager) serve(c *conversation, what string, fn func(context.Context)) bool {
	return m.spawn(func(ctx context.Context) {
		defer m.caught(c, what, nil)
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

// served are the conversations that are not in quarantine.
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

// Quarantines counts the quarantines that began since the Manager was made, by reason.
func (m *Manager) Quarantines() map[Reason]int64 {
	n := make(map[Reason]int64)
	for _, r := range Reasons() {
		n[r] = m.stats.quarantined[r].Load()
	}
	return n
}

type quarantineStats [lastReason + 1]atomic.Int64

// each calls fn for every conversation that is served, until it returns false. A panic ends the service of
// the conversation that it concerns, and not the round.
func (m *Manager) each(what string, fn func(*conversation) bool) {
	for _, c := range m.served() {
		goOn := true
		func() {
			defer m.caught(c, what, nil)
			goOn = fn(c)
		}()
		if !goOn {
			return
		}
	}
}

// delivered are entries of a conversation in quarantine that the consumer has stored.
func (m *Manager) delivered(c *conversation, since wire.SequenceNumber, count, bytes int) (entries []wire.Committed, gap bool, err error) {
	if m.cfg.Consumer == nil {
		return nil, false, c.refused("read")
	}
	at, err := m.cfg.Consumer.Position(c.id)
	if err != nil {
		return nil, false, err
	}
	if err := m.look(c, func(s *machine.Machine) { entries, gap = s.Entries(since, count, bytes) }); err != nil {
		return nil, false, errors.Join(c.refused("read"), err)
	}
	for i := range entries {
		if entries[i].Sequence > at {
			return entries[:i], gap, nil
		}
	}
	return entries, gap, nil
}
