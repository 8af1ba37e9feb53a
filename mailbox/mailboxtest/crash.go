package mailboxtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// testReached checks that Reached returns when the stream has the position, and when its context ends.
func testReached(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	join(t, m, talk, token(1))
	put(t, m, entry(1, 3))
	if err := mailbox.Reached(t.Context(), m, talk, 3); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mailbox.Reached(t.Context(), m, talk, 5) }()
	for n := 2; n <= 3; n++ { // positions 4 and 5
		select {
		case err := <-done:
			t.Fatalf("reached before the position was: %v", err)
		default:
		}
		put(t, m, entry(n, uint64(n+2)))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- mailbox.Reached(ctx, m, talk, 6) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// A crash test's writers append to two streams at once. The n-th item of a writer has its number as payload, and with
// every seventh a reader joins.
const (
	crashWriters = 6
	crashEach    = 60
)

var crashStreams = [2]mailbox.Stream{"cconversation-1", "cconversation-2"}

// crashRun holds what the callers of a box know about it.
type crashRun struct {
	box mailbox.Box

	mu       sync.Mutex
	accepted map[mailbox.ID][2]uint64 // the places that were answered
	asked    uint64                   // the highest number that reader 1 has acknowledged of the first stream, or tries to
}

func crashPut(w, n int) []mailbox.Put {
	var puts []mailbox.Put
	for _, s := range crashStreams {
		p := mailbox.Put{Stream: s, ID: mailbox.ID{byte(w), byte(n), 7}, Kind: mailbox.KindMessage, Payload: fmt.Appendf(nil, "%d %d", w, n)}
		if n%7 == 0 {
			p.Join = []wire.Token{crashReader(w, n)}
		}
		puts = append(puts, p)
	}
	return puts
}

func crashReader(w, n int) wire.Token { return wire.Token{9, byte(w), byte(n)} }

func (c *crashRun) write(t *testing.T, w int) {
	for n := range crashEach {
		results, err := c.box.Put(t.Context(), crashPut(w, n)...)
		if err != nil || results[0].Err != nil || results[1].Err != nil {
			t.Errorf("put: %+v, %v", results, err)
			return
		}
		c.mu.Lock()
		c.accepted[mailbox.ID{byte(w), byte(n), 7}] = [2]uint64{results[0].Sequence, results[1].Sequence}
		c.mu.Unlock()
	}
}

// acknowledge reads and acknowledges the first stream as reader 1, and sweeps, until the writers have ended.
func (c *crashRun) acknowledge(t *testing.T, ended *atomic.Bool) {
	for at := uint64(0); !ended.Load(); {
		p, err := c.box.Read(t.Context(), talk, token(1), at, mailbox.Limit{Items: 9})
		if err != nil || p.Gap != nil {
			t.Errorf("read: gap %+v, %v", p.Gap, err)
			return
		}
		at += uint64(len(p.Items))
		c.mu.Lock()
		c.asked = at
		c.mu.Unlock()
		err = c.box.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: token(1)}, Sequence: at})
		if err = errors.Join(err, c.box.Sweep(t.Context())); err != nil {
			t.Error(err)
			return
		}
	}
}

// known returns what was accepted before this moment.
func (c *crashRun) known() map[mailbox.ID][2]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.accepted)
}

// testCrash checks what a crash may lose. The machine fails in the middle of the work. A write that was answered
// before is there. A write that was not answered is there as a whole or not at all. Acknowledgements may be lost, but
// no item that a reader has not acknowledged after the crash.
func testCrash(t *testing.T, fresh func(testing.TB) Place) {
	for round := range 5 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			place := fresh(t)
			c := &crashRun{accepted: make(map[mailbox.ID][2]uint64)}
			c.box = open(t, place, mailbox.Config{})
			for _, s := range crashStreams {
				join(t, c.box, s, token(1))
			}
			var writers, helper sync.WaitGroup
			var ended atomic.Bool
			for w := range crashWriters {
				writers.Go(func() { c.write(t, w) })
			}
			helper.Go(func() { c.acknowledge(t, &ended) })
			var accepted map[mailbox.ID][2]uint64
			for want := (round + 1) * crashWriters * crashEach / 6; len(accepted) < want && !t.Failed(); {
				time.Sleep(time.Millisecond)
				accepted = c.known()
			}
			after := place.Crash(t)
			c.mu.Lock()
			asked := c.asked // an acknowledgement that was on its way at the crash may count
			c.mu.Unlock()
			writers.Wait()
			ended.Store(true)
			helper.Wait()
			verifyCrash(t, open(t, after, mailbox.Config{}), accepted, asked)
		})
	}
}

func verifyCrash(t *testing.T, m mailbox.Box, accepted map[mailbox.ID][2]uint64, asked uint64) {
	t.Helper()
	var found [2]map[mailbox.ID]uint64
	for i, s := range crashStreams {
		at := readerState(t, m, s, token(1))
		if !at.Known || i == 0 && at.Acknowledged > asked {
			t.Fatalf("%s: reader 1 is %+v, and has acknowledged %d", s, at, asked)
		}
		found[i] = readAll(t, m, s, at.Acknowledged)
		for id, places := range accepted {
			if got, ok := found[i][id]; places[i] > at.Acknowledged && (!ok || got != places[i]) {
				t.Fatalf("%s: %v was accepted at %d, and is at %d (%v)", s, id, places[i], got, ok)
			}
			if w, n := int(id[0]), int(id[1]); n%7 == 0 && !readerState(t, m, s, crashReader(w, n)).Known {
				t.Fatalf("%s: the reader that joined with %v is lost", s, id)
			}
		}
	}
	if at := readerState(t, m, talk, token(1)); at.Acknowledged == 0 { // then all of the first stream can be compared
		for id := range found[1] {
			if _, ok := found[0][id]; !ok {
				t.Fatalf("half of %v is there", id)
			}
		}
	}
	for id := range found[0] {
		if _, ok := found[1][id]; !ok {
			t.Fatalf("half of %v is there", id)
		}
	}
	for id, places := range accepted { // a retry gets the first answer
		results, err := m.Put(t.Context(), crashPut(int(id[0]), int(id[1]))...)
		if err != nil || !results[0].Duplicate || results[0].Sequence != places[0] || results[1].Sequence != places[1] {
			t.Fatalf("a retry of %v: %+v, %v, want %v", id, results, err, places)
		}
	}
}

// readAll reads a stream as reader 1, without a gap, and returns the place of each item by its id. Items of one writer
// are in its order.
func readAll(t *testing.T, m mailbox.Box, s mailbox.Stream, after uint64) map[mailbox.ID]uint64 {
	t.Helper()
	found := make(map[mailbox.ID]uint64)
	last := make(map[int]int)
	for more := true; more; {
		p, err := m.Read(t.Context(), s, token(1), after, mailbox.Limit{})
		if err != nil || p.Gap != nil {
			t.Fatalf("%s after %d: gap %+v, %v", s, after, p.Gap, err)
		}
		for _, it := range p.Items {
			var w, n int
			if c, _ := fmt.Sscan(string(it.Payload), &w, &n); c != 2 || it.ID != (mailbox.ID{byte(w), byte(n), 7}) || n < last[w] {
				t.Fatalf("%s: item %d is %q under %v after number %d", s, it.Sequence, it.Payload, it.ID, last[w])
			}
			after++
			if it.Sequence != after {
				t.Fatalf("%s: item %d is at %d", s, it.Sequence, after)
			}
			last[w], found[it.ID] = n, it.Sequence
		}
		more = p.More
	}
	return found
}
