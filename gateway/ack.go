package gateway

import (
	"context"
	"maps"

	"github.com/mlsfed/mlsfed/wire"
)

// acknowledge takes an acknowledgement: it makes room in the window at once, and goes to the mailbox in a
// goroutine that is there as long as there are any. Of several for one stream the highest is enough.
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
	// What makes room is paid for: there is one for each push at most.
	if freed == 0 {
		if err := s.paid(); err != nil {
			return err
		}
	}
	s.signal()
	s.handOn(name, a.Sequence)
	return nil
}

// handOn adds an acknowledgement to those for the mailbox. It waits while as many streams have some as the
// window has places: then the mailbox is slower than the device.
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
		s.work.Go(s.acknowledgeAll)
	}
}

// acknowledgeAll tells the mailbox what was acknowledged, until there is no more. What the device has said
// before it went is handed on too.
func (s *session) acknowledgeAll() {
	for {
		s.mu.Lock()
		acks := s.acks
		s.acks, s.acking = nil, len(acks) > 0
		s.acked.Broadcast()
		s.mu.Unlock()
		if len(acks) == 0 {
			return
		}
		for name, sequence := range maps.All(acks) {
			if err := s.acknowledgeOne(name, sequence); err != nil {
				s.endBy(err)
			}
		}
	}
}

func (s *session) acknowledgeOne(name Stream, sequence uint64) error {
	a := wire.Ack{Token: name.Token, Sequence: sequence}
	if name.Conversation != "" {
		a.Conversation = &name.Conversation
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.g.cfg.RequestWait)
	defer cancel()
	err := s.g.cfg.Mail.Acknowledge(ctx, s.device, a)
	switch wire.CodeOf(err) {
	case "", wire.UnknownConversation: // a stream that the device has left
		return nil
	case wire.Invalid, wire.Malformed:
		return malformed(err)
	}
	return s.fault("acknowledge", err)
}
