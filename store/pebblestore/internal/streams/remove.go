package streams

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// errNoItem: it has been removed meanwhile.
var errNoItem = errors.New("no such item")

// headerOf reads an item without its payload.
func (m *Mailbox) headerOf(number, sequence uint64) (item, error) {
	key := m.keys.item(number, sequence)
	v, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return item{}, fmt.Errorf("item %d: %w", sequence, errNoItem)
	}
	if err != nil {
		return item{}, err
	}
	i, err := decodeItem(key, v)
	i.payload = nil
	return i, errors.Join(err, closer.Close())
}

// bytesAt is the payload of all items up to a sequence number.
func (b *commit) bytesAt(s *stream, sequence uint64) (uint64, error) {
	switch {
	case sequence <= s.head.removed:
		return s.head.removedBytes, nil
	case sequence == s.head.last:
		return s.head.bytes, nil
	}
	at := stagedItem{s.head.number, sequence}
	if n, ok := b.bytes[at]; ok {
		return n, nil
	}
	if n, ok := b.m.recent.bytesAt(at); ok {
		return n, nil
	}
	i, err := b.m.headerOf(s.head.number, sequence)
	return i.bytes, err
}

// manyGone is the number of records from which one deletion of their range replaces a deletion of each. With each new
// range, the next reader of the memtable has to sort all ranges in it again: in a busy node, whose streams are trimmed
// every second, this took an eighth of the processor time.
const manyGone = 64

// deleteRange stages the deletion of a stream's records of a kind, from one sequence number to another, both included.
func (b *commit) deleteRange(kind byte, number, from, through uint64) error {
	if through-from >= manyGone {
		return b.batch.DeleteRange(b.m.keys.of(kind, u64(number), u64(from)), b.m.keys.of(kind, u64(number), u64(through+1)), nil)
	}
	for ; from <= through; from++ {
		if err := b.batch.Delete(b.m.keys.of(kind, u64(number), u64(from)), nil); err != nil {
			return err
		}
	}
	return nil
}

// trim stages the removal of all items up to a sequence number. The deletions of a stream do not overlap.
func (b *commit) trim(s *stream, through uint64) error {
	if through <= s.head.removed {
		return nil
	}
	n, err := b.bytesAt(s, through)
	if err != nil {
		return err
	}
	if err := b.deleteRange(keyItem, s.head.number, s.head.removed+1, through); err != nil {
		return err
	}
	if err := b.drop(s, through, s.lowest()); err != nil {
		return err
	}
	s.head.removed, s.head.removedBytes = through, n
	s.publishRemoved(through)
	b.heads[s] = true
	b.touch(s, false)
	return nil
}

// evict makes room for an item in a full stream, and for some more, so that not each append removes. It removes
// nothing beyond limit, and reports whether that was enough.
func (b *commit) evict(s *stream, payload, limit uint64) (bool, error) {
	cfg := &b.m.cfg
	first := s.head.removed
	var failed error
	n := sort.Search(int(s.head.last-first), func(i int) bool {
		through := first + uint64(i)
		n, err := b.bytesAt(s, through)
		if err != nil {
			failed = err
			return true
		}
		return s.head.last-through < cfg.MaxItems && s.head.bytes-n+payload <= cfg.MaxBytes
	})
	if failed != nil || first+uint64(n) > limit {
		return false, failed
	}
	through := min(first+uint64(n)+cfg.MaxItems/64, limit)
	if err := b.keep(s, through); err != nil {
		return false, err
	}
	cfg.Count(Expired, through-max(s.floor(), first))
	return true, b.trim(s, through)
}

// Remove implements mailbox.Box.
func (m *Mailbox) Remove(ctx context.Context, name Stream) error {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	return m.enqueue(ctx, &request{streams: []*stream{s}, sync: true, stage: func(b *commit) error {
		return b.remove(s)
	}})
}

// RemoveUnread implements mailbox.Box.
func (m *Mailbox) RemoveUnread(ctx context.Context, name Stream) error {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	return m.enqueue(ctx, &request{streams: []*stream{s}, sync: true, stage: func(b *commit) error {
		if s.cursors.count > 0 {
			return nil
		}
		return b.remove(s)
	}})
}

// Readers implements mailbox.Box.
func (m *Mailbox) Readers(ctx context.Context, name Stream) (n int, err error) {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return 0, err
	}
	err = m.enqueue(ctx, &request{streams: []*stream{s}, stage: func(*commit) error {
		n = s.cursors.count
		return nil
	}})
	return n, err
}

