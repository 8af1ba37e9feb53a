// Package mailboxtest checks implementations of mailbox.Box against their contract, which is in the documentation of
// package mailbox.
package mailboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// Place is a storage in which an implementation keeps streams over restarts.
type Place interface {
	// Open runs a box on what the place holds, until stop is called. stop reports errors of the box, and can be
	// called twice. A stopped box can still read until the next box is opened.
	Open(t testing.TB, cfg mailbox.Config) (box mailbox.Box, stop func())
	// Crash returns the place in the state after a failure of the machine at this moment, with the durable data only.
	// The place itself stays usable.
	Crash(t testing.TB) Place
	// Close releases what the place uses. It can be called twice; it is also called at the end of the test that fresh
	// got.
	Close()
	// Stored counts the records of a kind in the place, whose box is open.
	Stored(t testing.TB, what Record) int
}

// Record is a kind of record. An implementation has its own format; its count of each kind shows that nothing is left
// behind, and that an item is stored once.
type Record string

// The kinds of records.
const (
	Items       Record = "items"
	Cursors     Record = "cursors"
	IDs         Record = "ids"
	Streams     Record = "streams"
	Senders     Record = "senders"      // of items that other organizations brought
	KeptEntries Record = "kept entries" // removed before a reader had them
)

// Run runs the suite. fresh returns an empty place.
func Run(t *testing.T, fresh func(t testing.TB) Place) {
	for _, c := range suite {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh) })
	}
}

var suite = []struct {
	name string
	run  func(*testing.T, func(testing.TB) Place)
}{
	{"PutReadAcknowledge", once(testPutReadAcknowledge)},
	{"PageBytes", once(testPageBytes)},
	{"StreamsAreSeparate", once(testStreamsAreSeparate)},
	{"Refusals", once(testRefusals)},
	{"Duplicates", once(testDuplicates)},
	{"Positions", once(testPositions)},
	{"JoinAndLeave", once(testJoinAndLeave)},
	{"LeaverComesBack", once(testLeaverComesBack)},
	{"RemovedWhenAllHaveAcknowledged", once(testRemovedWhenAllHaveAcknowledged)},
	{"ExpiryLeavesATombstone", once(testExpiryLeavesATombstone)},
	{"SweeperRunsByTheClock", once(testSweeperRunsByTheClock)},
	{"QuotaAtItsEdges", once(testQuotaAtItsEdges)},
	{"DropOldest", once(testDropOldest)},
	{"RemoveForgets", once(testRemoveForgets)},
	{"Subscription", once(testSubscription)},
	{"Stopped", once(testStopped)},
	{"UnreadStreamsAreForgotten", once(testUnreadStreamsAreForgotten)},
	{"ShareOfASender", testShareOfASender},
	{"AbsentDeviceStopsNobody", once(testAbsentDeviceStopsNobody)},
	{"ShareCountsWhatNobodyHasRead", once(testShareCountsWhatNobodyHasRead)},
	{"KeptEntriesAreBounded", once(testKeptEntriesAreBounded)},
	{"Wanted", once(testWanted)},
	{"Model", testModel},
	{"Concurrent", once(testConcurrent)},
	{"RemoveWhileReading", once(testRemoveWhileReading)},
	{"Crash", testCrash},
	{"Reached", once(testReached)},
}

// once runs a test that needs one place.
func once(run func(*testing.T, Place)) func(*testing.T, func(testing.TB) Place) {
	return func(t *testing.T, fresh func(testing.TB) Place) { run(t, fresh(t)) }
}

// open opens a box until the end of the test.
func open(t testing.TB, p Place, cfg mailbox.Config) mailbox.Box {
	t.Helper()
	m, stop := p.Open(t, cfg)
	t.Cleanup(stop)
	return m
}

// Clock is a clock that only Advance moves. A wait of no time ends at once.
type Clock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[chan time.Time]time.Time
}

// NewClock returns a clock that shows the beginning of 2030.
func NewClock() *Clock {
	return &Clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), waits: make(map[chan time.Time]time.Time)}
}

// Now implements clock.Source.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After implements clock.Source.
func (c *Clock) After(d time.Duration) <-chan time.Time {
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

// Advance moves the clock and ends the waits that are over.
func (c *Clock) Advance(d time.Duration) {
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

const talk = mailbox.Stream("cconversation-1")

func token(n int) wire.Token { return wire.Token{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func id(n int) mailbox.ID { return mailbox.ID{byte(n), byte(n >> 8), byte(n >> 16), 1} }

func message(n int) mailbox.Put {
	return mailbox.Put{Stream: talk, ID: id(n), Kind: mailbox.KindMessage, Payload: fmt.Appendf(nil, "payload %d", n)}
}

func put(t testing.TB, m mailbox.Box, p mailbox.Put) uint64 {
	t.Helper()
	r := putResult(t, m, p)
	if r.Err != nil || r.Duplicate {
		t.Fatalf("put: %+v", r)
	}
	return r.Sequence
}

func putResult(t testing.TB, m mailbox.Box, p mailbox.Put) mailbox.Result {
	t.Helper()
	r, err := m.Put(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r[0]
}

func join(t testing.TB, m mailbox.Box, s mailbox.Stream, readers ...wire.Token) {
	t.Helper()
	if err := m.Change(t.Context(), s, readers, nil); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, m mailbox.Box, r wire.Token, after uint64, limit mailbox.Limit) mailbox.Page {
	t.Helper()
	p, err := m.Read(t.Context(), talk, r, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sequences checks that a page is first, first+1, … with the payloads of message(n) for those numbers.
func sequences(t testing.TB, p mailbox.Page, first, last int) {
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

func ack(t testing.TB, m mailbox.Box, r wire.Token, sequence uint64) {
	t.Helper()
	if err := m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: r}, Sequence: sequence}); err != nil {
		t.Fatal(err)
	}
}

func readerState(t testing.TB, m mailbox.Box, s mailbox.Stream, r wire.Token) mailbox.ReaderState {
	t.Helper()
	list, err := m.ReaderStates(t.Context(), mailbox.Reader{Stream: s, Token: r})
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

func sweep(t testing.TB, m mailbox.Box) {
	t.Helper()
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}
