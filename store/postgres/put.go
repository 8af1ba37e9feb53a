package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// put stages one item, after all that can be refused.
func (t *tx) put(p *mailbox.Put) (sequence uint64, duplicate bool, err error) {
	s := t.heads[p.Stream]
	if s == nil || !s.exists && len(p.Join) == 0 {
		return 0, false, noStream("put", p.Stream)
	}
	if sequence, ok := t.ids[idKey{s.number, p.ID}]; ok {
		return sequence, true, nil
	}
	if p.Position != 0 && p.Position <= s.position {
		return 0, true, nil
	}
	if p.Position == 0 {
		if err := t.share(s, p); err != nil {
			return 0, false, err
		}
		if err := t.room(s, p); err != nil {
			return 0, false, err
		}
	}
	if err := t.join(s, "put", p.Join); err != nil {
		return 0, false, err
	}
	sequence = t.append(s, p)
	t.noteSender(s, p, sequence)
	return sequence, false, t.leave(s, p.Leave)
}

func noStream(op string, s mailbox.Stream) error {
	return wire.Errorf(wire.UnknownConversation, op, "%s is not kept here: a reader has to join it first", s)
}

func noReader(op string, s mailbox.Stream) error {
	return wire.Errorf(wire.UnknownConversation, op, "the address does not read %s, or no longer", s)
}

// append stages the item itself.
func (t *tx) append(s *head, p *mailbox.Put) uint64 {
	s.last++
	s.bytes += uint64(len(p.Payload))
	s.time = max(s.time, uint64(max(t.now, 0)))
	s.position = max(s.position, p.Position)
	s.staged = true
	t.items.add(s, p)
	t.ids[idKey{s.number, p.ID}] = s.last
	t.touched[s.name] = true
	return s.last
}

// stageChange stages a change of readers without an item.
func (t *tx) stageChange(c *change) error {
	s := t.heads[c.stream]
	if s == nil || !s.exists && len(c.join) == 0 {
		return noStream("change", c.stream)
	}
	if err := t.join(s, "change", c.join); err != nil {
		return err
	}
	return t.leave(s, c.leave)
}

// join stages new readers at the stream's end. Nothing is staged if they are refused.
func (t *tx) join(s *head, op string, readers []wire.Token) error {
	fresh := make(map[wire.Token]bool)
	for _, r := range readers {
		if !t.cursor(s, r).known {
			fresh[r] = true
		}
	}
	if most := uint64(t.g.box.cfg.MaxReaders); s.readers+uint64(len(fresh)) > most && len(fresh) > 0 {
		count, err := t.countReaders(s)
		if err != nil {
			return err
		}
		if s.readers, s.staged = count, true; count+uint64(len(fresh)) > most {
			return wire.Errorf(wire.Quota, op, "%s would have %d readers, at most %d", s.name, count+uint64(len(fresh)), most)
		}
	}
	for _, r := range readers {
		c := t.cursor(s, r)
		switch {
		case !c.known:
			*c = cursor{known: true, acked: s.last, stored: c.stored, staged: true}
			s.readers++
		case c.until != 0: // a reader that was leaving comes back
			c.until, c.staged = 0, true
		}
		s.exists, s.staged = true, true
	}
	return nil
}

// cursor returns a reader's cursor with what this transaction has done to it.
func (t *tx) cursor(s *head, r wire.Token) *cursor {
	k := cursorKey{s.number, r}
	c := t.cursors[k]
	if c == nil {
		c = new(cursor)
		t.cursors[k] = c
	}
	return c
}

// leave stages the end of readers at the stream's last item.
func (t *tx) leave(s *head, readers []wire.Token) error {
	for _, r := range readers {
		c := t.cursor(s, r)
		if !c.known || c.until != 0 {
			continue
		}
		if !t.touched[s.name] {
			t.touched[s.name] = false
		}
		c.staged = true
		if c.acked == s.last || s.removed == s.last { // nothing is left for it to read
			c.known = false
			s.readers, s.staged = s.readers-min(s.readers, 1), true
			continue
		}
		c.until = s.last
	}
	return nil
}

// spread is where the cursors of a stream's readers are.
type spread struct{ count, low, high uint64 }

// spread reads the positions of the cursors, with the staged changes.
func (t *tx) spread(s *head) (v spread, err error) {
	if s.readers == 0 {
		return spread{low: s.last}, nil
	}
	v.low = s.last
	err = t.ask(func(c *pgx.Conn) pgx.Row {
		return c.QueryRow(context.Background(), "SELECT count(*), coalesce(min(acked), $2), coalesce(max(acked), 0) FROM reader WHERE stream = $1", s.number, s.last)
	}, &v.count, &v.low, &v.high)
	return v, err
}

