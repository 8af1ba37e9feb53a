package mailboxtest

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// testConcurrent runs writers, which retry at times, readers and the sweeper at once. Each reader gets each item
// once, in one common order that keeps each writer's own order. Nothing is left at the end.
func testConcurrent(t *testing.T, on Place) {
	const writers, readers, each = 8, 5, 300
	m := open(t, on, mailbox.Config{OpenStreams: 1})
	var list []wire.Token
	for r := range readers {
		list = append(list, token(r))
	}
	join(t, m, talk, list...)
	ctx, cancel := context.WithCancel(t.Context())
	var helpers, all sync.WaitGroup
	helpers.Go(func() {
		for ctx.Err() == nil {
			if err := m.Sweep(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for w := range writers {
		all.Go(func() {
			for n := range each {
				p := mailbox.Put{Stream: talk, ID: mailbox.ID{byte(w), byte(n), byte(n >> 8), 9}, Kind: mailbox.KindMessage, Payload: binary.BigEndian.AppendUint32([]byte{byte(w)}, uint32(n))}
				puts := []mailbox.Put{p}
				if n%7 == 0 {
					puts = append(puts, p)
				}
				r, err := m.Put(t.Context(), puts...)
				if err != nil || r[0].Err != nil || r[0].Sequence != r[len(r)-1].Sequence {
					t.Errorf("put: %+v, %v", r, err)
					return
				}
			}
		})
	}
	orders := make([]string, readers)
	for r := range readers {
		all.Go(func() { orders[r] = follow(t, m, token(r), writers*each) })
	}
	all.Wait()
	cancel()
	helpers.Wait()
	for r := range orders {
		if orders[r] != orders[0] {
			t.Errorf("reader %d saw another order", r)
		}
	}
	sweep(t, m)
	if n := on.Stored(t, Items); n != 0 {
		t.Errorf("%d items are left", n)
	}
}

// follow reads and acknowledges until it has had that many items, and returns them in a row.
func follow(t *testing.T, m mailbox.Box, r wire.Token, items int) (order string) {
	s := m.Subscribe()
	defer s.Close()
	s.Add(talk)
	next := make(map[byte]uint32)
	for after := uint64(0); after < uint64(items); {
		<-s.C
		for more := true; more; {
			p, err := m.Read(t.Context(), talk, r, after, mailbox.Limit{Items: 37})
			if err != nil || p.Gap != nil {
				t.Errorf("read: gap %v, %v", p.Gap, err)
				return order
			}
			for _, it := range p.Items {
				w, n := it.Payload[0], binary.BigEndian.Uint32(it.Payload[1:])
				if after++; it.Sequence != after || n != next[w] {
					t.Errorf("item %d is number %d of writer %d, want %d and %d", it.Sequence, n, w, after, next[w])
					return order
				}
				next[w]++
				order += string(it.Payload)
			}
			if err := m.Acknowledge(t.Context(), mailbox.Ack{Reader: mailbox.Reader{Stream: talk, Token: r}, Sequence: after}); err != nil {
				t.Errorf("acknowledge: %v", err)
				return order
			}
			more = p.More
		}
	}
	return order
}

// testRemoveWhileReading checks that a reader of a stream that is removed and created again sees one of the two
// streams, or none, and never reports missing items as damage.
func testRemoveWhileReading(t *testing.T, on Place) {
	m := open(t, on, mailbox.Config{})
	var done atomic.Bool
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for !done.Load() {
				_, err := m.Read(t.Context(), talk, token(1), 0, mailbox.Limit{})
				if err != nil && !errors.Is(err, wire.UnknownConversation) {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 200 {
		for i := range 5 {
			p := message(1 + n*5 + i)
			p.Join = []wire.Token{token(1)}
			if r := putResult(t, m, p); r.Err != nil || r.Sequence != uint64(i+1) {
				t.Fatalf("put: %+v", r)
			}
		}
		if err := m.Remove(t.Context(), talk); err != nil {
			t.Fatal(err)
		}
	}
	done.Store(true)
	all.Wait()
}
