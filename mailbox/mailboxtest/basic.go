package mailboxtest

import (
	"bytes"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

const day = 24 * time.Hour

func testPutReadAcknowledge(t *testing.T, on Place) {
	clock := NewClock()
	m := open(t, on, mailbox.Config{Clock: clock})
	join(t, m, talk, token(1), token(2))
	for n := 1; n <= 10; n++ {
		if got := put(t, m, message(n)); got != uint64(n) {
			t.Fatalf("sequence %d, want %d", got, n)
		}
	}
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 10)
	p := read(t, m, token(1), 3, mailbox.Limit{Items: 4})
	sequences(t, p, 4, 7)
	if !p.More || p.Gap != nil {
		t.Fatalf("page %+v", p)
	}
	if p := read(t, m, token(1), 7, mailbox.Limit{Items: 3}); p.More || len(p.Items) != 3 {
		t.Fatalf("last page %+v", p)
	}
	if p.Items[0].Time != wire.TimeOf(clock.Now()) {
		t.Fatalf("time %v", p.Items[0].Time)
	}
	ack(t, m, token(1), 6)
	ack(t, m, token(1), 4) // backwards: no change
	if got := readerState(t, m, talk, token(1)); got != (mailbox.ReaderState{Known: true, Acknowledged: 6, End: 10}) {
		t.Fatalf("%+v", got)
	}
	wantCode(t, m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: token(1)}, Sequence: 11}), wire.Invalid)
	ack(t, m, token(1), 10)
	_, err := m.Read(t.Context(), talk, token(1), 11, mailbox.Limit{})
	wantCode(t, err, wire.Invalid)
	_, err = m.Read(t.Context(), talk, token(3), 0, mailbox.Limit{})
	wantCode(t, err, wire.UnknownConversation)
	wantCode(t, m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: token(3)}, Sequence: 1}), wire.UnknownConversation)
}

func testPageBytes(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1))
	for n := 1; n <= 4; n++ {
		p := message(n)
		p.Payload = bytes.Repeat([]byte{byte(n)}, 100)
		put(t, m, p)
	}
	for _, c := range []struct{ limit, items int }{{1, 1}, {100, 1}, {199, 1}, {200, 2}, {399, 3}, {400, 4}, {401, 4}} {
		p := read(t, m, token(1), 0, mailbox.Limit{Bytes: c.limit})
		if len(p.Items) != c.items || p.More != (c.items < 4) {
			t.Errorf("limit of %d bytes: %d items, more %v", c.limit, len(p.Items), p.More)
		}
	}
}

func testStreamsAreSeparate(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	d, err := wire.ParseDeviceID("mimi://a.example/d/alice/phone")
	if err != nil {
		t.Fatal(err)
	}
	join(t, m, talk, token(1))
	join(t, m, mailbox.Inbox(d), mailbox.Owner())
	first, second := message(1), message(1)
	second.Stream, second.Kind = mailbox.Inbox(d), mailbox.KindJoined
	results, err := m.Put(t.Context(), first, second, first)
	if err != nil {
		t.Fatal(err)
	}
	if results[0] != (mailbox.Result{Sequence: 1}) || results[1] != (mailbox.Result{Sequence: 1}) || results[2] != (mailbox.Result{Sequence: 1, Duplicate: true}) {
		t.Fatalf("results %+v", results)
	}
	p, err := m.Read(t.Context(), mailbox.Inbox(d), mailbox.Owner(), 0, mailbox.Limit{})
	if err != nil || len(p.Items) != 1 || p.Items[0].Kind != mailbox.KindJoined {
		t.Fatalf("inbox %+v, %v", p, err)
	}
}

