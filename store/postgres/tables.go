package postgres

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// joined implements store.Readers.
type joined struct{ d *Database }

func (t *tx) flushJoined(b *pgx.Batch) {
	if len(t.readers) == 0 {
		return
	}
	at := make(map[store.Joined]wire.Time) // the last one of each, since one statement cannot write a row twice
	for _, j := range t.readers {
		since := j.Since
		j.Since = 0
		at[j] = since
	}
	var devices, conversations [][]byte
	var tokens [][16]byte
	var since []int64
	for j, when := range at {
		devices, conversations = append(devices, []byte(j.Device)), append(conversations, []byte(j.Conversation))
		tokens, since = append(tokens, j.Token), append(since, int64(when))
	}
	b.Queue(`INSERT INTO joined (device, token, conversation, since) SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::bytea[], $4::bigint[])
		ON CONFLICT (device, token, conversation) DO UPDATE SET since = excluded.since`, devices, tokens, conversations, since)
	t.readers = nil
}

// Of implements store.Readers.
func (j *joined) Of(ctx context.Context, d wire.DeviceID) (list []store.Reader, err error) {
	err = j.d.query(ctx, "SELECT token, conversation FROM joined WHERE device = $1 ORDER BY token, conversation", []any{[]byte(d)}, intoReaders(&list))
	return list, err
}

func intoReaders(to *[]store.Reader) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var r store.Reader
		var conversation []byte
		err := rows.Scan((*[16]byte)(&r.Token), &conversation)
		r.Conversation = wire.ConversationID(conversation)
		*to = append(*to, r)
		return err
	}
}

// In implements store.Readers.
func (j *joined) In(ctx context.Context, d wire.DeviceID, id wire.ConversationID) (list []store.Reader, err error) {
	err = j.d.query(ctx, "SELECT token, conversation FROM joined WHERE device = $1 AND conversation = $2 ORDER BY token", []any{[]byte(d), []byte(id)}, intoReaders(&list))
	return list, err
}

// Since implements store.Readers.
func (j *joined) Since(ctx context.Context, d wire.DeviceID, r store.Reader) (since wire.Time, ok bool, err error) {
	err = j.d.query(ctx, "SELECT since FROM joined WHERE device = $1 AND token = $2 AND conversation = $3", []any{[]byte(d), [16]byte(r.Token), []byte(r.Conversation)},
		func(rows pgx.Rows) error {
			var at int64
			err := rows.Scan(&at)
			since, ok = wire.Time(at), err == nil
			return err
		})
	return since, ok, err
}

// Drop implements store.Readers.
func (j *joined) Drop(ctx context.Context, d wire.DeviceID, r store.Reader) error {
	return j.d.lazy(ctx, func(b *pgx.Batch) {
		b.Queue("DELETE FROM joined WHERE device = $1 AND token = $2 AND conversation = $3", []byte(d), [16]byte(r.Token), []byte(r.Conversation))
	})
}

// bindings implements store.Bindings: a file without a binding was uploaded to a build that did not record bindings.
type bindings struct{ d *Database }

// Add implements store.Bindings.
func (s bindings) Add(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) error {
	return s.d.eager(ctx, func(b *pgx.Batch) {
		b.Queue("INSERT INTO binding VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", ref.Hash[:], int64(ref.Size), []byte(id))
	})
}

// Allows implements store.Bindings.
func (s bindings) Allows(ctx context.Context, ref wire.BlobRef, id wire.ConversationID) (ok bool, err error) {
	err = s.d.query(ctx, `SELECT EXISTS (SELECT FROM binding WHERE hash = $1 AND size = $2 AND conversation = $3)
		OR NOT EXISTS (SELECT FROM binding WHERE hash = $1 AND size = $2)`, []any{ref.Hash[:], int64(ref.Size), []byte(id)},
		func(rows pgx.Rows) error { return rows.Scan(&ok) })
	return ok, err
}

// sweepPage is how many rows one query of a sweep reads.
const sweepPage = 1024

// Sweep implements store.Bindings.
func (s bindings) Sweep(ctx context.Context, stored func(wire.BlobRef) bool) error {
	var last wire.BlobRef
	for first := true; ; first = false {
		var list []wire.BlobRef
		err := s.d.query(ctx, "SELECT DISTINCT hash, size FROM binding WHERE $4 OR (hash, size) > ($1, $2) ORDER BY hash, size LIMIT $3",
			[]any{last.Hash[:], int64(last.Size), sweepPage, first}, func(rows pgx.Rows) error {
				var hash []byte
				var size int64
				err := rows.Scan(&hash, &size)
				r := wire.BlobRef{Size: uint64(size)}
				if copy(r.Hash[:], hash) != len(hash) || len(hash) != len(r.Hash) {
					return fmt.Errorf("binding with a hash of %d bytes: %w", len(hash), errData)
				}
				list = append(list, r)
				return err
			})
		if err != nil || len(list) == 0 {
			return err
		}
		last = list[len(list)-1]
		err = s.d.lazy(ctx, func(b *pgx.Batch) {
			for _, r := range list {
				if !stored(r) {
					b.Queue("DELETE FROM binding WHERE hash = $1 AND size = $2", r.Hash[:], int64(r.Size))
				}
			}
		})
		if err != nil {
			return err
		}
	}
}

