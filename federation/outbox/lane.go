package outbox

import (
	"cmp"
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/federation/internal/backoff"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// lane is the queue of the items of one conversation for one organization. Outbox.mu guards it. It is in memory while
// items wait.
type lane struct {
	to           *destination
	conversation wire.ConversationID
	items        int
	bytes        int64
	next         uint64    // the sequence before which no item waits
	last         uint64    // the sequence of the last item on disk
	oldest       wire.Time // of the first item
	fresh        wire.Time // of the first item that was shown since the last read; 0 for none
	front        []waiting // its first items, for the worker that is about to begin; nil: the worker reads them from the store

	serving    bool   // a worker has it
	recoveries uint64 // to.recoveries when that began
	queued     bool   // it is in to.ready
	retry      time.Time
	failures   int
	offline    bool // the last failure was of the connection to the organization, not of this lane
	early      int  // how often in a row the other side was not ready for the first item
	lastError  string
	lastCode   wire.Code
}

func (l *lane) status() LaneStatus {
	return LaneStatus{
		Organization: l.to.domain, Conversation: l.conversation, Items: l.items, Bytes: l.bytes,
		Oldest: l.oldest.Std(), Retry: l.retry, LastError: l.lastError,
	}
}

// show adds items that are on disk to their lanes. It returns the workers of the lanes that were empty: they start at
// once, with the items from memory.
func (o *Outbox) show(items []lanestore.Queued) (begun []func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	queued := false
	for _, q := range items {
		to := o.destination(q.Organization)
		l := to.lanes[q.Conversation]
		if l == nil {
			l = &lane{to: to, conversation: q.Conversation, next: q.Sequence, oldest: q.Stored.Time}
			to.lanes[q.Conversation] = l
			if o.begin(l, q) {
				d := o.dispatch
				begun = append(begun, func() { d.work(l) })
			}
		}
		if !o.inFront(l, q) {
			l.fresh = cmp.Or(l.fresh, q.Stored.Time)
			queued = true
		}
		l.items++
		l.bytes += q.Bytes
		l.last = q.Sequence
		l.enqueue()
	}
	if queued {
		o.nudge()
	}
	return begun
}

// begin takes a new lane for a worker, unless other lanes wait for one or the item is not in memory.
func (o *Outbox) begin(l *lane, q lanestore.Queued) bool {
	if o.dispatch == nil || q.Stored.Payload == nil || len(l.to.ready) > 0 || l.to.busy >= o.cfg.Concurrency {
		return false
	}
	l.serve()
	l.front = make([]waiting, 0, 1)
	o.dispatch.workers.Add(1)
	return true
}

// inFront adds an item to those that a worker has from memory, if it is the next one and one call can
// carry them all.
func (o *Outbox) inFront(l *lane, q lanestore.Queued) bool {
	if l.front == nil || len(l.front) != l.items || len(l.front) == o.cfg.BatchItems || len(l.front) > 0 && l.bytes+q.Bytes > int64(o.cfg.BatchBytes) {
		return false
	}
	l.front = append(l.front, waiting{Stored: q.Stored, Sequence: q.Sequence})
	return true
}

// enqueue makes the lane ready unless it is, is being served, or waits after a failure.
func (l *lane) enqueue() {
	if l.queued || l.serving || l.items == 0 || !l.retry.IsZero() {
		return
	}
	l.queued = true
	l.to.ready = append(l.to.ready, l)
}

// serve notes that a worker has the lane.
func (l *lane) serve() {
	l.serving, l.recoveries = true, l.to.recoveries
	l.to.busy++
}

// dispatcher serves lanes, each in a goroutine of its own.
type dispatcher struct {
	o       *Outbox
	ctx     context.Context
	stop    func(error)
	workers sync.WaitGroup // counted up under Outbox.mu
}

// work serves a lane that was counted.
func (d *dispatcher) work(l *lane) {
	defer d.workers.Done()
	if err := d.o.serve(d.ctx, l); err != nil {
		d.stop(err)
	}
}

// run serves lanes until ctx ends: those of one organization in turn, so many at once, and no
// organization waits for another.
func (d *dispatcher) run() {
	o := d.o
	defer func() {
		o.setDispatcher(nil)
		d.workers.Wait()
	}()
	for {
		due, wait := o.collect()
		for _, l := range due {
			go d.work(l)
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = o.cfg.Clock.After(wait)
		}
		select {
		case <-d.ctx.Done():
			return
		case <-o.wake:
		case <-timer:
		}
	}
}

func (o *Outbox) setDispatcher(d *dispatcher) {
	o.mu.Lock()
	o.dispatch = d
	o.mu.Unlock()
}

// collect takes the lanes that can be served now. It returns how long the next pause of another lane lasts, 0 if there
// is none.
func (o *Outbox) collect() (due []*lane, wait time.Duration) {
	now := o.cfg.Clock.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.pauses) > 0 {
		first := o.pauses[0]
		if first.lane.retry.Equal(first.until) { // or else the pause was ended before
			if wait = first.until.Sub(now); wait > 0 {
				break
			}
			first.lane.retry = time.Time{}
			first.lane.enqueue()
		}
		heap.Pop(&o.pauses)
	}
	wait = max(wait, 0)
	for _, to := range o.destinations {
		for len(to.ready) > 0 && to.busy < o.cfg.Concurrency {
			l := to.ready[0]
			to.ready = to.ready[1:]
			l.queued = false
			l.serve()
			o.dispatch.workers.Add(1)
			due = append(due, l)
		}
	}
	return due, wait
}

