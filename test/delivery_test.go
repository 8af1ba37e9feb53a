package test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/internal/platform"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongDelivery measures the latency of a message from its sender to a device of another organization, while many
// sessions send at intervals. The floor is the least that this path needs: two writes to disk, one after the other,
// and three round trips. The floor is measured twice in the same run, with only these system calls. Alone: before and
// after the load, in a tight loop, on a warm machine. Under load: while the sessions send, each time after a pause,
// as their messages come. Quote the second floor: the effects of other processes on disk and processors, and the cost
// of waking them, affect both measurements at the same time, whereas a tight loop never pays them. The first floor is
// the stricter one, and is printed too.
func TestLongDelivery(t *testing.T) {
	pairs, each := 0, 0
	switch os.Getenv("MLSFED_LONG") {
	case "short":
		pairs, each = 20, 10
	case "full":
		pairs, each = 500, 8
	default:
		t.Skip("measures for a minute: set MLSFED_LONG to short or full")
	}
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Gateway.EnrolPerMinute, cfg.Gateway.ConnectPerSec = 1e6, 1e4 // all come from one address
	}}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()

	var mu sync.Mutex
	var took, accepted []time.Duration
	list := make([]*pair, pairs)
	var ready sync.WaitGroup
	turn := make(chan struct{}, 16)
	for i := range list {
		p := &pair{arrived: make(chan time.Time, 1)}
		list[i] = p
		turn <- struct{}{}
		p.to = rawDevice(ctx, t, c, "b.example", fmt.Sprintf("to%d", i), p.receive)
		p.from = rawDevice(ctx, t, c, "a.example", fmt.Sprintf("from%d", i), func(*wire.Push) {})
		defer p.from.close()
		defer p.to.close()
		ready.Go(func() {
			defer func() { <-turn }()
			first, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if err := p.converse(first); err != nil {
				t.Error(err)
				for _, d := range []wire.Domain{"a.example", "b.example"} {
					s := c.Node(d).Status()
					for _, conv := range s.Conversations {
						if conv.ID == p.id.String() {
							t.Logf("%s: %+v", d, conv)
						}
					}
					for _, o := range s.Peers.Peers {
						for _, l := range o.Lanes {
							if l.Conversation == p.id {
								t.Logf("%s: lane %+v", d, l)
							}
						}
					}
				}
			}
		})
	}
	ready.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d sessions, half of them in each organization", 2*pairs)
	f, err := newFloor(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	alone, err := f.times(300)
	if err != nil {
		t.Fatal(err)
	}
	// Each pair sends about once in three seconds.
	spoken := make(chan struct{})
	var loaded []time.Duration
	var floorErr error
	var sampling sync.WaitGroup
	sampling.Go(func() { loaded, floorErr = f.until(spoken) })
	var all sync.WaitGroup
	for _, p := range list {
		all.Go(func() {
			for range each {
				pause(ctx, time.Duration(mathrand.Int64N(int64(6*time.Second)/int64(max(1, 500/pairs)))))
				d, err := p.say(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				took, accepted = append(took, d), append(accepted, p.accepted)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	close(spoken)
	sampling.Wait()
	again, err := f.times(300)
	if err := errors.Join(floorErr, err); err != nil {
		t.Fatal(err)
	}
	p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
	t.Logf("%d messages: p50 %v, p99 %v; accepted after p50 %v, p99 %v", len(took), p50, p99, quantile(accepted, 0.5), quantile(accepted, 0.99))
	for _, at := range []struct {
		name string
		list []time.Duration
	}{{"under load", loaded}, {"alone", append(alone, again...)}} {
		floor := quantile(at.list, 0.5)
		t.Logf("floor %s, of %d: p50 %v, p99 %v; a message's p50 is %.1f × that p50", at.name, len(at.list), floor, quantile(at.list, 0.99), float64(p50)/float64(max(floor, 1)))
	}
	if len(took) != pairs*each {
		t.Errorf("%d of %d messages arrived", len(took), pairs*each)
	}
}

// pair is a sender and a receiver with a conversation of their own.
type pair struct {
	from, to *rawSession
	id       wire.ConversationID
	key      ed25519.PrivateKey
	n        uint64
	arrived  chan time.Time
	accepted time.Duration // of the last message: until its sender got the answer
}

func (p *pair) receive(push *wire.Push) {
	if push.Kind == wire.ItemMessage {
		p.arrived <- time.Now()
	}
}

// converse opens a conversation and waits until the other organization has it.
func (p *pair) converse(ctx context.Context) error {
	var raw [16]byte
	_, _ = rand.Read(raw[:])
	p.id = wire.ConversationID(raw[:])
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	p.key = private
	var list []wire.Address
	for _, s := range []*rawSession{p.from, p.to} {
		q := wire.AddressRequest{Token: wire.Token(random16())}
		if err := s.ask(ctx, wire.MethodAddress, &q, nil); err != nil {
			return err
		}
		list = append(list, wire.Address{Organization: s.device.Organization(), Token: q.Token})
	}
	slices.SortFunc(list, wire.Address.Compare)
	e := &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: p.id, Submission: wire.SubmissionID(random16()), Kind: wire.KindCreate,
		Create: &wire.Create{Policy: wire.Policy{Handshakes: wire.HandshakesPrivate}, Key: wire.SubmissionKey(public), Delivery: list},
	}
	if err := e.Sign(private); err != nil {
		return err
	}
	if err := p.from.ask(ctx, wire.MethodUpdate, e, new(wire.Receipt)); err != nil {
		return err
	}
	_, err = p.say(ctx) // arrives when the replica there has been created
	return err
}

func random16() (b [16]byte) {
	_, _ = rand.Read(b[:])
	return b
}

// say sends a message of 1 KiB and returns how long it took to the other device.
func (p *pair) say(ctx context.Context) (time.Duration, error) {
	p.n++
	m := &wire.Message{Version: wire.MessageVersion, Conversation: p.id, ID: wire.SubmissionID(random16()), Content: make([]byte, 1024)}
	binary.BigEndian.PutUint64(m.Content, p.n)
	if err := m.Sign(p.key); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := p.from.ask(ctx, wire.MethodSubmit, m, new(wire.Accepted)); err != nil {
		return 0, err
	}
	p.accepted = time.Since(start)
	select {
	case at := <-p.arrived:
		return at.Sub(start), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("message %d did not arrive: %w", p.n, ctx.Err())
	}
}

// floor makes two durable writes of a message and three round trips on loopback, and nothing else.
type floor struct {
	file *os.File
	conn net.Conn
	b    []byte
}

func newFloor(dir string) (*floor, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go echo(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "floor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &floor{file: file, conn: conn, b: make([]byte, 1200)}, nil
}

func (f *floor) close() {
	_ = f.conn.Close()
	_ = f.file.Close()
}

// echo answers each message of one connection.
func echo(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	b := make([]byte, 1200)
	for {
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		if _, err := conn.Write(b[:100]); err != nil {
			return
		}
	}
}

func (f *floor) once() (time.Duration, error) {
	start := time.Now()
	for range 2 {
		if _, err := f.file.Write(f.b); err != nil {
			return 0, err
		}
		if err := platform.SyncData(f.file); err != nil {
			return 0, err
		}
	}
	for range 3 {
		if _, err := f.conn.Write(f.b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(f.conn, f.b[:100]); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// times measures in a tight loop.
func (f *floor) times(n int) (took []time.Duration, err error) {
	for range n {
		d, err := f.once()
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	return took, nil
}

// until measures at intervals, so rarely that it is no load.
func (f *floor) until(done <-chan struct{}) (took []time.Duration, err error) {
	for {
		select {
		case <-done:
			return took, nil
		case <-time.After(time.Duration(mathrand.Int64N(int64(80 * time.Millisecond)))):
		}
		d, err := f.once()
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
}

func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)].Round(time.Microsecond)
}
