package mailbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of what the committer gathers into one batch.
const (
	maxGather      = 256       // requests
	maxGatherBytes = 256 << 10 // after which no further request is taken in: Pebble reuses such a buffer
	maxFlying      = 16        // batches that wait for the disk
	maxRequest     = 64 << 20  // bytes of payload in one request
)

// request is a change of one or more streams. The committer stages it, commits, and closes done.
type request struct {
	streams []*stream // acquired; the committer releases them
	stage   func(*commit) error
	sync    bool // whether the answer waits for the disk
	err     error
	done    chan struct{}
}

// submit hands a request to the committer and waits for its end. The caller's ctx ends the waiting, not
// the request.
func (m *Mailbox) submit(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	if err := ctx.Err(); err != nil {
		m.releaseAll(r.streams)
		return err
	}
	select {
	case m.requests <- r:
	case <-ctx.Done():
		m.releaseAll(r.streams)
		return ctx.Err()
	case <-m.stopped:
		m.releaseAll(r.streams)
		return errStopped()
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w before the answer: the change may have been made, repeat it with the same id", ctx.Err())
	case <-m.stopped:
	}
	select {
	case <-r.done:
		return r.err
	default:
		return errStopped()
	}
}

func errStopped() error {
	return wire.Errorf(wire.Unavailable, "mailbox", "the node is stopping: repeat the request with the same id")
}

func (m *Mailbox) releaseAll(list []*stream) {
	for _, s := range list {
		m.release(s)
	}
}

// committer owns the state of all streams and makes all writes.
type committer struct {
	m      *Mailbox
	global global
	older  bool // the bucket before the current one holds ids
	flying chan *commit
}

func newCommitter(m *Mailbox) (*committer, error) {
	c := &committer{m: m, global: global{next: 1}, flying: make(chan *commit, maxFlying)}
	key := m.keys.global()
	b, err := m.get(key)
	if err != nil {
		return nil, err
	}
	if b != nil {
		if c.global, err = decodeGlobal(key, b); err != nil {
			return nil, err
		}
	}
	return c, c.lookBehind()
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

// run commits until ctx ends. Batches are applied one after the other without waiting for the disk, and
// go to settle in that order.
func (c *committer) run(ctx context.Context) error {
	defer close(c.flying)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case first := <-c.m.requests:
			if err := c.round(first); err != nil {
				return err
			}
		}
	}
}

// round takes in what waits, and applies it as one batch.
func (c *committer) round(first *request) error {
	b, err := c.begin()
	if err != nil {
		return errors.Join(err, b.batch.Close())
	}
	b.take(first)
	for len(b.taken) < maxGather && b.batch.Len() < maxGatherBytes {
		select {
		case r := <-c.m.requests:
			b.take(r)
			continue
		default:
		}
		break
	}
	if err := b.apply(); err != nil {
		return fmt.Errorf("commit of %d requests: %w", len(b.taken), err)
	}
	c.flying <- b
	return nil
}

// settle waits for the disk, batch by batch, shows what is safe and answers. If the disk fails it stops
// the mailbox, and no later request is answered: nothing in memory can be trusted then.
func (c *committer) settle(stop func(error)) {
	failed := false
	for b := range c.flying { // to the end, so that the committer never hangs on a full channel
		if failed {
			continue
		}
		if err := c.finish(b); err != nil {
			stop(fmt.Errorf("sync of %d requests: %w", len(b.taken), err))
			failed = true
		}
	}
}

func (c *committer) finish(b *commit) error {
	if b.waits {
		if err := b.batch.SyncWait(); err != nil {
			return err
		}
	}
	b.show()
	for _, r := range b.taken {
		close(r.done)
		c.m.releaseAll(r.streams)
	}
	return b.batch.Close()
}

// commit is one batch in the making.
type commit struct {
	*committer
	batch   *pebble.Batch
	taken   []*request
	sync    bool
	waits   bool // for the disk
	now     wire.Time
	touched map[*stream]bool // true where items were appended
	shown   map[*stream]head // what settle is to show, as of this batch
	heads   map[*stream]bool // to be written
	ids     map[stagedID]uint64
	bytes   map[stagedItem]uint64   // of payload, up to items that this batch appends
	cursors map[stagedCursor]cursor // as staged; acked at gone where removed
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

func (c *committer) begin() (*commit, error) {
	b := &commit{
		committer: c, batch: c.m.db.NewBatch(), now: c.m.now(),
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

// take stages a request and answers for it. Its stage function refuses before it stages anything.
func (b *commit) take(r *request) {
	b.taken = append(b.taken, r)
	r.err = r.stage(b)
	b.sync = b.sync || r.sync
}

func (b *commit) apply() error {
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
	switch {
	case b.batch.Empty():
		return nil
	case b.sync:
		b.waits = true
		return b.m.db.ApplyNoSyncWait(b.batch, pebble.Sync)
	}
	return b.m.db.Apply(b.batch, pebble.NoSync)
}

// show lets readers see what is on disk now.
func (b *commit) show() {
	for s, appended := range b.touched {
		s.publish(b.shown[s])
		if appended {
			b.m.news.add(s.name)
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
