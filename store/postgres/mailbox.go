package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// maxRequest is how many bytes of payload one request may have.
const maxRequest = 64 << 20

// Mailbox implements mailbox.Box. It is safe for concurrent use.
type Mailbox struct {
	d        *Database
	cfg      mailbox.Config
	acks     *acks
	watchers *mailbox.Watchers
	senders  *mailbox.Totals[int64]
	dirty    dirty
	started  atomic.Bool
}

var _ mailbox.Box = (*Mailbox)(nil)

func newMailbox(d *Database, cfg mailbox.Config) *Mailbox {
	m := &Mailbox{d: d, cfg: cfg.WithDefaults(), watchers: mailbox.NewWatchers(), senders: mailbox.NewTotals[int64]()}
	m.acks = newAcks(m)
	return m
}

func (m *Mailbox) now() wire.Time { return wire.TimeOf(m.cfg.Clock.Now()) }

// periods counts lengths of time of a deduplication window. The current one never goes back, whatever the clock does.
type periods struct {
	mu      sync.Mutex
	current int64
}

// at returns the period of a time. now and length have the same unit.
func (p *periods) at(now, length int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = max(p.current, max(now, 0)/length)
	return p.current
}

// Put implements mailbox.Box.
func (m *Mailbox) Put(ctx context.Context, puts ...mailbox.Put) ([]mailbox.Result, error) {
	r, err := m.request(puts)
	if err != nil {
		return nil, err
	}
	if err := m.d.group.do(ctx, r); err != nil {
		return nil, err
	}
	return r.results, nil
}

// request checks puts and makes a request of them.
func (m *Mailbox) request(puts []mailbox.Put) (*request, error) {
	total := 0
	for i := range puts {
		total += len(puts[i].Payload)
	}
	if total > maxRequest {
		return nil, wire.Errorf(wire.TooLarge, "put", "%d items with %d bytes, at most %d at once", len(puts), total, maxRequest)
	}
	r := &request{puts: puts, results: make([]mailbox.Result, len(puts)), checked: make([]bool, len(puts))}
	for i := range puts {
		if r.results[i].Err = m.cfg.CheckPut(&puts[i]); r.results[i].Err != nil {
			r.checked[i] = true
			continue
		}
		if err := puts[i].Stream.Check(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Change implements mailbox.Box.
func (m *Mailbox) Change(ctx context.Context, s mailbox.Stream, join, leave []wire.Token) error {
	if err := m.cfg.CheckReaders(len(join), len(leave)); err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return err
	}
	return m.d.group.do(ctx, &request{change: &change{stream: s, join: join, leave: leave}})
}

// ReaderStates implements mailbox.Box.
func (m *Mailbox) ReaderStates(ctx context.Context, of ...mailbox.Reader) ([]mailbox.ReaderState, error) {
	var n names
	var tokens []wire.Token
	for i := range of {
		if err := of[i].Stream.Check(); err != nil {
			return nil, err
		}
		n.add(of[i].Stream)
		tokens = append(tokens, of[i].Token)
	}
	list := make([]mailbox.ReaderState, len(of))
	if len(of) == 0 {
		return list, ctx.Err()
	}
	err := m.d.query(ctx, `SELECT t.n, s.last, r.acked, r.until FROM unnest($1::bytea[], $2::uuid[]) WITH ORDINALITY AS t(name, token, n)
		CROSS JOIN LATERAL (SELECT number, last FROM stream WHERE name = t.name OFFSET 0) s
		CROSS JOIN LATERAL (SELECT acked, until FROM reader WHERE stream = s.number AND token = t.token OFFSET 0) r`,
		[]any{n.list, uuids(tokens)}, func(rows pgx.Rows) error {
			var i int
			v := mailbox.ReaderState{Known: true}
			if err := rows.Scan(&i, &v.End, &v.Acknowledged, &v.Until); err != nil {
				return err
			}
			if v.Until != 0 {
				v.End = min(v.End, v.Until)
			}
			list[i-1] = v
			return nil
		})
	return list, err
}

// view is what one reader sees of its stream.
type view struct {
	stream, reader              bool
	number, last, removed, ends uint64
}

const itemColumns = "seq, kind, ordered, id, time, position, bytes, payload"

// Read implements mailbox.Box. Its three queries see the same state of the database.
func (m *Mailbox) Read(ctx context.Context, s mailbox.Stream, r wire.Token, after uint64, limit mailbox.Limit) (p mailbox.Page, err error) {
	limit.Items, limit.Bytes = max(cmp.Or(limit.Items, 1024), 1), cmp.Or(limit.Bytes, 1<<20)
	if err := s.Check(); err != nil {
		return p, err
	}
	err = m.d.retry(ctx, func(ctx context.Context) error {
		p, err = m.read(ctx, s, r, after, limit)
		return err
	})
	if err != nil && !refusal(err) && ctx.Err() == nil {
		err = fmt.Errorf("read %s: %w", s, err)
	}
	return p, err
}

func (m *Mailbox) read(ctx context.Context, s mailbox.Stream, r wire.Token, after uint64, limit mailbox.Limit) (mailbox.Page, error) {
	var v view
	var kept, items []mailbox.Item
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	b.Queue(`SELECT s.number, s.last, s.removed, r.acked, r.until FROM stream s LEFT JOIN LATERAL
		(SELECT acked, until FROM reader WHERE stream = s.number AND token = $2 OFFSET 0) r ON true WHERE s.name = $1`, []byte(s), [16]byte(r)).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var acked, until *uint64
			v.stream = true
			if err := rows.Scan(&v.number, &v.last, &v.removed, &acked, &until); err != nil || acked == nil {
				return err
			}
			v.reader, v.ends = true, v.last
			if *until != 0 {
				v.ends = min(v.ends, *until)
			}
			return nil
		})
	})
	b.Queue("SELECT "+itemColumns+" FROM kept WHERE stream = (SELECT number FROM stream WHERE name = $1) AND seq = $2", []byte(s), after+1).Query(intoItems(&kept))
	b.Queue(`WITH s AS MATERIALIZED (SELECT number FROM stream WHERE name = $1),
		f AS MATERIALIZED (SELECT i.bytes - octet_length(i.payload) AS before FROM s CROSS JOIN LATERAL
			(SELECT bytes, payload FROM item WHERE stream = s.number AND seq > $2 ORDER BY seq LIMIT 1) i)
		SELECT i.* FROM s CROSS JOIN f CROSS JOIN LATERAL
			(SELECT `+itemColumns+` FROM item WHERE stream = s.number AND seq > $2 ORDER BY seq LIMIT $3) i
		WHERE i.bytes - f.before <= $4 OR i.bytes - octet_length(i.payload) = f.before`, []byte(s), after, limit.Items, limit.Bytes).Query(intoItems(&items))
	b.Queue("COMMIT")
	c, err := m.d.pool.Acquire(ctx)
	if err != nil {
		return mailbox.Page{}, err
	}
	defer c.Release()
	if err := c.Conn().SendBatch(ctx, b).Close(); err != nil {
		rollback(c.Conn())
		return mailbox.Page{}, err
	}
	switch {
	case !v.stream:
		return mailbox.Page{}, noStream("read", s)
	case !v.reader:
		return mailbox.Page{}, noReader("read", s)
	case after > v.ends:
		return mailbox.Page{}, wire.Errorf(wire.Invalid, "read", "after item %d of %s, which ends at %d for this reader", after, s, v.ends)
	}
	return v.page(after, limit, kept, items)
}

