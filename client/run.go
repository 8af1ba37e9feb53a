package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// ErrRunning: Run was called while it runs.
var ErrRunning = errors.New("the device runs already")

// Run connects, and connects again whenever the connection is lost, until ctx ends; then it returns nil,
// when all that it started has ended. It returns an error where trying again is of no use: the device is
// not enrolled (ErrNotEnrolled), was revoked or is refused (*CloseError), or its store fails.
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
	wg.Go(func() { d.lanes.run(ctx) })
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
		if !d.pauseUnlessHurried(ctx, pause) {
			return nil
		}
		wait = min(2*wait, d.opts.Timing.RetryLast)
	}
	return nil
}

// hurryEvery is how often Reconnect ends a pause at most.
const hurryEvery = 3 * time.Second

// pauseUnlessHurried waits before the next attempt to connect, and reports whether ctx still stands.
func (d *Device) pauseUnlessHurried(ctx context.Context, pause time.Duration) bool {
	end := d.opts.Clock.After(pause)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return true
		case <-d.hurry:
			if now := time.Now(); now.Sub(d.hurried) >= hurryEvery {
				d.hurried = now
				return true
			}
		}
	}
}

// Reconnect ends the pause before the next attempt to connect: an app calls it when the network is back, or when
// somebody opens it or types. It does so every three seconds at most, does nothing while the device is connected or does
// not run, and does not wait.
func (d *Device) Reconnect() {
	if s, _ := d.link.get(); s != nil {
		return
	}
	select {
	case d.hurry <- struct{}{}:
	default: // an attempt is due
	}
}

// once does something in a session of its own, without receiving: while Run does not run.
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

// connect holds one session, from dialling to its end, and reports whether there was a login.
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

// login answers the node's challenge. receive asks for pushes.
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

// serve runs a session until it ends or ctx does.
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
	d.lanes.kick(laneUpkeep)
	d.lanes.wakeAll()
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

// receive takes pushes in, in turns, and acknowledges what is stored.
func (d *Device) receive(ctx context.Context, s *session) {
	for {
		list := nextPushes(s)
		if len(list) == 0 {
			return
		}
		var acks []wire.Ack
		err := d.turn(ctx, func(u *unit) error {
			acks = acks[:0]
			for _, p := range list {
				if err := d.takePush(u, p); err != nil {
					return err
				}
				acks = noteAck(acks, p)
			}
			return nil
		})
		if err != nil {
			s.end(err)
			return
		}
		for i := range acks {
			body, err := wire.Encode(&acks[i])
			if err == nil {
				err = s.send(ctx, &wire.Frame{Type: wire.FrameAck, Body: body})
			}
			if err != nil {
				s.end(fmt.Errorf("acknowledge: %w", err))
				return
			}
		}
	}
}

// nextPushes waits for a push and takes those that are there with it; none when the session has ended.
func nextPushes(s *session) []*wire.Push {
	var list []*wire.Push
	select {
	case p := <-s.pushes:
		list = append(list, p)
	case <-s.ended:
		return nil
	}
	for len(list) < batch {
		select {
		case p := <-s.pushes:
			list = append(list, p)
		default:
			return list
		}
	}
	return list
}

// noteAck acknowledges p, and with it what came before it in the same stream.
func noteAck(acks []wire.Ack, p *wire.Push) []wire.Ack {
	for i := range acks {
		same := acks[i].Conversation == nil && p.Conversation == nil ||
			acks[i].Conversation != nil && p.Conversation != nil && *acks[i].Conversation == *p.Conversation
		if same && acks[i].Token == p.Token {
			acks[i].Sequence = max(acks[i].Sequence, p.Sequence)
			return acks
		}
	}
	return append(acks, wire.Ack{Conversation: p.Conversation, Token: p.Token, Sequence: p.Sequence})
}

// upkeepLoop looks after what has to be looked after now and then.
func (d *Device) upkeepLoop(ctx context.Context) {
	for d.wait(ctx, d.opts.Timing.Upkeep/2+d.jitter(d.opts.Timing.Upkeep)) {
		d.lanes.kick(laneUpkeep)
	}
}

// backoff is the wait before an attempt, counted from 1.
func (d *Device) backoff(attempt int) time.Duration {
	t := d.opts.Timing.RetryFirst
	for range min(attempt, 20) {
		t = min(2*t, d.opts.Timing.RetryLast)
	}
	return d.jitter(t)
}
