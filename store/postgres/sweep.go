package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// dirty is the streams that may have items that all readers have acknowledged.
type dirty struct {
	mu   sync.Mutex
	set  map[mailbox.Stream]bool
	lows map[mailbox.Stream]uint64 // the lowest cursors of streams that were swept; no cursor is lower
}

func (d *dirty) add(s mailbox.Stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put(s)
}

func (d *dirty) put(s mailbox.Stream) {
	if d.set == nil {
		d.set = make(map[mailbox.Stream]bool)
	}
	d.set[s] = true
}

// moved notes that a cursor has moved on from a sequence number. The lowest cursor of a stream costs a look at all its
// readers, so that one that was not the lowest makes no work.
func (d *dirty) moved(s mailbox.Stream, from uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if low, ok := d.lows[s]; !ok || from <= low {
		d.put(s)
	}
}

// swept notes the lowest cursor of a stream, and keeps some of them.
func (d *dirty) swept(s mailbox.Stream, low uint64, most int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lows == nil || len(d.lows) >= most {
		d.lows = make(map[mailbox.Stream]uint64)
	}
	d.lows[s] = low
}

// forget forgets the lowest cursor of a stream that was removed: another one can have its name.
func (d *dirty) forget(s mailbox.Stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lows, s)
}

func (d *dirty) take() map[mailbox.Stream]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	set := d.set
	d.set = nil
	return set
}

// sweeper removes acknowledged and old items, until ctx ends.
func (m *Mailbox) sweeper(ctx context.Context) {
	trim, expire := m.cfg.Clock.After(0), m.cfg.Clock.After(0) // at once: a former run may have left work
	for {
		select {
		case <-ctx.Done():
			return
		case <-trim:
			for s := range m.dirty.take() {
				m.report(ctx, s, m.sweep(ctx, s, false))
			}
			trim = m.cfg.Clock.After(m.cfg.TrimEvery)
		case <-expire:
			if err := m.Sweep(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Report(fmt.Errorf("sweep: %w", err))
			}
			expire = m.cfg.Clock.After(m.cfg.ExpireEvery)
		}
	}
}

func (m *Mailbox) report(ctx context.Context, s mailbox.Stream, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, wire.Unavailable) {
		m.cfg.Report(fmt.Errorf("sweep %s: %w", s, err))
	}
}

// Bounds of one step of a sweep.
const (
	sweepStreams = 256    // that one query looks at
	sweepIDs     = 10_000 // that one transaction deletes
)

