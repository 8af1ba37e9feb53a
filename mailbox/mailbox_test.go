package mailbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) {
	if childOfCrashTest() {
		return
	}
	goleak.VerifyTestMain(m)
}

// testClock stands still until it is moved. What waits on it waits until then; a wait of no time does not.
type testClock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[chan time.Time]time.Time
}

func newClock() *testClock {
	return &testClock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), waits: make(map[chan time.Time]time.Time)}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.now
	} else {
		c.waits[ch] = c.now.Add(d)
	}
	return ch
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.waits {
		if !c.now.Before(at) {
			ch <- c.now
			delete(c.waits, ch)
		}
	}
}

func openDB(t testing.TB, dir string, fs vfs.FS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(dir, Tune(&pebble.Options{FS: fs, Logger: quiet{}}))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// start runs a mailbox until stop is called.
func start(t testing.TB, db *pebble.DB, cfg Config) (m *Mailbox, stop func()) {
	t.Helper()
	if cfg.Report == nil {
		cfg.Report = func(err error) { t.Error(err) }
	}
	m = New(db, []byte("m/"), cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return m, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func memory(t testing.TB, cfg Config) *Mailbox {
	t.Helper()
	db := openDB(t, "db", vfs.NewMem())
	m, stop := start(t, db, cfg)
	t.Cleanup(func() {
		stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

const talk = Stream("cconversation-1")

func token(n int) wire.Token { return wire.Token{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func id(n int) ID { return ID{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func message(n int) Put {
	return Put{Stream: talk, ID: id(n), Kind: KindMessage, Payload: fmt.Appendf(nil, "payload %d", n)}
}

func put(t testing.TB, m *Mailbox, p Put) uint64 {
	t.Helper()
	r := putResult(t, m, p)
	if r.Err != nil || r.Duplicate {
		t.Fatalf("put: %+v", r)
	}
	return r.Sequence
}

func putResult(t testing.TB, m *Mailbox, p Put) Result {
	t.Helper()
	r, err := m.Put(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r[0]
}

func join(t testing.TB, m *Mailbox, s Stream, readers ...wire.Token) {
	t.Helper()
	if err := m.Change(t.Context(), s, readers, nil); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, m *Mailbox, r wire.Token, after uint64, limit Limit) Page {
	t.Helper()
	p, err := m.Read(t.Context(), talk, r, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sequences checks that a page is first, first+1, … with the payloads of message(n) for those numbers.
func sequences(t testing.TB, p Page, first, last int) {
	t.Helper()
	if len(p.Items) != last-first+1 {
		t.Fatalf("%d items, want %d to %d", len(p.Items), first, last)
	}
	for i, it := range p.Items {
		want := message(first + i)
		if it.Sequence != uint64(first+i) || it.ID != want.ID || !bytes.Equal(it.Payload, want.Payload) || it.Kind != want.Kind {
			t.Fatalf("item %d is %+v", first+i, it)
		}
	}
}

func wantCode(t testing.TB, err error, code wire.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("error %v, want code %s", err, code)
	}
}

func ack(t testing.TB, m *Mailbox, r wire.Token, sequence uint64) {
	t.Helper()
	if err := m.Acknowledge(t.Context(), talk, r, sequence); err != nil {
		t.Fatal(err)
	}
}

func sweep(t testing.TB, m *Mailbox) {
	t.Helper()
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// stored counts the records of a kind on disk.
func stored(t testing.TB, m *Mailbox, kind byte) int {
	t.Helper()
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: m.keys.of(kind), UpperBound: m.keys.of(kind + 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	n := 0
	for it.First(); it.Valid(); it.Next() {
		n++
	}
	return n
}

func TestPutReadAcknowledge(t *testing.T) {
	clock := newClock()
	m := memory(t, Config{Clock: clock})
	join(t, m, talk, token(1), token(2))
	for n := 1; n <= 10; n++ {
		if got := put(t, m, message(n)); got != uint64(n) {
			t.Fatalf("sequence %d, want %d", got, n)
		}
	}
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 10)
	p := read(t, m, token(1), 3, Limit{Items: 4})
	sequences(t, p, 4, 7)
	if !p.More || p.Gap != nil {
		t.Fatalf("page %+v", p)
	}
	if p := read(t, m, token(1), 7, Limit{Items: 3}); p.More || len(p.Items) != 3 {
		t.Fatalf("last page %+v", p)
	}
	if p.Items[0].Time != wire.TimeOf(clock.Now()) {
		t.Fatalf("time %v", p.Items[0].Time)
	}
	ack(t, m, token(1), 6)
	ack(t, m, token(1), 4) // backwards: no change
	acked, end, err := m.Cursor(t.Context(), talk, token(1))
	if acked != 6 || end != 10 || err != nil {
		t.Fatalf("cursor %d of %d, %v", acked, end, err)
	}
	wantCode(t, m.Acknowledge(t.Context(), talk, token(1), 11), wire.Invalid)
	ack(t, m, token(1), 10)
	_, err = m.Read(t.Context(), talk, token(1), 11, Limit{})
	wantCode(t, err, wire.Invalid)
	_, err = m.Read(t.Context(), talk, token(3), 0, Limit{})
	wantCode(t, err, wire.UnknownConversation)
	wantCode(t, m.Acknowledge(t.Context(), talk, token(3), 1), wire.UnknownConversation)
}

func TestPageBytes(t *testing.T) {
	m := memory(t, Config{})
	join(t, m, talk, token(1))
	for n := 1; n <= 4; n++ {
		p := message(n)
		p.Payload = bytes.Repeat([]byte{byte(n)}, 100)
		put(t, m, p)
	}
	for _, c := range []struct{ limit, items int }{{1, 1}, {100, 1}, {199, 1}, {200, 2}, {399, 3}, {400, 4}, {401, 4}} {
		p := read(t, m, token(1), 0, Limit{Bytes: c.limit})
		if len(p.Items) != c.items || p.More != (c.items < 4) {
			t.Errorf("limit of %d bytes: %d items, more %v", c.limit, len(p.Items), p.More)
		}
	}
}

func TestStreamsAreSeparate(t *testing.T) {
	m := memory(t, Config{})
	d, err := wire.ParseDeviceID("mimi://a.example/d/alice/phone")
	if err != nil {
		t.Fatal(err)
	}
	join(t, m, talk, token(1))
	join(t, m, Inbox(d), Owner())
	first, second := message(1), message(1)
	second.Stream, second.Kind = Inbox(d), KindWelcome
	results, err := m.Put(t.Context(), first, second, first)
	if err != nil {
		t.Fatal(err)
	}
	if results[0] != (Result{Sequence: 1}) || results[1] != (Result{Sequence: 1}) || results[2] != (Result{Sequence: 1, Duplicate: true}) {
		t.Fatalf("results %+v", results)
	}
	p, err := m.Read(t.Context(), Inbox(d), Owner(), 0, Limit{})
	if err != nil || len(p.Items) != 1 || p.Items[0].Kind != KindWelcome {
		t.Fatalf("inbox %+v, %v", p, err)
	}
}

func TestRefusals(t *testing.T) {
	m := memory(t, Config{MaxItem: 10, MaxReaders: 3})
	wantCode(t, putResult(t, m, message(1)).Err, wire.UnknownConversation)
	wantCode(t, m.Change(t.Context(), talk, nil, []wire.Token{token(1)}), wire.UnknownConversation)
	join(t, m, talk, token(1), token(2), token(2))
	join(t, m, talk, token(3))
	join(t, m, talk, token(3), token(1))
	wantCode(t, m.Change(t.Context(), talk, []wire.Token{token(4)}, nil), wire.Quota)
	wantCode(t, m.Change(t.Context(), talk, make([]wire.Token, 4), nil), wire.TooLarge)
	for name, change := range map[wire.Code]func(*Put){
		wire.TooLarge:  func(p *Put) { p.Payload = make([]byte, 11) },
		wire.Malformed: func(p *Put) { p.Kind = 0 },
	} {
		p := message(1)
		change(&p)
		wantCode(t, putResult(t, m, p).Err, name)
	}
	p := message(1)
	p.ID = ID{}
	wantCode(t, putResult(t, m, p).Err, wire.Malformed)
	p = message(1)
	p.Payload = make([]byte, 10) // at the limit
	put(t, m, p)
	for _, bad := range []Stream{"", "c", "cshort", "xmimi://a.example/d/a/b", "imimi://a.example/u/a", Stream("c" + string(make([]byte, 65)))} {
		p.Stream = bad
		if r, err := m.Put(t.Context(), p); err == nil && r[0].Err == nil {
			t.Errorf("stream %q was accepted", bad)
		}
	}
	big := make([]Put, 7)
	for i := range big {
		big[i] = Put{Payload: make([]byte, 10<<20)}
	}
	_, err := m.Put(t.Context(), big...)
	wantCode(t, err, wire.TooLarge)
}

func TestDuplicates(t *testing.T) {
	clock := newClock()
	window := 10 * day
	m := memory(t, Config{Clock: clock, DedupeWindow: window})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	ack(t, m, token(1), 1)
	sweep(t, m)
	if n := stored(t, m, keyItem); n != 0 {
		t.Fatalf("%d items left", n)
	}
	// The id outlives its item, for a whole window.
	clock.advance(window)
	if r := putResult(t, m, message(1)); !r.Duplicate || r.Sequence != 1 {
		t.Fatalf("retry within the window: %+v", r)
	}
	clock.advance(window)
	if r := putResult(t, m, message(1)); r.Duplicate || r.Sequence != 2 {
		t.Fatalf("after two windows: %+v", r)
	}
	if n := stored(t, m, keyID); n != 1 {
		t.Fatalf("%d ids are kept, want the new one", n)
	}
	clock.advance(-3 * window) // a clock that steps back forgets nothing
	if r := putResult(t, m, message(1)); !r.Duplicate || r.Sequence != 2 {
		t.Fatalf("clock stepped back: %+v", r)
	}
}

func TestPositions(t *testing.T) {
	clock := newClock()
	m := memory(t, Config{Clock: clock, MaxItems: 2})
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
	items := read(t, m, token(1), 0, Limit{}).Items
	ack(t, m, token(1), 4)
	sweep(t, m)
	put(t, m, message(6))
	items = append(items, read(t, m, token(1), 4, Limit{}).Items...)
	for i, want := range []uint64{10, 20, 30, 40, 0} {
		if items[i].Position != want {
			t.Errorf("item %d has position %d, want %d", i+1, items[i].Position, want)
		}
	}
}

func TestJoinAndLeave(t *testing.T) {
	m := memory(t, Config{})
	p := message(1)
	p.Join = []wire.Token{token(1), token(2)}
	put(t, m, p)
	p = message(2)
	p.Join, p.Leave = []wire.Token{token(3)}, []wire.Token{token(2), token(9)}
	put(t, m, p)
	put(t, m, message(3))
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 3)
	sequences(t, read(t, m, token(2), 0, Limit{}), 1, 2) // up to the one by which it left
	for reader, want := range map[int]uint64{1: 0, 2: 2, 3: 0} {
		if until, err := m.Until(t.Context(), talk, token(reader)); until != want || err != nil {
			t.Fatalf("reader %d reads until %d, %v, wanted %d", reader, until, err, want)
		}
	}
	_, err := m.Until(t.Context(), talk, token(9))
	wantCode(t, err, wire.UnknownConversation)
	acked, end, err := m.Cursor(t.Context(), talk, token(3))
	if acked != 1 || end != 3 || err != nil { // from the one by which it joined
		t.Fatalf("new reader stands at %d of %d, %v", acked, end, err)
	}
	wantCode(t, m.Acknowledge(t.Context(), talk, token(2), 3), wire.Invalid)
	_, err = m.Read(t.Context(), talk, token(2), 3, Limit{})
	wantCode(t, err, wire.Invalid)
	ack(t, m, token(2), 2)
	_, err = m.Read(t.Context(), talk, token(2), 2, Limit{})
	wantCode(t, err, wire.UnknownConversation)
	if n := stored(t, m, keyCursor); n != 2 {
		t.Fatalf("%d cursors, want 2", n)
	}
	// Without readers nothing is kept, but the stream goes on.
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1), token(3)}); err != nil {
		t.Fatal(err)
	}
	ack(t, m, token(1), 3)
	ack(t, m, token(3), 3)
	put(t, m, message(4))
	sweep(t, m)
	if n := stored(t, m, keyItem) + stored(t, m, keyCursor); n != 0 {
		t.Fatalf("%d items and cursors are left", n)
	}
	join(t, m, talk, token(5))
	if got := put(t, m, message(5)); got != 5 {
		t.Fatalf("sequence %d", got)
	}
	sequences(t, read(t, m, token(5), 4, Limit{}), 5, 5)
}

func TestLeaverComesBack(t *testing.T) {
	m := memory(t, Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(1)}); err != nil {
		t.Fatal(err)
	}
	put(t, m, message(2))
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 1)
	join(t, m, talk, token(1))
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 2)
}

func TestRemovedWhenAllHaveAcknowledged(t *testing.T) {
	m := memory(t, Config{})
	join(t, m, talk, token(1), token(2), token(3))
	for n := 1; n <= 6; n++ {
		put(t, m, message(n))
	}
	for _, c := range []struct{ reader, to, left int }{{1, 6, 6}, {2, 2, 6}, {3, 4, 4}, {2, 5, 2}, {3, 6, 1}, {2, 6, 0}} {
		ack(t, m, token(c.reader), uint64(c.to))
		sweep(t, m)
		if n := stored(t, m, keyItem); n != c.left {
			t.Fatalf("after reader %d acknowledged %d: %d items, want %d", c.reader, c.to, n, c.left)
		}
	}
	// Reading again what is removed is answered with a gap, not with silence.
	p := read(t, m, token(1), 2, Limit{})
	if p.Gap == nil || *p.Gap != (Gap{3, 6}) || len(p.Items) != 0 {
		t.Fatalf("page %+v", p)
	}
}

func TestExpiryLeavesATombstone(t *testing.T) {
	clock := newClock()
	m := memory(t, Config{Clock: clock, MaxAge: 30 * day})
	join(t, m, talk, token(1), token(2), token(3))
	put(t, m, message(1))
	put(t, m, message(2))
	if err := m.Change(t.Context(), talk, nil, []wire.Token{token(3)}); err != nil {
		t.Fatal(err)
	}
	clock.advance(day)
	put(t, m, message(3))
	ack(t, m, token(2), 1)
	clock.advance(29 * day) // exactly MaxAge old: kept
	sweep(t, m)
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 3)
	clock.advance(time.Millisecond)
	sweep(t, m)
	p := read(t, m, token(1), 0, Limit{})
	if p.Gap == nil || *p.Gap != (Gap{1, 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	sequences(t, p, 3, 3)
	if p := read(t, m, token(2), 1, Limit{}); *p.Gap != (Gap{2, 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	// Who left, and lost the last that was his, is forgotten.
	if n := stored(t, m, keyCursor); n != 2 {
		t.Fatalf("%d cursors, want 2", n)
	}
	if p := read(t, m, token(1), 2, Limit{}); p.Gap != nil {
		t.Fatalf("gap %+v for a reader that had read them", p.Gap)
	}
	clock.advance(40 * day)
	sweep(t, m)
	if p := read(t, m, token(1), 0, Limit{}); *p.Gap != (Gap{1, 3}) || len(p.Items) != 0 {
		t.Fatalf("page %+v", p)
	}
	ack(t, m, token(1), 3)
	put(t, m, message(4))
	if p := read(t, m, token(1), 3, Limit{}); p.Gap != nil || len(p.Items) != 1 {
		t.Fatalf("page %+v", p)
	}
}

func TestSweeperRunsByTheClock(t *testing.T) {
	clock := newClock()
	m := memory(t, Config{Clock: clock, MaxAge: time.Hour})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	clock.advance(3 * time.Hour)
	for read(t, m, token(1), 0, Limit{}).Gap == nil { // comes by itself, or the test runs into its limit
		clock.advance(time.Minute)
	}
	put(t, m, message(2))
	ack(t, m, token(1), 2)
	for stored(t, m, keyItem) > 0 {
		clock.advance(time.Second)
	}
}

func TestQuotaAtItsEdges(t *testing.T) {
	m := memory(t, Config{MaxItems: 3, MaxBytes: 100})
	join(t, m, talk, token(2))
	size := func(n, bytes int) Put {
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
	// In one call: each is judged after the ones before.
	ack(t, m, token(2), 3)
	results, err := m.Put(t.Context(), size(5, 20), size(6, 21), size(7, 20), size(8, 0))
	if err != nil || results[0].Err != nil || results[2].Sequence != 6 {
		t.Fatalf("%+v, %v", results, err)
	}
	wantCode(t, results[1].Err, wire.Quota)
	wantCode(t, results[3].Err, wire.Quota)
}

func TestDropOldest(t *testing.T) {
	m := memory(t, Config{MaxItems: 3, MaxBytes: 100, DropOldest: true})
	join(t, m, talk, token(1))
	results, err := m.Put(t.Context(), message(1), message(2), message(3), message(4), message(5))
	if err != nil || results[4].Err != nil {
		t.Fatalf("%+v, %v", results, err)
	}
	p := read(t, m, token(1), 0, Limit{})
	if p.Gap == nil || *p.Gap != (Gap{1, 2}) {
		t.Fatalf("gap %+v", p.Gap)
	}
	sequences(t, p, 3, 5)
	if n := stored(t, m, keyItem); n != 3 {
		t.Fatalf("%d items", n)
	}
	big := message(6)
	big.Payload = make([]byte, 100)
	put(t, m, big)
	if p := read(t, m, token(1), 0, Limit{}); *p.Gap != (Gap{1, 5}) || len(p.Items) != 1 {
		t.Fatalf("%+v", p)
	}
	big.ID, big.Payload = id(7), make([]byte, 101)
	wantCode(t, putResult(t, m, big).Err, wire.Quota)
}

func TestRemoveForgets(t *testing.T) {
	m := memory(t, Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	for range 2 {
		if err := m.Remove(t.Context(), talk); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.Read(t.Context(), talk, token(1), 0, Limit{})
	wantCode(t, err, wire.UnknownConversation)
	if n := stored(t, m, keyItem) + stored(t, m, keyCursor) + stored(t, m, keyHead); n != 0 {
		t.Fatalf("%d records are left", n)
	}
	join(t, m, talk, token(1)) // begins anew
	if got := put(t, m, message(1)); got != 1 {
		t.Fatalf("sequence %d", got)
	}
}

func TestSubscription(t *testing.T) {
	m := memory(t, Config{})
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
				for _, it := range read(t, m, token(1), seen, Limit{}).Items {
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
	if len(s.Ready()) != 0 || len(m.watchers.list(talk)) != 0 {
		t.Fatal("still watching")
	}
}

func TestStopped(t *testing.T) {
	db := openDB(t, "db", vfs.NewMem())
	defer db.Close()
	m, stop := start(t, db, Config{})
	join(t, m, talk, token(1))
	put(t, m, message(1))
	stop()
	_, err := m.Put(t.Context(), message(2))
	wantCode(t, err, wire.Unavailable)
	sequences(t, read(t, m, token(1), 0, Limit{}), 1, 1) // reading goes on
	if err := m.Run(t.Context()); err == nil {
		t.Fatal("a second Run was allowed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(db, []byte("m/"), Config{}).Put(ctx, message(2)); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// TestFewOpenStreams works with more streams than stay in memory.
func TestFewOpenStreams(t *testing.T) {
	m := memory(t, Config{OpenStreams: 2})
	for round := range 3 {
		for n := range 20 {
			p := message(round)
			p.Stream = Stream(fmt.Sprintf("cconversation-%d", n))
			if round == 0 {
				p.Join = []wire.Token{token(1)}
			}
			if got := put(t, m, p); got != uint64(round+1) {
				t.Fatalf("stream %d: sequence %d in round %d", n, got, round)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.streams) > 2 || m.idle.Len() != len(m.streams) {
		t.Fatalf("%d streams in memory, %d idle", len(m.streams), m.idle.Len())
	}
}

func TestDamageIsNoticed(t *testing.T) {
	m := memory(t, Config{Report: func(error) {}}) // the sweeper may meet the damage too
	join(t, m, talk, token(1))
	for n := 1; n <= 3; n++ {
		put(t, m, message(n))
	}
	key := m.keys.item(1, 2)
	good, err := m.get(key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if err := m.db.Set(key, bad, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Read(t.Context(), talk, token(1), 0, Limit{}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if err := m.db.Set(m.keys.item(1, 3), good, pebble.NoSync); err != nil { // a whole record at a wrong place
		t.Fatal(err)
	}
	if _, err := m.Read(t.Context(), talk, token(1), 2, Limit{}); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := m.db.Delete(key, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Read(t.Context(), talk, token(1), 0, Limit{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a missing item: %v", err)
	}
}
