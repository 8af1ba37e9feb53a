package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// ackPause is how long acknowledgements are gathered: in a large room all devices acknowledge an item within some
// milliseconds, and the mailbox then writes them together. Nothing waits for an acknowledgement to be stored.
const ackPause = 10 * time.Millisecond

// maxAcks is the number of acknowledgements after which a call gathers no further session.
const maxAcks = 256

// acker hands the acknowledgements of all sessions to the mailbox. Its goroutine lives while acknowledgements wait.
type acker struct {
	g *Gateway

	mu      sync.Mutex // guards what follows
	waiting []*session
	running bool
}

// add queues a session whose acking is set. The session has to wait, with its work, until the acknowledgements are
// stored.
func (a *acker) add(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, s)
	if !a.running {
		a.running = true
		go a.run()
	}
}

func (a *acker) run() {
	for {
		time.Sleep(ackPause)
		a.mu.Lock()
		list := a.waiting
		a.waiting, a.running = nil, len(list) > 0
		a.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for len(list) > 0 {
			list = list[a.store(list):]
		}
	}
}

// store hands over the acknowledgements of some sessions, also of devices that have disconnected meanwhile, and returns
// how many sessions those were.
func (a *acker) store(list []*session) (n int) {
	var acks []Acknowledgement
	var of []*session // of each acknowledgement
	for ; n < len(list) && len(acks) < maxAcks; n++ {
		s := list[n]
		for name, sequence := range s.takeAcks() {
			ack := wire.Ack{Token: name.Token, Sequence: sequence}
			if name.Conversation != "" {
				ack.Conversation = &name.Conversation
			}
			acks, of = append(acks, Acknowledgement{Device: s.device, Ack: ack}), append(of, s)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.g.cfg.RequestWait)
	defer cancel()
	for i, err := range a.g.cfg.Feeds.Acknowledge(ctx, acks) {
		of[i].acknowledged(err)
	}
	for _, s := range list[:n] {
		if s.hasAcks() {
			a.add(s)
		} else {
			s.work.Done()
		}
	}
	return n
}

// acknowledge takes an acknowledgement. The window gets room at once; the mailbox gets the acknowledgement soon, with
// those of other sessions. Of several acknowledgements for one stream only the highest is kept.
func (s *session) acknowledge(f *wire.Frame) error {
	a := new(wire.Ack)
	if err := wire.Decode(f.Body, len(f.Body), a); err != nil {
		return malformed(err)
	}
	if !s.receive {
		return malformed(wire.Errorf(wire.Malformed, "ack", "in a session that does not receive"))
	}
	name := Stream{Token: a.Token}
	if a.Conversation != nil {
		name.Conversation = *a.Conversation
	}
	s.mu.Lock()
	freed := s.window.ack(name, a.Sequence)
	s.mu.Unlock()
	// An acknowledgement that frees a place is not charged to the frame rate: there is at most one for each push.
	if freed == 0 {
		if err := s.paid(); err != nil {
			return err
		}
	}
	s.signal()
	s.handOn(name, a.Sequence)
	return nil
}

// handOn queues an acknowledgement for the mailbox. It blocks while as many streams have one queued as the window has
// places: the mailbox is then slower than the device, and the device's reads wait.
func (s *session) handOn(name Stream, sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.acks) >= s.g.cfg.Window && s.reason == 0 {
		s.acked.Wait()
	}
	if s.acks == nil {
		s.acks = make(map[Stream]uint64)
	}
	s.acks[name] = max(s.acks[name], sequence)
	if !s.acking {
		s.acking = true
		s.work.Add(1)
		s.g.acker.add(s)
	}
}

// takeAcks takes the acknowledgements that wait.
func (s *session) takeAcks() map[Stream]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	acks := s.acks
	s.acks = nil
	s.acked.Broadcast()
	return acks
}

// hasAcks reports whether further acknowledgements wait; if none do, the next one queues the session again.
func (s *session) hasAcks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acking = len(s.acks) > 0
	return s.acking
}

// acknowledged handles the answer of the mailbox.
func (s *session) acknowledged(err error) {
	switch wire.CodeOf(err) {
	case "", wire.UnknownConversation: // a stream that the device has left
		return
	case wire.Invalid, wire.Malformed:
		err = malformed(err)
	default:
		err = s.fault("acknowledge", err)
	}
	s.endBy(err)
}
