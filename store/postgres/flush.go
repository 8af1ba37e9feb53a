package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/mailbox"
)

// itemRows is the columns of the items that are staged.
type itemRows struct {
	stream, sequence, time, bytes, position []int64
	kind                                    []int16
	ordered                                 []bool
	id                                      [][16]byte
	payload                                 [][]byte
}

func (r *itemRows) add(s *head, p *mailbox.Put) {
	payload := p.Payload
	if payload == nil {
		payload = []byte{} // nil would be NULL
	}
	r.stream, r.sequence = append(r.stream, int64(s.number)), append(r.sequence, int64(s.last))
	r.time, r.bytes, r.position = append(r.time, int64(s.time)), append(r.bytes, int64(s.bytes)), append(r.position, int64(s.position))
	r.kind, r.ordered = append(r.kind, int16(p.Kind)), append(r.ordered, p.Position != 0)
	r.id, r.payload = append(r.id, p.ID), append(r.payload, payload)
}

// flush queues the statements that write the staged changes, and clears the stage.
func (t *tx) flush(b *pgx.Batch) {
	if r := &t.items; len(r.stream) > 0 {
		b.Queue(`INSERT INTO item (stream, seq, kind, ordered, id, time, bytes, position, payload)
			SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::boolean[], $5::uuid[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[])`,
			r.stream, r.sequence, r.kind, r.ordered, r.id, r.time, r.bytes, r.position, r.payload)
		b.Queue(`INSERT INTO item_id (stream, id, seq, period) SELECT s, i, q, $4 FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS t(s, i, q)
			ON CONFLICT (stream, id) DO UPDATE SET seq = excluded.seq, period = excluded.period`, r.stream, r.id, r.sequence, t.period)
		t.items = itemRows{}
	}
	t.flushReaders(b)
	if len(t.sent) > 0 {
		var stream, sender, sequence, size, items, sums []int64
		for _, r := range t.sent {
			stream, sender, sequence = append(stream, int64(r.number)), append(sender, r.sender), append(sequence, int64(r.sequence))
			size, items, sums = append(size, int64(r.size)), append(items, int64(r.sum.items)), append(sums, int64(r.sum.bytes))
		}
		b.Queue(`INSERT INTO sent (stream, sender, seq, size, items, bytes)
			SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])`, stream, sender, sequence, size, items, sums)
		t.sent = nil
	}
	t.flushHeads(b)
	t.flushLanes(b)
	t.flushJoined(b)
}

// flushReaders writes cursors. Their rows are locked: no acknowledgement moves them meanwhile.
func (t *tx) flushReaders(b *pgx.Batch) {
	var stream, acked, until []int64
	var token [][16]byte
	var goneStream []int64
	var goneToken [][16]byte
	for k, c := range t.cursors {
		switch {
		case !c.staged:
		case c.known:
			stream, token = append(stream, int64(k.number)), append(token, k.token)
			acked, until = append(acked, int64(c.acked)), append(until, int64(c.until))
			c.stored = true
		case c.stored:
			goneStream, goneToken = append(goneStream, int64(k.number)), append(goneToken, k.token)
			c.stored = false
		}
		c.staged = false
	}
	if len(stream) > 0 {
		b.Queue(`INSERT INTO reader (stream, token, acked, until) SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[])
			ON CONFLICT (stream, token) DO UPDATE SET until = excluded.until, acked = greatest(reader.acked, excluded.acked)`, stream, token, acked, until)
	}
	if len(goneStream) > 0 {
		b.Queue(deleteReaders, goneStream, goneToken)
	}
}

const deleteReaders = `DELETE FROM reader WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM unnest($1::bigint[], $2::uuid[]) AS t(stream, token)
	CROSS JOIN LATERAL (SELECT ctid FROM reader WHERE stream = t.stream AND token = t.token OFFSET 0) r))`

// flushUnused removes the streams that were made for readers who were refused.
func (t *tx) flushUnused(b *pgx.Batch) {
	for _, s := range t.heads {
		if s.made && !s.exists {
			b.Queue("DELETE FROM stream WHERE number = $1", s.number)
		}
	}
}

func (t *tx) flushHeads(b *pgx.Batch) {
	var number, last, removed, size, removedBytes, position, time, readers []int64
	for _, s := range t.heads {
		if !s.staged || !s.exists {
			continue
		}
		s.staged = false
		number, last, removed = append(number, int64(s.number)), append(last, int64(s.last)), append(removed, int64(s.removed))
		size, removedBytes = append(size, int64(s.bytes)), append(removedBytes, int64(s.removedBytes))
		position, time, readers = append(position, int64(s.position)), append(time, int64(s.time)), append(readers, int64(s.readers))
	}
	if len(number) > 0 {
		b.Queue(`UPDATE stream h SET last = t.last, removed = t.removed, bytes = t.bytes, removed_bytes = t.removed_bytes,
			position = t.position, time = t.time, readers = t.readers
			FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
			AS t(number, last, removed, bytes, removed_bytes, position, time, readers) WHERE h.number = t.number`,
			number, last, removed, size, removedBytes, position, time, readers)
	}
}