func testRefusals(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{MaxItem: 10, MaxReaders: 3})
	wantCode(t, putResult(t, m, message(1)).Err, wire.UnknownConversation)
	wantCode(t, m.Change(t.Context(), talk, nil, []wire.Token{token(1)}), wire.UnknownConversation)
	join(t, m, talk, token(1), token(2), token(2))
	join(t, m, talk, token(3))
	join(t, m, talk, token(3), token(1))
	wantCode(t, m.Change(t.Context(), talk, []wire.Token{token(4)}, nil), wire.Quota)
	wantCode(t, m.Change(t.Context(), talk, make([]wire.Token, 4), nil), wire.TooLarge)
	for name, change := range map[wire.Code]func(*mailbox.Put){
		wire.TooLarge:  func(p *mailbox.Put) { p.Payload = make([]byte, 11) },
		wire.Malformed: func(p *mailbox.Put) { p.Kind = 0 },
	} {
		p := message(1)
		change(&p)
		wantCode(t, putResult(t, m, p).Err, name)
	}
	p := message(1)
	p.ID = mailbox.ID{}
	wantCode(t, putResult(t, m, p).Err, wire.Malformed)
	p = message(1)
	p.Payload = make([]byte, 10) // at the limit
	put(t, m, p)
	for _, bad := range []mailbox.Stream{"", "c", "cshort", "xmimi://a.example/d/a/b", "imimi://a.example/u/a", mailbox.Stream("c" + string(make([]byte, 65)))} {
		p.Stream = bad
		if r, err := m.Put(t.Context(), p); err == nil && r[0].Err == nil {
			t.Errorf("stream %q was accepted", bad)
		}
	}
	big := make([]mailbox.Put, 7)
	for i := range big {
		big[i] = mailbox.Put{Payload: make([]byte, 10<<20)}
	}
	_, err := m.Put(t.Context(), big...)
	wantCode(t, err, wire.TooLarge)
}

func testDuplicates(t *testing.T, on Place) {
	clock := NewClock()
	window := 10 * day
	m := open(t, on, mailbox.Config{Clock: clock, DedupeWindow: window})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	ack(t, m, token(1), 1)
	sweep(t, m)
	if n := on.Stored(t, Items); n != 0 {
		t.Fatalf("%d items left", n)
	}
	// The id outlives its item, for a whole window.
	clock.Advance(window)
	if r := putResult(t, m, message(1)); !r.Duplicate || r.Sequence != 1 {
		t.Fatalf("retry within the window: %+v", r)
	}
	clock.Advance(window)
	if r := putResult(t, m, message(1)); r.Duplicate || r.Sequence != 2 {
		t.Fatalf("after two windows: %+v", r)
	}
	if n := on.Stored(t, IDs); n != 1 {
		t.Fatalf("%d ids are kept, want the new one", n)
	}
	clock.Advance(-3 * window) // the box forgets nothing when its clock steps back
	if r := putResult(t, m, message(1)); !r.Duplicate || r.Sequence != 2 {
		t.Fatalf("clock stepped back: %+v", r)
	}
}

func testPositions(t *testing.T, on Place) {
	clock := NewClock()
	m := open(t, on, mailbox.Config{Clock: clock, MaxItems: 2})
	join(t, m, talk, token(1))
	for n := 1; n <= 4; n++ { // beyond the quota: the log has accepted them
		p := message(n)
		p.Position = uint64(10 * n)
		put(t, m, p)
	}
	wantCode(t, putResult(t, m, message(9)).Err, wire.Quota)
	p := message(5)
	p.Position = 40
	if r := putResult(t, m, p); !r.Duplicate || r.Sequence != 0 {
		t.Fatalf("old position: %+v", r)
	}
	at, err := m.Position(t.Context(), talk)
	if at != 40 || err != nil {
		t.Fatalf("position %d, %v", at, err)
	}
	items := read(t, m, token(1), 0, mailbox.Limit{}).Items
	ack(t, m, token(1), 4)
	sweep(t, m)
	put(t, m, message(6))
	items = append(items, read(t, m, token(1), 4, mailbox.Limit{}).Items...)
	for i, want := range []uint64{10, 20, 30, 40, 0} {
		if items[i].Position != want {
			t.Errorf("item %d has position %d, want %d", i+1, items[i].Position, want)
		}
	}
}

func testJoinAndLeave(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	p := message(1)
	p.Join = []wire.Token{token(1), token(2)}
	put(t, m, p)
	p = message(2)
	p.Join, p.Leave = []wire.Token{token(3)}, []wire.Token{token(2), token(9)}
	put(t, m, p)
	put(t, m, message(3))
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 3)
	sequences(t, read(t, m, token(2), 0, mailbox.Limit{}), 1, 2) // up to the one by which it left
	for reader, want := range map[int]mailbox.ReaderState{
		1: {Known: true, End: 3}, 2: {Known: true, End: 2, Until: 2}, 3: {Known: true, Acknowledged: 1, End: 3}, 9: {},
	} {
		if got := readerState(t, m, talk, token(reader)); got != want { // a new reader begins with the item by which it joined
			t.Fatalf("reader %d: %+v, want %+v", reader, got, want)
		}
	}
	wantCode(t, m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: token(2)}, Sequence: 3}), wire.Invalid)
	_, err := m.Read(t.Context(), talk, token(2), 3, mailbox.Limit{})
	wantCode(t, err, wire.Invalid)
	ack(t, m, token(2), 2)
	_, err = m.Read(t.Context(), talk, token(2), 2, mailbox.Limit{})
	wantCode(t, err, wire.UnknownConversation)
	if n := on.Stored(t, Cursors); n != 2 {
		t.Fatalf("%d cursors, want 2", n)
	}
	// Without readers nothing is kept, but the stream continues.
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1), token(3)}); err != nil {
		t.Fatal(err)
	}
	ack(t, m, token(1), 3)
	ack(t, m, token(3), 3)
	put(t, m, message(4))
	sweep(t, m)
	if n := on.Stored(t, Items) + on.Stored(t, Cursors); n != 0 {
		t.Fatalf("%d items and cursors are left", n)
	}
	join(t, m, talk, token(5))
	if got := put(t, m, message(5)); got != 5 {
		t.Fatalf("sequence %d", got)
	}
	sequences(t, read(t, m, token(5), 4, mailbox.Limit{}), 5, 5)
}

