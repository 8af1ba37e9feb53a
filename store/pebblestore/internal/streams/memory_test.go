package streams

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/wire"
)

// cursors returns the number of cursors of a stream that are in memory, -1 if they are read from the database.
func cursors(m *Mailbox, name Stream) int {
	m.mu.Lock()
	s := m.streams[name]
	m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.of == nil {
		return -1
	}
	return len(s.held.of)
}

// forgetRecent makes readers read all items from the database.
func forgetRecent(m *Mailbox) {
	m.recent.mu.Lock()
	defer m.recent.mu.Unlock()
	m.recent.items, m.recent.order, m.recent.size = nil, nil, 0
}

// TestCursorsInMemory checks that the cursors in memory are those of the database: while readers acknowledge, leave and
// come back, after the removal of the stream, after a restart, and with more readers than are held.
func TestCursorsInMemory(t *testing.T) {
	db := openDB(t, "db", vfs.NewMem())
	m, stop := start(t, db, Config{})
	defer func() { stop(); db.Close() }()
	same := func(readers int) {
		t.Helper()
		for n := range readers {
			at, err := m.ReaderStates(t.Context(), Reader{Stream: talk, Token: token(n)})
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.acquire(t.Context(), talk)
			if err != nil {
				t.Fatal(err)
			}
			number := s.view().number
			m.release(s)
			b, err := m.get(m.keys.cursor(number, token(n)))
			if err != nil {
				t.Fatal(err)
			}
			var c cursor
			if b != nil {
				if c, err = decodeCursor(m.keys.cursor(number, token(n)), b); err != nil {
					t.Fatal(err)
				}
			}
			if at[0].Known != (b != nil) || at[0].Acknowledged != c.acked || at[0].Until != c.until {
				t.Fatalf("reader %d is %+v in memory, and %+v in the database", n, at[0], c)
			}
		}
	}
	some := make([]wire.Token, maxHeldCursors)
	for n := range some {
		some[n] = token(n)
	}
	join(t, m, talk, some[:3]...)
	put(t, m, message(1))
	ack(t, m, token(0), 1)
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(0), token(1)}); err != nil {
		t.Fatal(err)
	}
	same(3)
	join(t, m, talk, token(1))
	same(3)
	if err := m.Remove(t.Context(), talk); err != nil {
		t.Fatal(err)
	}
	same(3)
	join(t, m, talk, some...)
	put(t, m, message(2))
	ack(t, m, token(7), 1)
	same(len(some))
	if n := cursors(m, talk); n != maxHeldCursors {
		t.Fatalf("%d cursors in memory, want %d", n, maxHeldCursors)
	}
	stop()
	m, stop = start(t, db, Config{})
	same(len(some))
	join(t, m, talk, token(maxHeldCursors))
	ack(t, m, token(8), 1)
	same(len(some) + 1)
	if n := cursors(m, talk); n != -1 {
		t.Fatalf("%d cursors in memory, want those of the database", n)
	}
}

// TestRecentItems checks that pages from memory are those of the database, at each limit, and that memory is bounded.
func TestRecentItems(t *testing.T) {
	m := memory(t, Config{})
	join(t, m, talk, token(0))
	const items = 40
	for n := range items {
		p := message(n)
		p.Payload = make([]byte, 100*n+1)
		if put(t, m, p); n == 5 {
			p.ID, p.Payload = id(1000), make([]byte, maxRecentItem+1)
			put(t, m, p)
		}
	}
	pages := func() (list []string) {
		for after := range uint64(items) {
			for _, limit := range []Limit{{}, {Items: 1}, {Items: 7}, {Bytes: 1}, {Bytes: 5000}} {
				page := read(t, m, token(0), after, limit)
				for _, i := range page.Items {
					list = append(list, fmt.Sprint(after, limit, i.Sequence, i.Kind, i.ID, i.Time, i.Position, len(i.Payload), page.More))
				}
			}
		}
		return list
	}
	fromMemory := pages()
	m.recent.mu.Lock()
	if len(m.recent.items) != items || len(m.recent.order) != items {
		t.Errorf("%d items in memory, want all but the large one", len(m.recent.items))
	}
	m.recent.mu.Unlock()
	forgetRecent(m)
	if fromDisk := pages(); fmt.Sprint(fromMemory) != fmt.Sprint(fromDisk) {
		t.Errorf("pages from memory\n%v\nfrom the database\n%v", fromMemory, fromDisk)
	}
	for n := range maxRecent/maxRecentItem + 10 {
		p := message(2000 + n)
		p.Payload = make([]byte, maxRecentItem)
		put(t, m, p)
	}
	m.recent.mu.Lock()
	defer m.recent.mu.Unlock()
	if m.recent.size > maxRecent || m.recent.size < maxRecent/2 || len(m.recent.items) != len(m.recent.order) {
		t.Errorf("%d bytes of %d items in memory, at most %d", m.recent.size, len(m.recent.items), maxRecent)
	}
}

// TestTrimmedRecords checks that a trim removes the items and the records of their senders, at the number of items from
// which one range is deleted, and leaves those behind.
func TestTrimmedRecords(t *testing.T) {
	for _, gone := range []int{1, manyGone, manyGone + 1, 3 * manyGone} {
		m := memory(t, Config{})
		join(t, m, talk, token(0))
		for n := range gone + 2 {
			p := message(n)
			p.Sender, p.Senders = "b.example", 2
			put(t, m, p)
		}
		for _, at := range []int{1, gone, gone + 1} {
			ack(t, m, token(0), uint64(at))
			sweep(t, m)
			if items, senders := stored(t, m, keyItem), stored(t, m, keySent); items != gone+2-at || senders != items {
				t.Errorf("%d items and %d records of senders after the trim of %d of %d", items, senders, at, gone+2)
			}
		}
		if page := read(t, m, token(0), uint64(gone+1), Limit{}); len(page.Items) != 1 || page.Gap != nil {
			t.Errorf("after the trim of %d: %+v", gone+1, page)
		}
	}
}
