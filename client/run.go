package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// ErrRunning means that Run was called while it runs.
var ErrRunning = errors.New("the device runs already")

// Run connects, and connects again whenever the connection is lost, until ctx ends. Then it returns nil, after all
// goroutines that it started have ended. It returns an error if another attempt cannot succeed: the device is not
// enrolled (ErrNotEnrolled), was revoked or is refused (*CloseError), or its store fails.
func (d *Device) Run(ctx context.Context) error {
	if err := d.start(); err != nil {
		return err
	}
	defer d.stop()
	if _, err := d.ID(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { d.queues.run(ctx) })
	wg.Go(func() { d.upkeepLoop(ctx) })
	if err := d.resume(ctx); err != nil {
		return err
	}
	return d.stayConnected(ctx)
}

func (d *Device) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running {
		return ErrRunning
	}
	d.running = true
	return nil
}

func (d *Device) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
}

func (d *Device) stayConnected(ctx context.Context) error {
	wait := d.opts.Timing.RetryFirst
	for ctx.Err() == nil {
		connected, err := d.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var closed *CloseError
		if errors.As(err, &closed) && closed.final() {
			return err
		}
		if isStore(err) {
			return err
		}
		if connected {
			wait = d.opts.Timing.RetryFirst
		}
		pause := d.jitter(wait)
		d.log.Info("not connected", "error", err, "again", pause)
		d.emit(Event{Type: EventOffline, Err: err, Retry: pause})
		if !d.pauseBeforeConnect(ctx, pause) {
			return nil
		}
		wait = min(2*wait, d.opts.Timing.RetryLast)
	}
	return nil
}

// interruptInterval is the minimum time between two pauses that Reconnect ends.
const interruptInterval = 3 * time.Second

// pauseBeforeConnect waits before the next attempt to connect, and reports whether ctx is still alive.
func (d *Device) pauseBeforeConnect(ctx context.Context, pause time.Duration) bool {
	end := d.opts.Clock.After(pause)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return true
		case <-d.interruptPause:
			if now := time.Now(); now.Sub(d.interrupted) >= interruptInterval {
				d.interrupted = now
				return true
			}
		}
	}
}

// Reconnect ends the pause before the next attempt to connect. An app calls it when the network is back, or when the
// user opens the app or types. Reconnect has an effect at most every three seconds, does nothing while the device is
// connected or Run does not run, and does not block.
func (d *Device) Reconnect() {
	if s, _ := d.link.get(); s != nil {
		return
	}
	select {
	case d.interruptPause <- struct{}{}:
	default: // an attempt is due
	}
}

// once runs f in a separate session that receives no pushes, while Run does not run.
func (d *Device) once(ctx context.Context, f func(context.Context) error) error {
	if err := d.start(); err != nil {
		return err
	}
	defer d.stop()
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timing.Dial)
	defer cancel()
	conn, err := d.opts.Transport.Dial(ctx)
	if err != nil {
		return err
	}
	s, err := d.login(ctx, conn, false)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.read(ctx) })
	wg.Go(func() { s.write(ctx) })
	wg.Go(func() { <-s.ended; cancel() })
	d.link.set(s)
	err = f(ctx)
	d.link.set(nil)
	s.end(errSessionEnded)
	err = errors.Join(err, conn.Close())
	wg.Wait()
	return err
}

// connect runs one session, from dialling to its end, and reports whether the login succeeded.
func (d *Device) connect(ctx context.Context) (bool, error) {
	dial, cancel := context.WithTimeout(ctx, d.opts.Timing.Dial)
	defer cancel()
	conn, err := d.opts.Transport.Dial(dial)
	if err != nil {
		return false, err
	}
	var once sync.Once
	closeConn := func() {
		once.Do(func() {
			if err := conn.Close(); err != nil {
				d.log.Debug("close connection", "error", err)
			}
		})
	}
	defer closeConn()
	s, err := d.login(dial, conn, true)
	if err != nil {
		return false, err
	}
	d.serve(ctx, s, closeConn)
	return true, s.why()
}

