package mailboxtest

import (
	"testing"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// testUnreadStreamsAreForgotten checks that a stream without readers is forgotten with its position, and begins
// again. A stream with a reader stays, also if its reader has left and not read up to its end.
func testUnreadStreamsAreForgotten(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	readers := func(want int) {
		t.Helper()
		if n, err := m.Readers(t.Context(), talk); n != want || err != nil {
			t.Fatalf("%d readers, %v, want %d", n, err, want)
		}
	}
	position := func(want uint64) {
		t.Helper()
		if at, err := m.Position(t.Context(), talk); at != want || err != nil {
			t.Fatalf("position %d, %v, want %d", at, err, want)
		}
	}
	forget := func() {
		t.Helper()
		if err := m.RemoveUnread(t.Context(), talk); err != nil {
			t.Fatal(err)
		}
	}
	forget() // a stream that is not there
	readers(0)
	join(t, m, talk, token(1))
	entry := message(1)
	entry.Kind, entry.Position = mailbox.KindEntry, 7
	put(t, m, entry)
	readers(1)
	forget()
	position(7)
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1)}); err != nil {
		t.Fatal(err)
	}
	readers(1)
	forget()
	position(7)
	ack(t, m, token(1), 1)
	readers(0)
	position(7)
	forget()
	position(0)
	join(t, m, talk, token(2))
	entry.Position = 1
	if got := put(t, m, entry); got != 1 { // the same item: no duplicate
		t.Fatalf("sequence %d", got)
	}
	position(1)
}