// epochs implements store.Epochs.
type epochs struct{ d *Database }

// pruneAtOnce bounds the old keys that one Note forgets.
const pruneAtOnce = 32

// Note implements store.Epochs.
func (s epochs) Note(ctx context.Context, id wire.ConversationID, k store.EpochKey, branches int, before wire.Epoch) error {
	return s.d.lazy(ctx, func(b *pgx.Batch) {
		if k.Epoch == 0 {
			b.Queue("INSERT INTO epoch_searched VALUES ($1) ON CONFLICT DO NOTHING", []byte(id))
		}
		// The oldest key goes if there are as many as there may be, without the new one.
		b.Queue(`DELETE FROM epoch_key WHERE conversation = $1 AND epoch = $2 AND (SELECT count(*) FROM epoch_key WHERE conversation = $1 AND epoch = $2) >= $3
			AND seq = (SELECT min(seq) FROM epoch_key WHERE conversation = $1 AND epoch = $2)`, []byte(id), int64(k.Epoch), branches)
		b.Queue(`INSERT INTO epoch_key VALUES ($1, $2, $3, $4) ON CONFLICT (conversation, epoch, seq) DO UPDATE SET key = excluded.key`,
			[]byte(id), int64(k.Epoch), int64(k.Sequence), k.Key[:])
		if before > 0 {
			b.Queue(`DELETE FROM epoch_key WHERE ctid = ANY (ARRAY(SELECT ctid FROM epoch_key WHERE conversation = $1 AND epoch < $2 ORDER BY epoch, seq LIMIT $3))`,
				[]byte(id), int64(before), pruneAtOnce)
		}
	})
}

// Keys implements store.Epochs.
func (s epochs) Keys(ctx context.Context, id wire.ConversationID, e wire.Epoch) (list []wire.SubmissionKey, err error) {
	err = s.d.query(ctx, "SELECT key FROM epoch_key WHERE conversation = $1 AND epoch = $2 ORDER BY seq", []any{[]byte(id), int64(e)}, func(rows pgx.Rows) error {
		var key []byte
		if err := rows.Scan(&key); err != nil {
			return err
		}
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("key of %d bytes of a past epoch: %w", len(key), errData)
		}
		list = append(list, wire.SubmissionKey(key))
		return nil
	})
	return list, err
}

// Searched implements store.Epochs.
func (s epochs) Searched(ctx context.Context, id wire.ConversationID) (ok bool, err error) {
	err = s.d.query(ctx, "SELECT EXISTS (SELECT FROM epoch_searched WHERE conversation = $1)", []any{[]byte(id)}, func(rows pgx.Rows) error { return rows.Scan(&ok) })
	return ok, err
}

// SetSearched implements store.Epochs.
func (s epochs) SetSearched(ctx context.Context, id wire.ConversationID) error {
	return s.d.lazy(ctx, func(b *pgx.Batch) {
		b.Queue("INSERT INTO epoch_searched VALUES ($1) ON CONFLICT DO NOTHING", []byte(id))
	})
}

// Forget implements store.Epochs.
func (s epochs) Forget(ctx context.Context, id wire.ConversationID) error {
	return s.d.lazy(ctx, func(b *pgx.Batch) {
		b.Queue("DELETE FROM epoch_key WHERE conversation = $1", []byte(id))
		b.Queue("DELETE FROM epoch_searched WHERE conversation = $1", []byte(id))
	})
}

