package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// workQueue is a queue of work that is done in order. Lanes do not wait for each other, so a conversation whose servers
// are unreachable delays no other conversation, and its messages do not wait for its commits.
type workQueue struct {
	kind queueKind
	id   ConversationID // "" for upkeep of the whole device, and for receipts
}

type queueKind uint8

const (
	kindHandshakes queueKind = iota + 1 // the work of a conversation's log: fetching, submitting, joining
	kindMessages                        // the messages of a conversation
	kindReceipts                        // receipts for received items, in all conversations
	kindUpkeep
	kindContents // states of messages, and messages that end, in all conversations
)

var (
	queueUpkeep   = workQueue{kind: kindUpkeep}
	queueReceipts = workQueue{kind: kindReceipts}
	queueContents = workQueue{kind: kindContents}
)

func handshakes(id ConversationID) workQueue { return workQueue{kindHandshakes, id} }
func messages(id ConversationID) workQueue   { return workQueue{kindMessages, id} }

// upkeepOf returns the queue for the upkeep of one conversation.
func upkeepOf(id ConversationID) workQueue { return workQueue{kindUpkeep, id} }

// later is the result of work that has to continue after some time. It is not a failure.
type later time.Duration

func (l later) Error() string { return "later, in " + time.Duration(l).String() }

// workQueues runs the queues that have work.
type workQueues struct {
	d *Device

	mu   sync.Mutex
	ctx  context.Context // while run runs
	wg   *sync.WaitGroup
	due  map[workQueue]bool // kicked while run did not run
	busy map[workQueue]*queueState
}

type queueState struct {
	again bool          // kicked meanwhile
	wake  chan struct{} // not nil while the queue waits
}

func (l *workQueues) init(d *Device) {
	l.d, l.due, l.busy = d, make(map[workQueue]bool), make(map[workQueue]*queueState)
}

// run works until ctx ends, and returns when all queues have stopped.
func (l *workQueues) run(ctx context.Context) {
	var wg sync.WaitGroup
	l.mu.Lock()
	l.ctx, l.wg = ctx, &wg
	due := l.due
	l.due = make(map[workQueue]bool)
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

// kick makes a queue look for work now, or after its present work.
func (l *workQueues) kick(k workQueue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.due[k] = true
		return
	}
	if s := l.busy[k]; s != nil {
		s.again = true
		s.endWait()
		return
	}
	l.busy[k] = &queueState{}
	ctx := l.ctx
	l.wg.Go(func() { l.work(ctx, k) })
}

// endWait ends the wait of a queue. The caller holds the mutex.
func (s *queueState) endWait() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// wakeAll ends all waits: the device has a connection again.
func (l *workQueues) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.busy {
		s.endWait()
	}
}

func (l *workQueues) work(ctx context.Context, k workQueue) {
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

// pause decides how a queue continues: at once (nil, true), after a wait that the channel ends, or not at all.
func (l *workQueues) pause(ctx context.Context, k workQueue, unfinished bool) (<-chan struct{}, bool) {
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

func (l *workQueues) rested(k workQueue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.busy[k]; s != nil {
		s.wake = nil
	}
}

// work does one step of a queue. It returns nil when no work is left; later or an error requests another call.
func (d *Device) work(ctx context.Context, k workQueue) error {
	switch k.kind {
	case kindHandshakes:
		return d.workHandshakes(ctx, k.id)
	case kindMessages:
		return d.workMessages(ctx, k.id)
	case kindReceipts:
		return d.workReceipts(ctx)
	case kindContents:
		return d.workContents(ctx)
	default:
		if k.id != "" {
			return errors.Join(d.tendConversations(ctx, k.id), d.tendReaders(ctx, k.id))
		}
		return d.upkeep(ctx)
	}
}

// delayed emits an event when a conversation's work was refused for now. EventOffline reports delays caused by a lost
// connection.
func (d *Device) delayed(ctx context.Context, k workQueue, why error, again time.Duration) {
	var refused *Error
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

// noteUnknown measures how long the node has not known a conversation. A restored node gets to know the conversation
// again; the device waits for that no longer than Timing.Unknown.
func (d *Device) noteUnknown(u *unit, id ConversationID, why *Error) error {
	t, err := d.findConversation(u, id)
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
		if t.rec.State == StateJoining { // otherwise breakOff joins with the same Welcome again
			u.delete(t.welcomeKey())
			u.delete(t.searchKey())
		}
		return t.breakOff(wire.Errorf(wire.UnknownConversation, "entries", "the node has not known %v for %v: ask a member to restore this device (%v)", id, most, why))
	}
	return nil
}

// waiters holds the calls that wait for the outcome of an operation.
type waiters struct {
	mu   sync.Mutex
	byOp map[operation][]chan error
}

// operation identifies an operationRecord.
type operation struct {
	id     ConversationID
	number uint64
}

func (w *waiters) init() { w.byOp = make(map[operation][]chan error) }

func (w *waiters) add(o operation) <-chan error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan error, 1)
	w.byOp[o] = append(w.byOp[o], c)
	return c
}

// drop forgets one waiting call.
func (w *waiters) drop(o operation, gone <-chan error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := slices.DeleteFunc(w.byOp[o], func(c chan error) bool { return c == gone })
	if w.byOp[o] = left; len(left) == 0 {
		delete(w.byOp, o)
	}
}

// done sends the outcome to all waiting calls, and reports whether there was one.
func (w *waiters) done(o operation, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.byOp[o]
	for _, c := range list {
		c <- err
	}
	delete(w.byOp, o)
	return len(list) > 0
}
