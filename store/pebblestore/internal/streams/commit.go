package streams

import (
	"context"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/store/pebblestore/internal/window"
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

// enqueue has a request done and waits for its end. The caller's ctx ends the waiting, not the request.
// Changes of other parts go to disk with it.
func (m *Mailbox) enqueue(ctx context.Context, r *request, with ...batch.Change) error {
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
	// The last registered function runs first: other organizations are farther away than the mailbox's readers.
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
	ids    *window.Window
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
	c.ids, err = window.Open(c.m.db, c.m.keys.of(keyID), c.global.period)
	return err
}

// commit is the mailbox's share of a batch.
type commit struct {
	*committer
	batch   *pebble.Batch
	now     wire.Time
	touched map[*stream]bool        // true where items were appended
	shown   map[*stream]head        // what Settle is to show, as of this batch
	heads   map[*stream]bool        // to be written
	staged  map[stagedID]uint64     // the ids of items that this batch appends
	bytes   map[stagedItem]uint64   // of payload, up to items that this batch appends
	cursors map[stagedCursor]cursor // as staged; acked at gone where removed
	moved   map[stagedCursor]*stream
	fresh   []placed           // items that this batch appends, for readers that wait for them
	sent    map[*stream][]sent // of others' items that this batch appends, where nothing is counted
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

// Begin implements batch.Part.
func (c *committer) Begin(to *pebble.Batch) (batch.Share, error) {
	b := &commit{
		committer: c, batch: to, now: c.m.now(),
		touched: make(map[*stream]bool), heads: make(map[*stream]bool),
		staged: make(map[stagedID]uint64), bytes: make(map[stagedItem]uint64), cursors: make(map[stagedCursor]cursor), moved: make(map[stagedCursor]*stream),
	}
	moved, err := c.ids.Advance(to, int64(b.now), c.m.cfg.DedupeWindow.Milliseconds())
	if err == nil && moved {
		c.global.period = c.ids.Current()
		err = b.saveGlobal()
	}
	return b, err
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
	for at, s := range b.moved {
		s.hold(at.number, at.reader, b.cursors[at])
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
	b.m.recent.put(b.fresh)
	for s := range b.touched {
		s.publish(b.shown[s])
	}
}

// Announce wakes the readers of what was appended.
func (b *commit) Announce() {
	for s, appended := range b.touched {
		if appended {
			b.m.watchers.Wake(s.name)
		}
	}
}

// touch notes that s has changed.
func (b *commit) touch(s *stream, appended bool) { b.touched[s] = b.touched[s] || appended }

// find looks an id up, in this batch and in the database.
func (b *commit) find(number uint64, id ID) (uint64, error) {
	if sequence, ok := b.staged[stagedID{number, id}]; ok {
		return sequence, nil
	}
	key, value, err := b.ids.Find(idOf(number, id))
	if err != nil || key == nil {
		return 0, err
	}
	return decodeSequence(key, value)
}

// cursorOf is a reader's cursor with what this batch has done to it.
func (b *commit) cursorOf(s *stream, number uint64, r wire.Token) (cursor, bool, error) {
	if c, ok := b.cursors[stagedCursor{number, r}]; ok {
		return c, c.acked != gone, nil
	}
	return b.m.cursor(s, number, r)
}

func (b *commit) setCursor(s *stream, number uint64, r wire.Token, c cursor) error {
	at := stagedCursor{number, r}
	b.cursors[at], b.moved[at] = c, s
	key := b.m.keys.cursor(number, r)
	return b.batch.Set(key, c.encode(key), nil)
}

func (b *commit) dropCursor(s *stream, number uint64, r wire.Token) error {
	at := stagedCursor{number, r}
	b.cursors[at], b.moved[at] = cursor{acked: gone}, s
	return b.batch.Delete(b.m.keys.cursor(number, r), nil)
}
