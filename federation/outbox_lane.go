package federation

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// lane is what waits of one conversation for one organization. Outbox.mu guards it. It is in memory
// while something waits.
type lane struct {
	org          *outboxOrg
	conversation wire.ConversationID
	items        int
	bytes        int64
	next         uint64    // nothing waits before this sequence
	last         uint64    // the last one that is on disk
	oldest       wire.Time // of the first item
	fresh        wire.Time // of the first item that was shown since the last reading; 0 for none
	front        []waiting // its first items, for the worker that is about to begin; nil: they are on disk only

	serving   bool   // a worker has it
	ups       uint64 // org.ups when that began
	queued    bool   // it is in org.ready
	retry     time.Time
	failures  int
	offline   bool // the last failure was of the way to the organization, not of this lane
	early     int  // how often in a row the other side was not ready for the first item
	lastError string
	lastCode  wire.Code
}

func (l *lane) status() LaneStatus {
	return LaneStatus{
		Organization: l.org.domain, Conversation: l.conversation, Items: l.items, Bytes: l.bytes,
		Oldest: l.oldest.Std(), Retry: l.retry, LastError: l.lastError,
	}
}

// show adds items that are on disk to their lanes, and returns the workers of lanes that are to be served at
// once: they were empty, and nothing stands before them. Those have the items from memory.
func (o *Outbox) show(items []queuedItem) (begun []func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	queued := false
	for _, q := range items {
		org := o.org(q.org)
		l := org.lanes[q.conversation]
		if l == nil {
			l = &lane{org: org, conversation: q.conversation, next: q.sequence, oldest: q.item.Time}
			org.lanes[q.conversation] = l
			if o.begin(l, q) {
				d := o.dispatch
				begun = append(begun, func() { d.work(l) })
			}
		}
		if !o.inFront(l, q) {
			l.fresh = or(l.fresh, q.item.Time)
			queued = true
		}
		l.items++
		l.bytes += q.bytes
		l.last = q.sequence
		l.enqueue()
	}
	if queued {
		o.nudge()
	}
	return begun
}

// begin takes a new lane for a worker, unless others come first or the item is not in memory.
func (o *Outbox) begin(l *lane, q queuedItem) bool {
	if o.dispatch == nil || q.item.Payload == nil || len(l.org.ready) > 0 || l.org.busy >= o.cfg.Concurrency {
		return false
	}
	l.serve()
	l.front = make([]waiting, 0, 1)
	o.dispatch.workers.Add(1)
	return true
}

// inFront adds an item to those that a worker has from memory, if it is the next one and one call can
// carry them all.
func (o *Outbox) inFront(l *lane, q queuedItem) bool {
	if l.front == nil || len(l.front) != l.items || len(l.front) == o.cfg.BatchItems || len(l.front) > 0 && l.bytes+q.bytes > int64(o.cfg.BatchBytes) {
		return false
	}
	l.front = append(l.front, waiting{q.item, q.sequence, nil})
	return true
}

// enqueue makes the lane ready unless it is, is being served, or waits after a failure.
func (l *lane) enqueue() {
	if l.queued || l.serving || l.items == 0 || !l.retry.IsZero() {
		return
	}
	l.queued = true
	l.org.ready = append(l.org.ready, l)
}

// serve notes that a worker has the lane.
func (l *lane) serve() {
	l.serving, l.ups = true, l.org.ups
	l.org.busy++
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

// collect takes the lanes that can be served now, and says how long until another one's pause is over, 0
// if there is none.
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
	for _, org := range o.orgs {
		for len(org.ready) > 0 && org.busy < o.cfg.Concurrency {
			l := org.ready[0]
			org.ready = org.ready[1:]
			l.queued = false
			l.serve()
			o.dispatch.workers.Add(1)
			due = append(due, l)
		}
	}
	return due, wait
}

// outcome is what serving a lane once has brought.
type outcome struct {
	gone      []uint64  // the sequences of items from the front that are gone
	bytes     int64     // their payload
	oldest    wire.Time // of the first that is left, as far as it was read; 0 if none was
	delivered int       // of those gone; the others were dropped
	dropped   []Dropped // those
	err       error     // why those that are left have to wait; nil if they need not
	offline   bool      // err is of the way to the organization
	early     bool      // err says that the other side is not ready for an item: what it builds on is under way
}

// settleLane takes an outcome into account and makes the lane ready again if anything is left.
func (o *Outbox) settleLane(l *lane, r outcome) {
	now := o.cfg.Clock.Now()
	o.mu.Lock()
	org, n := l.org, len(r.gone)
	org.busy--
	l.serving = false
	l.items -= n
	l.bytes -= r.bytes
	org.items -= n
	org.bytes -= r.bytes
	if n > 0 {
		l.next = r.gone[n-1] + 1
		l.oldest = or(r.oldest, l.fresh)
	}
	o.settleRetry(l, r, now)
	if l.items == 0 {
		delete(org.lanes, l.conversation)
	} else {
		l.enqueue()
	}
	o.mu.Unlock()
	o.nudge()
}

// settleRetry puts the lane off after a failure, for longer after each. What an organization takes shows
// that it can be reached again: its other lanes that only waited for that need not wait longer.
func (o *Outbox) settleRetry(l *lane, r outcome, now time.Time) {
	if len(r.gone) > 0 {
		l.failures, l.early = 0, 0
	}
	if r.offline && l.ups != l.org.ups { // it came back meanwhile
		l.failures = 0
	}
	l.setOffline(r.offline && l.items > 0)
	if r.err == nil || l.items == 0 {
		l.failures, l.early, l.lastError, l.lastCode = 0, 0, "", ""
	} else {
		wait := backoff(l.failures, o.cfg.RetryMin, o.cfg.RetryMax, o.cfg.Jitter())
		if r.early && l.early < soon {
			l.early++ // what it waits for is under way: that is no failure
		} else {
			l.failures++
		}
		l.retry, l.lastError, l.lastCode = now.Add(wait), r.err.Error(), wire.CodeOf(r.err)
		if r.offline && l.lastCode == wire.Internal { // an error of the network has no code
			l.lastCode = wire.Unavailable
		}
		heap.Push(&o.pauses, pause{l.retry, l})
	}
	if r.delivered > 0 && l.org.offline > 0 {
		l.org.reached(l)
	}
}

// soon is how often an item that came too early is sent again without growing pauses.
const soon = 16

// reached ends the pauses of lanes that only waited for the way to the organization. The lane but is left alone.
func (org *outboxOrg) reached(but *lane) {
	org.ups++
	for _, l := range org.lanes {
		if l.offline && l != but {
			l.setOffline(false)
			l.failures, l.retry = 0, time.Time{}
			l.enqueue()
		}
	}
}

// Reached takes in that an organization can be reached again: what waited for that is sent at once.
func (o *Outbox) Reached(d wire.Domain) {
	o.mu.Lock()
	if org := o.orgs[d]; org != nil {
		org.reached(nil)
	}
	o.mu.Unlock()
	o.nudge()
}

func (l *lane) setOffline(is bool) {
	if is && !l.offline {
		l.org.offline++
	} else if !is && l.offline {
		l.org.offline--
	}
	l.offline = is
}

// pause is a lane that waits after a failure.
type pause struct {
	until time.Time
	lane  *lane
}

// pauses is a heap, the one that ends first in front.
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