// outcome is the result of serving a lane once.
type outcome struct {
	gone      []uint64  // the sequences of items from the front that are gone
	bytes     int64     // their payload
	oldest    wire.Time // of the first that is left, as far as it was read; 0 if none was
	delivered int       // how many of those gone; the others were dropped
	dropped   []Dropped // the others
	err       error     // why the items that are left have to wait; nil if they need not
	offline   bool      // err is of the connection to the organization
	early     bool      // err: the other side is not ready for an item, because the entry that it needs is under way
}

// settleLane applies an outcome and makes the lane ready again if items are left.
func (o *Outbox) settleLane(l *lane, r outcome) {
	now := o.cfg.Clock.Now()
	o.mu.Lock()
	to, n := l.to, len(r.gone)
	to.busy--
	l.serving = false
	l.items -= n
	l.bytes -= r.bytes
	to.items -= n
	to.bytes -= r.bytes
	if n > 0 {
		l.next = r.gone[n-1] + 1
		l.oldest = cmp.Or(r.oldest, l.fresh)
	}
	o.settleRetry(l, r, now)
	if l.items == 0 {
		delete(to.lanes, l.conversation)
	} else {
		l.enqueue()
	}
	o.mu.Unlock()
	o.nudge()
}

// settleRetry delays the lane after a failure, for longer after each. An organization that takes an item can be
// reached again: its other lanes that only waited for that need not wait longer.
func (o *Outbox) settleRetry(l *lane, r outcome, now time.Time) {
	if len(r.gone) > 0 {
		l.failures, l.early = 0, 0
	}
	if r.offline && l.recoveries != l.to.recoveries { // the organization came back meanwhile
		l.failures = 0
	}
	l.setOffline(r.offline && l.items > 0)
	if r.err == nil || l.items == 0 {
		l.failures, l.early, l.lastError, l.lastCode = 0, 0, "", ""
	} else {
		wait := backoff.Pause(l.failures, o.cfg.RetryMin, o.cfg.RetryMax, rand.Float64())
		if r.early && l.early < earlyRetries {
			l.early++ // the entry that the item needs is under way: no failure
		} else {
			l.failures++
		}
		l.retry, l.lastError, l.lastCode = now.Add(wait), r.err.Error(), wire.CodeOf(r.err)
		if r.offline && l.lastCode == wire.Internal { // an error of the network has no code
			l.lastCode = wire.Unavailable
		}
		heap.Push(&o.pauses, pause{until: l.retry, lane: l})
	}
	if r.delivered > 0 && l.to.offline > 0 {
		l.to.reached(l)
	}
}

// earlyRetries is how often an item that came too early is sent again without growing pauses.
const earlyRetries = 16

// reached ends the pauses of the lanes that only waited for a connection to the organization, except lane but.
func (to *destination) reached(but *lane) {
	to.recoveries++
	for _, l := range to.lanes {
		if l.offline && l != but {
			l.setOffline(false)
			l.failures, l.retry = 0, time.Time{}
			l.enqueue()
		}
	}
}

// Reached reports that an organization can be reached again. Items that waited for that are sent at once.
func (o *Outbox) Reached(d wire.Domain) {
	o.mu.Lock()
	if to := o.destinations[d]; to != nil {
		to.reached(nil)
	}
	o.mu.Unlock()
	o.nudge()
}

func (l *lane) setOffline(is bool) {
	if is && !l.offline {
		l.to.offline++
	} else if !is && l.offline {
		l.to.offline--
	}
	l.offline = is
}

// pause is a lane that waits after a failure.
type pause struct {
	until time.Time
	lane  *lane
}

// pauses is a heap with the pause that ends first in front.
type pauses []pause

func (p pauses) Len() int           { return len(p) }
func (p pauses) Less(i, j int) bool { return p[i].until.Before(p[j].until) }
func (p pauses) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pauses) Push(x any)        { *p = append(*p, x.(pause)) }
func (p *pauses) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	(*p)[last] = pause{}
	*p = (*p)[:last]
	return x
}