// Sweep implements store.Epochs.
func (s epochs) Sweep(ctx context.Context, held func(wire.ConversationID) bool) error {
	for after := []byte{}; ; {
		var list []wire.ConversationID
		err := s.d.query(ctx, `SELECT conversation FROM epoch_key WHERE conversation > $1 UNION SELECT conversation FROM epoch_searched WHERE conversation > $1
			ORDER BY conversation LIMIT $2`, []any{after, sweepPage}, func(rows pgx.Rows) error {
			var id []byte
			err := rows.Scan(&id)
			list = append(list, wire.ConversationID(id))
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, id := range list {
			if !held(id) {
				if err := s.Forget(ctx, id); err != nil {
					return err
				}
			}
		}
		after = []byte(list[len(list)-1])
	}
}

// removals implements store.Removals.
type removals struct{ d *Database }

const maxRemoval = 32 << 20 // bytes of a record: 131,072 readers

// Since implements store.Removals.
func (s removals) Since(ctx context.Context, t wire.Token, id wire.ConversationID) (e wire.Epoch, err error) {
	err = s.d.query(ctx, "SELECT since FROM member WHERE token = $1 AND conversation = $2", []any{[16]byte(t), []byte(id)}, func(rows pgx.Rows) error {
		var at int64
		err := rows.Scan(&at)
		e = wire.Epoch(at)
		return err
	})
	return e, err
}

// Note implements store.Removals.
func (s removals) Note(ctx context.Context, id wire.ConversationID, since wire.Epoch, join []wire.Token, rec *store.Removal) error {
	var value []byte
	var err error
	if rec != nil {
		if value, err = wire.Encode(rec); err != nil {
			return err
		}
	}
	return s.d.lazy(ctx, func(b *pgx.Batch) {
		if rec != nil {
			var gone [][16]byte
			for _, m := range rec.Members {
				gone = append(gone, m.Token)
			}
			b.Queue("DELETE FROM member WHERE token = ANY($1::uuid[]) AND conversation = $2", gone, []byte(id))
			setRemoval(b, id, rec, value)
		}
		if len(join) > 0 {
			b.Queue(`INSERT INTO member (token, conversation, since) SELECT DISTINCT t, $2::bytea, $3::bigint FROM unnest($1::uuid[]) AS t
				ON CONFLICT (token, conversation) DO UPDATE SET since = excluded.since`, uuids(join), []byte(id), int64(since))
		}
	})
}

func setRemoval(b *pgx.Batch, id wire.ConversationID, rec *store.Removal, value []byte) {
	b.Queue(`INSERT INTO removal VALUES ($1, $2, $3, $4, $5) ON CONFLICT (conversation, epoch, seq) DO UPDATE SET time = excluded.time, value = excluded.value`,
		[]byte(id), int64(rec.Epoch), int64(rec.Sequence), int64(rec.Time), value)
}

// Between implements store.Removals.
func (s removals) Between(ctx context.Context, id wire.ConversationID, first, last wire.Epoch) (list []store.Removal, err error) {
	err = s.d.query(ctx, "SELECT seq, value FROM removal WHERE conversation = $1 AND epoch BETWEEN $2 AND $3 ORDER BY epoch, seq",
		[]any{[]byte(id), int64(min(first, math.MaxInt64)), int64(min(last, math.MaxInt64))}, func(rows pgx.Rows) error {
			var seq int64
			var value []byte
			var rec store.Removal
			if err := rows.Scan(&seq, &value); err != nil {
				return err
			}
			if err := wire.Decode(value, maxRemoval, &rec); err != nil {
				return fmt.Errorf("removals: %w: %w", err, errData)
			}
			rec.Sequence = wire.SequenceNumber(seq)
			list = append(list, rec)
			return nil
		})
	return list, err
}

// Set implements store.Removals.
func (s removals) Set(ctx context.Context, id wire.ConversationID, rec *store.Removal) error {
	value, err := wire.Encode(rec)
	if err != nil {
		return err
	}
	return s.d.lazy(ctx, func(b *pgx.Batch) { setRemoval(b, id, rec, value) })
}

// Sweep implements store.Removals.
func (s removals) Sweep(ctx context.Context, until wire.Time) error {
	return s.d.lazy(ctx, func(b *pgx.Batch) { b.Queue("DELETE FROM removal WHERE time <= $1", int64(until)) })
}

// founders implements store.Founders.
type founders struct{ d *Database }

// Load implements store.Founders.
func (s founders) Load(ctx context.Context, do func(wire.ConversationID, store.Founding) error) error {
	return s.d.query(ctx, "SELECT conversation, at, account FROM founder", nil, func(rows pgx.Rows) error {
		var id, user []byte
		var at int64
		if err := rows.Scan(&id, &at, &user); err != nil {
			return err
		}
		return do(wire.ConversationID(id), store.Founding{User: wire.UserID(user), At: wire.Time(at)})
	})
}

// Set implements store.Founders.
func (s founders) Set(ctx context.Context, id wire.ConversationID, f store.Founding) error {
	return s.d.lazy(ctx, func(b *pgx.Batch) {
		b.Queue("INSERT INTO founder VALUES ($1, $2, $3) ON CONFLICT (conversation) DO UPDATE SET at = excluded.at, account = excluded.account", []byte(id), int64(f.At), []byte(f.User))
	})
}

// Delete implements store.Founders.
func (s founders) Delete(ctx context.Context, ids ...wire.ConversationID) error {
	list := make([][]byte, len(ids))
	for i, id := range ids {
		list[i] = []byte(id)
	}
	return s.d.lazy(ctx, func(b *pgx.Batch) { b.Queue("DELETE FROM founder WHERE conversation = ANY($1::bytea[])", list) })
}

// nodeClock implements store.Clock. Each node has a clock of its own.
type nodeClock struct{ d *Database }

// Load implements store.Clock.
func (s nodeClock) Load(ctx context.Context) (state []byte, err error) {
	err = s.d.query(ctx, "SELECT state FROM clock WHERE node = $1", []any{[]byte(s.d.o.Node)}, func(rows pgx.Rows) error { return rows.Scan(&state) })
	return state, err
}

// Save implements store.Clock.
func (s nodeClock) Save(ctx context.Context, state []byte) error {
	return s.d.eager(ctx, func(b *pgx.Batch) {
		b.Queue("INSERT INTO clock VALUES ($1, $2) ON CONFLICT (node) DO UPDATE SET state = excluded.state", []byte(s.d.o.Node), state)
	})
}