// login answers the node's challenge. receive requests pushes.
func (d *Device) login(ctx context.Context, conn Conn, receive bool) (*session, error) {
	c := new(wire.Challenge)
	if err := expectFrame(ctx, conn, wire.FrameChallenge, c); err != nil {
		return nil, err
	}
	d.compareClock(c.Time)
	login := &wire.Login{Receive: receive}
	err := d.turn(ctx, func(*unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		if c.Domain != self.Device.Organization() {
			return wire.Errorf(wire.Denied, "login", "the node is one of %s, this device belongs to %s", c.Domain, self.Device.Organization())
		}
		input, err := c.LoginInput(self.Device)
		if err != nil {
			return err
		}
		login.Device = self.Device
		login.Signature, err = self.sign(input)
		return err
	})
	if err != nil {
		return nil, err
	}
	body, err := wire.Encode(login)
	if err != nil {
		return nil, err
	}
	b, err := wire.Encode(&wire.Frame{Type: wire.FrameLogin, Body: body})
	if err != nil {
		return nil, err
	}
	if err := conn.Write(ctx, b); err != nil {
		return nil, err
	}
	s := new(wire.Session)
	if err := expectFrame(ctx, conn, wire.FrameSession, s); err != nil {
		return nil, err
	}
	next := newSession(conn, s, d.link.most)
	next.alarm = d.takeAlarm
	return next, nil
}

func expectFrame(ctx context.Context, conn Conn, t wire.FrameType, body any) error {
	f, err := readFrame(ctx, conn)
	if err != nil {
		return err
	}
	if f.Type == wire.FrameError {
		return parting(ctx, conn, f)
	}
	if f.Type != t {
		return wire.Errorf(wire.Malformed, "session", "frame of type %d, wanted %d", f.Type, t)
	}
	return wire.Decode(f.Body, wire.MaxSessionFrame, body)
}

// serve runs a session until the session or ctx ends.
func (d *Device) serve(ctx context.Context, s *session, closeConn func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.read(ctx) })
	wg.Go(func() { s.write(ctx) })
	if err := d.compareStreams(ctx, s); err != nil {
		s.end(err)
	}
	wg.Go(func() { d.receive(ctx, s) })
	wg.Go(func() { d.announce(ctx, s) })
	d.link.set(s)
	d.emit(Event{Type: EventConnected, Node: s.node})
	d.queues.kick(queueUpkeep)
	d.queues.wakeAll()
	select {
	case <-ctx.Done():
		s.end(ctx.Err())
	case <-s.ended:
	}
	d.link.set(nil)
	cancel()
	closeConn()
	wg.Wait()
}

// batch is how many pushes are taken in with one transaction.
const batch = 64

// receive takes in pushes, in turns, and acknowledges the stored items.
func (d *Device) receive(ctx context.Context, s *session) {
	for {
		list, ended := nextPushes(s)
		if ended {
			return
		}
		if len(list) == 0 {
			if err := errors.Join(d.acknowledge(ctx, s, true), d.releaseAcks(ctx, s)); err != nil {
				s.end(err)
				return
			}
		}
		for len(list) > 0 {
			large, n := namesRest(list[0]), 1 // a large commit is fetched first, and begins its turn
			for n < len(list) && !namesRest(list[n]) {
				n++
			}
			err := error(nil)
			if large {
				err = d.bringRestOf(ctx, list[0])
			}
			if err == nil {
				err = d.takePushes(ctx, s, list[:n], large)
			}
			if err != nil {
				s.end(err)
				return
			}
			list = list[n:]
		}
	}
}

// takePushes takes in pushes in one turn, and acknowledges them. large reports that the first push is an entry whose
// commit travels in a blob.
func (d *Device) takePushes(ctx context.Context, s *session, list []*wire.Push, large bool) error {
	var acks, withheld []wire.Ack
	relaxed, at := false, uint64(0)
	err := d.turn(ctx, func(u *unit) error {
		acks, withheld, at = acks[:0], withheld[:0], d.durable.Load()
		for i, p := range list {
			if err := d.takePush(u, p, large && i == 0); err != nil {
				return err
			}
			waits, err := d.withholds(u, s, p)
			if err != nil {
				return err
			}
			if waits {
				withheld = noteAck(withheld, p)
			} else {
				acks = noteAck(acks, p)
			}
		}
		u.relaxed = u.onlyCursors()
		relaxed = u.relaxed
		return nil
	})
	if err != nil {
		return err
	}
	for i := range withheld {
		s.withheld = mergeAck(s.withheld, withheld[i])
	}
	if relaxed {
		s.held.add(acks, len(list), at, d.opts.Clock.After(ackPause))
		return d.acknowledge(ctx, s, s.held.count > cap(s.pushes)/16)
	}
	s.held.add(acks, 0, at, nil)
	return d.acknowledge(ctx, s, true)
}

