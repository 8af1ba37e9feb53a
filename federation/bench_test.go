package federation

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/store/pebblestore/pebbletest"
	"github.com/mlsfed/mlsfed/wire"
)

// unlimited keeps the rate limits out of a benchmark.
func unlimited(c *Config) {
	c.Limits = Limits{Calls: 1e9, CallBurst: 1e9, Bytes: 1e12, ByteBurst: 1 << 40}
	c.Timers = Timers{}
}

// plainHTTP2 is what calls are compared with: the standard library's server and client of HTTP/2 over
// TLS 1.3, which exchange the same bytes and look at nothing.
func plainHTTP2(b *testing.B) (post func(body []byte) error) {
	b.Helper()
	id, err := organization.LoadIdentity(newOrganization(b, "plain.example"))
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	server := &http.Server{Protocols: protocols, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*id.TLSCertificate()}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := make([]byte, r.ContentLength)
			if _, err := io.ReadFull(r.Body, body); err == nil {
				_, _ = w.Write([]byte{0xa0})
			}
		})}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	b.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		<-ended
	})
	return func(body []byte) error {
		r, err := http.NewRequest(http.MethodPost, "https://"+l.Addr().String()+"/v1/notify", bytes.NewReader(body))
		if err != nil {
			return err
		}
		response, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
}

// workers makes n calls of do on some goroutines and returns how long that took.
func workers(b *testing.B, count, n int, do func(i int) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for range count {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begin)
}

// BenchmarkCall compares calls between two nodes with a plain exchange of the same bytes, in turns in the
// same run: 'ratio' is the rate of the former over that of the latter.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 512 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			var empty struct{}
			a, to := federate(b, unlimited, func(c *Config) {
				c.Handlers = map[wire.Method]Handler{"take": func(context.Context, wire.NodeID, []byte) (any, error) { return &empty, nil }}
			})
			request := &echo{make([]byte, size)}
			body, err := wire.Encode(request)
			if err != nil {
				b.Fatal(err)
			}
			post := plainHTTP2(b)
			var ours, plain time.Duration
			total := 0
			for b.Loop() {
				const turn = 64
				plain += workers(b, 8, turn, func(int) error { return post(body) })
				ours += workers(b, 8, turn, func(int) error { return a.Call(b.Context(), to.id.Node, "take", request, nil) })
				total += turn
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(total)/ours.Seconds(), "calls/s")
			b.ReportMetric(float64(total*size)/ours.Seconds()/1e6, "MB/s")
			b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
		})
	}
}

// BenchmarkLanes compares the emptying of an outbox over Notify with plain exchanges of the same bytes, in
// the same run. The items are on disk before, and are read from it and removed; the receiver decodes and
// checks each message. 'ratio' is to a plain exchange of one request for each message, eight at once;
// 'bulk' to one in bodies of a batch's size, which stand ready in memory and are looked at by nobody.
func BenchmarkLanes(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) { benchmarkLanes(b, size) })
	}
}

// linkFunc implements outbox.Link by a function.
type linkFunc func(ctx context.Context, org wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error)

// Notify implements outbox.Link.
func (f linkFunc) Notify(ctx context.Context, org wire.Domain, c wire.ConversationID, payloads [][]byte) ([]error, error) {
	return f(ctx, org, c, payloads)
}

// runOutbox runs an outbox on a disk until the benchmark or stop ends it.
func runOutbox(b *testing.B, disk *pebbletest.Disk, link outbox.Link) (o *outbox.Outbox, stop func()) {
	b.Helper()
	kept := disk.Open(b)
	o, err := outbox.New(kept.Lanes(), outbox.Config{
		Link: link, BatchItems: 512, MaxBytes: 1 << 40, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond,
	})
	if err != nil {
		b.Fatal(err)
	}
	stopStore := pebbletest.Start(b, kept)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		stopStore()
	})
	b.Cleanup(stop)
	return o, stop
}

func benchmarkLanes(b *testing.B, size int) {
	const lanes, bytesATurn = 20, 64 << 20
	var taken atomic.Int64
	a, _ := federate(b, unlimited, func(c *Config) {
		c.Handlers = map[wire.Method]Handler{wire.CallNotify: func(_ context.Context, _ wire.NodeID, body []byte) (any, error) {
			var r wire.NotifyRequest
			if err := wire.Decode(body, len(body), &r); err != nil {
				return nil, err
			}
			taken.Add(int64(len(r.Messages)))
			return &wire.NotifyAnswer{Results: make([]*wire.Error, len(r.Messages))}, nil
		}}
	})
	post := plainHTTP2(b)
	disk := pebbletest.Folder(b.TempDir())
	content := make([]byte, size+256) // as ciphertext: nothing compresses it
	if _, err := rand.Read(content); err != nil {
		b.Fatal(err)
	}
	var ours, plain, each time.Duration
	total, id := 0, 0
	count := bytesATurn / size
	for b.Loop() {
		gate := make(chan struct{})
		open := func() (*outbox.Outbox, func()) {
			return runOutbox(b, disk, linkFunc(func(ctx context.Context, org wire.Domain, cv wire.ConversationID, payloads [][]byte) ([]error, error) {
				select {
				case <-gate:
					return a.Notify(ctx, org, cv, payloads)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}))
		}
		o, stop := open()
		items := make([]lanestore.Item, 0, 256)
		for i := range count {
			m := wire.Message{Version: wire.MessageVersion, Conversation: crashLane(i * lanes / count), ID: subID(id), Content: content[id%256 : id%256+size], Signature: make([]byte, 64)}
			id++
			payload, err := wire.Encode(&m)
			if err != nil {
				b.Fatal(err)
			}
			if items = append(items, lanestore.Item{Organization: orgB, Conversation: m.Conversation, ID: m.ID, Payload: payload}); len(items) == cap(items) || i == count-1 {
				if err := o.Put(b.Context(), items...); err != nil {
					b.Fatal(err)
				}
				items = items[:0]
			}
		}
		stop() // so that the items are read from the store
		o, stop = open()
		body := make([]byte, 480<<10)
		before := taken.Load()
		begin := time.Now()
		close(gate)
		for len(o.Lanes()) > 0 {
			time.Sleep(time.Millisecond)
		}
		ours += time.Since(begin)
		if n := taken.Load() - before; n < int64(count) {
			b.Fatalf("%d of %d messages arrived", n, count)
		}
		stop()
		plain += workers(b, 8, bytesATurn/len(body), func(int) error { return post(body) })
		each += workers(b, 8, count/16, func(int) error { return post(content[:size]) }) * 16
		total += count
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(total)/ours.Seconds(), "msgs/s")
	b.ReportMetric(float64(total*size)/ours.Seconds()/1e6, "MB/s")
	b.ReportMetric(each.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "bulk")
}
