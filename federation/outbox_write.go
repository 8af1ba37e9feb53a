package federation

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// outboxWriter queues items. The writer's goroutine calls it.
type outboxWriter struct {
	o      *Outbox
	next   uint64 // sequence
	bucket uint64 // of ids: the current one
}

// outboxBatch is the outbox's share of a batch.
type outboxBatch struct {
	*outboxWriter
	batch  *pebble.Batch
	ids    map[outboxID]bool
	queued []queuedItem
	begun  []func() // workers of lanes, from Settle for Tell
}

// queuedItem is what the lanes must know of an item.
type queuedItem struct {
	org          wire.Domain
	conversation wire.ConversationID
	sequence     uint64
	bytes        int64 // of payload
	item         Item  // without its payload if it is to be read from the disk
}

// load reads what waits from before.
func (w *outboxWriter) load() error {
	if err := w.loadItems(); err != nil {
		return err
	}
	return w.loadBucket()
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
		q := queuedItem{org, conversation, sequence, int64(max(0, len(it.Value())-outboxHeader)), Item{}}
		if item, err := decodeItem(it.Key(), it.Value()); err == nil {
			q.item.Time = item.Time
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

// Begin is of batch.Part.
func (w *outboxWriter) Begin(to *pebble.Batch) (batch.Share, error) {
	b := &outboxBatch{outboxWriter: w, batch: to, ids: make(map[outboxID]bool)}
	return b, b.rotate()
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

// take stages items, and says which organizations have no room for theirs.
func (b *outboxBatch) take(items []OutboxItem) (full map[wire.Domain]bool, err error) {
	full = make(map[wire.Domain]bool)
	for i := range items {
		it := &items[i]
		id := idOf(it)
		known, err := b.known(id)
		if err != nil {
			return nil, err
		}
		if known || full[it.Organization] {
			continue
		}
		q := queuedItem{it.Organization, it.Conversation, b.next, int64(len(it.Payload)), Item{it.ID, b.o.now(), it.Payload}}
		if !b.o.reserve([]queuedItem{q}) {
			full[it.Organization] = true
			continue
		}
		if err := b.add(id, q); err != nil {
			return nil, err
		}
	}
	return full, nil
}

func (b *outboxBatch) add(id outboxID, q queuedItem) error {
	key := b.o.keys.item(q.org, q.conversation, q.sequence)
	if err := b.batch.Set(key, encodeItem(key, q.item), nil); err != nil {
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

// Seal is of batch.Share.
func (b *outboxBatch) Seal() error { return nil }

// Settle adds to the lanes what is on disk now.
func (b *outboxBatch) Settle() { b.begun = b.o.show(b.queued) }

// Tell has lanes served that need not wait for the dispatcher.
func (b *outboxBatch) Tell() {
	for _, work := range b.begun {
		go work()
	}
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
