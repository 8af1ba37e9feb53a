package streams

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// Mailbox implements [Box] in a Pebble database. It is safe for concurrent use.
type Mailbox struct {
	db   *pebble.DB
	keys keys
	cfg  Config

	committer *committer
	writer    *batch.Writer
	alone     bool          // nobody else uses the writer: Run runs it
	loaded    chan struct{} // closed when Run has read what it needs
	stopped   chan struct{} // closed when Run has ended
	watchers  *Watchers
	dirty     dirty
	recent    recent

	mu      sync.Mutex
	started bool
	streams map[Stream]*stream
	senders *Totals
	idle    *list.List // of *stream without users, the one longest without first
}

var _ Box = (*Mailbox)(nil)

// New makes a mailbox on a database that its owner keeps open until Run has returned. All its keys begin
// with prefix. It reads and starts nothing. Run runs the mailbox's own writer of batches.
func New(db *pebble.DB, prefix []byte, cfg Config) *Mailbox {
	m := NewShared(db, prefix, batch.NewWriter(db), cfg)
	m.alone = true
	return m
}

// NewShared is New with a writer that others use too. Its owner runs it in addition to Run.
func NewShared(db *pebble.DB, prefix []byte, w *batch.Writer, cfg Config) *Mailbox {
	m := &Mailbox{
		db: db, keys: keys{slices.Clone(prefix)}, cfg: cfg.WithDefaults(), writer: w, watchers: NewWatchers(),
		loaded: make(chan struct{}), stopped: make(chan struct{}),
		streams: make(map[Stream]*stream), idle: list.New(), senders: newTotals(),
	}
	m.committer = &committer{m: m, global: global{next: 1}}
	return m
}

// Run implements mailbox.Box.
func (m *Mailbox) Run(ctx context.Context) error {
	m.mu.Lock()
	again := m.started
	m.started = true
	m.mu.Unlock()
	if again {
		return errors.New("mailbox: Run was called twice: make a new Mailbox")
	}
	defer close(m.stopped)
	if err := m.committer.load(); err != nil {
		return fmt.Errorf("mailbox: open: %w", err)
	}
	close(m.loaded)
	ctx, stop := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	if m.alone {
		all.Go(func() { stop(m.writer.Run(ctx)) })
	}
	all.Go(func() { m.watchers.Run(ctx) })
	all.Go(func() {
		if err := m.countSenders(ctx); err != nil {
			stop(err)
		}
	})
	all.Go(func() {
		if err := m.sweeper(ctx); err != nil {
			stop(err)
		}
	})
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("mailbox: %w", err)
	}
	return nil
}

// Subscribe implements mailbox.Box.
func (m *Mailbox) Subscribe() *Subscription { return m.watchers.Subscribe() }

// stream is the one copy in memory of a stream's state.
type stream struct {
	name  Stream
	ready chan struct{} // closed when what follows is loaded
	err   error         // of loading

	users  int           // guarded by Mailbox.mu
	unused *list.Element // in Mailbox.idle, guarded likewise

	// Of the committer, once loaded.
	head    head
	cursors positions
	leaving int      // readers with an end
	sharing *sharing // nil while nothing has to be counted
	senders bool     // there are records of who brought items
	kept    bool     // there are entries that were kept

	mu   sync.Mutex
	seen head   // what readers may know of: as head, but on disk
	gone uint64 // the number of the stream of this name that was removed last
	held heldCursors
}

func (s *stream) view() head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// publish shows a head that has reached the disk, unless the stream was removed meanwhile.
func (s *stream) publish(h head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.number <= s.gone {
		return
	}
	if h.number == s.seen.number {
		h.removed = max(h.removed, s.seen.removed)
	}
	s.seen = h
}

// publishGone hides a stream before its items disappear.
func (s *stream) publishGone(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.seen = number, head{}
}

// publishRemoved lets readers know of a removal before it is visible in the database, so that none of
// them takes the hole for damage.
func (s *stream) publishRemoved(through uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.removed = max(s.seen.removed, through)
}

// floor is the sequence number up to which nobody needs the items.
func (s *stream) floor() uint64 {
	if s.cursors.count == 0 {
		return s.head.last
	}
	return max(s.cursors.low, s.head.removed)
}

