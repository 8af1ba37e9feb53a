package federation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of what the writer gathers into one batch.
const (
	outboxGather      = 256       // puts
	outboxGatherBytes = 256 << 10 // after which no further put is taken in
	outboxFlying      = 16        // batches that wait for the disk
)

// outboxPut is a put under way.
type outboxPut struct {
	items []OutboxItem
	err   error
	done  chan struct{}
}

// outboxWriter queues items: one goroutine stages and applies batches in turn without waiting for the
// disk, another waits for the disk, shows what is safe, and answers.
type outboxWriter struct {
	o      *Outbox
	next   uint64 // sequence
	bucket uint64 // of ids: the current one
	flying chan *outboxBatch
}

// outboxBatch is one write.
type outboxBatch struct {
	*outboxWriter
	batch  *pebble.Batch
	taken  []*outboxPut
	ids    map[outboxID]bool
	queued []queuedItem
}

// queuedItem is what the lanes must know of an item.
type queuedItem struct {
	org          wire.Domain
	conversation wire.ConversationID
	sequence     uint64
	time         wire.Time
	bytes        int64
}

// newOutboxWriter reads what waits from before.
func newOutboxWriter(o *Outbox) (*outboxWriter, error) {
	w := &outboxWriter{o: o, next: 1, flying: make(chan *outboxBatch, outboxFlying)}
	if err := w.loadItems(); err != nil {
		return nil, err
	}
	return w, w.loadBucket()
}

func (w *outboxWriter) loadItems() error {
	it, err := w.o.db.NewIter(w.o.keys.all(outboxItems))
	if err != nil {
		return err
	}
	defer it.Close()
	var found []queuedItem
	flush := func() {
		w.o.reserve(found)
		w.o.show(found)
		found = found[:0]
	}
	for it.First(); it.Valid(); it.Next() {
		org, conversation, sequence, err := w.o.keys.parseItem(it.Key())
		if err != nil {
			return err
		}
		q := queuedItem{org, conversation, sequence, 0, int64(max(0, len(it.Value())-outboxHeader))}
		if item, err := decodeItem(it.Key(), it.Value()); err == nil {
			q.time = item.Time
		} // a damaged one is met again, and dropped, when it is to be sent
		w.next = max(w.next, sequence+1)
		if found = append(found, q); len(found) == 1024 {
			flush()
		}
	}
	flush()
	return it.Error()
}

// loadBucket goes on in the newest bucket that there is, even if the clock stands before it.
func (w *outboxWriter) loadBucket() error {
	it, err := w.o.db.NewIter(w.o.keys.all(outboxIDs))
	if err != nil {
		return err
	}
	defer it.Close()
	if it.Last() {
		w.bucket = bucketOf(w.o.keys, it.Key())
	}
	return it.Error()
}

func bucketOf(k outboxKeys, key []byte) (b uint64) {
	for _, c := range key[len(k.prefix)+1:][:8] {
		b = b<<8 | uint64(c)
	}
	return b
}

func (w *outboxWriter) run(ctx context.Context) error {
	defer close(w.flying)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case first := <-w.o.requests:
			if err := w.round(first); err != nil {
				return err
			}
		}
	}
}

// round takes in what waits, and applies it as one batch.
func (w *outboxWriter) round(first *outboxPut) error {
	b := &outboxBatch{outboxWriter: w, batch: w.o.db.NewBatch(), ids: make(map[outboxID]bool)}
	if err := b.rotate(); err != nil {
		return errors.Join(err, b.batch.Close())
	}
	for r := first; r != nil; r = b.another() {
		if err := b.take(r); err != nil {
			return errors.Join(err, b.batch.Close())
		}
	}
	if !b.batch.Empty() {
		if err := w.o.db.ApplyNoSyncWait(b.batch, pebble.Sync); err != nil {
			return fmt.Errorf("queue %d items: %w", len(b.queued), err)
		}
	}
	w.flying <- b
	return nil
}

