package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/pebblestore"
	"github.com/mlsfed/mlsfed/store/postgres/pgtest"
	"github.com/mlsfed/mlsfed/wire"
)

// room implements lanestore.Outbox: an outbox with room for everything.
type room struct{}

// Check implements lanestore.Outbox.
func (room) Check([]lanestore.Item) error { return nil }

// Now implements lanestore.Outbox.
func (room) Now() wire.Time { return wire.TimeOf(time.Now()) }

// Window implements lanestore.Outbox.
func (room) Window() time.Duration { return 30 * 24 * time.Hour }

// Restore implements lanestore.Outbox.
func (room) Restore([]lanestore.Queued) {}

// Reserve implements lanestore.Outbox.
func (room) Reserve(lanestore.Queued) bool { return true }

// Show implements lanestore.Outbox.
func (room) Show([]lanestore.Queued) []func() { return nil }

const benchStreams = 32

func benchStream(w int) mailbox.Stream {
	return mailbox.Stream(fmt.Sprintf("cconversation-%d", w%benchStreams))
}

// both returns a store over PostgreSQL and one over Pebble, with the same streams.
func both(b *testing.B) [2]store.Store {
	b.Helper()
	cfg := mailbox.Config{MaxItems: 1 << 40, MaxBytes: 1 << 50}
	server := pgtest.Need(b)
	d := open(b, server, database(b, server))
	over := d.Store(cfg)
	p, err := pebblestore.Open(b.TempDir(), pebblestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	list := [2]store.Store{over, p.Store(cfg)}
	for _, s := range list {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.Run(ctx)
		}()
		b.Cleanup(func() {
			cancel()
			<-ended
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
		if err := s.Lanes().Open(room{}); err != nil {
			b.Fatal(err)
		}
		for w := range benchStreams {
			if err := s.Mailbox().Change(b.Context(), benchStream(w), []wire.Token{{1}}, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	return list
}

// work runs n calls of do on some goroutines and returns how long that took.
func work(b *testing.B, writers, n int, do func(w, i int) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for w := range writers {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if err := do(w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begin)
}

// BenchmarkAppend writes an item of 1 KiB to a stream and to a lane, durably and in one transaction, over PostgreSQL and
// over Pebble in turns: 'ratio' is the rate of the former over that of the latter.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) { benchmarkAppend(b, writers) })
	}
}

func benchmarkAppend(b *testing.B, writers int) {
	stores := both(b)
	payload := make([]byte, 1<<10)
	for i := range payload {
		payload[i] = byte(rand.Int())
	}
	var took [2]time.Duration
	const turns = 4
	total := 0
	for b.Loop() {
		n := max(writers*16, 128)
		for range turns {
			for i, s := range stores {
				took[i] += work(b, writers, n, func(w, i int) error {
					var id wire.SubmissionID
					binary.BigEndian.PutUint64(id[:], uint64(total+i))
					id[15] = 1
					r, err := s.Write(b.Context(), store.Write{
						Puts:  []mailbox.Put{{Stream: benchStream(w), ID: id, Kind: mailbox.KindMessage, Payload: payload}},
						Queue: []lanestore.Item{{Organization: "b.example", Conversation: wire.ConversationID(benchStream(w)[1:]), ID: id, Payload: payload}},
					})
					if err == nil {
						err = r.Results[0].Err
					}
					return err
				})
			}
			total += n
		}
	}
	b.ReportMetric(float64(total)/took[0].Seconds(), "append/s")
	b.ReportMetric(float64(total)/took[1].Seconds(), "pebble/s")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}

// BenchmarkBacklog reads a stream of 20,000 items of 1 KiB from its beginning, and acknowledges each page, over
// PostgreSQL and over Pebble in turns.
func BenchmarkBacklog(b *testing.B) {
	stores := both(b)
	const items, atOnce = 20_000, 500
	for _, s := range stores {
		for n := 0; n < items; n += atOnce {
			puts := make([]mailbox.Put, atOnce)
			for i := range puts {
				puts[i] = mailbox.Put{Stream: benchStream(0), Kind: mailbox.KindMessage, Payload: make([]byte, 1<<10)}
				binary.BigEndian.PutUint64(puts[i].ID[:], uint64(n+i))
				puts[i].ID[15] = 1
			}
			if _, err := s.Mailbox().Put(b.Context(), puts...); err != nil {
				b.Fatal(err)
			}
		}
	}
	var took [2]time.Duration
	rounds := 0
	for b.Loop() {
		rounds++
		for i, s := range stores {
			begin := time.Now()
			for after, more := uint64(0), true; more; {
				p, err := s.Mailbox().Read(b.Context(), benchStream(0), wire.Token{1}, after, mailbox.Limit{})
				if err != nil || p.Gap != nil {
					b.Fatalf("gap %v, %v", p.Gap, err)
				}
				after, more = p.Items[len(p.Items)-1].Sequence, p.More
			}
			took[i] += time.Since(begin)
		}
	}
	b.ReportMetric(float64(rounds*items)/took[0].Seconds(), "item/s")
	b.ReportMetric(float64(rounds*items)/took[1].Seconds(), "pebble/s")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}

// BenchmarkAcknowledge moves the cursors of 64 readers of one stream, each by one goroutine, over PostgreSQL and over
// Pebble in turns.
func BenchmarkAcknowledge(b *testing.B) {
	stores := both(b)
	const readers, each = 64, 50
	var took [2]time.Duration
	rounds := uint64(0)
	for _, s := range stores {
		var join []wire.Token
		for r := range readers {
			join = append(join, wire.Token{2, byte(r)})
		}
		if err := s.Mailbox().Change(b.Context(), benchStream(1), join, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for i, s := range stores {
			puts := make([]mailbox.Put, each)
			for n := range puts {
				puts[n] = mailbox.Put{Stream: benchStream(1), Kind: mailbox.KindMessage, Payload: []byte("x")}
				binary.BigEndian.PutUint64(puts[n].ID[:], rounds*each+uint64(n))
				puts[n].ID[15] = 2
			}
			if _, err := s.Mailbox().Put(b.Context(), puts...); err != nil {
				b.Fatal(err)
			}
			begin := time.Now()
			var all sync.WaitGroup
			for r := range readers {
				all.Go(func() {
					for n := range uint64(each) {
						a := mailbox.Ack{Reader: mailbox.Reader{Stream: benchStream(1), Token: wire.Token{2, byte(r)}}, Sequence: rounds*each + n + 1}
						if err := s.Mailbox().Acknowledge(b.Context(), a); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			took[i] += time.Since(begin)
		}
		rounds++
	}
	n := float64(rounds * readers * each)
	b.ReportMetric(n/took[0].Seconds(), "ack/s")
	b.ReportMetric(n/took[1].Seconds(), "pebble/s")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}
