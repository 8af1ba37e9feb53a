package outbox

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// maxWaitingRead bounds the bytes that Waiting reads of one lane.
const maxWaitingRead = 4 << 20

// Waiting describes the items of one conversation that wait, by organization. First has the ids of the items that are
// sent next, at most most for each organization. Items that are being sent count as waiting. The state is that of a
// moment: an item can be handed over, or dropped, while the list is made.
func (o *Outbox) Waiting(id wire.ConversationID, most int) ([]wire.WaitingLane, error) {
	type bounds struct{ from, to uint64 }
	var list []wire.WaitingLane
	places := make(map[wire.Domain]bounds)
	o.mu.Lock()
	for _, to := range o.destinations {
		if l := to.lanes[id]; l != nil && l.items > 0 {
			list = append(list, wire.WaitingLane{Organization: to.domain, Items: uint64(l.items), Oldest: l.oldest, Code: l.lastCode, First: []wire.SubmissionID{}})
			places[to.domain] = bounds{from: l.next, to: l.last}
		}
	}
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b wire.WaitingLane) int { return cmp.Compare(a.Organization, b.Organization) })
	for i := range list {
		at := places[list[i].Organization]
		if err := o.firstOf(&list[i], id, at.from, at.to, most); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// firstOf reads the ids of the first items of a lane, between two sequences.
func (o *Outbox) firstOf(l *wire.WaitingLane, id wire.ConversationID, from, to uint64, most int) error {
	size := 0
	return o.store.Read(context.Background(), l.Organization, id, from, to, func(it waiting) bool {
		size += len(it.Payload)
		if it.Damage == nil { // a damaged item is dropped later
			l.First, l.Last = append(l.First, it.ID), it.Time
		}
		return len(l.First) < most && size < maxWaitingRead
	})
}

// flushLook is the pause between two checks of Flush.
const flushLook = 2 * time.Millisecond

// Flush waits until the items of a conversation that wait now for some organizations have been handed over or dropped,
// or ctx ends. It does not wait for an organization whose last attempt failed.
func (o *Outbox) Flush(ctx context.Context, id wire.ConversationID, orgs []wire.Domain) {
	last := make(map[wire.Domain]uint64) // the last item that Flush waits for
	o.mu.Lock()
	for _, d := range orgs {
		if to := o.destinations[d]; to != nil && to.lanes[id] != nil {
			last[d] = to.lanes[id].last
		}
	}
	o.mu.Unlock()
	waits := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for d, n := range last {
			if l := o.destinations[d].lanes[id]; l == nil || l.items == 0 || l.failures > 0 || l.next > n {
				delete(last, d)
			}
		}
		return len(last) > 0
	}
	for waits() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(flushLook):
		}
	}
}