// Sweep implements mailbox.Box.
func (m *Mailbox) Sweep(ctx context.Context) error {
	for from := uint64(0); ; {
		var list []mailbox.Stream
		err := m.d.query(ctx, "SELECT number, name FROM stream WHERE number > $1 ORDER BY number LIMIT $2", []any{from, sweepStreams}, func(rows pgx.Rows) error {
			var name []byte
			err := rows.Scan(&from, &name)
			list = append(list, mailbox.Stream(name))
			return err
		})
		if err != nil {
			return err
		}
		for _, s := range list {
			m.report(ctx, s, m.sweep(ctx, s, true))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(list) < sweepStreams {
			break
		}
	}
	period := m.d.group.periods.at(int64(m.now()), m.cfg.DedupeWindow.Milliseconds())
	return m.d.sweepIDs(ctx, "item_id", period-1)
}

// sweepIDs deletes the ids of periods before one, some at a time.
func (d *Database) sweepIDs(ctx context.Context, table string, before int64) error {
	for more := true; more; {
		err := d.retry(ctx, func(ctx context.Context) error {
			tag, err := d.pool.Exec(ctx, "DELETE FROM "+table+" WHERE ctid = ANY (ARRAY(SELECT ctid FROM "+table+" WHERE period < $1 LIMIT $2))", before, sweepIDs)
			more = tag.RowsAffected() == sweepIDs
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what all readers of a stream have acknowledged, and with expire what is too old, and readers who left
// and have nothing left to read.
func (m *Mailbox) sweep(ctx context.Context, s mailbox.Stream, expire bool) error {
	limit := wire.Time(-1 << 62)
	if expire {
		limit = ago(m.now(), m.cfg.MaxAge)
	}
	var last, removed, low uint64
	var count int
	var old *uint64
	var stale bool
	// The first item that is not too old is found from the front: times never go back.
	found, err := m.one(ctx, s, `SELECT s.last, s.removed, r.count, r.low, r.stale, i.seq FROM stream s
		CROSS JOIN LATERAL (SELECT count(*), coalesce(min(acked), 0) AS low, coalesce(bool_or(until <> 0 AND until <= s.removed), false) AS stale FROM reader WHERE stream = s.number) r
		LEFT JOIN LATERAL (SELECT seq FROM item WHERE stream = s.number AND time >= $2 ORDER BY seq LIMIT 1) i ON true
		WHERE s.name = $1`, []any{int64(limit)}, &last, &removed, &count, &low, &stale, &old)
	if err != nil || !found {
		return err
	}
	through := last
	if count > 0 {
		through = low
		m.dirty.swept(s, low, m.cfg.OpenStreams)
	}
	switch {
	case old != nil:
		through = max(through, *old-1)
	case expire:
		through = last // all items are too old
	}
	if through <= removed && !stale {
		return nil
	}
	return m.d.retry(ctx, func(ctx context.Context) error { return m.sweepOnce(ctx, s, through) })
}

// sweepOnce removes the items of a stream up to a sequence number that was right for the stream a moment ago. It does
// not wait for the disk: it is there after a crash only if the acknowledgements before it are.
func (m *Mailbox) sweepOnce(ctx context.Context, s mailbox.Stream, through uint64) error {
	c, err := m.d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	t := m.d.group.begin(c)
	b := begin(true)
	b.Queue(`SELECT name, number, last, removed, bytes, removed_bytes, position, time, readers FROM stream WHERE name = $1 FOR NO KEY UPDATE`, []byte(s)).Query(t.loadHeads)
	if err := send(t.c, b); err != nil {
		return err
	}
	h := t.heads[s]
	if h == nil {
		rollback(t.c)
		return nil
	}
	v, err := t.spread(h)
	if err == nil {
		err = t.trim(h, min(through, h.last), v.low)
	}
	if err != nil {
		rollback(t.c)
		return err
	}
	b = &pgx.Batch{}
	b.Queue("DELETE FROM reader WHERE stream = $1 AND until <> 0 AND until <= $2", h.number, h.removed)
	t.flush(b)
	return commit(t.c, b)
}

// The total of one sender in all streams is bounded too. It is not counted down as items are removed. It is counted from
// the rows when the mailbox starts, and up with each item; when a sender comes to the bound, the rows are counted again.
// So the number is never too small, and too large for a moment only.

// recountPause is how long the rows are not counted again.
const recountPause = time.Minute

// countSenders counts when the mailbox starts, and when a sender has come to the bound.
func (m *Mailbox) countSenders(ctx context.Context) {
	for ctx.Err() == nil {
		m.senders.Begin()
		counted := make(map[int64]uint64)
		err := m.d.query(ctx, "SELECT sender, sum(size)::bigint FROM sent GROUP BY sender", nil, func(rows pgx.Rows) error {
			var sender int64
			var n uint64
			err := rows.Scan(&sender, &n)
			counted[sender] = n
			return err
		})
		if err != nil {
			counted = nil
		}
		m.senders.End(counted)
		if err != nil && ctx.Err() == nil {
			m.cfg.Report(fmt.Errorf("count what senders have: %w", err))
			m.senders.Recount() // and again after the pause
		}
		select {
		case <-ctx.Done():
			return
		case <-m.cfg.Clock.After(recountPause):
		}
		select {
		case <-ctx.Done():
		case <-m.senders.Full:
		}
	}
}