func (t *tx) countReaders(s *head) (n uint64, err error) {
	err = t.ask(func(c *pgx.Conn) pgx.Row {
		return c.QueryRow(context.Background(), "SELECT count(*) FROM reader WHERE stream = $1", s.number)
	}, &n)
	return n, err
}

// ask writes the staged changes, and then asks the database.
func (t *tx) ask(query func(*pgx.Conn) pgx.Row, to ...any) error {
	b := &pgx.Batch{}
	if t.flush(b); b.Len() > 0 {
		if err := t.c.SendBatch(context.Background(), b).Close(); err != nil {
			return err
		}
	}
	return query(t.c).Scan(to...)
}

// floor is the sequence number up to which nobody needs the items.
func (v spread) floor(s *head) uint64 {
	if v.count == 0 {
		return s.last
	}
	return max(v.low, s.removed)
}

// bytesAt is the payload of all items up to a sequence number.
func (t *tx) bytesAt(s *head, sequence uint64) (n uint64, err error) {
	switch {
	case sequence <= s.removed:
		return s.removedBytes, nil
	case sequence == s.last:
		return s.bytes, nil
	}
	err = t.ask(func(c *pgx.Conn) pgx.Row {
		return c.QueryRow(context.Background(), "SELECT bytes FROM item WHERE stream = $1 AND seq = $2", s.number, sequence)
	}, &n)
	return n, err
}

// room holds the quota of a stream. Only a stream that looks full costs a look at its readers.
func (t *tx) room(s *head, p *mailbox.Put) error {
	cfg, payload := &t.g.box.cfg, uint64(len(p.Payload))
	if s.last-s.removed < cfg.MaxItems && s.bytes-s.removedBytes+payload <= cfg.MaxBytes {
		return nil
	}
	v, err := t.spread(s)
	if err != nil || v.count == 0 {
		return err
	}
	floor := v.floor(s)
	before, err := t.bytesAt(s, floor)
	if err != nil {
		return err
	}
	items, size := s.last-floor+1, s.bytes-before+payload
	if items <= cfg.MaxItems && size <= cfg.MaxBytes {
		return nil
	}
	if payload <= cfg.MaxBytes {
		limit := v.high
		if cfg.DropOldest {
			limit = s.last
		}
		if made, err := t.evict(s, v, payload, limit); made || err != nil {
			return err
		}
	}
	t.counts[mailbox.OverQuota]++
	return wire.Errorf(wire.Quota, "put", "%s would hold %d items and %d bytes that a device has not acknowledged, at most %d and %d: try again when they are read, or revoke the device that is gone",
		s.name, items, size, cfg.MaxItems, cfg.MaxBytes)
}

// evict makes room for an item in a full stream, and for some more, so that not each append removes. It removes
// nothing beyond limit, and reports whether that was enough.
func (t *tx) evict(s *head, v spread, payload, limit uint64) (bool, error) {
	cfg := &t.g.box.cfg
	through := s.removed
	if s.last-s.removed >= cfg.MaxItems {
		through = s.last - cfg.MaxItems + 1
	}
	if s.bytes-s.removedBytes+payload > cfg.MaxBytes {
		var n uint64
		err := t.ask(func(c *pgx.Conn) pgx.Row {
			return c.QueryRow(context.Background(), "SELECT seq FROM item WHERE stream = $1 AND bytes >= $2 ORDER BY seq LIMIT 1", s.number, s.bytes+payload-cfg.MaxBytes)
		}, &n)
		if errors.Is(err, pgx.ErrNoRows) {
			n, err = s.last, nil
		}
		if err != nil {
			return false, err
		}
		through = max(through, n)
	}
	if through > limit {
		return false, nil
	}
	through = min(through+cfg.MaxItems/64, limit)
	// A reader that was added with an entry, and was away since, still gets that entry, with the Welcome in it, before its
	// gap: the entries that readers would read next are kept.
	err := t.exec(`INSERT INTO kept SELECT i.* FROM (SELECT DISTINCT acked + 1 AS seq FROM reader WHERE stream = $1 AND acked >= $2 AND acked < $3) r
		CROSS JOIN LATERAL (SELECT * FROM item WHERE stream = $1 AND seq = r.seq AND kind = $4 OFFSET 0) i LIMIT $5 ON CONFLICT DO NOTHING`,
		s.number, s.removed, through, int16(mailbox.KindEntry), mailbox.MaxKept)
	if err != nil {
		return false, err
	}
	t.counts[mailbox.Expired] += through - max(v.floor(s), s.removed)
	return true, t.trim(s, through, v.low)
}

// exec writes the staged changes, and then makes a change at once.
func (t *tx) exec(q string, args ...any) error {
	b := &pgx.Batch{}
	t.flush(b)
	b.Queue(q, args...)
	return t.c.SendBatch(context.Background(), b).Close()
}

