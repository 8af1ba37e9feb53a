package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a device in a test, which can be killed and started again.
type peer struct {
	t    testing.TB
	w    *world
	id   wire.DeviceID
	disk *disk
	*Device
	stopRun  context.CancelFunc
	ended    chan struct{}
	careless bool  // the device does not compare its streams with the node's, like an earlier build
	err      error // the result of Run

	sub       *subscriber
	collected chan struct{} // closed when no more events of this run are collected

	mu   sync.Mutex
	seen []Event
}

// quick returns short durations, since the network of the tests is fast.
func quick() Timing {
	return Timing{
		Call: 5 * time.Second, Dial: time.Second, RetryFirst: 5 * time.Millisecond, RetryLast: 50 * time.Millisecond, Race: 5 * time.Millisecond,
		Grace: 20 * time.Millisecond, Proposals: 30 * time.Millisecond, Contest: 20 * time.Millisecond, Receipts: 10 * time.Millisecond,
		Upkeep: time.Second, Claim: 200 * time.Millisecond, Founding: 100 * time.Millisecond, Closing: 50 * time.Millisecond,
	}
}

// disk is a store that fails at a chosen point: at the n-th write from now, before or after the write was made, and
// then permanently, as for a process that has died.
type disk struct {
	*mlscore.MemoryStore
	mu    sync.Mutex
	left  int // writes until the crash; -1 for none
	after bool
	dead  bool

	// cut means that the crash is a power failure, which undoes the relaxed batches at the end.
	cut    bool
	synced *mlscore.MemoryStore // the contents after a power failure; nil for all

	waited atomic.Int64 // batches about messages that were not relaxed
	groups atomic.Int64 // reads of records of groups
}

func (d *disk) Get(key []byte) ([]byte, bool, error) {
	if key[0] == 'g' {
		d.groups.Add(1)
	}
	return d.MemoryStore.Get(key)
}

var errCrash = errors.New("the process died, as the test wanted")

func (d *disk) Apply(b mlscore.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errCrash
	}
	if d.left == 0 {
		d.dead = true
		if d.after {
			if err := d.write(b); err != nil {
				return err
			}
		}
		return errCrash
	}
	if d.left > 0 {
		d.left--
	}
	return d.write(b)
}

func (d *disk) write(b mlscore.Batch) error {
	switch {
	case !b.Relaxed:
		d.synced = nil
		if slices.ContainsFunc(b.Writes, func(w mlscore.Write) bool {
			return bytes.HasPrefix(w.Key, recordKey(recordMessage)) || bytes.HasPrefix(w.Key, recordKey(recordOutgoing))
		}) {
			d.waited.Add(1)
		}
	case d.cut && d.synced == nil:
		d.synced = d.Clone()
	}
	return d.MemoryStore.Apply(b)
}

func (w *world) peer(device string) *peer {
	w.t.Helper()
	p := &peer{t: w.t, w: w, id: wire.DeviceID(device), disk: &disk{MemoryStore: mlscore.NewMemoryStore(), left: -1}}
	p.open()
	code := "code for " + device
	w.mu.Lock()
	w.orgs[p.id.Organization()].codes[code] = p.id.User()
	w.mu.Unlock()
	if err := p.Enrol(w.t.Context(), Enrolment{Device: p.id, Code: code}); err != nil {
		w.t.Fatal(err)
	}
	p.run()
	w.t.Cleanup(p.stop)
	return p
}

func (p *peer) open() {
	p.t.Helper()
	var err error
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("MLSFED_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("device", p.id.User().Name()+"/"+p.id.Name())
	}
	timing := quick()
	if p.w.timing != nil {
		p.w.timing(&timing)
	}
	limits := p.w.limits
	limits.KeyPackages = 6
	p.Device, err = Open(Options{Store: p.disk, Transport: &endpoint{p.w, p.id.Organization()}, Timing: timing, Log: log, Limits: limits, Admit: p.w.admit[p.id], extensions: p.w.extensions[p.id], Clock: p.w.clocks[p.id]})
	if err != nil {
		p.t.Fatal(err)
	}
	p.compared.Store(p.careless)
}