func testLeaverComesBack(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1)}); err != nil {
		t.Fatal(err)
	}
	put(t, m, message(2))
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 1)
	join(t, m, talk, token(1))
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 2)
}

func testRemovedWhenAllHaveAcknowledged(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1), token(2), token(3))
	for n := 1; n <= 6; n++ {
		put(t, m, message(n))
	}
	for _, c := range []struct{ reader, to, left int }{{1, 6, 6}, {2, 2, 6}, {3, 4, 4}, {2, 5, 2}, {3, 6, 1}, {2, 6, 0}} {
		ack(t, m, token(c.reader), uint64(c.to))
		sweep(t, m)
		if n := on.Stored(t, Items); n != c.left {
			t.Fatalf("after reader %d acknowledged %d: %d items, want %d", c.reader, c.to, n, c.left)
		}
	}
	// A second read of removed items returns a gap.
	p := read(t, m, token(1), 2, mailbox.Limit{})
	if p.Gap == nil || *p.Gap != (mailbox.Gap{From: 3, To: 6}) || len(p.Items) != 0 {
		t.Fatalf("page %+v", p)
	}
}

func testExpiryLeavesATombstone(t *testing.T, on Place) {
	clock := NewClock()
	m := open(t, on, mailbox.Config{Clock: clock, MaxAge: 30 * day})
	join(t, m, talk, token(1), token(2), token(3))
	put(t, m, message(1))
	put(t, m, message(2))
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(3)}); err != nil {
		t.Fatal(err)
	}
	clock.Advance(day)
	put(t, m, message(3))
	ack(t, m, token(2), 1)
	clock.Advance(29 * day) // exactly MaxAge old: kept
	sweep(t, m)
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 3)
	clock.Advance(time.Millisecond)
	sweep(t, m)
	p := read(t, m, token(1), 0, mailbox.Limit{})
	if p.Gap == nil || *p.Gap != (mailbox.Gap{From: 1, To: 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	sequences(t, p, 3, 3)
	if p := read(t, m, token(2), 1, mailbox.Limit{}); *p.Gap != (mailbox.Gap{From: 2, To: 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	// A reader that left, and lost its last items, is forgotten.
	if n := on.Stored(t, Cursors); n != 2 {
		t.Fatalf("%d cursors, want 2", n)
	}
	if p := read(t, m, token(1), 2, mailbox.Limit{}); p.Gap != nil {
		t.Fatalf("gap %+v for a reader that had read them", p.Gap)
	}
	clock.Advance(40 * day)
	sweep(t, m)
	if p := read(t, m, token(1), 0, mailbox.Limit{}); *p.Gap != (mailbox.Gap{From: 1, To: 3}) || len(p.Items) != 0 {
		t.Fatalf("page %+v", p)
	}
	ack(t, m, token(1), 3)
	put(t, m, message(4))
	if p := read(t, m, token(1), 3, mailbox.Limit{}); p.Gap != nil || len(p.Items) != 1 {
		t.Fatalf("page %+v", p)
	}
}

func testSweeperRunsByTheClock(t *testing.T, on Place) {
	clock := NewClock()
	m := open(t, on, mailbox.Config{Clock: clock, MaxAge: time.Hour})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	clock.Advance(3 * time.Hour)
	for read(t, m, token(1), 0, mailbox.Limit{}).Gap == nil { // without Sweep, or the test runs into its limit
		clock.Advance(time.Minute)
	}
	put(t, m, message(2))
	ack(t, m, token(1), 2)
	for on.Stored(t, Items) > 0 {
		clock.Advance(time.Second)
	}
}

func testQuotaAtItsEdges(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{MaxItems: 3, MaxBytes: 100})
	join(t, m, talk, token(2))
	size := func(n, bytes int) mailbox.Put {
		p := message(n)
		p.Payload = make([]byte, bytes)
		return p
	}
	put(t, m, size(1, 60))
	wantCode(t, putResult(t, m, size(2, 41)).Err, wire.Quota)
	put(t, m, size(2, 40)) // 100 bytes
	wantCode(t, putResult(t, m, size(3, 1)).Err, wire.Quota)
	put(t, m, size(3, 0)) // three items
	wantCode(t, putResult(t, m, size(4, 0)).Err, wire.Quota)
	if r := putResult(t, m, size(1, 60)); !r.Duplicate {
		t.Fatalf("a retry on a full stream: %+v", r)
	}
	ack(t, m, token(2), 1) // room for one, before anything was swept
	wantCode(t, putResult(t, m, size(4, 61)).Err, wire.Quota)
	put(t, m, size(4, 60))
	wantCode(t, putResult(t, m, size(5, 0)).Err, wire.Quota)
	// In one call, each put is checked after the puts before it.
	ack(t, m, token(2), 3)
	results, err := m.Put(t.Context(), size(5, 20), size(6, 21), size(7, 20), size(8, 0))
	if err != nil || results[0].Err != nil || results[2].Sequence != 6 {
		t.Fatalf("%+v, %v", results, err)
	}
	wantCode(t, results[1].Err, wire.Quota)
	wantCode(t, results[3].Err, wire.Quota)
}

func testDropOldest(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{MaxItems: 3, MaxBytes: 100, DropOldest: true})
	join(t, m, talk, token(1))
	results, err := m.Put(t.Context(), message(1), message(2), message(3), message(4), message(5))
	if err != nil || results[4].Err != nil {
		t.Fatalf("%+v, %v", results, err)
	}
	p := read(t, m, token(1), 0, mailbox.Limit{})
	if p.Gap == nil || *p.Gap != (mailbox.Gap{From: 1, To: 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	sequences(t, p, 3, 5)
	if n := on.Stored(t, Items); n != 3 {
		t.Fatalf("%d items", n)
	}
	big := message(6)
	big.Payload = make([]byte, 100)
	put(t, m, big)
	if p := read(t, m, token(1), 0, mailbox.Limit{}); *p.Gap != (mailbox.Gap{From: 1, To: 5}) || len(p.Items) != 1 {
		t.Fatalf("%+v", p)
	}
	big.ID, big.Payload = id(7), make([]byte, 101)
	wantCode(t, putResult(t, m, big).Err, wire.Quota)
}

func testRemoveForgets(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	for range 2 {
		if err := m.Remove(t.Context(), talk); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.Read(t.Context(), talk, token(1), 0, mailbox.Limit{})
	wantCode(t, err, wire.UnknownConversation)
	if n := on.Stored(t, Items) + on.Stored(t, Cursors) + on.Stored(t, Streams); n != 0 {
		t.Fatalf("%d records are left", n)
	}
	join(t, m, talk, token(1)) // begins again
	if got := put(t, m, message(1)); got != 1 {
		t.Fatalf("sequence %d", got)
	}
}

func testSubscription(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1))
	s := m.Subscribe()
	other := m.Subscribe()
	defer other.Close()
	s.Add(talk)
	<-s.C
	if got := s.Ready(); len(got) != 1 || got[0] != talk {
		t.Fatalf("ready %v", got)
	}
	seen := uint64(0)
	for n := 1; n <= 50; n++ {
		put(t, m, message(n))
		for seen < uint64(n) { // every append is followed by a wake
			<-s.C
			if len(s.Ready()) > 0 {
				for _, it := range read(t, m, token(1), seen, mailbox.Limit{}).Items {
					seen = it.Sequence
				}
			}
		}
	}
	if len(other.Ready()) != 0 {
		t.Fatal("woken for a stream of others")
	}
	s.Close()
	s.Add(talk)
	put(t, m, message(51))
	if len(s.Ready()) != 0 {
		t.Fatal("still watching")
	}
}

func testStopped(t *testing.T, on Place) {
	m, stop := on.Open(t, mailbox.Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	stop()
	_, err := m.Put(t.Context(), message(2))
	wantCode(t, err, wire.Unavailable)
	sequences(t, read(t, m, token(1), 0, mailbox.Limit{}), 1, 1) // reads still succeed
}
