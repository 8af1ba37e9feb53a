package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// maxAcks is how many requests to acknowledge go into one transaction.
const maxAcks = 1024

// ackRequest is a call of Acknowledge under way.
type ackRequest struct {
	list []mailbox.Ack
	done chan struct{}
	err  error
}

func (r *ackRequest) ended() <-chan struct{} { return r.done }
func (r *ackRequest) outcome() error         { return r.err }

// acks moves cursors, in transactions that do not wait for the disk. They lock the rows of readers, and no stream.
type acks struct {
	m        *Mailbox
	requests chan *ackRequest
}

func newAcks(m *Mailbox) *acks { return &acks{m: m, requests: make(chan *ackRequest, maxWaiting)} }

// Acknowledge implements mailbox.Box.
func (m *Mailbox) Acknowledge(ctx context.Context, list ...mailbox.Ack) error {
	for i := range list {
		if err := list[i].Stream.Check(); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil || len(list) == 0 {
		return err
	}
	g := m.d.group
	if err := serving(ctx, g.started, g.stopped); err != nil {
		return err
	}
	r := &ackRequest{list: list, done: make(chan struct{})}
	limit, cancel := context.WithTimeout(ctx, m.d.o.Patience)
	defer cancel()
	late := func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return unavailable()
	}
	return await(m.acks.requests, r, limit, g.stopped, late)
}

func (a *acks) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-a.requests:
			list := []*ackRequest{first}
			for n := len(first.list); n < maxAcks; {
				select {
				case r := <-a.requests:
					list, n = append(list, r), n+len(r.list)
					continue
				default:
				}
				break
			}
			a.make(ctx, list)
		}
	}
}

// make makes one transaction of requests, repeats it until its outcome is known, and answers the requests.
func (a *acks) make(ctx context.Context, list []*ackRequest) {
	for p := firstPause; ; p = pause(ctx, p) {
		if ctx.Err() != nil {
			return // Acknowledge answers
		}
		err := a.attempt(ctx, list)
		if transient(err) {
			continue
		}
		for _, r := range list {
			if err != nil {
				r.err = fmt.Errorf("acknowledge: %w", err)
			}
			close(r.done)
		}
		return
	}
}

// acked is the row of a reader as acknowledgements change it.
type acked struct {
	number        uint64 // of the stream
	at, until     uint64
	from          uint64 // at, before the transaction
	moved, leaves bool
}

func (a *acks) attempt(ctx context.Context, list []*ackRequest) error {
	c, err := a.m.d.own.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	type key struct {
		stream mailbox.Stream
		token  wire.Token
	}
	var n names
	var tokens []wire.Token
	for _, r := range list {
		for _, ack := range r.list {
			n.add(ack.Stream)
			tokens = append(tokens, ack.Token)
		}
	}
	of, ids := lockOrder(n, tokens)
	found := make(map[key]*acked)
	ends := make(map[uint64]uint64)
	b := begin(true)
	b.Queue(lockReaders, of, ids).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var v acked
			var i int
			err := rows.Scan(&i, &v.number, nil, &v.at, &v.until)
			v.from = v.at
			if err == nil {
				found[key{mailbox.Stream(of[i-1]), ids[i-1]}] = &v
			}
			return err
		})
	})
	b.Queue("SELECT number, last FROM stream WHERE name = ANY($1::bytea[])", of).Query(func(rows pgx.Rows) error {
		return each(rows, nil, func(rows pgx.Rows) error {
			var number, last uint64
			err := rows.Scan(&number, &last)
			ends[number] = last
			return err
		})
	})
	if err := send(c.Conn(), b); err != nil {
		return err
	}
	for _, r := range list {
		r.err = nil
		for _, ack := range r.list {
			v := found[key{ack.Stream, ack.Token}]
			if err := v.acknowledge(&ack, ends); err != nil && r.err == nil {
				r.err = err
			}
		}
	}
	var number, at []int64
	var token, gone [][16]byte
	var goneFrom []int64
	for k, v := range found {
		switch {
		case v.leaves:
			goneFrom, gone = append(goneFrom, int64(v.number)), append(gone, k.token)
		case v.moved:
			number, token, at = append(number, int64(v.number)), append(token, k.token), append(at, int64(v.at))
		}
	}
	if len(number)+len(gone) == 0 {
		rollback(c.Conn())
		return nil
	}
	b = &pgx.Batch{}
	if len(number) > 0 {
		b.Queue(`UPDATE reader r SET acked = t.acked FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS t(stream, token, acked)
			WHERE r.stream = t.stream AND r.token = t.token`, number, token, at)
	}
	if len(gone) > 0 {
		b.Queue(deleteReaders, goneFrom, gone)
	}
	if err := commit(c.Conn(), b); err != nil {
		return err
	}
	for k, v := range found {
		if v.moved || v.leaves {
			a.m.dirty.moved(k.stream, v.from)
		}
	}
	return nil
}

// acknowledge decides on one acknowledgement. v is nil if the address does not read the stream.
func (v *acked) acknowledge(a *mailbox.Ack, ends map[uint64]uint64) error {
	if v == nil || v.leaves {
		return noReader("acknowledge", a.Stream)
	}
	end := ends[v.number]
	if v.until != 0 {
		end = min(end, v.until)
	}
	switch {
	case a.Sequence > end:
		return wire.Errorf(wire.Invalid, "acknowledge", "item %d of %s, which ends at %d", a.Sequence, a.Stream, end)
	case a.Sequence <= v.at:
	case v.until != 0 && a.Sequence == v.until:
		v.at, v.leaves = a.Sequence, true
	default:
		v.at, v.moved = a.Sequence, true
	}
	return nil
}
