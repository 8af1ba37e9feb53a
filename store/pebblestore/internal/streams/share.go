package streams

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/mlsfed/mlsfed/wire"
)

// A stream's quota is shared by those who bring items to it. For items that another organization brings, the store
// has a record in addition: number, sequence, sender and size. As long as all that waits in a stream is less than one
// share, nobody can be over it, and nothing is counted. Beyond that the records are read once, and the counts are
// kept in memory until the stream is shorter again.
//
// Only items that no reader has acknowledged count. Items that only absent readers have not read do not count: they
// make room when the stream is full (see room), and must not stop the sender's items for the others.

// sharing is what each sender has in one stream, among what no reader has acknowledged.
type sharing struct {
	by    map[uint64]*storedShare
	queue []sent // in order of their items
}

type storedShare struct{ items, bytes uint64 }

type sent struct{ sequence, sender, bytes uint64 }

// senderTag identifies a sender in a record.
func senderTag(sender string) uint64 {
	h := sha256.Sum256([]byte(sender))
	return binary.BigEndian.Uint64(h[:])
}

func (c *sharing) push(i sent) {
	h := c.by[i.sender]
	if h == nil {
		h = new(storedShare)
		c.by[i.sender] = h
	}
	h.items++
	h.bytes += i.bytes
	c.queue = append(c.queue, i)
}

// settle forgets items that nobody needs any longer.
func (c *sharing) settle(floor uint64) {
	n := 0
	for ; n < len(c.queue) && c.queue[n].sequence <= floor; n++ {
		h := c.by[c.queue[n].sender]
		h.items--
		h.bytes -= c.queue[n].bytes
		if h.items == 0 {
			delete(c.by, c.queue[n].sender)
		}
	}
	if c.queue = c.queue[n:]; len(c.queue) < cap(c.queue)/4 {
		c.queue = append([]sent(nil), c.queue...)
	}
}

// share holds a sender to its share of a stream's quota.
func (b *commit) share(s *stream, p *Put) error {
	if p.Sender == "" || s.cursors.count == 0 {
		return nil
	}
	if err := b.mayBring(p); err != nil {
		return err
	}
	cfg, n := &b.m.cfg, uint64(max(p.Senders, 1))
	maxItems, maxBytes := max(cfg.MaxItems/n, 1), max(cfg.MaxBytes/n, 1)
	payload := uint64(len(p.Payload))
	if s.head.last-s.head.removed < maxItems && s.head.bytes-s.head.removedBytes+payload <= maxBytes {
		s.sharing = nil // all of it together is less than one share
		return nil
	}
	if err := b.countShares(s); err != nil {
		return err
	}
	h := s.sharing.by[senderTag(p.Sender)]
	if h == nil {
		h = new(storedShare)
	}
	if h.items < maxItems && h.bytes+payload <= maxBytes {
		return nil
	}
	b.m.cfg.Count(OverShare, 1)
	return wire.Errorf(wire.Quota, "put", "%s holds %d items and %d bytes of %s that no device has acknowledged, at most %d and %d for one of %d senders: try again when they are read",
		s.name, h.items, h.bytes, p.Sender, maxItems, maxBytes, n)
}

// countShares brings the counts of a stream up to date.
func (b *commit) countShares(s *stream) error {
	floor := max(s.cursors.highest(), s.floor())
	if s.sharing != nil {
		s.sharing.settle(floor)
		return nil
	}
	c := &sharing{by: make(map[uint64]*storedShare)}
	it, err := b.m.db.NewIter(&pebble.IterOptions{
		LowerBound: b.m.keys.of(keySent, u64(s.head.number), u64(floor+1)), UpperBound: b.m.keys.of(keySent, u64(s.head.number+1)),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		i := sent{sequence: sequenceOf(it.Key())}
		if err := decodeNumbers("sender", it.Key(), it.Value(), &i.sender, &i.bytes); err != nil {
			return err
		}
		c.push(i)
	}
	if err := it.Error(); err != nil {
		return err
	}
	for _, i := range b.sent[s] { // of this batch, and not in the database yet
		if i.sequence > floor {
			c.push(i)
		}
	}
	s.sharing = c
	return nil
}

// noteSender records who brought an item.
func (b *commit) noteSender(s *stream, p *Put, sequence uint64) error {
	if p.Sender == "" {
		return nil
	}
	i := sent{sequence, senderTag(p.Sender), uint64(len(p.Payload))}
	b.m.senders.Add(i.sender, i.bytes)
	key := b.m.keys.of(keySent, u64(s.head.number), u64(sequence))
	if err := b.batch.Set(key, encodeNumbers(key, i.sender, i.bytes), nil); err != nil {
		return err
	}
	s.senders = true
	if s.sharing != nil {
		s.sharing.push(i)
		return nil
	}
	if b.sent == nil {
		b.sent = make(map[*stream][]sent)
	}
	b.sent[s] = append(b.sent[s], i)
	return nil
}

// keep copies the entries that readers would read next and that are about to be removed: a reader that was
// added with an entry, and was away since, still gets that entry, with the Welcome in it, before its gap.
func (b *commit) keep(s *stream, through uint64) error {
	kept := 0
	for at := range s.cursors.at {
		if at >= through || at < s.head.removed || kept == maxKept {
			continue
		}
		i, err := b.m.itemAt(b.m.keys.item(s.head.number, at+1))
		if err != nil {
			return err
		}
		if i == nil || i.kind != KindEntry {
			continue
		}
		key := b.m.keys.of(keyKept, u64(s.head.number), u64(at+1))
		if err := b.batch.Set(key, i.encode(key, make([]byte, i.size())), nil); err != nil {
			return err
		}
		s.kept = true
		kept++
	}
	return nil
}

// itemAt returns a copy of an item under a key, nil where there is none.
func (m *Mailbox) itemAt(key []byte) (*item, error) {
	v, err := m.get(key)
	if err != nil || v == nil {
		return nil, err
	}
	i, err := decodeItem(key, v)
	return &i, err
}

// keptAt is the entry with a sequence number that was kept, or is about to be, nil for none. The item itself is
// looked for first: the batch that removes it keeps it too.
func (m *Mailbox) keptAt(number, sequence uint64) (*item, error) {
	i, err := m.itemAt(m.keys.item(number, sequence))
	if err != nil || i != nil && i.kind == KindEntry {
		return i, err
	}
	return m.itemAt(m.keys.of(keyKept, u64(number), u64(sequence)))
}

// drop stages the deletion of the additional records up to a sequence number. lowest is the lowest cursor.
func (b *commit) drop(s *stream, through, lowest uint64) error {
	number := s.head.number
	var errs []error
	if s.senders {
		errs = append(errs, b.deleteRange(keySent, number, s.head.removed+1, through))
	}
	if s.kept {
		errs = append(errs, b.batch.DeleteRange(b.m.keys.of(keyKept, u64(number), u64(0)), b.m.keys.of(keyKept, u64(number), u64(min(through, lowest)+1)), nil))
	}
	return errors.Join(errs...)
}

// loadShares notes whether a stream has additional records.
func (m *Mailbox) loadShares(s *stream) (err error) {
	if s.senders, err = m.any(keySent, s.head.number); err == nil {
		s.kept, err = m.any(keyKept, s.head.number)
	}
	return err
}

func (m *Mailbox) any(kind byte, number uint64) (bool, error) {
	it, err := m.db.NewIter(m.under(kind, number))
	if err != nil {
		return false, err
	}
	found := it.First()
	return found, errors.Join(it.Error(), it.Close())
}
