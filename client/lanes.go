package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// lane is work that is done in order. Lanes do not wait for each other, so that a conversation whose
// servers are unreachable delays no other, and its messages do not wait for its commits.
type lane struct {
	kind laneKind
	id   wire.ConversationID // "" for upkeep of all that the device has, and for receipts
}

type laneKind uint8

const (
	kindHandshakes laneKind = iota + 1 // what a conversation's log needs: fetching, submitting, joining
	kindMessages                       // its messages
	kindReceipts                       // receipts for what came, in all conversations
	kindUpkeep
)

var (
	laneUpkeep   = lane{kind: kindUpkeep}
	laneReceipts = lane{kind: kindReceipts}
)

func handshakes(id wire.ConversationID) lane { return lane{kindHandshakes, id} }
func messages(id wire.ConversationID) lane   { return lane{kindMessages, id} }

// upkeepOf is upkeep of one conversation.
func upkeepOf(id wire.ConversationID) lane { return lane{kindUpkeep, id} }

// later is what work returns that has to go on after some time. It is no failure.
type later time.Duration

func (l later) Error() string { return "later, in " + time.Duration(l).String() }

// lanes runs the lanes that have work to do.
type lanes struct {
	d *Device

	mu   sync.Mutex
	ctx  context.Context // while run runs
	wg   *sync.WaitGroup
	due  map[lane]bool // kicked while run did not run
	busy map[lane]*laneState
}

type laneState struct {
	again bool          // kicked meanwhile
	wake  chan struct{} // not nil while the lane waits
}

func (l *lanes) init(d *Device) {
	l.d, l.due, l.busy = d, make(map[lane]bool), make(map[lane]*laneState)
}

// run works until ctx ends and returns when no lane works any more.
func (l *lanes) run(ctx context.Context) {
	var wg sync.WaitGroup
	l.mu.Lock()
	l.ctx, l.wg = ctx, &wg
	due := l.due
	l.due = make(map[lane]bool)
	l.mu.Unlock()
	for k := range due {
		l.kick(k)
	}
	<-ctx.Done()
	l.mu.Lock()
	l.ctx, l.wg = nil, nil
	l.mu.Unlock()
	wg.Wait()
}

// kick makes a lane look for work, now or after what it is at.
func (l *lanes) kick(k lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.due[k] = true
		return
	}
	if s := l.busy[k]; s != nil {
		s.again = true
		s.rouse()
		return
	}
	l.busy[k] = &laneState{}
	ctx := l.ctx
	l.wg.Go(func() { l.work(ctx, k) })
}

// rouse ends the wait of a lane. The caller holds the mutex.
func (s *laneState) rouse() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// wakeAll ends all waits: there is a connection again.
func (l *lanes) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.busy {
		s.rouse()
	}
}

func (l *lanes) work(ctx context.Context, k lane) {
	failures := 0
	for {
		err := l.d.work(ctx, k)
		var wait later
		switch {
		case err == nil:
			failures = 0
		case errors.As(err, &wait):
			failures = 0
		default:
			failures++
			wait = later(l.d.backoff(failures))
			if ctx.Err() == nil {
				l.d.log.Info("work is tried again", "kind", k.kind, "conversation", k.id, "error", err, "again", time.Duration(wait))
				l.d.delayed(ctx, k, err, time.Duration(wait))
			}
		}
		wake, more := l.pause(ctx, k, err != nil)
		if !more {
			return
		}
		if wake == nil {
			continue
		}
		select {
		case <-wake:
		case <-l.d.opts.Clock.After(time.Duration(wait)):
			l.rested(k)
		case <-ctx.Done():
		}
	}
}

// pause says how a lane goes on: at once (nil, true), after a wait that the channel ends, or not at all.
func (l *lanes) pause(ctx context.Context, k lane, unfinished bool) (<-chan struct{}, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.busy[k]
	switch {
	case ctx.Err() != nil:
		if unfinished || s.again {
			l.due[k] = true
		}
		delete(l.busy, k)
		return nil, false
	case s.again:
		s.again = false
		return nil, true
	case !unfinished:
		delete(l.busy, k)
		return nil, false
	}
	s.wake = make(chan struct{})
	return s.wake, true
}

func (l *lanes) rested(k lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.busy[k]; s != nil {
		s.wake = nil
	}
}

// work does one step of a lane: nil when there is nothing left to do, later or an error to be called again.
func (d *Device) work(ctx context.Context, k lane) error {
	switch k.kind {
	case kindHandshakes:
		return d.workHandshakes(ctx, k.id)
	case kindMessages:
		return d.workMessages(ctx, k.id)
	case kindReceipts:
		return d.workReceipts(ctx)
	default:
		if k.id != "" {
			return errors.Join(d.tendConversations(ctx, k.id), d.tendReaders(ctx, k.id))
		}
		return d.upkeep(ctx)
	}
}

// delayed tells that a conversation's work was refused for now. What a connection that is gone delays is told
// by EventOffline.
func (d *Device) delayed(ctx context.Context, k lane, why error, again time.Duration) {
	var refused *wire.Error
	if k.kind == kindUpkeep || !errors.As(why, &refused) {
		return
	}
	d.emit(Event{Type: EventDelayed, Conversation: k.id, Err: why, Retry: again})
	if refused.Code != wire.UnknownConversation {
		return
	}
	if err := d.turn(ctx, func(u *unit) error { return d.noteUnknown(u, k.id, refused) }); err != nil {
		d.log.Error("conversation cannot be noted as unknown to the node", "conversation", k.id, "error", err)
	}
}

// noteUnknown counts the time for which the node has not known a conversation. A node that was restored comes
// to know it again; after Timing.Unknown that is not waited for any longer.
func (d *Device) noteUnknown(u *unit, id wire.ConversationID, why *wire.Error) error {
	t, err := d.thread(u, id)
	if err != nil || t == nil {
		return err
	}
	switch t.rec.State {
	case StateActive, StateLeaving, StateJoining:
	default:
		return nil
	}
	if t.rec.Line.Unknown == 0 {
		t.rec.Line.Unknown = d.now()
		return t.save()
	}
	if most := d.opts.Timing.Unknown; d.now()-t.rec.Line.Unknown >= wire.Time(most.Milliseconds()) {
		return t.breakOff(wire.Errorf(wire.UnknownConversation, "entries", "the node has not known %v for %v: ask a member to restore this device (%v)", id, most, why))
	}
	return nil
}

// waiters are calls that wait for the outcome of an operation.
type waiters struct {
	mu   sync.Mutex
	byOp map[operation]chan error
}

// operation names an operationRecord.
type operation struct {
	id     wire.ConversationID
	number uint64
}

func (w *waiters) init() { w.byOp = make(map[operation]chan error) }

func (w *waiters) add(o operation) <-chan error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan error, 1)
	w.byOp[o] = c
	return c
}

func (w *waiters) drop(o operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byOp, o)
}

// done tells the waiter, and reports whether there was one.
func (w *waiters) done(o operation, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.byOp[o]
	if ok {
		c <- err
		delete(w.byOp, o)
	}
	return ok
}