// another is a put that waits, nil if there is none or the batch is full.
func (b *outboxBatch) another() *outboxPut {
	if len(b.taken) >= outboxGather || b.batch.Len() >= outboxGatherBytes {
		return nil
	}
	select {
	case r := <-b.o.requests:
		return r
	default:
		return nil
	}
}

// rotate begins a new bucket of ids when its time has come, and drops all but it and the one before.
func (b *outboxBatch) rotate() error {
	now := uint64(max(b.o.now(), 0)) / uint64(b.o.cfg.DedupeWindow.Milliseconds())
	if now <= b.bucket {
		return nil
	}
	b.bucket = now
	return b.batch.DeleteRange(b.o.keys.bucket(0), b.o.keys.bucket(now-1), nil)
}

// take stages a put.
func (b *outboxBatch) take(r *outboxPut) error {
	b.taken = append(b.taken, r)
	full := make(map[wire.Domain]bool)
	for i := range r.items {
		it := &r.items[i]
		id := idOf(it)
		known, err := b.known(id)
		if err != nil {
			return err
		}
		if known || full[it.Organization] {
			continue
		}
		q := queuedItem{it.Organization, it.Conversation, b.next, b.o.now(), int64(len(it.Payload))}
		if !b.o.reserve([]queuedItem{q}) {
			full[it.Organization] = true
			continue
		}
		if err := b.add(it, id, q); err != nil {
			return err
		}
	}
	if len(full) > 0 {
		r.err = wire.Errorf(wire.Quota, "outbox", "too much waits for %v, at most %d items and %d bytes each: it is down, or slower than what is sent to it",
			slices.Sorted(maps.Keys(full)), b.o.cfg.MaxItems, b.o.cfg.MaxBytes)
	}
	return nil
}

func (b *outboxBatch) add(it *OutboxItem, id outboxID, q queuedItem) error {
	key := b.o.keys.item(q.org, q.conversation, q.sequence)
	if err := b.batch.Set(key, encodeItem(key, Item{it.ID, q.time, it.Payload}), nil); err != nil {
		return err
	}
	if err := b.batch.Set(b.o.keys.id(b.bucket, id), nil, nil); err != nil {
		return err
	}
	b.next++
	b.ids[id] = true
	b.queued = append(b.queued, q)
	return nil
}

// known looks an id up: in this batch, in the current bucket, in the one before.
func (b *outboxBatch) known(id outboxID) (bool, error) {
	if b.ids[id] {
		return true, nil
	}
	for back := uint64(0); back <= 1 && back <= b.bucket; back++ {
		_, closer, err := b.o.db.Get(b.o.keys.id(b.bucket-back, id))
		if err == nil {
			return true, closer.Close()
		}
		if !errors.Is(err, pebble.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// settle waits for the disk, batch by batch, shows what is safe and answers. If the disk fails it stops
// the outbox, and no later put is answered.
func (w *outboxWriter) settle(stop func(error)) {
	failed := false
	for b := range w.flying { // to the end, so that run never hangs on a full channel
		if failed {
			continue
		}
		if err := b.finish(); err != nil {
			stop(fmt.Errorf("sync of %d items: %w", len(b.queued), err))
			failed = true
		}
	}
}

func (b *outboxBatch) finish() error {
	if !b.batch.Empty() {
		if err := b.batch.SyncWait(); err != nil {
			return err
		}
	}
	b.o.show(b.queued)
	for _, r := range b.taken {
		close(r.done)
	}
	return b.batch.Close()
}

// reserve makes room in the quotas of the items' organizations, or says that there is none. Items from
// before a restart get their room in any case.
func (o *Outbox) reserve(items []queuedItem) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range items {
		org := o.org(q.org)
		if len(items) == 1 && (org.items+1 > o.cfg.MaxItems || org.bytes+q.bytes > o.cfg.MaxBytes) {
			return false
		}
		org.items++
		org.bytes += q.bytes
	}
	return true
}