// trim removes all items up to a sequence number. lowest is the lowest cursor.
func (t *tx) trim(s *head, through, lowest uint64) error {
	if through <= s.removed {
		return nil
	}
	n, err := t.bytesAt(s, through)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	t.flush(b)
	b.Queue("DELETE FROM item WHERE stream = $1 AND seq <= $2", s.number, through)
	b.Queue("DELETE FROM sent WHERE stream = $1 AND seq <= $2", s.number, through)
	b.Queue("DELETE FROM kept WHERE stream = $1 AND seq <= $2", s.number, min(through, lowest))
	if err := t.c.SendBatch(context.Background(), b).Close(); err != nil {
		return err
	}
	s.removed, s.removedBytes, s.staged = through, n, true
	return nil
}

// senderTag identifies a sender in a row.
func senderTag(sender string) int64 {
	h := sha256.Sum256([]byte(sender))
	return int64(binary.BigEndian.Uint64(h[:]))
}

type sumKey struct {
	number uint64
	sender int64
}

// sum is what a sender has brought to a stream, as the newest of its rows says.
type sum struct{ items, bytes uint64 }

type sentRow struct {
	number, sequence, size uint64
	sender                 int64
	sum                    sum
}

func (t *tx) loadSums(b *pgx.Batch, n names, senders []int64) {
	b.Queue(`SELECT s.number, t.sender, x.items, x.bytes FROM unnest($1::bytea[], $2::bigint[]) AS t(name, sender)
		CROSS JOIN LATERAL (SELECT number FROM stream WHERE name = t.name OFFSET 0) s
		CROSS JOIN LATERAL (SELECT items, bytes FROM sent WHERE stream = s.number AND sender = t.sender ORDER BY seq DESC LIMIT 1) x`,
		n.list, senders).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var k sumKey
			var v sum
			err := rows.Scan(&k.number, &k.sender, &v.items, &v.bytes)
			t.sums[k] = v
			return err
		})
	})
}

// noteSender records who brought an item.
func (t *tx) noteSender(s *head, p *mailbox.Put, sequence uint64) {
	if p.Sender == "" {
		return
	}
	k, size := sumKey{s.number, senderTag(p.Sender)}, uint64(len(p.Payload))
	v := t.sums[k]
	v.items++
	v.bytes += size
	t.sums[k] = v
	t.sender[k.sender] += size
	t.sent = append(t.sent, sentRow{number: s.number, sender: k.sender, sequence: sequence, size: size, sum: v})
}

// share holds a sender to its share of a stream's quota. Only items that no reader has acknowledged count: those that
// only absent readers have not read make room when the stream is full, and must not stop the sender's items for the
// others.
func (t *tx) share(s *head, p *mailbox.Put) error {
	if p.Sender == "" || s.readers == 0 {
		return nil
	}
	cfg, n, payload := &t.g.box.cfg, uint64(max(p.Senders, 1)), uint64(len(p.Payload))
	tag := senderTag(p.Sender)
	if have := t.g.box.senders.Of(tag) + t.sender[tag]; have+payload > cfg.MaxSender {
		v, err := t.spread(s)
		if err != nil || v.count == 0 {
			return err
		}
		t.g.box.senders.Recount()
		t.counts[mailbox.OverSender]++
		return wire.Errorf(wire.Quota, "put", "%s has %d bytes in all streams together that a device has not acknowledged, at most %d: try again when they are read", p.Sender, have, cfg.MaxSender)
	}
	maxItems, maxBytes := max(cfg.MaxItems/n, 1), max(cfg.MaxBytes/n, 1)
	if s.last-s.removed < maxItems && s.bytes-s.removedBytes+payload <= maxBytes {
		return nil // all of it together is less than one share
	}
	v, err := t.spread(s)
	if err != nil || v.count == 0 {
		return err
	}
	have := t.sums[sumKey{s.number, tag}]
	var before sum
	err = t.ask(func(c *pgx.Conn) pgx.Row {
		return c.QueryRow(context.Background(), "SELECT items - 1, bytes - size FROM sent WHERE stream = $1 AND sender = $2 AND seq > $3 ORDER BY seq LIMIT 1",
			s.number, tag, max(v.high, v.floor(s)))
	}, &before.items, &before.bytes)
	if errors.Is(err, pgx.ErrNoRows) {
		before, err = have, nil
	}
	if err != nil {
		return err
	}
	items, size := have.items-before.items, have.bytes-before.bytes
	if items < maxItems && size+payload <= maxBytes {
		return nil
	}
	t.counts[mailbox.OverShare]++
	return wire.Errorf(wire.Quota, "put", "%s holds %d items and %d bytes of %s that no device has acknowledged, at most %d and %d for one of %d senders: try again when they are read",
		s.name, items, size, p.Sender, maxItems, maxBytes, n)
}