// page makes a reader's page of the rows after a sequence number.
func (v *view) page(after uint64, limit mailbox.Limit, kept, items []mailbox.Item) (p mailbox.Page, err error) {
	if v.removed > after && after < v.ends {
		if len(kept) > 0 {
			p.Items, p.More = kept, after+1 < v.ends
			return p, nil
		}
		p.Gap = &mailbox.Gap{From: after + 1, To: min(v.removed, v.ends)}
		after = p.Gap.To
	}
	size := 0
	for i := range items {
		next := after + uint64(len(p.Items)) + 1
		if next > v.ends {
			return p, nil
		}
		if items[i].Sequence != next {
			return p, fmt.Errorf("item %d is missing: %w", next, errData)
		}
		if size += len(items[i].Payload); len(p.Items) > 0 && size > limit.Bytes {
			break
		}
		p.Items = append(p.Items, items[i])
	}
	if p.More = after+uint64(len(p.Items)) < v.ends; p.More && len(p.Items) == 0 {
		return p, fmt.Errorf("item %d is missing: %w", after+1, errData)
	}
	return p, nil
}

func intoItems(to *[]mailbox.Item) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var i mailbox.Item
			var kind int16
			var ordered bool
			var at, position int64
			if err := rows.Scan(&i.Sequence, &kind, &ordered, (*[16]byte)(&i.ID), &at, &position, nil, &i.Payload); err != nil {
				return err
			}
			i.Kind, i.Time = mailbox.Kind(kind), wire.Time(at)
			if ordered {
				i.Position = uint64(position)
			}
			*to = append(*to, i)
			return nil
		})
	}
}

// one reads one row, if there is one, about a stream.
func (m *Mailbox) one(ctx context.Context, s mailbox.Stream, q string, more []any, to ...any) (found bool, err error) {
	if err := s.Check(); err != nil {
		return false, err
	}
	err = m.d.query(ctx, q, append([]any{[]byte(s)}, more...), func(rows pgx.Rows) error {
		found = true
		return rows.Scan(to...)
	})
	return found, err
}

