package streams

import (
	"context"

	"github.com/mlsfed/mlsfed/store/pebblestore/internal/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// Put implements mailbox.Box.
func (m *Mailbox) Put(ctx context.Context, puts ...Put) ([]Result, error) {
	return m.PutWith(ctx, nil, puts...)
}

// PutWith is Put together with changes of other parts that share the writer: all of it goes to disk in one
// batch. Those changes are made too where a Put is refused.
func (m *Mailbox) PutWith(ctx context.Context, with []batch.Change, puts ...Put) ([]Result, error) {
	total := 0
	for i := range puts {
		total += len(puts[i].Payload)
	}
	if total > maxRequest {
		return nil, wire.Errorf(wire.TooLarge, "put", "%d items with %d bytes, at most %d at once", len(puts), total, maxRequest)
	}
	r := &request{sync: true}
	results := make([]Result, len(puts))
	at := make([]*stream, len(puts))
	for i := range puts {
		if results[i].Err = m.cfg.CheckPut(&puts[i]); results[i].Err != nil {
			continue
		}
		s, err := m.acquire(ctx, puts[i].Stream)
		if err != nil {
			m.releaseAll(r.streams)
			return nil, err
		}
		at[i] = s
		r.streams = append(r.streams, s)
	}
	r.stage = func(b *commit) error {
		for i, s := range at {
			if s != nil {
				results[i].Sequence, results[i].Duplicate, results[i].Err = b.put(s, &puts[i])
			}
		}
		return nil
	}
	if err := m.enqueue(ctx, r, with...); err != nil {
		return nil, err
	}
	return results, nil
}

// put stages one item, after all that can be refused or cannot be read.
func (b *commit) put(s *stream, p *Put) (sequence uint64, duplicate bool, err error) {
	if s.head.number == 0 && len(p.Join) == 0 {
		return 0, false, noStream("put", s.name)
	}
	if s.head.number != 0 {
		if sequence, err = b.find(s.head.number, p.ID); err != nil || sequence != 0 {
			return sequence, err == nil, err
		}
		if p.Position != 0 && p.Position <= s.head.position {
			return 0, true, nil
		}
	}
	for _, r := range p.Leave {
		if _, _, err := b.cursorOf(s, s.head.number, r); err != nil {
			return 0, false, err
		}
	}
	if p.Position == 0 {
		if err := b.share(s, p); err != nil {
			return 0, false, err
		}
	}
	if err := b.room(s, p); err != nil {
		return 0, false, err
	}
	if err := b.join(s, "put", p.Join); err != nil {
		return 0, false, err
	}
	if sequence, err = b.append(s, p); err != nil {
		return 0, false, err
	}
	if err := b.noteSender(s, p, sequence); err != nil {
		return 0, false, err
	}
	return sequence, false, b.leave(s, p.Leave)
}

// room holds the quota of a stream.
func (b *commit) room(s *stream, p *Put) error {
	cfg, floor := &b.m.cfg, s.floor()
	if p.Position != 0 || s.cursors.count == 0 {
		return nil
	}
	payload := uint64(len(p.Payload))
	if s.head.last-s.head.removed < cfg.MaxItems && s.head.bytes-s.head.removedBytes+payload <= cfg.MaxBytes {
		return nil // even with what is acknowledged and not yet removed, and without a look-up
	}
	floorBytes, err := b.bytesAt(s, floor)
	if err != nil {
		return err
	}
	items, size := s.head.last-floor+1, s.head.bytes-floorBytes+payload
	if items <= cfg.MaxItems && size <= cfg.MaxBytes {
		return nil
	}
	if payload <= cfg.MaxBytes {
		limit := s.cursors.highest()
		if cfg.DropOldest {
			limit = s.head.last
		}
		if made, err := b.evict(s, payload, limit); made || err != nil {
			return err
		}
	}
	cfg.Count(OverQuota, 1)
	return wire.Errorf(wire.Quota, "put", "%s would hold %d items and %d bytes that a device has not acknowledged, at most %d and %d: try again when they are read, or revoke the device that is gone",
		s.name, items, size, cfg.MaxItems, cfg.MaxBytes)
}

// append stages the item itself.
func (b *commit) append(s *stream, p *Put) (uint64, error) {
	next := s.head
	next.last++
	next.bytes += uint64(len(p.Payload))
	next.time = max(next.time, uint64(max(b.now, 0)))
	next.position = max(next.position, p.Position)
	i := item{
		kind: p.Kind, ordered: p.Position != 0, id: p.ID, payload: p.Payload,
		time: next.time, bytes: next.bytes, position: next.position,
	}
	key := b.m.keys.item(next.number, next.last)
	op := b.batch.SetDeferred(len(key), i.size()) // a large payload is copied once less
	copy(op.Key, key)
	i.encode(key, op.Value)
	if err := op.Finish(); err != nil {
		return 0, err
	}
	key = b.ids.Key(idOf(next.number, p.ID))
	if err := b.batch.Set(key, encodeSequence(key, next.last), nil); err != nil {
		return 0, err
	}
	b.keepRecent(next.number, next.last, &i)
	b.staged[stagedID{next.number, p.ID}] = next.last
	b.bytes[stagedItem{next.number, next.last}] = next.bytes
	s.head = next
	if s.cursors.count == 0 {
		s.cursors.low = next.last
	}
	b.touch(s, true)
	return next.last, nil
}

// Change implements mailbox.Box.
func (m *Mailbox) Change(ctx context.Context, name Stream, join, leave []wire.Token) error {
	if err := m.cfg.CheckReaders(len(join), len(leave)); err != nil {
		return err
	}
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	return m.enqueue(ctx, &request{streams: []*stream{s}, sync: true, stage: func(b *commit) error {
		if s.head.number == 0 && len(join) == 0 {
			return noStream("change", name)
		}
		if err := b.join(s, "change", join); err != nil {
			return err
		}
		return b.leave(s, leave)
	}})
}

// join stages new readers at the stream's end.
func (b *commit) join(s *stream, op string, readers []wire.Token) error {
	if len(readers) == 0 {
		return nil
	}
	fresh, back, err := b.sortOut(s, readers)
	if err != nil {
		return err
	}
	if s.cursors.count+len(fresh) > b.m.cfg.MaxReaders {
		return wire.Errorf(wire.Quota, op, "%s has %d readers and %d would join, at most %d", s.name, s.cursors.count, len(fresh), b.m.cfg.MaxReaders)
	}
	if s.head.number == 0 {
		s.head.number = b.global.next
		b.global.next++
		if err := b.saveGlobal(); err != nil {
			return err
		}
		b.heads[s] = true
	}
	b.touch(s, false)
	for r := range fresh {
		if err := b.setCursor(s, s.head.number, r, cursor{acked: s.head.last}); err != nil {
			return err
		}
		s.cursors.add(s.head.last)
	}
	for r, c := range back {
		if err := b.setCursor(s, s.head.number, r, cursor{acked: c.acked}); err != nil {
			return err
		}
		s.leaving--
	}
	return nil
}

// sortOut separates new readers from those who were leaving; the others need no change.
func (b *commit) sortOut(s *stream, readers []wire.Token) (fresh map[wire.Token]bool, back map[wire.Token]cursor, err error) {
	fresh, back = make(map[wire.Token]bool, len(readers)), make(map[wire.Token]cursor)
	for _, r := range readers {
		c, ok := cursor{}, false
		if number := s.head.number; number != 0 {
			if c, ok, err = b.cursorOf(s, number, r); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case !ok:
			fresh[r] = true
		case c.until != 0:
			back[r] = c
		}
	}
	return fresh, back, nil
}

// leave stages the end of readers at the stream's last item.
func (b *commit) leave(s *stream, readers []wire.Token) error {
	for _, r := range readers {
		c, ok, err := b.cursorOf(s, s.head.number, r)
		if err != nil {
			return err
		}
		if !ok || c.until != 0 {
			continue
		}
		b.touch(s, false)
		if c.acked == s.head.last || s.head.removed == s.head.last { // nothing is left for it to read
			s.cursors.remove(c.acked, s.head.last)
			if err := b.dropCursor(s, s.head.number, r); err != nil {
				return err
			}
			continue
		}
		c.until = s.head.last
		s.leaving++
		if err := b.setCursor(s, s.head.number, r, c); err != nil {
			return err
		}
	}
	return nil
}

// Acknowledge implements mailbox.Box.
func (m *Mailbox) Acknowledge(ctx context.Context, acks ...Ack) error {
	r := &request{}
	for i := range acks {
		s, err := m.acquire(ctx, acks[i].Stream)
		if err != nil {
			m.releaseAll(r.streams)
			return err
		}
		r.streams = append(r.streams, s)
	}
	r.stage = func(b *commit) (first error) {
		for i, s := range r.streams {
			if err := b.acknowledge(s, acks[i].Token, acks[i].Sequence); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	return m.enqueue(ctx, r)
}

func (b *commit) acknowledge(s *stream, r wire.Token, sequence uint64) error {
	c, ok, err := b.cursorOf(s, s.head.number, r)
	if err != nil {
		return err
	}
	if s.head.number == 0 || !ok {
		return noReader("acknowledge", s.name)
	}
	end := s.view().last // what is on disk: nobody can have read more
	if c.until != 0 {
		end = min(end, c.until)
	}
	if sequence > end {
		return wire.Errorf(wire.Invalid, "acknowledge", "item %d of %s, which ends at %d", sequence, s.name, end)
	}
	if sequence <= c.acked {
		return nil
	}
	b.touch(s, false)
	if c.until != 0 && sequence == c.until {
		s.leaving--
		s.cursors.remove(c.acked, s.head.last)
		return b.dropCursor(s, s.head.number, r)
	}
	s.cursors.move(c.acked, sequence, s.head.last)
	c.acked = sequence
	return b.setCursor(s, s.head.number, r, c)
}
