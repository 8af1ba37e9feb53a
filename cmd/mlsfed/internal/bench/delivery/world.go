package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/bench/harness"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// waitTime bounds each wait: for the creation of a conversation, and for the arrival of a message.
const waitTime = time.Minute

// deliveryWorld is a federation, the devices in it, and the messages that are under way.
type deliveryWorld struct {
	bench   *bench
	cluster *cluster.Cluster
	domains []wire.Domain

	ctx      context.Context // ends with the cause when a device reports a fault
	fail     context.CancelCauseFunc
	watchers sync.WaitGroup

	mu      sync.Mutex // guards what follows
	last    uint64     // number of a letter
	letters map[uint64]*letter
}

// correspondent is a device of the benchmark.
type correspondent struct {
	*client.Device
	domain wire.Domain
	user   wire.UserID
}

// letter is a message in transit. Its content begins with its number.
type letter struct {
	number uint64
	sent   time.Time

	// Guarded by the world's mu.
	owed     map[*correspondent]bool // the devices that have not stored it yet
	arrivals []time.Time             // at each of the other devices

	arrived chan struct{} // closed when all have stored it
}

// world creates a federation in a folder of its own and starts it.
func (b *bench) world(ctx context.Context, name string, organizations int) (*deliveryWorld, error) {
	w := &deliveryWorld{bench: b, letters: make(map[uint64]*letter)}
	w.ctx, w.fail = context.WithCancelCause(ctx)
	for i := range organizations {
		w.domains = append(w.domains, wire.Domain(fmt.Sprintf("org%d.example", i+1)))
	}
	b.Table.Progress("%s: %d organizations start", name, organizations)
	var err error
	o := cluster.Options{Binary: b.Node, Edit: b.settings, Client: func(o *client.Options) {
		// A device retries its node soon, since the network is measured.
		o.Timing.RetryFirst, o.Timing.RetryLast = 20*time.Millisecond, 100*time.Millisecond
	}}
	if w.cluster, err = cluster.New(filepath.Join(b.Dir, name), o, w.domains...); err == nil {
		err = w.cluster.StartAll(w.ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// settings lifts the limits on the rates of devices, and keeps the path of the control socket short, since
// systems bound it to about 100 bytes. Settings that an older build lacks must not be here: the node of
// that build would refuse the file.
func (b *bench) settings(c *config.Config) {
	c.Admin.Socket = filepath.Join(b.Dir, string(c.Domain)+".sock")
	c.Gateway.EnrolPerMinute, c.Gateway.ConnectPerSec, c.Gateway.FramesPerSecond = 1e6, 1e4, 1e5
	c.Directory.ClaimBurst = 2 * maxDevices
	if b.Node == "" || b.own { // another build may lack these; its defaults allow the usual sizes
		c.Rates, c.Quota.Conversations = config.Rates{}, 0
		c.Directory.PairBurst, c.Directory.UserBurst, c.Directory.LastResortBurst = 1e6, 1e6, 1e6
	}
}

func (w *deliveryWorld) close() error {
	w.fail(nil)
	w.watchers.Wait()
	if w.cluster == nil {
		return nil
	}
	return w.cluster.Close()
}

// enrol creates a device of a new user.
func (w *deliveryWorld) enrol(domain wire.Domain, user string, with ...func(*client.Options)) (*correspondent, error) {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	id, err := wire.NewUserID(domain, user)
	if err != nil {
		return nil, err
	}
	link, err := w.cluster.Invite(ctx, domain, user)
	if err != nil {
		return nil, err
	}
	v, err := w.cluster.Enrol(ctx, link, "device", with...)
	if err != nil {
		return nil, err
	}
	c := &correspondent{Device: v, domain: domain, user: id}
	w.watch(c)
	return c, nil
}

// watch handles the events of a device from now on.
func (w *deliveryWorld) watch(c *correspondent) {
	events := c.Subscribe(w.ctx)
	w.watchers.Go(func() {
		for e := range events {
			w.take(c, &e)
		}
	})
}

// take handles an event of a device. A fault ends the benchmark, since its figures would be wrong.
func (w *deliveryWorld) take(c *correspondent, e *client.Event) {
	switch e.Type {
	case client.EventMessage:
		w.arrive(c, e)
	case client.EventUndelivered, client.EventUnreadable, client.EventFailed, client.EventPoison, client.EventDivergence,
		client.EventGap, client.EventBroken, client.EventMissed, client.EventTrust:
		w.fail(fmt.Errorf("%s reports %v (%d): %w", c.user, e.Type, e.Count, errors.Join(e.Err, errFault)))
	}
}

var errFault = errors.New("the run does not count")

func (w *deliveryWorld) arrive(c *correspondent, e *client.Event) {
	now := time.Now()
	body := e.Message.Content.Body
	if e.Message.Content.Type != client.ContentBytes || len(body) < 8 {
		return
	}
	number := binary.BigEndian.Uint64(body)
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.letters[number]
	if l == nil || !l.owed[c] {
		w.fail(fmt.Errorf("%s received message %d, which is not for this device or came before: %w", c.user, number, errFault))
		return
	}
	delete(l.owed, c)
	l.arrivals = append(l.arrivals, now)
	if len(l.owed) == 0 {
		close(l.arrived)
	}
}

// send sends a message for all devices of a conversation except the sender.
func (w *deliveryWorld) send(from *correspondent, to *talk) (*letter, error) {
	l := &letter{owed: make(map[*correspondent]bool), arrived: make(chan struct{})}
	for _, c := range to.members {
		if c != from {
			l.owed[c] = true
		}
	}
	w.mu.Lock()
	w.last++
	l.number = w.last
	w.letters[l.number] = l
	w.mu.Unlock()
	body := make([]byte, w.bench.size)
	binary.BigEndian.PutUint64(body, l.number)
	l.sent = time.Now()
	if _, err := from.SendBytes(w.ctx, to.id, body); err != nil {
		return nil, fmt.Errorf("%s: %w", from.user, w.cause(err))
	}
	return l, nil
}

// await waits until all recipients have a letter, and returns the time of the last arrival.
func (w *deliveryWorld) await(l *letter) (time.Time, error) {
	limit := time.NewTimer(waitTime)
	defer limit.Stop()
	var err error
	select {
	case <-l.arrived:
		return l.arrivals[len(l.arrivals)-1], nil
	case <-w.ctx.Done():
		err = context.Cause(w.ctx)
	case <-limit.C:
		err = fmt.Errorf("message %d is not with all devices after %v", l.number, waitTime)
	}
	return time.Time{}, err
}

// cause returns the fault that a device has reported, if such a fault has ended the run, and err otherwise.
func (w *deliveryWorld) cause(err error) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return err
}

// talk is a conversation of the benchmark.
type talk struct {
	id      wire.ConversationID
	members []*correspondent
}

// converse creates a conversation of devices and returns when all are in it and a message has arrived.
func (w *deliveryWorld) converse(members ...*correspondent) (*talk, error) {
	ctx, cancel := context.WithTimeout(w.ctx, waitTime)
	defer cancel()
	t := &talk{members: members}
	var err error
	if t.id, err = members[0].Create(ctx, client.CreateOptions{Name: "bench"}); err != nil {
		return nil, w.cause(err)
	}
	users := make([]wire.UserID, 0, len(members))
	for _, c := range members[1:] {
		users = append(users, c.user)
	}
	if err := members[0].Add(ctx, t.id, users...); err != nil {
		return nil, w.cause(err)
	}
	for _, c := range members {
		err := cluster.Await(ctx, c.Device, func() (bool, error) {
			v, err := c.Conversation(ctx, t.id)
			if wire.CodeOf(err) == wire.UnknownConversation {
				return false, nil // the Welcome has not arrived
			}
			return err == nil && v.State == client.StateActive && v.Members == len(members), err
		})
		if err != nil {
			return nil, fmt.Errorf("%s joins: %w", c.user, w.cause(err))
		}
	}
	l, err := w.send(members[0], t)
	if err != nil {
		return nil, err
	}
	_, err = w.await(l)
	return t, err
}

// computed holds the processor time since a start: of each node's process, or of this process under "". A missing
// node has computed nothing.
type computed map[wire.Domain]time.Duration

// compute reads the processor time of running nodes. It reads nothing without --processor-time.
func (w *deliveryWorld) compute(running ...wire.Domain) (computed, error) {
	if !w.bench.processor {
		return nil, nil
	}
	if w.bench.Node == "" {
		return computed{"": harness.ProcessorTime()}, nil
	}
	c := make(computed)
	for _, d := range running {
		t, err := w.cluster.Processor(w.ctx, d)
		if err != nil {
			return nil, fmt.Errorf("--processor-time: %w", err)
		}
		c[d] = t
	}
	return c, nil
}

// since returns the processor time after an earlier moment.
func (c computed) since(before computed) (sum time.Duration) {
	for d, t := range c {
		sum += t - before[d]
	}
	return sum
}
