package mailbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/mlsfed/mlsfed/wire"
)

// TestConcurrent lets writers, who retry now and then, readers and the sweeper work at once. Each reader
// gets each item once, in one order, which is each writer's own; nothing is left in the end.
func TestConcurrent(t *testing.T) {
	const writers, readers, each = 8, 5, 300
	m := memory(t, Config{OpenStreams: 1})
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
				p := Put{Stream: talk, ID: ID{byte(w), byte(n), byte(n >> 8), 9}, Kind: KindMessage, Payload: binary.BigEndian.AppendUint32([]byte{byte(w)}, uint32(n))}
				puts := []Put{p}
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
	if n := stored(t, m, keyItem); n != 0 {
		t.Errorf("%d items are left", n)
	}
}

// follow reads and acknowledges until it has had that many items, and returns them in a row.
func follow(t *testing.T, m *Mailbox, r wire.Token, items int) (order string) {
	s := m.Subscribe()
	defer s.Close()
	s.Add(talk)
	next := make(map[byte]uint32)
	for after := uint64(0); after < uint64(items); {
		<-s.C
		for more := true; more; {
			p, err := m.Read(t.Context(), talk, r, after, Limit{Items: 37})
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
			if err := m.Acknowledge(t.Context(), talk, r, after); err != nil {
				t.Errorf("acknowledge: %v", err)
				return order
			}
			more = p.More
		}
	}
	return order
}

// TestRemoveWhileReading: a reader of a stream that is removed and made again sees the one or the other,
// or none, and never takes what is missing for damage.
func TestRemoveWhileReading(t *testing.T) {
	m := memory(t, Config{})
	var done atomic.Bool
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for !done.Load() {
				_, err := m.Read(t.Context(), talk, token(1), 0, Limit{})
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

// TestDiskFails: when the disk refuses to sync, nothing is accepted any more and Run says why.
func TestDiskFails(t *testing.T) {
	var broken atomic.Bool
	failure := errors.New("disk full of holes")
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return failure
		}
		return nil
	}))
	db, err := pebble.Open("db", Tune(&pebble.Options{FS: fs, Logger: silent{}}))
	if err != nil {
		t.Fatal(err)
	}
	m := New(db, []byte("m/"), Config{})
	ended := make(chan error, 1)
	go func() { ended <- m.Run(t.Context()) }()
	join(t, m, talk, token(1))
	put(t, m, message(1))
	broken.Store(true)
	for n := 2; n < 200; n++ { // more than may be under way at once
		if r, err := m.Put(t.Context(), message(n)); err == nil {
			t.Fatalf("accepted: %+v", r)
		}
	}
	if err := <-ended; !errors.Is(err, failure) {
		t.Fatalf("Run ended with %v", err)
	}
	if p := read(t, m, token(1), 0, Limit{}); len(p.Items) != 1 {
		t.Fatalf("%d items are shown", len(p.Items))
	}
	broken.Store(false)
	if err := db.Close(); err != nil {
		t.Log("close after the failure:", err)
	}
}

type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
