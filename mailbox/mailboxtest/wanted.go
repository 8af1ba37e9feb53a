package mailboxtest

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// entry returns an item of the conversation's log.
func entry(n int, position uint64) mailbox.Put {
	p := message(n)
	p.Kind, p.Position = mailbox.KindEntry, position
	return p
}

// testWanted checks which entries some reader still needs, with acknowledgements, messages between entries, readers
// that leave, and items that expire.
func testWanted(t *testing.T, on Place) {
	clock := NewClock()
	m := open(t, on, mailbox.Config{Clock: clock})
	wants := func(position uint64, some bool) {
		t.Helper()
		at, ok, err := m.Wanted(t.Context(), talk)
		if err != nil || ok != some || at != position {
			t.Errorf("wanted from %d, %v, %v; it should be %d, %v", at, ok, err, position, some)
		}
	}
	wants(0, false) // no such stream
	join(t, m, talk, token(1), token(2))
	wants(0, false)
	put(t, m, entry(1, 5)) // item 1
	put(t, m, message(2))  // item 2
	put(t, m, entry(3, 6)) // item 3
	wants(5, true)
	ack(t, m, token(1), 3)
	wants(5, true)
	ack(t, m, token(2), 1)
	wants(6, true) // a message comes next, then entry 6
	ack(t, m, token(2), 3)
	wants(0, false)
	put(t, m, entry(4, 7))
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1)}); err != nil {
		t.Fatal(err)
	}
	put(t, m, entry(5, 8)) // not for the reader that left
	ack(t, m, token(2), 5)
	wants(7, true)
	ack(t, m, token(1), 4)
	wants(0, false)
	put(t, m, entry(6, 9))
	wants(9, true)
	clock.Advance(31 * 24 * time.Hour)
	sweep(t, m)
	wants(0, false)
}
