package streams

import (
	"cmp"
	"context"
	"fmt"

	"github.com/mlsfed/mlsfed/wire"
)

// ReaderStates implements mailbox.Box.
func (m *Mailbox) ReaderStates(ctx context.Context, of ...Reader) ([]ReaderState, error) {
	list := make([]ReaderState, len(of))
	for i, r := range of {
		s, err := m.acquire(ctx, r.Stream)
		if err != nil {
			return nil, err
		}
		list[i], err = m.readerState(s, s.view(), r)
		m.release(s)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Stream, err)
		}
	}
	return list, nil
}

// readerState is where a reader is, with the stream's head as readers see it.
func (m *Mailbox) readerState(s *stream, v head, r Reader) (ReaderState, error) {
	if v.number == 0 {
		return ReaderState{}, nil
	}
	c, ok, err := m.cursor(s, v.number, r.Token)
	if err != nil || !ok {
		return ReaderState{}, err
	}
	end := max(v.last, c.acked) // a cursor set by a batch under way may be ahead of the view
	if c.until != 0 {
		end = min(end, c.until)
	}
	return ReaderState{Known: true, Acknowledged: c.acked, End: end, Until: c.until}, nil
}

// Read implements mailbox.Box.
func (m *Mailbox) Read(ctx context.Context, name Stream, r wire.Token, after uint64, limit Limit) (Page, error) {
	limit.Items, limit.Bytes = cmp.Or(limit.Items, 1024), cmp.Or(limit.Bytes, 1<<20)
	s, err := m.acquire(ctx, name)
	if err != nil {
		return Page{}, err
	}
	defer m.release(s)
	for {
		v := s.view()
		at, err := m.readerState(s, v, Reader{Stream: name, Token: r})
		switch {
		case err != nil:
			return Page{}, fmt.Errorf("read %s: %w", name, err)
		case v.number == 0:
			return Page{}, noStream("read", name)
		case !at.Known:
			return Page{}, noReader("read", name)
		}
		end := at.End
		if after > end {
			return Page{}, wire.Errorf(wire.Invalid, "read", "after item %d of %s, which ends at %d for this reader", after, name, end)
		}
		page, first, err := m.page(v, after, min(end, v.last), limit)
		if err == nil {
			return page, nil
		}
		// Items that were removed after the view was taken are no damage: the view has moved then.
		if now := s.view(); now.number != v.number || now.removed >= first && now.removed > v.removed {
			continue
		}
		return Page{}, fmt.Errorf("read %s: %w", name, err)
	}
}

// page reads (after, end]. With an error it says which item it was about to read.
func (m *Mailbox) page(v head, after, end uint64, limit Limit) (p Page, next uint64, err error) {
	if v.removed > after && after < end {
		kept, err := m.keptAt(v.number, after+1)
		if err != nil {
			return p, after + 1, err
		}
		if kept != nil {
			var room []byte
			p.Items, p.More = []Item{kept.item(after+1, &room, 0)}, after+1 < end
			return p, after + 2, nil
		}
	}
	if v.removed > after {
		p.Gap = &Gap{From: after + 1, To: min(v.removed, end)}
		after = p.Gap.To
	}
	if next = after + 1; next > end {
		return p, next, nil
	}
	if p.Items = m.recent.page(v.number, next, end, limit); p.Items != nil {
		next += uint64(len(p.Items))
		p.More = next <= end
		return p, next, nil
	}
	it, err := m.db.NewIter(m.items(v.number, after))
	if err != nil {
		return p, next, err
	}
	defer it.Close()
	size := 0
	var room []byte
	p.Items = make([]Item, 0, min(uint64(max(limit.Items, 1)), end-after))
	for it.First(); it.Valid() && next <= end; it.Next() {
		if sequenceOf(it.Key()) != next {
			break
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return p, next, err
		}
		i, err := decodeItem(it.Key(), value)
		if err != nil {
			return p, next, err
		}
		if size += len(i.payload); len(p.Items) > 0 && (len(p.Items) >= limit.Items || size > limit.Bytes) {
			p.More = true
			return p, next, nil
		}
		p.Items = append(p.Items, i.item(next, &room, end-next))
		next++
	}
	if err := it.Error(); err != nil {
		return p, next, err
	}
	if next <= end {
		return p, next, fmt.Errorf("item %d is missing: %w", next, ErrCorrupt)
	}
	return p, next, nil
}

// item copies an item out of the database's memory. Small payloads share allocations, of which no page
// holds on to much more than it uses. left is how many items may follow.
func (i *item) item(sequence uint64, room *[]byte, left uint64) Item {
	const chunk = 64 << 10
	n := len(i.payload)
	if n > chunk/4 {
		*room = append(make([]byte, 0, n), i.payload...)
	} else {
		if cap(*room)-len(*room) < n {
			*room = make([]byte, 0, min(chunk, uint64(n)*(min(left, chunk)+1)))
		}
		*room = append(*room, i.payload...)
	}
	end := len(*room)
	out := Item{
		Sequence: sequence, Kind: i.kind, ID: i.id, Time: wire.Time(i.time),
		Payload: (*room)[end-n : end : end],
	}
	if i.ordered {
		out.Position = i.position
	}
	return out
}

// Position implements mailbox.Box.
func (m *Mailbox) Position(ctx context.Context, name Stream) (uint64, error) {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return 0, err
	}
	defer m.release(s)
	return s.view().position, nil
}
