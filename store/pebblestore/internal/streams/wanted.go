package streams

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// Wanted implements mailbox.Box.
func (m *Mailbox) Wanted(ctx context.Context, name Stream) (position uint64, ok bool, err error) {
	s, err := m.acquire(ctx, name)
	if err != nil {
		return 0, false, err
	}
	defer m.release(s)
	v := s.view()
	if v.number == 0 {
		return 0, false, nil
	}
	next := make(map[uint64]bool) // the items that readers are given next
	err = m.eachCursor(v.number, func(_ wire.Token, c cursor) error {
		if c.acked < v.last && (c.until == 0 || c.acked < c.until) {
			next[c.acked+1] = true
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	for at := range next {
		p, found, err := m.positionFrom(v, at)
		if err != nil {
			return 0, false, err
		}
		if found && (!ok || p < position) {
			position, ok = p, true
		}
	}
	return position, ok, nil
}

// positionFrom is the lowest position that a reader is given whose next item is at a sequence number.
func (m *Mailbox) positionFrom(v head, at uint64) (uint64, bool, error) {
	if at <= v.removed {
		kept, err := m.keptAt(v.number, at)
		if err != nil {
			return 0, false, err
		}
		if kept != nil {
			return kept.position, true, nil
		}
		at = v.removed + 1
	}
	if at > v.last {
		return 0, false, nil
	}
	i, err := m.headerOf(v.number, at)
	if err != nil {
		return 0, false, err
	}
	if i.ordered {
		return i.position, true, nil
	}
	return i.position + 1, true, nil // a message: entries up to its position came before
}
