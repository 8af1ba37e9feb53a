package streams

import "github.com/mlsfed/mlsfed/wire"

// The cursors of a small stream are in memory while the stream is loaded: each item is read once per reader and
// acknowledged once per reader, and both need the reader's cursor.

// maxHeldCursors is the number of readers up to which the cursors of a stream are in memory, about 60 bytes each.
const maxHeldCursors = 256

// heldCursors has all cursors of the stream with a number. stream.mu guards it.
type heldCursors struct {
	number uint64
	of     map[wire.Token]cursor // nil: the stream has too many readers, and its cursors are read from the database
}

func (h *heldCursors) set(r wire.Token, c cursor) {
	switch {
	case h.of == nil:
	case c.acked == gone:
		delete(h.of, r)
	default:
		if h.of[r] = c; len(h.of) > maxHeldCursors {
			h.of = nil
		}
	}
}

// hold takes over a cursor that a batch sets or deletes. A stream that was made after the removal of another one of
// its name has a higher number, and all its cursors come through hold.
func (s *stream) hold(number uint64, r wire.Token, c cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number > s.held.number {
		s.held = heldCursors{number: number, of: make(map[wire.Token]cursor)}
	}
	if number == s.held.number {
		s.held.set(r, c)
	}
}

// cursor returns the cursor of a reader in the stream with a number.
func (m *Mailbox) cursor(s *stream, number uint64, r wire.Token) (c cursor, ok bool, err error) {
	s.mu.Lock()
	of := s.held.of
	if of != nil && number == s.held.number {
		c, ok = of[r]
		s.mu.Unlock()
		return c, ok, nil
	}
	s.mu.Unlock()
	key := m.keys.cursor(number, r)
	b, err := m.get(key)
	if err != nil || b == nil {
		return cursor{}, false, err
	}
	c, err = decodeCursor(key, b)
	return c, err == nil, err
}