// Position implements mailbox.Box.
func (m *Mailbox) Position(ctx context.Context, s mailbox.Stream) (at uint64, err error) {
	_, err = m.one(ctx, s, "SELECT position FROM stream WHERE name = $1", nil, &at)
	return at, err
}

// Readers implements mailbox.Box.
func (m *Mailbox) Readers(ctx context.Context, s mailbox.Stream) (n int, err error) {
	if err := serving(ctx, m.d.group.started, m.d.group.stopped); err != nil {
		return 0, err
	}
	_, err = m.one(ctx, s, "SELECT count(*) FROM reader WHERE stream = (SELECT number FROM stream WHERE name = $1)", nil, &n)
	return n, err
}

// Wanted implements mailbox.Box.
func (m *Mailbox) Wanted(ctx context.Context, s mailbox.Stream) (position uint64, ok bool, err error) {
	var at *uint64
	// next has the items that readers are given next. An entry that was kept has its own position; before a message come
	// the entries up to its position.
	_, err = m.one(ctx, s, `WITH s AS MATERIALIZED (SELECT number, last, removed FROM stream WHERE name = $1),
		next AS MATERIALIZED (SELECT DISTINCT r.acked + 1 AS seq FROM s CROSS JOIN LATERAL
			(SELECT acked, until FROM reader WHERE stream = s.number OFFSET 0) r WHERE r.acked < s.last AND (r.until = 0 OR r.acked < r.until))
		SELECT min(coalesce(k.position, CASE WHEN i.ordered THEN i.position ELSE i.position + 1 END)) FROM s CROSS JOIN next
			LEFT JOIN LATERAL (SELECT position FROM kept WHERE stream = s.number AND seq = next.seq AND next.seq <= s.removed OFFSET 0) k ON true
			LEFT JOIN LATERAL (SELECT position, ordered FROM item WHERE stream = s.number AND seq = greatest(next.seq, s.removed + 1) OFFSET 0) i ON true`, nil, &at)
	if err != nil || at == nil {
		return 0, false, err
	}
	return *at, true, nil
}

// Remove implements mailbox.Box.
func (m *Mailbox) Remove(ctx context.Context, s mailbox.Stream) error { return m.remove(ctx, s, true) }

// RemoveUnread implements mailbox.Box.
func (m *Mailbox) RemoveUnread(ctx context.Context, s mailbox.Stream) error {
	return m.remove(ctx, s, false)
}

// remove removes a stream in a transaction of its own: a long one holds nobody else up.
func (m *Mailbox) remove(ctx context.Context, s mailbox.Stream, read bool) error {
	if err := s.Check(); err != nil {
		return err
	}
	if err := serving(ctx, m.d.group.started, m.d.group.stopped); err != nil {
		return err
	}
	removed := false
	err := m.d.retry(ctx, func(ctx context.Context) (err error) {
		removed, err = m.removeOnce(ctx, s, read)
		return err
	})
	if removed {
		m.dirty.forget(s)
		m.watchers.Wake(s)
	}
	return err
}

func (m *Mailbox) removeOnce(ctx context.Context, s mailbox.Stream, read bool) (bool, error) {
	c, err := m.d.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer c.Release()
	var number, readers uint64
	b := begin(false)
	b.Queue("SELECT number FROM stream WHERE name = $1 FOR UPDATE", []byte(s)).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error { return rows.Scan(&number) })
	})
	b.Queue("SELECT count(*) FROM reader WHERE stream = (SELECT number FROM stream WHERE name = $1)", []byte(s)).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error { return rows.Scan(&readers) })
	})
	if err := send(c.Conn(), b); err != nil {
		return false, err
	}
	if number == 0 || !read && readers > 0 {
		rollback(c.Conn())
		return false, nil
	}
	b = &pgx.Batch{}
	b.Queue("DELETE FROM stream WHERE number = $1", number)
	for _, table := range []string{"item", "kept", "reader", "sent", "item_id"} {
		b.Queue("DELETE FROM "+table+" WHERE stream = $1", number)
	}
	return true, commit(c.Conn(), b)
}

// Subscribe implements mailbox.Box.
func (m *Mailbox) Subscribe() *mailbox.Subscription { return m.watchers.Subscribe() }

// Run implements mailbox.Box. The writers of groups run too, until ctx ends.
func (m *Mailbox) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("mailbox: Run was called twice: make a new Mailbox")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	all.Go(func() { m.d.group.run(ctx) })
	all.Go(func() { m.acks.run(ctx) })
	all.Go(func() { m.watchers.Run(ctx) })
	all.Go(func() { m.countSenders(ctx) })
	all.Go(func() { m.sweeper(ctx) })
	all.Wait()
	return nil
}

func ago(now wire.Time, d time.Duration) wire.Time { return now - wire.Time(d.Milliseconds()) }