func (b *commit) remove(s *stream) error {
	number := s.head.number
	if number == 0 {
		return nil
	}
	if err := b.batch.Delete(b.m.keys.head(s.name), nil); err != nil {
		return err
	}
	for _, kind := range []byte{keyItem, keyCursor, keySent, keyKept} {
		if err := b.batch.DeleteRange(b.m.keys.of(kind, u64(number)), b.m.keys.of(kind, u64(number+1)), nil); err != nil {
			return err
		}
	}
	s.head, s.cursors, s.leaving, s.sharing, s.senders, s.kept = head{}, positions{}, 0, nil, false, false
	s.publishGone(number)
	b.touch(s, true)
	return nil
}

// dirty is the streams with items that all readers have acknowledged.
type dirty struct {
	mu  sync.Mutex
	set map[Stream]bool
}

func (d *dirty) add(s Stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.set == nil {
		d.set = make(map[Stream]bool)
	}
	d.set[s] = true
}

func (d *dirty) take() map[Stream]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	set := d.set
	d.set = nil
	return set
}

// sweeper removes acknowledged and old items, until ctx ends.
func (m *Mailbox) sweeper(ctx context.Context) error {
	trim, expire := m.cfg.Clock.After(0), m.cfg.Clock.After(0) // at once: a former run may have left work
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-trim:
			m.sweepAll(ctx, m.dirty.take(), false)
			trim = m.cfg.Clock.After(m.cfg.TrimEvery)
		case <-expire:
			if err := m.Sweep(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("sweep: %w", err)
			}
			expire = m.cfg.Clock.After(m.cfg.ExpireEvery)
		}
	}
}

// Sweep implements mailbox.Box.
func (m *Mailbox) Sweep(ctx context.Context) error {
	for from := m.keys.of(keyHead); from != nil; {
		names, next, err := m.names(from)
		if err != nil {
			return err
		}
		m.sweepAll(ctx, names, true)
		if err := ctx.Err(); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// names lists some streams, so that no iterator stays open for long, and where to go on.
func (m *Mailbox) names(from []byte) (map[Stream]bool, []byte, error) {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: m.keys.of(keyHead + 1)})
	if err != nil {
		return nil, nil, err
	}
	defer it.Close()
	names := make(map[Stream]bool)
	for it.First(); it.Valid(); it.Next() {
		if len(names) == 256 {
			return names, append([]byte{}, it.Key()...), nil
		}
		names[Stream(it.Key()[len(m.keys.prefix)+1:])] = true
	}
	return names, nil, it.Error()
}

func (m *Mailbox) sweepAll(ctx context.Context, names map[Stream]bool, expire bool) {
	for name := range names {
		if err := m.sweep(ctx, name, expire); err != nil && ctx.Err() == nil && !errors.Is(err, wire.Unavailable) {
			m.cfg.Report(fmt.Errorf("sweep %s: %w", name, err))
		}
	}
}

func (m *Mailbox) sweep(ctx context.Context, name Stream, expire bool) error {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	expired := uint64(0)
	if expire {
		if expired, err = m.expired(s.view()); err != nil {
			m.release(s)
			return err
		}
	}
	leaving := false
	err = m.enqueue(ctx, &request{streams: []*stream{s}, stage: func(b *commit) error {
		if s.head.number == 0 {
			return nil
		}
		leaving = s.leaving > 0
		return b.trim(s, max(s.floor(), min(expired, s.head.last)))
	}})
	if err != nil || !leaving {
		return err
	}
	return m.sweepLeaving(ctx, name)
}

// expired finds the last item of a stream that is older than MaxAge. Times never go back, so it is a
// binary search.
func (m *Mailbox) expired(h head) (uint64, error) {
	limit := ago(m.now(), m.cfg.MaxAge)
	var failed error
	n := sort.Search(int(h.last-h.removed), func(i int) bool {
		it, err := m.headerOf(h.number, h.removed+1+uint64(i))
		if errors.Is(err, errNoItem) {
			return false // removed meanwhile
		}
		if err != nil {
			failed = err
			return true
		}
		return wire.Time(it.time) >= limit
	})
	return h.removed + uint64(n), failed
}

// sweepLeaving forgets readers who left and did not come back while there was something for them.
func (m *Mailbox) sweepLeaving(ctx context.Context, name Stream) error {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	var stale []wire.Token
	v := s.view()
	err = m.eachCursor(v.number, func(r wire.Token, c cursor) error {
		if c.until != 0 && c.until <= v.removed {
			stale = append(stale, r)
		}
		return nil
	})
	if err != nil || len(stale) == 0 {
		m.release(s)
		return err
	}
	return m.enqueue(ctx, &request{streams: []*stream{s}, stage: func(b *commit) error {
		for _, r := range stale {
			c, ok, err := b.cursorOf(s, v.number, r)
			if err != nil {
				return err
			}
			if !ok || s.head.number != v.number || c.until == 0 {
				continue
			}
			s.leaving--
			s.cursors.remove(c.acked, s.head.last)
			if err := b.dropCursor(s, v.number, r); err != nil {
				return err
			}
			b.touch(s, false)
		}
		return nil
	}})
}
