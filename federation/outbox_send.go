package federation

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Why an item was dropped: labels of a metric.
const (
	DropRefused = "refused"
	DropExpired = "expired"
	DropDamaged = "damaged"
	// DropForgotten is logged once for all by Forget.
	DropForgotten = "forgotten"
)

// waiting is an item that was read from a lane.
type waiting struct {
	Item
	sequence uint64
	damage   error
}

// serve hands over what stands at the front of a lane, as much as one call may carry. An error is one of
// the database.
func (o *Outbox) serve(ctx context.Context, l *lane) error {
	batch, forget := o.takeFront(l)
	var more wire.Time
	var err error
	if batch == nil {
		arena := o.arenas.Get().(*[]byte)
		defer o.arenas.Put(arena)
		if batch, more, forget, err = o.read(l, arena); err != nil {
			o.settleLane(l, outcome{err: err})
			return fmt.Errorf("read the lane of %s to %s: %w", l.conversation, l.org.domain, err)
		}
	}
	var r outcome
	for len(batch) > 0 && r.err == nil && ctx.Err() == nil {
		if reason := o.unfit(batch[0], forget); reason != "" {
			o.drop(l, &r, batch[0], reason, batch[0].damage)
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
	o.metrics.delivered(l.org.domain, r.delivered)
	if len(r.dropped) > 0 && o.cfg.Dropped != nil {
		if err := o.cfg.Dropped(ctx, l.org.domain, l.conversation, r.dropped); err != nil {
			o.settleLane(l, outcome{err: fmt.Errorf("tell of what was dropped: %w", err)})
			return nil
		}
	}
	if err = o.remove(l, r.gone); err != nil {
		r = outcome{err: err}
	}
	o.settleLane(l, r)
	return err
}

// pass notes that the first n are gone.
func (r *outcome) pass(batch []waiting, n int) []waiting {
	for _, it := range batch[:n] {
		r.gone = append(r.gone, it.sequence)
		r.bytes += int64(len(it.Payload))
	}
	return batch[n:]
}

// unfit is why an item is not to be sent, "" if it is.
func (o *Outbox) unfit(it waiting, forget uint64) string {
	switch {
	case it.sequence <= forget:
		return DropForgotten
	case it.damage != nil:
		return DropDamaged
	case it.Time <= ago(o.now(), o.cfg.Expire):
		return DropExpired
	}
	return ""
}

// takeFront is what a lane's worker has from memory, nil for nothing, and up to which sequence the
// organization's items are to be dropped.
func (o *Outbox) takeFront(l *lane) (batch []waiting, forget uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch, l.front = l.front, nil
	return batch, l.org.forget
}

// read takes items from the front of the lane, and says when the one after them was put in, 0 if it saw
// none, and up to which sequence the organization's items are to be dropped.
// Payloads stand in the arena.
func (o *Outbox) read(l *lane, arena *[]byte) (batch []waiting, more wire.Time, forget uint64, err error) {
	o.mu.Lock()
	from, to, forget := l.next, l.last, l.org.forget
	l.fresh = 0
	o.mu.Unlock()
	it, err := o.db.NewIter(&pebble.IterOptions{
		LowerBound: o.keys.item(l.org.domain, l.conversation, from),
		UpperBound: o.keys.item(l.org.domain, l.conversation, to+1),
	})
	if err != nil {
		return nil, 0, 0, err
	}
	defer it.Close()
	space := (*arena)[:0]
	defer func() { *arena = space }()
	size := 0
	for it.First(); it.Valid(); it.Next() {
		sequence := sequenceOf(it.Key())
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, 0, 0, err
		}
		item, damage := decodeItem(it.Key(), v)
		if damage != nil {
			item.Payload = v[min(len(v), outboxHeader):]
		}
		size += len(item.Payload)
		if len(batch) > 0 && (len(batch) == o.cfg.BatchItems || size > o.cfg.BatchBytes) {
			return batch, item.Time, forget, nil
		}
		at := len(space) // what was put there before stays valid where it is when space moves
		space = append(space, item.Payload...)
		item.Payload = space[at:len(space):len(space)]
		batch = append(batch, waiting{item, sequence, damage})
	}
	return batch, 0, forget, it.Error()
}

// send hands items over and returns how many from the front are gone: taken, or refused for good. An
// error says that the one after them has to wait.
func (o *Outbox) send(ctx context.Context, l *lane, batch []waiting, r *outcome) (gone int, err error) {
	r.early = false
	items := make([]Item, len(batch))
	for i, it := range batch {
		items[i] = it.Item
	}
	results, err := o.call(ctx, l, items)
	if err == nil && len(results) != len(items) {
		err = wire.Errorf(wire.Unavailable, "outbox", "%s answered %d results for %d items", l.org.domain, len(results), len(items))
	}
	if err != nil {
		o.metrics.sends(l.org.domain, "failed")
		return o.failed(ctx, l, batch, r, err)
	}
	o.metrics.sends(l.org.domain, "answered")
	for i, result := range results {
		switch {
		case result == nil:
			r.delivered++
		case o.cfg.Temporary(result):
			r.early = wire.CodeOf(result) == wire.Unavailable
			return i, result
		default:
			o.drop(l, r, batch[i], DropRefused, result)
		}
	}
	return len(results), nil
}

func (o *Outbox) call(ctx context.Context, l *lane, items []Item) ([]error, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	return o.cfg.Send(ctx, l.org.domain, l.conversation, items)
}

// failed deals with a call that says nothing of its items. If it was refused for good, one of the items
// is the reason: they are sent one by one until it is found.
func (o *Outbox) failed(ctx context.Context, l *lane, batch []waiting, r *outcome, err error) (int, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if o.cfg.Temporary(err) {
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

// drop says that an item is given up. It is removed with those that were taken.
func (o *Outbox) drop(l *lane, r *outcome, it waiting, reason string, why error) {
	o.metrics.dropped(l.org.domain, reason)
	r.dropped = append(r.dropped, Dropped{it.ID, reason})
	if reason == DropForgotten {
		return
	}
	o.cfg.Logger.Warn("outbox item dropped", "organization", l.org.domain, "conversation", l.conversation,
		"id", it.ID, "reason", reason, "waited", o.cfg.Clock.Now().Sub(it.Time.Std()), "error", why)
}

// manyGone is how many items are removed by one deletion of their range rather than one by one. Pebble
// bears many deletions of items better than many of ranges.
const manyGone = 64

// remove deletes items from the front of the lane. It does not wait for the disk: what comes back after a
// crash is sent again, and the other side knows it by its id.
func (o *Outbox) remove(l *lane, gone []uint64) error {
	if len(gone) == 0 {
		return nil
	}
	b := o.db.NewBatch()
	defer b.Close()
	first, last := gone[0], gone[len(gone)-1]
	key := func(sequence uint64) []byte { return o.keys.item(l.org.domain, l.conversation, sequence) }
	var err error
	if len(gone) >= manyGone {
		err = b.DeleteRange(key(first), key(last+1), nil)
	} else {
		for _, sequence := range gone {
			err = errors.Join(err, b.Delete(key(sequence), nil))
		}
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		return fmt.Errorf("remove what %s has: %w", l.org.domain, err)
	}
	return nil
}
