package federation

import (
	"context"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// maxWaitingRead bounds the bytes that Waiting reads of one lane.
const maxWaitingRead = 4 << 20

// Waiting is what waits of one conversation, by organization. First has the ids of the items that are sent next, at most
// most for each organization. What is on its way at the moment waits too. The state is that of a moment: an item can be
// handed over, or dropped, while the list is made.
func (o *Outbox) Waiting(id wire.ConversationID, most int) ([]wire.WaitingLane, error) {
	type bounds struct{ from, to uint64 }
	var list []wire.WaitingLane
	places := make(map[wire.Domain]bounds)
	o.mu.Lock()
	for _, org := range o.orgs {
		if l := org.lanes[id]; l != nil && l.items > 0 {
			list = append(list, wire.WaitingLane{Organization: org.domain, Items: uint64(l.items), Oldest: l.oldest, Code: l.lastCode, First: []wire.SubmissionID{}})
			places[org.domain] = bounds{l.next, l.last}
		}
	}
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b wire.WaitingLane) int { return compare(a.Organization, b.Organization) })
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
	it, err := o.db.NewIter(&pebble.IterOptions{
		LowerBound: o.keys.item(l.Organization, id, from), UpperBound: o.keys.item(l.Organization, id, to+1),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	size := 0
	for it.First(); it.Valid() && len(l.First) < most && size < maxWaitingRead; it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		size += len(v)
		if item, err := decodeItem(it.Key(), v); err == nil { // a damaged one is dropped when its turn comes
			l.First, l.Last = append(l.First, item.ID), item.Time
		}
	}
	return it.Error()
}

// flushLook is how often Flush looks.
const flushLook = 2 * time.Millisecond

// Flush waits until what waits now of a conversation for some organizations has been handed over or dropped, or ctx ends.
// It does not wait for an organization whose last attempt failed.
func (o *Outbox) Flush(ctx context.Context, id wire.ConversationID, orgs []wire.Domain) {
	last := make(map[wire.Domain]uint64) // the last item, of those that are waited for
	o.mu.Lock()
	for _, d := range orgs {
		if org := o.orgs[d]; org != nil && org.lanes[id] != nil {
			last[d] = org.lanes[id].last
		}
	}
	o.mu.Unlock()
	waits := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for d, n := range last {
			if l := o.orgs[d].lanes[id]; l == nil || l.items == 0 || l.failures > 0 || l.next > n {
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
