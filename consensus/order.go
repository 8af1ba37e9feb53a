package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// order judges an entry, so that refused entries do not fill the log, and gives it to Raft. No other goroutine may
// change e meanwhile. key is the key with which the signature has been verified, zero for none.
func (l *live) order(ctx context.Context, e *wire.Entry, key wire.SubmissionKey) (wire.Receipt, error) {
	r := l.r.Load()
	if r == nil {
		return wire.Receipt{}, fmt.Errorf("starting: %w", errAgain)
	}
	// A leader that has not yet applied an entry of its own term may lag behind the committed entries: it cannot
	// judge, and leaves the decision to the state machine.
	if term := r.CurrentTerm(); l.ready.Load() == term {
		var receipt *wire.Receipt
		var err error
		l.fsm.read(func(m *machine.Machine) {
			if receipt, key, err = m.JudgeVerified(e, key); err == nil && receipt == nil {
				err = l.m.cfg.Limits.mayAdd(m, e.Envelope)
			}
		})
		if err != nil {
			return wire.Receipt{}, err
		} else if receipt != nil {
			return *receipt, nil
		}
	}
	g, err := l.proposeEntry(ctx, r, e, key)
	if err != nil {
		return wire.Receipt{}, err
	}
	return l.commit(ctx, r, g)
}

// mayAdd refuses a submission that brings more organizations into a conversation than can hold replicas of it. An
// organization that leaves counts until nothing can contest the commit that removes it: until then it holds a
// replica.
func (l *Limits) mayAdd(m *machine.Machine, e *wire.Envelope) error {
	var add []wire.Address
	switch {
	case e == nil:
		return nil
	case e.Create != nil:
		add = e.Create.Delivery
	case e.Commit != nil:
		add = e.Commit.Delivery.Add
	}
	orgs := make(map[wire.Domain]bool)
	for _, s := range m.Spans() {
		if s.Until == 0 {
			orgs[s.Organization] = true
		}
	}
	for _, d := range m.Holders() {
		orgs[d] = true
	}
	before := len(orgs)
	for _, a := range add {
		orgs[a.Organization] = true
	}
	if len(orgs) <= max(before, l.Organizations) {
		return nil
	}
	return wire.Errorf(wire.TooLarge, "submit", "the conversation would have %d organizations, at most %d: each holds a copy of it",
		len(orgs), l.Organizations)
}

// proposedEntry is an entry that Raft has received.
type proposedEntry struct {
	raw    []byte
	waiter *waiter
	turned <-chan struct{}
}

// proposeEntry gives an entry to Raft. If a change of replicas is being chosen, it waits for that first.
func (l *live) proposeEntry(ctx context.Context, r *raft.Raft, e *wire.Entry, key wire.SubmissionKey) (proposedEntry, error) {
	for {
		l.mu.Lock()
		choosing := l.choosing
		if choosing == nil {
			l.giving++
		}
		l.mu.Unlock()
		if choosing == nil {
			break
		}
		select {
		case <-choosing:
		case <-ctx.Done():
			return proposedEntry{}, fmt.Errorf("%w: %v", errAgain, ctx.Err())
		}
	}
	defer func() {
		l.mu.Lock()
		l.giving--
		l.mu.Unlock()
	}()
	return l.enqueueEntry(r, e, key)
}

// enqueueEntry gives an entry to Raft without waiting; the caller must be allowed to.
func (l *live) enqueueEntry(r *raft.Raft, e *wire.Entry, key wire.SubmissionKey) (proposedEntry, error) {
	raw, err := wire.Encode(e)
	if err != nil {
		return proposedEntry{}, err
	}
	w := &waiter{answer: make(chan machine.Outcome, 1), term: r.CurrentTerm(), key: key}
	g := proposedEntry{raw, w, l.turns()}
	l.waiters.Store(&raw[0], w)
	r.Apply(raw, l.m.cfg.Timers.Call)
	// The entry is decoded while the disks write it. e itself is not used: the state is to come from these bytes alone.
	if decoded := new(wire.Entry); wire.Decode(raw, wire.MaxEntry, decoded) == nil {
		w.entry.Store(decoded)
	}
	return g, nil
}

// settle prevents others from giving entries to Raft until release, and waits until the entries that this leader has
// given to Raft are applied. It reports whether they are.
func (l *live) settle(r *raft.Raft) (settled bool, release func()) {
	choosing := make(chan struct{})
	for {
		l.mu.Lock()
		before := l.choosing
		if before == nil {
			l.choosing = choosing
		}
		l.mu.Unlock()
		if before == nil {
			break
		}
		<-before
	}
	release = func() {
		l.mu.Lock()
		l.choosing = nil
		l.mu.Unlock()
		close(choosing)
	}
	term := r.CurrentTerm()
	for deadline := time.Now().Add(l.m.cfg.Timers.Call); ; {
		switch {
		case r.State() != raft.Leader || r.CurrentTerm() != term:
			return false, release
		case !l.awaits(term):
			return true, release
		case time.Now().After(deadline):
			// Raft does not answer requests that it rejects, for example during a leader transfer.
			last := r.LastIndex()
			return r.AppliedIndex() == last && l.appliedTo(last), release
		case !pause(l.ctx, time.Millisecond):
			return false, release
		}
	}
}

// awaits reports whether entries given to Raft in this term are not applied yet, and drops those of other terms.
func (l *live) awaits(term uint64) bool {
	l.mu.Lock()
	open := l.giving > 0
	l.mu.Unlock()
	l.waiters.Range(func(first, w any) bool {
		if w.(*waiter).term == term {
			open = true
		} else {
			l.waiters.Delete(first)
		}
		return true
	})
	return open
}

// commit waits until Raft has committed and applied an entry. If it returns errAgain, the fate of the entry is
// unknown.
//
// commit does not wait for Raft's own future: when Raft shuts down, it does not answer requests in its channels.
// Instead the state machine answers; it receives exactly the bytes that were given to Raft. The end of leadership is
// observed separately.
func (l *live) commit(ctx context.Context, r *raft.Raft, g proposedEntry) (wire.Receipt, error) {
	term, answer, turned := g.waiter.term, g.waiter.answer, g.turned
	check := time.NewTicker(l.m.cfg.Timers.Call)
	defer check.Stop()
	for {
		if r.State() != raft.Leader || r.CurrentTerm() != term {
			select {
			case out := <-answer: // the entry was the last one applied before the end
				return l.receiptOf(out, 0)
			default:
				l.waiters.Delete(&g.raw[0])
				return wire.Receipt{}, fmt.Errorf("leadership was lost: %w", errAgain)
			}
		}
		select {
		case out := <-answer:
			return l.receiptOf(out, term)
		case <-turned:
			turned = l.turns()
		case <-check.C:
		case <-l.ctx.Done():
			return wire.Receipt{}, fmt.Errorf("replica is shutting down: %w", errAgain)
		case <-ctx.Done(): // the waiter stays, because the entry is still on its way
			return wire.Receipt{}, fmt.Errorf("%w: %v", errAgain, ctx.Err())
		}
	}
}

func (l *live) receiptOf(out machine.Outcome, term uint64) (wire.Receipt, error) {
	if term > 0 {
		l.ready.Store(term)
	}
	if out.Err != nil {
		return wire.Receipt{}, out.Err
	}
	return out.Receipt, nil
}
