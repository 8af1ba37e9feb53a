package streams

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/mlsfed/mlsfed/mailbox/mailboxtest"
	"github.com/mlsfed/mlsfed/wire"
)

// counts are what a mailbox has counted.
type counts map[string]uint64

func (c counts) add(what string, n uint64) { c[what] += n }

func from(sender string, senders, n, size int) Put {
	p := message(n)
	p.Sender, p.Senders, p.Payload = sender, senders, make([]byte, size)
	return p
}

// TestSenderInAllStreams: what one sender has in all streams together is bounded, at the edge, over a restart too;
// others are not held up; and it is taken again when devices have read.
func TestSenderInAllStreams(t *testing.T) {
	const b, c, most, streams = "b.example", "c.example", 40, 4
	counted, clock := counts{}, mailboxtest.NewClock()
	cfg := Config{MaxSender: most, Count: counted.add, Clock: clock}
	disk := vfs.NewMem()
	db := openDB(t, "db", disk)
	m, stop := start(t, db, cfg)
	name := func(n int) Stream { return Stream("cconversation-") + Stream(rune('1'+n)) }
	item := func(stream, n int, sender string) Put {
		p := from(sender, streams, n, 10) // of ten bytes
		p.Stream = name(stream)
		return p
	}
	for n := range streams {
		join(t, m, name(n), token(1))
	}
	has := func(want uint64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); m.senders.Of(senderTag(b)) != want; time.Sleep(time.Millisecond) {
			clock.Advance(recountPause) // it is counted again, if the sender has come to the bound
			if time.Now().After(end) {
				t.Fatalf("%s has %d bytes, want %d", b, m.senders.Of(senderTag(b)), want)
			}
		}
	}
	for n := range streams {
		put(t, m, item(n, 1+n, b))
	}
	has(most)
	wantCode(t, putResult(t, m, item(0, 10, b)).Err, wire.Quota)
	put(t, m, item(0, 11, c))
	if counted[OverSender] != 1 {
		t.Errorf("counted: %v", counted)
	}
	stop()
	db.Close()
	db = openDB(t, "db", disk)
	m, stop = start(t, db, cfg)
	defer func() { stop(); db.Close() }()
	has(most) // by the records
	wantCode(t, putResult(t, m, item(1, 12, b)).Err, wire.Quota)
	if err := m.Acknowledge(t.Context(), Ack{Reader: Reader{Stream: name(2), Token: token(1)}, Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	sweep(t, m)
	has(most - 10)
	put(t, m, item(1, 13, b))
	wantCode(t, putResult(t, m, item(1, 14, b)).Err, wire.Quota)
}
