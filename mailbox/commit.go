package mailbox

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// maxRequest is how many bytes of payload one request may have.
const maxRequest = 64 << 20

// request is a change of one or more streams.
type request struct {
	streams []*stream // acquired; released when it is over
	stage   func(*commit) error
	sync    bool // whether the answer waits for the disk
	err     error
}

// submit has a request done and waits for its end. The caller's ctx ends the waiting, not the request.
// Changes of other parts go to disk with it.
func (m *Mailbox) submit(ctx context.Context, r *request, with ...batch.Change) error {
	if err := batch.Serving(ctx, m.loaded, m.stopped); err != nil {
		m.releaseAll(r.streams)
		return err
	}
	own := batch.Change{
		Part: m.committer, Sync: r.sync,
		// A stage function refuses before it stages anything.
		Stage: func(s batch.Share) error { r.err = r.stage(s.(*commit)); return nil },
		End:   func() { m.releaseAll(r.streams) },
	}
	// What is told last runs first: others have a longer way to go than the mailbox's readers.
	if err := m.writer.Do(ctx, append([]batch.Change{own}, with...)...); err != nil {
		return err
	}
	return r.err
}

func (m *Mailbox) releaseAll(list []*stream) {
	for _, s := range list {
		m.release(s)
	}
}

// committer owns the state of all streams. The writer's goroutine calls it.
type committer struct {
	m      *Mailbox
	global global
	older  bool // the bucket before the current one holds ids
}

// load reads what is of the mailbox as a whole.
func (c *committer) load() error {
	key := c.m.keys.global()
	b, err := c.m.get(key)
	if err != nil {
		return err
	}
	if b != nil {
		if c.global, err = decodeGlobal(key, b); err != nil {
			return err
		}
	}
	return c.lookBehind()
}

// lookBehind notes whether the former bucket has to be asked at all.
func (c *committer) lookBehind() error {
	if c.global.bucket == 0 {
		return nil
	}
	it, err := c.m.db.NewIter(&pebble.IterOptions{
		LowerBound: c.m.keys.of(keyID, u64(c.global.bucket-1)),
		UpperBound: c.m.keys.of(keyID, u64(c.global.bucket)),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	c.older = it.First()
	return it.Error()
}

// commit is the mailbox's share of a batch.
type commit struct {
	*committer
	batch   *pebble.Batch
	now     wire.Time
	touched map[*stream]bool // true where items were appended
	shown   map[*stream]head // what Settle is to show, as of this batch
	heads   map[*stream]bool // to be written
	ids     map[stagedID]uint64
	bytes   map[stagedItem]uint64   // of payload, up to items that this batch appends
	cursors map[stagedCursor]cursor // as staged; acked at gone where removed
	sent    map[*stream][]sent      // of others' items that this batch appends, where nothing is counted
}

type stagedID struct {
	number uint64
	id     ID
}

type stagedItem struct{ number, sequence uint64 }

type stagedCursor struct {
	number uint64
	reader wire.Token
}

// gone marks a cursor that this batch deletes.
const gone = ^uint64(0)

// Begin is of batch.Part.
func (c *committer) Begin(to *pebble.Batch) (batch.Share, error) {
	b := &commit{
		committer: c, batch: to, now: c.m.now(),
		touched: make(map[*stream]bool), heads: make(map[*stream]bool),
		ids: make(map[stagedID]uint64), bytes: make(map[stagedItem]uint64), cursors: make(map[stagedCursor]cursor),
	}
	if bucket := uint64(max(b.now, 0)) / uint64(c.m.cfg.DedupeWindow.Milliseconds()); bucket > c.global.bucket {
		return b, b.rotate(bucket)
	}
	return b, nil
}

// rotate begins a new bucket of ids and drops all but it and the one before.
func (b *commit) rotate(bucket uint64) error {
	b.global.bucket = bucket
	if err := b.saveGlobal(); err != nil {
		return err
	}
	if bucket > 0 {
		if err := b.batch.DeleteRange(b.m.keys.of(keyID, u64(0)), b.m.keys.of(keyID, u64(bucket-1)), nil); err != nil {
			return err
		}
	}
	return b.lookBehind()
}

func (b *commit) saveGlobal() error {
	key := b.m.keys.global()
	return b.batch.Set(key, b.global.encode(key), nil)
}

// Seal adds the heads that have changed.
func (b *commit) Seal() error {
	for s := range b.heads {
		if s.head.number == 0 {
			continue // removed later in the same batch
		}
		key := b.m.keys.head(s.name)
		if err := b.batch.Set(key, s.head.encode(key), nil); err != nil {
			return err
		}
	}
	b.shown = make(map[*stream]head, len(b.touched))
	for s := range b.touched {
		b.shown[s] = s.head
		if s.floor() > s.head.removed {
			b.m.dirty.add(s.name)
		}
	}
	return nil
}

// Settle lets readers see what is on disk now.
func (b *commit) Settle() {
	for s := range b.touched {
		s.publish(b.shown[s])
	}
}

// Tell wakes the readers of what was appended.
func (b *commit) Tell() {
	for s, appended := range b.touched {
		if appended {
			b.m.wake(s.name)
		}
	}
}

// touch notes that s has changed.
func (b *commit) touch(s *stream, appended bool) { b.touched[s] = b.touched[s] || appended }

// find looks an id up: in this batch, in the current bucket, in the one before.
func (b *commit) find(number uint64, id ID) (uint64, error) {
	if sequence, ok := b.ids[stagedID{number, id}]; ok {
		return sequence, nil
	}
	for back := uint64(0); back <= 1 && back <= b.global.bucket; back++ {
		if back == 1 && !b.older {
			break
		}
		key := b.m.keys.id(b.global.bucket-back, number, id)
		v, closer, err := b.m.db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		sequence, err := decodeSequence(key, v)
		return sequence, errors.Join(err, closer.Close())
	}
	return 0, nil
}

// cursorOf is a reader's cursor with what this batch has done to it.
func (b *commit) cursorOf(number uint64, r wire.Token) (cursor, bool, error) {
	if c, ok := b.cursors[stagedCursor{number, r}]; ok {
		return c, c.acked != gone, nil
	}
	return b.m.cursor(number, r)
}

func (b *commit) setCursor(number uint64, r wire.Token, c cursor) error {
	b.cursors[stagedCursor{number, r}] = c
	key := b.m.keys.cursor(number, r)
	return b.batch.Set(key, c.encode(key), nil)
}

func (b *commit) dropCursor(number uint64, r wire.Token) error {
	b.cursors[stagedCursor{number, r}] = cursor{acked: gone}
	return b.batch.Delete(b.m.keys.cursor(number, r), nil)
}
