package streams

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/mailbox/mailboxtest"
)

// TestRebase: after a backup is restored, readers see a gap and then what they had not acknowledged, no
// place is given twice, and the stream goes on.
func TestRebase(t *testing.T) {
	db := openDB(t, "db", vfs.NewMem())
	defer db.Close()
	m, stop := start(t, db, Config{Clock: mailboxtest.NewClock()})
	const stays, leaves, left = 1, 2, 3
	join(t, m, talk, token(stays), token(leaves), token(left))
	for n := 1; n <= 9; n++ {
		p := message(n)
		p.Payload = bytes.Repeat([]byte{byte(n)}, 1000)
		if n == 6 {
			p.Position = 4
		}
		if n == 7 {
			p.Leave = append(p.Leave, token(leaves))
		}
		put(t, m, p)
	}
	for _, r := range []int{stays, leaves, left} {
		ack(t, m, token(r), 3)
	}
	sweep(t, m)
	ack(t, m, token(stays), 5)
	stop()

	const by = 1 << 32
	if err := Rebase(db, []byte("m/"), by); err != nil {
		t.Fatal(err)
	}
	m, stop = start(t, db, Config{Clock: mailboxtest.NewClock()})
	defer stop()
	for _, c := range []struct{ reader, from, last int }{{stays, 6, 9}, {leaves, 4, 7}, {left, 4, 9}} {
		p, err := m.Read(t.Context(), talk, token(c.reader), uint64(c.from-1), Limit{})
		if err != nil {
			t.Fatal(err)
		}
		if p.Gap == nil || p.Gap.From != uint64(c.from) || p.Gap.To != by+3 {
			t.Fatalf("reader %d: gap %+v", c.reader, p.Gap)
		}
		if n := len(p.Items); n != c.last-3 || p.Items[0].Sequence != by+4 || p.Items[n-1].Sequence != by+uint64(c.last) {
			t.Fatalf("reader %d: %d items from %d", c.reader, n, p.Items[0].Sequence)
		}
		for i, it := range p.Items {
			if want := byte(i + 4); it.Payload[0] != want || len(it.Payload) != 1000 || it.ID != id(i+4) || (it.Position == 4) != (i == 2) {
				t.Fatalf("reader %d: item %d is %v at %d", c.reader, i, it.ID, it.Position)
			}
		}
	}
	if n := put(t, m, message(10)); n != by+10 {
		t.Fatalf("the next item is %d", n)
	}
	if r := putResult(t, m, message(8)); !r.Duplicate {
		t.Fatalf("a retry of what the backup holds: %+v", r)
	}
	ack(t, m, token(stays), by+10)
	if at, err := m.Position(t.Context(), talk); err != nil || at != 4 {
		t.Fatalf("position %d, %v", at, err)
	}
}