// ackPause is how long acknowledgements wait for a transaction that happens anyway. It is short, because a restored
// older copy of the store is noticed by the acknowledgements: see compareStreams.
const ackPause = 50 * time.Millisecond

// heldAcks holds acknowledgements of items that may not be on the disk yet: a node may delete acknowledged items.
// Only the receiver uses it.
type heldAcks struct {
	acks  []wire.Ack
	count int
	at    uint64           // Device.durable before the first held acknowledgement
	due   <-chan time.Time // nil while none is held
}

func (h *heldAcks) add(acks []wire.Ack, count int, at uint64, due <-chan time.Time) {
	if len(h.acks) == 0 {
		h.at, h.due = at, due
	}
	h.count += count
	for i := range acks {
		h.acks = mergeAck(h.acks, acks[i])
	}
}

// acknowledge sends the held acknowledgements if a transaction has happened since. With now, it makes a transaction
// if none has happened.
func (d *Device) acknowledge(ctx context.Context, s *session, now bool) error {
	if len(s.held.acks) == 0 {
		return nil
	}
	if d.durable.Load() == s.held.at {
		if !now {
			return nil
		}
		if err := d.turn(ctx, func(u *unit) error { u.settle = true; return nil }); err != nil {
			return err
		}
	}
	acks := s.held.acks
	s.held = heldAcks{}
	return d.sendAcks(ctx, s, acks)
}

func (d *Device) sendAcks(ctx context.Context, s *session, acks []wire.Ack) error {
	for i := range acks {
		body, err := wire.Encode(&acks[i])
		if err == nil {
			err = s.send(ctx, &wire.Frame{Type: wire.FrameAck, Body: body})
		}
		if err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	return nil
}

// nextPushes waits for a push and returns it with the others that have arrived. It returns none when the session has
// ended, when acknowledgements are due, or when items that waited were taken in.
func nextPushes(s *session) (list []*wire.Push, ended bool) {
	select {
	case p := <-s.pushes:
		list = append(list, p)
	case <-s.held.due:
		return nil, false
	case <-s.recheck:
		return nil, false
	case <-s.ended:
		return nil, true
	}
	for len(list) < batch {
		select {
		case p := <-s.pushes:
			list = append(list, p)
		default:
			return list, false
		}
	}
	return list, false
}

// noteAck acknowledges p and all earlier items of the same stream.
func noteAck(acks []wire.Ack, p *wire.Push) []wire.Ack {
	return mergeAck(acks, wire.Ack{Conversation: p.Conversation, Token: p.Token, Sequence: p.Sequence})
}

func mergeAck(acks []wire.Ack, a wire.Ack) []wire.Ack {
	for i := range acks {
		same := acks[i].Conversation == nil && a.Conversation == nil ||
			acks[i].Conversation != nil && a.Conversation != nil && *acks[i].Conversation == *a.Conversation
		if same && acks[i].Token == a.Token {
			acks[i].Sequence = max(acks[i].Sequence, a.Sequence)
			return acks
		}
	}
	return append(acks, a)
}

// upkeepLoop runs the periodic upkeep.
func (d *Device) upkeepLoop(ctx context.Context) {
	for d.wait(ctx, d.opts.Timing.Upkeep/2+d.jitter(d.opts.Timing.Upkeep)) {
		d.queues.kick(queueUpkeep)
	}
}

// backoff returns the wait before an attempt; attempts count from 1.
func (d *Device) backoff(attempt int) time.Duration {
	t := d.opts.Timing.RetryFirst
	for range min(attempt, 20) {
		t = min(2*t, d.opts.Timing.RetryLast)
	}
	return d.jitter(t)
}