func (p *peer) run() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stopRun, p.ended = cancel, make(chan struct{})
	sub, over, collected := p.hub.add(), make(chan struct{}), make(chan struct{})
	p.sub, p.collected = sub, collected
	collect := func(e Event) {
		if m, ok := e.Err.(mark); ok {
			close(m.reached)
			return
		}
		checkFields(p.t, e)
		p.mu.Lock()
		p.seen = append(p.seen, e)
		p.mu.Unlock()
	}
	go func() {
		defer close(collected)
		defer p.hub.drop(sub)
		for {
			select {
			case e := <-sub.events:
				collect(e)
			case <-over:
				for len(sub.events) > 0 {
					collect(<-sub.events)
				}
				return
			}
		}
	}()
	d := p.Device
	go func() {
		err := d.Run(ctx)
		cancel()
		close(over)
		<-collected
		p.err = err
		close(p.ended)
	}()
}

func (p *peer) stop() {
	p.stopRun()
	<-p.ended
}

// restart ends the process and starts another one with the same disk.
func (p *peer) restart() {
	p.stop()
	p.start()
}

// start is restart after a stop.
func (p *peer) start() {
	p.disk.mu.Lock()
	p.disk.dead, p.disk.left = false, -1
	if p.disk.synced != nil {
		p.disk.MemoryStore, p.disk.synced = p.disk.synced, nil
	}
	p.disk.mu.Unlock()
	p.open()
	p.run()
}

// mark is the error of an event that shows how far a peer has collected the events.
type mark struct {
	error
	reached chan struct{}
}

// events returns the events of a type that the device has emitted before the call.
func (p *peer) events(t EventType) []Event {
	m := mark{reached: make(chan struct{})}
	select {
	case p.sub.events <- Event{Err: m}:
		select {
		case <-m.reached:
		case <-p.collected:
		}
	case <-p.collected:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Event
	for _, e := range p.seen {
		if e.Type == t {
			list = append(list, e)
		}
	}
	return list
}

// eventually waits until f returns nil; otherwise the test fails with the last error of f.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // hundreds of messages take long on a busy machine
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("did not come: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// ready waits until a device can be added by others.
func (p *peer) ready() *peer {
	p.t.Helper()
	eventually(p.t, func() error {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		if a := p.w.orgs[p.id.Organization()].devices[p.id]; len(a.packages[1]) < 6 || a.last[1] == nil {
			return fmt.Errorf("%s has %d KeyPackages", p.id, len(a.packages[1]))
		}
		return nil
	})
	return p
}

func (p *peer) texts(id wire.ConversationID) []string {
	p.t.Helper()
	page, err := p.History(context.Background(), id, Query{Limit: MaxPage})
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for _, m := range page.Messages {
		list = append(list, m.Sender.User().Name()+": "+m.Content.Text)
	}
	return list
}

// agree waits until devices agree with the first one on the epoch, all secrets and the order.
func agree(t testing.TB, id wire.ConversationID, first *peer, others ...*peer) {
	t.Helper()
	eventually(t, func() error {
		a, err := first.Conversation(context.Background(), id)
		if err != nil {
			return err
		}
		for _, p := range others {
			b, err := p.Conversation(context.Background(), id)
			if err != nil {
				return fmt.Errorf("%s: %w", p.id, err)
			}
			if a.State != StateActive || b.State != StateActive || string(a.Authenticator) != string(b.Authenticator) || a.Order != b.Order {
				return fmt.Errorf("%s is %v in epoch %d after entry %d (%s), %s %v in %d after %d (%s)", first.id, a.State, a.Epoch, a.Sequence, a.Why, p.id, b.State, b.Epoch, b.Sequence, b.Why)
			}
		}
		return nil
	})
}

func newMemory() *mlscore.MemoryStore { return mlscore.NewMemoryStore() }
