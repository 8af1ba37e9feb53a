package test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestLongDelivery measures the way of a message from its sender to a device of another organization:
// many sessions talk at once, each now and then. The floor is what that way cannot do without, taken in
// the same run: two writes to disk, one after the other, and three round trips.
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
	c, err := cluster.New(t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Gateway.EnrolPerMinute, cfg.Gateway.ConnectPerSec = 1e6, 1e4 // all come from one address
	}}, "a.example", "b.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
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
	floors, err := measureFloor(t.TempDir(), 300)
	if err != nil {
		t.Fatal(err)
	}
	// Each pair speaks about once in three seconds.
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
	again, err := measureFloor(t.TempDir(), 300)
	if err != nil {
		t.Fatal(err)
	}
	floor := quantile(append(floors, again...), 0.5)
	p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
	t.Logf("%d messages: p50 %v, p99 %v; accepted after p50 %v; floor %v; p50 is %.1f × the floor", len(took), p50, p99, quantile(accepted, 0.5), floor, float64(p50)/float64(floor))
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
	accepted time.Duration // of the last message: until its sender heard so
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
	_, err = p.say(ctx) // arrives when the replica there has been made
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

// measureFloor times two durable writes of a message and three round trips on loopback.
func measureFloor(dir string, times int) ([]time.Duration, error) {
	f, err := os.OpenFile(filepath.Join(dir, "floor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
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
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	b := make([]byte, 1200)
	var took []time.Duration
	for range times {
		start := time.Now()
		for range 2 {
			if _, err := f.Write(b); err != nil {
				return nil, err
			}
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				return nil, err
			}
		}
		for range 3 {
			if _, err := conn.Write(b); err != nil {
				return nil, err
			}
			if _, err := io.ReadFull(conn, b[:100]); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)].Round(time.Microsecond)
}