// lowest is the lowest cursor; the stream's end without one.
func (s *stream) lowest() uint64 {
	if s.cursors.count == 0 {
		return s.head.last
	}
	return s.cursors.low
}

// acquire returns a stream's state and loads it if need be. Each acquire needs a release.
func (m *Mailbox) acquire(ctx context.Context, name Stream) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := name.Check(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	s, ok := m.streams[name]
	if !ok {
		s = &stream{name: name, ready: make(chan struct{})}
		m.streams[name] = s
	}
	s.users++
	if s.unused != nil {
		m.idle.Remove(s.unused)
		s.unused = nil
	}
	m.mu.Unlock()
	if !ok {
		s.err = m.load(s)
		close(s.ready)
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		m.release(s)
		return nil, ctx.Err()
	}
	if err := s.err; err != nil {
		m.release(s)
		return nil, err
	}
	return s, nil
}

// release ends a use. State without users is in the database and can be loaded again.
func (m *Mailbox) release(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if s.err != nil {
		delete(m.streams, s.name)
		return
	}
	s.unused = m.idle.PushBack(s)
	for m.idle.Len() > m.cfg.OpenStreams {
		old := m.idle.Remove(m.idle.Front()).(*stream)
		delete(m.streams, old.name)
	}
}

// load reads a stream's head, its last item and its cursors. Nobody writes to the stream meanwhile, since every
// writer acquires it.
func (m *Mailbox) load(s *stream) error {
	err := m.loadHead(s)
	if err == nil && s.head.number != 0 {
		err = errors.Join(m.loadCursors(s), m.loadShares(s))
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", s.name, err)
	}
	s.cursors.settle(s.head.last)
	s.publish(s.head)
	return nil
}

func (m *Mailbox) loadHead(s *stream) error {
	key := m.keys.head(s.name)
	b, err := m.get(key)
	if err != nil || b == nil {
		return err
	}
	if s.head, err = decodeHead(key, b); err != nil {
		return err
	}
	it, err := m.db.NewIter(m.items(s.head.number, 0))
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.Last() {
		return it.Error()
	}
	if sequence := sequenceOf(it.Key()); sequence > s.head.last {
		last, err := decodeItem(it.Key(), it.Value())
		if err != nil {
			return err
		}
		s.head.last, s.head.bytes, s.head.time = sequence, last.bytes, last.time
		s.head.position = max(s.head.position, last.position)
	}
	return nil
}

func (m *Mailbox) loadCursors(s *stream) error {
	s.held = heldCursors{number: s.head.number, of: make(map[wire.Token]cursor)}
	return m.eachCursor(s.head.number, func(r wire.Token, c cursor) error {
		s.held.set(r, c)
		s.cursors.add(c.acked)
		if c.until != 0 {
			s.leaving++
		}
		return nil
	})
}

func (m *Mailbox) eachCursor(number uint64, do func(wire.Token, cursor) error) error {
	it, err := m.db.NewIter(m.under(keyCursor, number))
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		c, err := decodeCursor(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if err := do(readerOf(it.Key()), c); err != nil {
			return err
		}
	}
	return it.Error()
}

// get returns a copy of a value, nil where there is none.
func (m *Mailbox) get(key []byte) ([]byte, error) {
	v, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return bytes.Clone(v), nil
}

func (m *Mailbox) under(kind byte, number uint64) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: m.keys.of(kind, u64(number)), UpperBound: m.keys.of(kind, u64(number+1))}
}

// items is the range of a stream's items after a sequence number.
func (m *Mailbox) items(number, after uint64) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: m.keys.item(number, after+1), UpperBound: m.keys.item(number+1, 0)}
}

func (m *Mailbox) now() wire.Time { return wire.TimeOf(m.cfg.Clock.Now()) }

func ago(now wire.Time, d time.Duration) wire.Time { return now - wire.Time(d.Milliseconds()) }

func noStream(op string, s Stream) error {
	return wire.Errorf(wire.UnknownConversation, op, "%s is not kept here: a reader has to join it first", s)
}

func noReader(op string, s Stream) error {
	return wire.Errorf(wire.UnknownConversation, op, "the address does not read %s, or no longer", s)
}
