package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/wire"
)

// lanes implements lanestore.Store. It is safe for concurrent use.
type lanes struct {
	d      *Database
	opened chan struct{} // closed when Open has read what waits; outbox is set before
	outbox lanestore.Outbox
}

var _ lanestore.Store = (*lanes)(nil)

type laneKey struct {
	org          wire.Domain
	conversation wire.ConversationID
	id           wire.SubmissionID
}

func keyOf(it *lanestore.Item) laneKey { return laneKey{it.Organization, it.Conversation, it.ID} }

// laneRow is an item that is staged.
type laneRow struct {
	laneKey
	sequence uint64
	stored   lanestore.Stored
}

// Open implements lanestore.Store.
func (l *lanes) Open(o lanestore.Outbox) error {
	if l.outbox != nil {
		return errors.New("outbox: the lanes have an outbox already: make new ones")
	}
	l.outbox = o
	var found []lanestore.Queued
	err := l.d.query(context.Background(), "SELECT org, conversation, seq, time, octet_length(payload) FROM lane_item ORDER BY org, conversation, seq", nil, func(rows pgx.Rows) error {
		var org, conversation []byte
		var at int64
		var q lanestore.Queued
		err := rows.Scan(&org, &conversation, &q.Sequence, &at, &q.Bytes)
		q.Organization, q.Conversation, q.Stored.Time = wire.Domain(org), wire.ConversationID(conversation), wire.Time(at)
		if found = append(found, q); len(found) == 1024 {
			o.Restore(found)
			found = found[:0]
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("outbox: open: %w", err)
	}
	o.Restore(found)
	close(l.opened)
	return nil
}

// Append implements lanestore.Store.
func (l *lanes) Append(ctx context.Context, items ...lanestore.Item) (map[wire.Domain]bool, error) {
	if err := l.check(ctx, items); err != nil {
		return nil, err
	}
	r := &request{queue: items}
	if err := l.d.group.do(ctx, r); err != nil {
		return nil, err
	}
	return r.full, nil
}

// check waits for the outbox, and refuses what the outbox refuses.
func (l *lanes) check(ctx context.Context, items []lanestore.Item) error {
	if err := serving(ctx, l.opened, l.d.group.stopped); err != nil {
		return err
	}
	return l.outbox.Check(items)
}

// Read implements lanestore.Store.
func (l *lanes) Read(ctx context.Context, d wire.Domain, c wire.ConversationID, from, to uint64, do func(lanestore.Waiting) bool) error {
	end := errors.New("end")
	err := l.d.query(ctx, "SELECT seq, id, time, payload FROM lane_item WHERE org = $1 AND conversation = $2 AND seq BETWEEN $3 AND $4 ORDER BY seq",
		[]any{[]byte(d), []byte(c), from, int64(min(to, 1<<63-1))}, func(rows pgx.Rows) error {
			var w lanestore.Waiting
			var at int64
			if err := rows.Scan(&w.Sequence, (*[16]byte)(&w.ID), &at, &w.Payload); err != nil {
				return err
			}
			if w.Time = wire.Time(at); !do(w) {
				return end
			}
			return ctx.Err()
		})
	if errors.Is(err, end) {
		return nil
	}
	return err
}

// removalPatience bounds the wait of a removal: its caller has no need of the answer.
const removalPatience = time.Minute

// Remove implements lanestore.Store.
func (l *lanes) Remove(ctx context.Context, d wire.Domain, c wire.ConversationID, sequences []uint64) error {
	if len(sequences) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalPatience)
	defer cancel()
	list := make([]int64, len(sequences))
	for i, n := range sequences {
		list[i] = int64(n)
	}
	err := l.d.lazy(ctx, func(b *pgx.Batch) {
		b.Queue("DELETE FROM lane_item WHERE org = $1 AND conversation = $2 AND seq = ANY($3::bigint[])", []byte(d), []byte(c), list)
	})
	if err != nil {
		return fmt.Errorf("remove what %s has: %w", d, err)
	}
	return nil
}

// lanePeriod is the current period of the ids of lanes.
func (t *tx) lanePeriod() int64 {
	o := t.g.d.lanes.outbox
	return t.g.lanes.at(int64(o.Now()), o.Window().Milliseconds())
}

// loadLanes reads which items are known, and takes sequences for all of them.
func (t *tx) loadLanes(b *pgx.Batch, queue []lanestore.Item) {
	var orgs, conversations [][]byte
	var ids []wire.SubmissionID
	for i := range queue {
		orgs, conversations, ids = append(orgs, []byte(queue[i].Organization)), append(conversations, []byte(queue[i].Conversation)), append(ids, queue[i].ID)
	}
	b.Queue(`SELECT t.org, t.conversation, t.id, k.seq FROM unnest($1::bytea[], $2::bytea[], $3::uuid[]) AS t(org, conversation, id)
		CROSS JOIN LATERAL (SELECT seq FROM lane_id WHERE org = t.org AND conversation = t.conversation AND id = t.id AND period >= $4 OFFSET 0) k`,
		orgs, conversations, uuids(ids), t.lanePeriod()-1).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var org, conversation []byte
			var id [16]byte
			var sequence uint64
			err := rows.Scan(&org, &conversation, &id, &sequence)
			t.laneIDs[laneKey{wire.Domain(org), wire.ConversationID(conversation), id}] = sequence
			return err
		})
	})
	b.Queue("SELECT nextval('lane_seq') FROM generate_series(1, $1)", len(queue)).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var n uint64
			err := rows.Scan(&n)
			t.laneSeq = append(t.laneSeq, n)
			return err
		})
	})
}

