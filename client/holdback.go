package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// A device acknowledges an item that waits here (later.go) only after the item is taken in. The organization's node
// keeps the blobs that an item names, and serves them to a device that was removed meanwhile, only until the device
// has acknowledged the item: without this rule the Welcome or the commit for which the item waits could be gone. A
// node pushes no more items while too many are unacknowledged, so the number of withheld acknowledgements is bounded.
// The item that ends a membership is withheld in any case: with its acknowledgement the node forgets the reader.

// withheldShare is the part of a session's window that items without an acknowledgement may fill.
const withheldShare = 4

// withholds reports whether a push, which was taken in, is not acknowledged yet.
func (d *Device) withholds(u *unit, s *session, p *wire.Push) (bool, error) {
	if p.Conversation == nil {
		return false, nil
	}
	id := *p.Conversation
	if waits, err := d.waitsLater(u, id); err != nil || !waits {
		return false, err
	}
	t, err := d.findConversation(u, id)
	if err != nil || t == nil {
		return false, err
	}
	if _, err := t.laterUse(); err != nil {
		return false, err
	}
	count := 0
	for _, sum := range d.laterSums {
		count += sum.count
	}
	if !t.ends(p) {
		if count > cap(s.pushes)/withheldShare {
			return false, nil
		}
		// An item over the bytes that may wait is lost: count does not grow with it, so it must not stay in the window.
		if _, kept, err := u.Get(laterKey(id, p.Token[:], number(p.Sequence))); err != nil || !kept {
			return false, err
		}
	}
	first, _, err := t.firstLater(laterKey(id, p.Token[:]))
	return first != nil && first.Sequence <= p.Sequence, err
}

// ends reports whether a push is an entry that removes the address under which it came.
func (t *conversation) ends(p *wire.Push) bool {
	c := new(wire.Committed)
	if p.Kind != wire.ItemEntry || wire.Decode(p.Payload, wire.MaxSessionFrame, c) != nil {
		return false
	}
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Commit == nil || e.Envelope.Conversation != t.id {
		return false
	}
	own := wire.Address{Organization: t.d.self.Device.Organization(), Token: p.Token}
	for _, a := range e.Envelope.Commit.Delivery.Remove {
		if a == own {
			return true
		}
	}
	return false
}

// taken makes the receiver look at the withheld acknowledgements, after the present turn.
func (t *conversation) taken() {
	t.u.then(func() {
		if s, _ := t.d.link.get(); s != nil {
			select {
			case s.recheck <- struct{}{}:
			default: // the receiver has not looked yet
			}
		}
	})
}

// releaseAcks acknowledges the items that were withheld and are taken in now.
func (d *Device) releaseAcks(ctx context.Context, s *session) error {
	if len(s.withheld) == 0 {
		return nil
	}
	var free, kept []wire.Ack
	err := d.turn(ctx, func(u *unit) error {
		free, kept = nil, nil
		for _, a := range s.withheld {
			t, err := d.findConversation(u, *a.Conversation)
			if err != nil {
				return err
			}
			if t != nil {
				first, _, err := t.firstLater(laterKey(t.id, a.Token[:]))
				if err != nil {
					return err
				}
				if first != nil && first.Sequence <= a.Sequence {
					kept = append(kept, a)
					a.Sequence = first.Sequence - 1
				}
			}
			if a.Sequence > 0 {
				free = append(free, a)
			}
		}
		u.settle = len(free) > 0
		return nil
	})
	if err != nil {
		return err
	}
	s.withheld = kept
	return d.sendAcks(ctx, s, free)
}
