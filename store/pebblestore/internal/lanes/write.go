package lanes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/window"
	"github.com/mlsfed/mlsfed/wire"
)

// Lanes implements lanestore.Store in a Pebble database. It is safe for concurrent use.
type Lanes struct {
	db     *pebble.DB
	keys   keys
	writer *batch.Writer
	queue  *queue
	opened chan struct{} // closed when Open has read what waits; outbox is set before
	outbox lanestore.Outbox
}

var _ lanestore.Store = (*Lanes)(nil)

// New makes lanes on a database that its owner keeps open, with a writer that its owner runs. All keys begin with
// prefix. It reads nothing.
func New(db *pebble.DB, prefix []byte, w *batch.Writer) *Lanes {
	l := &Lanes{db: db, keys: keys{slices.Clone(prefix)}, writer: w, opened: make(chan struct{})}
	l.queue = &queue{l: l, next: 1}
	return l
}

// Open implements lanestore.Store.
func (l *Lanes) Open(o lanestore.Outbox) error {
	if l.outbox != nil {
		return errors.New("outbox: the lanes have an outbox already: make new ones")
	}
	l.outbox = o
	if err := l.queue.load(); err != nil {
		return fmt.Errorf("outbox: open: %w", err)
	}
	close(l.opened)
	return nil
}

// Append implements lanestore.Store.
func (l *Lanes) Append(ctx context.Context, items ...lanestore.Item) (map[wire.Domain]bool, error) {
	c, full, err := l.Change(ctx, items...)
	if err != nil {
		return nil, err
	}
	return full, l.writer.Do(ctx, c)
}

// Change is an Append that is still to be done by the writer, with changes of others in the same batch. full is filled
// when that is done.
func (l *Lanes) Change(ctx context.Context, items ...lanestore.Item) (c batch.Change, full map[wire.Domain]bool, err error) {
	if err := batch.Serving(ctx, l.opened, l.writer.Stopped()); err != nil {
		return batch.Change{}, nil, err
	}
	if err := l.outbox.Check(items); err != nil {
		return batch.Change{}, nil, err
	}
	full = make(map[wire.Domain]bool)
	c = batch.Change{Part: l.queue, Sync: true, Stage: func(s batch.Share) error { return s.(*share).take(items, full) }}
	return c, full, nil
}

// Read implements lanestore.Store.
func (l *Lanes) Read(ctx context.Context, d wire.Domain, c wire.ConversationID, from, to uint64, do func(lanestore.Waiting) bool) error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: l.keys.item(d, c, from), UpperBound: l.keys.item(d, c, to+1)})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid() && ctx.Err() == nil; it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		w := lanestore.Waiting{Sequence: sequenceOf(it.Key())}
		if w.Stored, w.Damage = decodeItem(it.Key(), v); w.Damage != nil {
			w.Payload = v[min(len(v), itemHeader):]
		}
		if !do(w) {
			return nil
		}
	}
	return errors.Join(it.Error(), ctx.Err())
}

// manyGone is how many items are removed by one deletion of their range rather than one by one. Pebble
// bears many deletions of items better than many of ranges.
const manyGone = 64

// Remove implements lanestore.Store.
func (l *Lanes) Remove(_ context.Context, d wire.Domain, c wire.ConversationID, sequences []uint64) error {
	if len(sequences) == 0 {
		return nil
	}
	b := l.db.NewBatch()
	defer b.Close()
	first, last := sequences[0], sequences[len(sequences)-1]
	var err error
	if len(sequences) >= manyGone {
		err = b.DeleteRange(l.keys.item(d, c, first), l.keys.item(d, c, last+1), nil)
	} else {
		for _, sequence := range sequences {
			err = errors.Join(err, b.Delete(l.keys.item(d, c, sequence), nil))
		}
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		return fmt.Errorf("remove what %s has: %w", d, err)
	}
	return nil
}

// queue appends items. The writer's goroutine calls it.
type queue struct {
	l    *Lanes
	next uint64 // sequence
	ids  *window.Window
}

// share is what the lanes have in one batch.
type share struct {
	*queue
	batch  *pebble.Batch
	staged map[itemID]bool
	queued []lanestore.Queued
	begun  []func() // workers of lanes: Settle makes them, Announce starts them
}

// load reads what waits from before.
func (w *queue) load() error {
	err := w.loadItems()
	if err == nil {
		w.ids, err = window.Open(w.l.db, w.l.keys.ids(), 0)
	}
	return err
}

func (w *queue) loadItems() error {
	it, err := w.l.db.NewIter(w.l.keys.all(keyItem))
	if err != nil {
		return err
	}
	defer it.Close()
	var found []lanestore.Queued
	flush := func() {
		w.l.outbox.Restore(found)
		found = found[:0]
	}
	for it.First(); it.Valid(); it.Next() {
		org, conversation, sequence, err := w.l.keys.parseItem(it.Key())
		if err != nil {
			return err
		}
		q := lanestore.Queued{Organization: org, Conversation: conversation, Sequence: sequence, Bytes: int64(max(0, len(it.Value())-itemHeader))}
		if item, err := decodeItem(it.Key(), it.Value()); err == nil {
			q.Stored.Time = item.Time
		} // a damaged one is met again, and dropped, when it is to be sent
		w.next = max(w.next, sequence+1)
		if found = append(found, q); len(found) == 1024 {
			flush()
		}
	}
	flush()
	return it.Error()
}

// Begin implements batch.Part.
func (w *queue) Begin(to *pebble.Batch) (batch.Share, error) {
	_, err := w.ids.Advance(to, int64(w.l.outbox.Now()), w.l.outbox.Window().Milliseconds())
	return &share{queue: w, batch: to, staged: make(map[itemID]bool)}, err
}

// take stages items, and notes the organizations that have no room for theirs.
func (b *share) take(items []lanestore.Item, full map[wire.Domain]bool) error {
	for i := range items {
		it := &items[i]
		id := idOf(it)
		known, err := b.known(id)
		if err != nil {
			return err
		}
		if known || full[it.Organization] {
			continue
		}
		q := lanestore.Queued{
			Organization: it.Organization, Conversation: it.Conversation, Sequence: b.next, Bytes: int64(len(it.Payload)),
			Stored: lanestore.Stored{ID: it.ID, Time: b.l.outbox.Now(), Payload: it.Payload},
			Sender: it.Sender,
		}
		if !b.l.outbox.Reserve(q) {
			full[it.Organization] = true
			continue
		}
		if err := b.add(id, q); err != nil {
			return err
		}
	}
	return nil
}

func (b *share) add(id itemID, q lanestore.Queued) error {
	key := b.l.keys.item(q.Organization, q.Conversation, q.Sequence)
	if err := b.batch.Set(key, encodeItem(key, q.Stored), nil); err != nil {
		return err
	}
	if err := b.batch.Set(b.ids.Key(id[:]), nil, nil); err != nil {
		return err
	}
	b.next++
	b.staged[id] = true
	b.queued = append(b.queued, q)
	return nil
}

// known looks an id up, in this batch and in the database.
func (b *share) known(id itemID) (bool, error) {
	if b.staged[id] {
		return true, nil
	}
	key, _, err := b.ids.Find(id[:])
	return key != nil, err
}

// Seal implements batch.Share.
func (b *share) Seal() error { return nil }

// Settle implements batch.Share: it shows the outbox what is on disk now.
func (b *share) Settle() { b.begun = b.l.outbox.Show(b.queued) }

// Announce implements batch.Share: it starts the workers of lanes that need not wait for the dispatcher.
func (b *share) Announce() {
	for _, work := range b.begun {
		go work()
	}
}
