package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// Reasons for dropped items: labels of a metric.
const (
	DropRefused = "refused"
	DropExpired = "expired"
	DropDamaged = "damaged"
	// DropForgotten is logged once for all by Forget.
	DropForgotten = "forgotten"
)

// waiting is an item that was read from a lane.
type waiting = lanestore.Waiting

// serve hands over the items at the front of a lane, as many as one call may carry. The error is a database failure.
func (o *Outbox) serve(ctx context.Context, l *lane) error {
	batch, forget := o.takeFront(l)
	var more wire.Time
	var err error
	if batch == nil {
		arena := o.arenas.Get().(*[]byte)
		defer o.arenas.Put(arena)
		if batch, more, forget, err = o.read(l, arena); err != nil {
			o.settleLane(l, outcome{err: err})
			return fmt.Errorf("read the lane of %s to %s: %w", l.conversation, l.to.domain, err)
		}
	}
	var r outcome
	for len(batch) > 0 && r.err == nil && ctx.Err() == nil {
		if reason := o.unfit(batch[0], forget); reason != "" {
			o.drop(l, &r, batch[0], reason, batch[0].Damage)
			batch = r.pass(batch, 1)
			continue
		}
		n := 1
		for n < len(batch) && o.unfit(batch[n], forget) == "" {
			n++
		}
		n, r.err = o.send(ctx, l, batch[:n], &r)
		batch = r.pass(batch, n)
	}
	if len(batch) > 0 {
		r.oldest = batch[0].Time
	} else {
		r.oldest = more
	}
	if ctx.Err() != nil {
		r.err = ctx.Err()
	}
	o.metrics.delivered(l.to.domain, r.delivered)
	if len(r.dropped) > 0 && o.cfg.Dropped != nil {
		if err := o.cfg.Dropped(ctx, l.to.domain, l.conversation, r.dropped); err != nil {
			o.settleLane(l, outcome{err: fmt.Errorf("report dropped items: %w", err)})
			return nil
		}
	}
	// A crash may undo the removal. The items are sent again, and the other side knows their ids.
	if err = o.store.Remove(context.WithoutCancel(ctx), l.to.domain, l.conversation, r.gone); err != nil {
		r = outcome{err: err}
	}
	o.settleLane(l, r)
	return err
}

// pass records that the first n items are gone, and returns the others.
func (r *outcome) pass(batch []waiting, n int) []waiting {
	for _, it := range batch[:n] {
		r.gone = append(r.gone, it.Sequence)
		r.bytes += int64(len(it.Payload))
	}
	return batch[n:]
}

// unfit returns why an item must not be sent, "" if it may be.
func (o *Outbox) unfit(it waiting, forget uint64) string {
	switch {
	case it.Sequence <= forget:
		return DropForgotten
	case it.Damage != nil:
		return DropDamaged
	case it.Time <= ago(o.now(), o.cfg.Expire):
		return DropExpired
	}
	return ""
}

// takeFront returns the items that a lane's worker has from memory, nil for none, and the sequence up to which the
// organization's items are to be dropped.
func (o *Outbox) takeFront(l *lane) (batch []waiting, forget uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch, l.front = l.front, nil
	return batch, l.to.forget
}

// read reads items from the front of the lane. more is when the item after them was queued, 0 if read saw none; items
// up to the sequence forget are to be dropped. The arena holds the payloads.
func (o *Outbox) read(l *lane, arena *[]byte) (batch []waiting, more wire.Time, forget uint64, err error) {
	o.mu.Lock()
	from, to, forget := l.next, l.last, l.to.forget
	l.fresh = 0
	o.mu.Unlock()
	space := (*arena)[:0]
	defer func() { *arena = space }()
	size := 0
	err = o.store.Read(context.Background(), l.to.domain, l.conversation, from, to, func(it waiting) bool {
		size += len(it.Payload)
		if len(batch) > 0 && (len(batch) == o.cfg.BatchItems || size > o.cfg.BatchBytes) {
			more = it.Time
			return false
		}
		at := len(space) // earlier payloads keep their old array when append makes a new one
		space = append(space, it.Payload...)
		it.Payload = space[at:len(space):len(space)]
		batch = append(batch, it)
		return true
	})
	if err != nil {
		return nil, 0, 0, err
	}
	return batch, more, forget, nil
}

// send hands items over and returns how many from the front are gone: taken, or refused permanently. After an error the
// next item has to wait.
func (o *Outbox) send(ctx context.Context, l *lane, batch []waiting, r *outcome) (gone int, err error) {
	r.early = false
	payloads := make([][]byte, len(batch))
	for i, it := range batch {
		payloads[i] = it.Payload
	}
	results, err := o.call(ctx, l, payloads)
	if err == nil && len(results) != len(payloads) {
		err = wire.Errorf(wire.Unavailable, "outbox", "%s answered %d results for %d items", l.to.domain, len(results), len(payloads))
	}
	if err != nil {
		o.metrics.sends(l.to.domain, "failed")
		return o.failed(ctx, l, batch, r, err)
	}
	o.metrics.sends(l.to.domain, "answered")
	for i, result := range results {
		switch {
		case result == nil:
			r.delivered++
		case Temporary(result):
			r.early = wire.CodeOf(result) == wire.Unavailable
			return i, result
		default:
			o.drop(l, r, batch[i], DropRefused, result)
		}
	}
	return len(results), nil
}

func (o *Outbox) call(ctx context.Context, l *lane, payloads [][]byte) ([]error, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	return o.cfg.Link.Notify(ctx, l.to.domain, l.conversation, payloads)
}

// failed handles a call without results. If the call was refused permanently, one of the items is the reason: they are
// sent individually until it is found.
func (o *Outbox) failed(ctx context.Context, l *lane, batch []waiting, r *outcome, err error) (int, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if Temporary(err) {
		var e *wire.Error
		r.offline = !errors.As(err, &e) || e.Code == wire.Unavailable || e.Code == wire.NotAdmitted
		return 0, err
	}
	if len(batch) == 1 {
		o.drop(l, r, batch[0], DropRefused, err)
		return 1, nil
	}
	for i := range batch {
		if n, err := o.send(ctx, l, batch[i:i+1], r); n == 0 {
			return i, err
		}
	}
	return len(batch), nil
}

// drop records that an item is given up. It is removed together with the delivered items.
func (o *Outbox) drop(l *lane, r *outcome, it waiting, reason string, why error) {
	o.metrics.dropped(l.to.domain, reason)
	r.dropped = append(r.dropped, Dropped{ID: it.ID, Reason: reason})
	if reason == DropForgotten {
		return
	}
	o.cfg.Logger.Warn("outbox item dropped", "organization", l.to.domain, "conversation", l.conversation,
		"id", it.ID, "reason", reason, "waited", o.cfg.Clock.Now().Sub(it.Time.Std()), "error", why)
}
