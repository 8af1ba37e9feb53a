package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// order judges an entry, so that what is refused does not fill the log, and hands it to Raft. Nobody
// changes e meanwhile. key is one under which the signature has been verified, zero for none.
func (l *live) order(ctx context.Context, e *wire.Entry, key wire.SubmissionKey) (wire.Receipt, error) {
	r := l.r.Load()
	if r == nil {
		return wire.Receipt{}, fmt.Errorf("starting: %w", errAgain)
	}
	// A leader that has not yet applied an entry of its own term may lag behind what is committed: it
	// cannot judge, and lets the log decide.
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
	g, err := l.give(ctx, r, e, key)
	if err != nil {
		return wire.Receipt{}, err
	}
	return l.commit(ctx, r, g)
}

// mayAdd refuses a submission that brings more organizations into a conversation than can hold replicas of
// it. Those that leave count until nothing can contest the commit that removes them: so long they hold one.
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

// given is an entry that was handed to Raft.
type given struct {
	raw    []byte
	waiter *waiter
	turned <-chan struct{}
}

// give hands an entry to Raft, unless a change of replicas is being chosen: then it waits for that.
func (l *live) give(ctx context.Context, r *raft.Raft, e *wire.Entry, key wire.SubmissionKey) (given, error) {
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
			return given{}, fmt.Errorf("%w: %v", errAgain, ctx.Err())
		}
	}
	defer func() {
		l.mu.Lock()
		l.giving--
		l.mu.Unlock()
	}()
	return l.hand(r, e, key)
}

// hand is give for who may.
func (l *live) hand(r *raft.Raft, e *wire.Entry, key wire.SubmissionKey) (given, error) {
	raw, err := wire.Encode(e)
	if err != nil {
		return given{}, err
	}
	g := given{raw, &waiter{make(chan machine.Outcome, 1), r.CurrentTerm(), key}, l.turns()}
	l.waiters.Store(&raw[0], g.waiter)
	r.Apply(raw, l.m.cfg.Timers.Call)
	return g, nil
}

// settle keeps others from handing entries to Raft until release, and waits until what this leader has handed to it
// is applied. It reports whether it is.
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
			// Raft does not answer who it has turned away, as while it hands leadership over.
			last := r.LastIndex()
			return r.AppliedIndex() == last && l.appliedTo(last), release
		case !pause(l.ctx, time.Millisecond):
			return false, release
		}
	}
}

// awaits reports whether something is on its way to be applied that was handed to Raft in this term, and forgets what
// was in others.
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

// commit waits until Raft has committed and applied an entry. Where it returns errAgain, the fate of the
// entry is open.
//
// It does not wait for Raft's own future: what waits in Raft's channels when it shuts down is never
// answered. The state machine answers instead, which is handed the very bytes that were given to Raft;
// the end of leadership is heard of by itself.
func (l *live) commit(ctx context.Context, r *raft.Raft, g given) (wire.Receipt, error) {
	term, answer, turned := g.waiter.term, g.waiter.answer, g.turned
	check := time.NewTicker(l.m.cfg.Timers.Call)
	defer check.Stop()
	for {
		if r.State() != raft.Leader || r.CurrentTerm() != term {
			select {
			case out := <-answer: // it was the last thing before
				return l.answered(out, 0)
			default:
				l.waiters.Delete(&g.raw[0])
				return wire.Receipt{}, fmt.Errorf("leadership was lost: %w", errAgain)
			}
		}
		select {
		case out := <-answer:
			return l.answered(out, term)
		case <-turned:
			turned = l.turns()
		case <-check.C:
		case <-l.ctx.Done():
			return wire.Receipt{}, fmt.Errorf("replica is shutting down: %w", errAgain)
		case <-ctx.Done(): // its waiter stays: it is still on its way
			return wire.Receipt{}, fmt.Errorf("%w: %v", errAgain, ctx.Err())
		}
	}
}

func (l *live) answered(out machine.Outcome, term uint64) (wire.Receipt, error) {
	if term > 0 {
		l.ready.Store(term)
	}
	if out.Err != nil {
		return wire.Receipt{}, out.Err
	}
	return out.Receipt, nil
}
