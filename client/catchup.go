package client

import (
	"context"
	"sync"

	"github.com/mlsfed/mlsfed/wire"
)

// signal lets goroutines wait for an action of others.
type signal struct {
	mu   sync.Mutex
	next chan struct{} // closed by give; nil while nobody waits
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
	}
	return s.next
}

func (s *signal) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
}

// CatchUp waits until the device has taken in all items that its organization had for it when the call began: the
// streams of all its conversations with their missing parts, and the conversations to which the device was added.
// Later items may have been taken in too. Run must be running. Without a connection CatchUp waits for one for as long
// as Timing.Call (ErrOffline), and then for as long as ctx allows.
func (d *Device) CatchUp(ctx context.Context) error {
	var a wire.ConversationsAnswer
	if err := d.call(ctx, wire.MethodConversations, nil, &a); err != nil {
		return err
	}
	for {
		again := d.wrote.wait()
		done := true
		err := d.turn(ctx, func(u *unit) error {
			for i := range a.Conversations {
				there, err := d.reached(u, &a.Conversations[i])
				if err != nil {
					return err
				}
				done = done && there
			}
			return nil
		})
		if err != nil || done {
			return err
		}
		select {
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reached reports whether a stream was taken in up to its end at that time, and whether its conversation follows.
func (d *Device) reached(u *unit, s *wire.ConversationState) (bool, error) {
	if s.Acknowledged < s.End {
		at, ok, err := u.Get(recordKey(recordCursor, s.Token[:], idPart(s.Conversation)))
		if err != nil || !ok || parseNumber(at) < s.End {
			return false, err
		}
	}
	rec := new(conversationRecord)
	known, err := u.getRecord(conversationKey(s.Conversation), rec)
	if err != nil || !known {
		return err == nil, err // no item of the stream was for this device
	}
	if rec.State == StateHeld {
		return true, nil
	}
	waits, err := d.waitsLater(u, s.Conversation)
	return err == nil && rec.State != StateJoining && rec.Behind.Until == 0 && !waits, err
}
