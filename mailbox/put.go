package mailbox

import (
	"context"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/wire"
)

// Put appends one item to one stream, and changes who reads it.
type Put struct {
	Stream  Stream
	ID      ID
	Kind    Kind
	Payload []byte
	// Position is the item's place in the conversation's log. An item whose position is not beyond the
	// stream's highest is a duplicate, however long ago the first one was. A log has accepted the item
	// already, so the quota does not refuse it. 0 for an item that no log orders.
	Position uint64
	// Sender is who brings the item, where that is another organization than the stream's, and Senders how many
	// share the stream's quota, the own organization among them. The sender can fill its share alone.
	Sender  string
	Senders int
	// Join lists new readers, this item being the first that they read. The stream is made if need be.
	Join []wire.Token
	// Leave lists readers for whom this item is the last. They are forgotten when they have acknowledged it.
	Leave []wire.Token
}

// Result is what became of a Put.
type Result struct {
	Sequence  uint64 // of the item; 0 for a duplicate by position that is no longer known by its id
	Duplicate bool   // it had been accepted before
	// Err refuses this Put alone: wire.Quota, TooLarge, Malformed, or UnknownConversation for a stream
	// that nobody joined.
	Err error
}

// Put appends items, to different streams or the same, in their order, and returns when they are on disk: all that
// were accepted, or none if the machine fails before. The error concerns the call as a whole, and then
// nothing is known of the Puts: repeat them with the same ids.
func (m *Mailbox) Put(ctx context.Context, puts ...Put) ([]Result, error) {
	return m.PutWith(ctx, nil, puts...)
}

// PutWith is Put together with changes of other parts that share Config.Writer: all of it goes to disk in one
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
		if results[i].Err = m.checkPut(&puts[i]); results[i].Err != nil {
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
	if err := m.submit(ctx, r, with...); err != nil {
		return nil, err
	}
	return results, nil
}

func (m *Mailbox) checkPut(p *Put) error {
	if p.Kind == 0 || p.ID == (ID{}) {
		return wire.Errorf(wire.Malformed, "put", "item without a kind or an id")
	}
	if len(p.Payload) > m.cfg.MaxItem {
		return wire.Errorf(wire.TooLarge, "put", "item of %d bytes, at most %d: send it as a blob", len(p.Payload), m.cfg.MaxItem)
	}
	return m.checkReaders(len(p.Join), len(p.Leave))
}

func (m *Mailbox) checkReaders(join, leave int) error {
	if join > m.cfg.MaxReaders || leave > m.cfg.MaxReaders {
		return wire.Errorf(wire.TooLarge, "put", "%d readers join and %d leave, at most %d", join, leave, m.cfg.MaxReaders)
	}
	return nil
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
		if _, _, err := b.cursorOf(s.head.number, r); err != nil {
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
	key = b.m.keys.id(b.global.bucket, next.number, p.ID)
	if err := b.batch.Set(key, encodeSequence(key, next.last), nil); err != nil {
		return 0, err
	}
	b.ids[stagedID{next.number, p.ID}] = next.last
	b.bytes[stagedItem{next.number, next.last}] = next.bytes
	s.head = next
	if s.cursors.count == 0 {
		s.cursors.low = next.last
	}
	b.touch(s, true)
	return next.last, nil
}

// Change makes readers join and leave a stream without an item: joining makes the stream, who joins
// reads from its end, who leaves reads up to it. It is on disk when Change returns. A reader who is
// there already stays where it is, and one who was leaving stays on.
func (m *Mailbox) Change(ctx context.Context, name Stream, join, leave []wire.Token) error {
	if err := m.checkReaders(len(join), len(leave)); err != nil {
		return err
	}
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	return m.submit(ctx, &request{streams: []*stream{s}, sync: true, stage: func(b *commit) error {
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
	fresh, back, err := b.sortOut(s.head.number, readers)
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
		if err := b.setCursor(s.head.number, r, cursor{acked: s.head.last}); err != nil {
			return err
		}
		s.cursors.add(s.head.last)
	}
	for r, c := range back {
		if err := b.setCursor(s.head.number, r, cursor{acked: c.acked}); err != nil {
			return err
		}
		s.leaving--
	}
	return nil
}

// sortOut tells new readers from those who were leaving; the others need nothing.
func (b *commit) sortOut(number uint64, readers []wire.Token) (fresh map[wire.Token]bool, back map[wire.Token]cursor, err error) {
	fresh, back = make(map[wire.Token]bool, len(readers)), make(map[wire.Token]cursor)
	for _, r := range readers {
		c, ok := cursor{}, false
		if number != 0 {
			if c, ok, err = b.cursorOf(number, r); err != nil {
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
		c, ok, err := b.cursorOf(s.head.number, r)
		if err != nil {
			return err
		}
		if !ok || c.until != 0 {
			continue
		}
		b.touch(s, false)
		if c.acked == s.head.last || s.head.removed == s.head.last { // nothing is left for it to read
			s.cursors.remove(c.acked, s.head.last)
			if err := b.dropCursor(s.head.number, r); err != nil {
				return err
			}
			continue
		}
		c.until = s.head.last
		s.leaving++
		if err := b.setCursor(s.head.number, r, c); err != nil {
			return err
		}
	}
	return nil
}

// Acknowledge says that a reader has all items up to sequence. Less than its cursor changes nothing; more
// than the stream's end, or than the end of a reader who leaves, is wire.Invalid. See the package's
// comment for what a crash may do to it.
func (m *Mailbox) Acknowledge(ctx context.Context, name Stream, r wire.Token, sequence uint64) error {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return err
	}
	return m.submit(ctx, &request{streams: []*stream{s}, stage: func(b *commit) error {
		return b.acknowledge(s, r, sequence)
	}})
}

func (b *commit) acknowledge(s *stream, r wire.Token, sequence uint64) error {
	c, ok, err := b.cursorOf(s.head.number, r)
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
		return b.dropCursor(s.head.number, r)
	}
	s.cursors.move(c.acked, sequence, s.head.last)
	c.acked = sequence
	return b.setCursor(s.head.number, r, c)
}