// stageQueue stages items for other organizations, and notes the organizations that have no room for theirs. The outbox
// makes room for an item once, also if the transaction is repeated.
func (t *tx) stageQueue(r *request) error {
	for i := range r.queue {
		it := &r.queue[i]
		key := keyOf(it)
		q, reserved := r.reserved[i]
		if sequence, known := t.laneIDs[key]; known {
			if reserved { // by a transaction whose outcome was not known
				q.Sequence = sequence
				t.queued = append(t.queued, q)
			}
			continue
		}
		if !reserved && r.full[it.Organization] {
			continue
		}
		if len(t.laneSeq) == 0 {
			return fmt.Errorf("%w: no sequence is left for an item of a lane", errAgain)
		}
		sequence := t.laneSeq[0]
		if !reserved {
			q = lanestore.Queued{
				Organization: it.Organization, Conversation: it.Conversation, Bytes: int64(len(it.Payload)), Sender: it.Sender,
				Stored: lanestore.Stored{ID: it.ID, Time: t.g.d.lanes.outbox.Now(), Payload: it.Payload},
			}
			q.Sequence = sequence
			if !t.g.d.lanes.outbox.Reserve(q) {
				r.full[it.Organization] = true
				if r.refused == nil {
					r.refused = make(map[int]bool)
				}
				r.refused[i] = true
				continue
			}
		}
		q.Sequence, t.laneSeq = sequence, t.laneSeq[1:]
		if r.reserved == nil {
			r.reserved = make(map[int]lanestore.Queued)
		}
		r.reserved[i] = q
		t.laneIDs[key] = sequence
		t.lanes = append(t.lanes, laneRow{key, sequence, q.Stored})
		t.queued = append(t.queued, q)
	}
	return nil
}

func (t *tx) flushLanes(b *pgx.Batch) {
	if len(t.lanes) == 0 {
		return
	}
	var orgs, conversations, payloads [][]byte
	var sequences, times []int64
	var ids [][16]byte
	for _, r := range t.lanes {
		payload := r.stored.Payload
		if payload == nil {
			payload = []byte{}
		}
		orgs, conversations, payloads = append(orgs, []byte(r.org)), append(conversations, []byte(r.conversation)), append(payloads, payload)
		sequences, times, ids = append(sequences, int64(r.sequence)), append(times, int64(r.stored.Time)), append(ids, r.id)
	}
	b.Queue(`INSERT INTO lane_item (org, conversation, seq, id, time, payload)
		SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bytea[])`, orgs, conversations, sequences, ids, times, payloads)
	b.Queue(`INSERT INTO lane_id (org, conversation, id, seq, period) SELECT o, c, i, s, $5 FROM unnest($1::bytea[], $2::bytea[], $3::uuid[], $4::bigint[]) AS t(o, c, i, s)
		ON CONFLICT (org, conversation, id) DO UPDATE SET seq = excluded.seq, period = excluded.period`, orgs, conversations, ids, sequences, t.lanePeriod())
	t.lanes = nil
}
