package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// owe notes that a receipt for a message is to be sent, with others that come soon. In a large
// conversation nobody sends any: each message would cost as many as there are members.
func (t *thread) owe(id MessageID) {
	most := t.d.opts.Limits.Receipts
	if t.group.Public().Size() > most {
		return
	}
	conversation := t.id
	t.u.then(func() {
		t.d.mu.Lock()
		defer t.d.mu.Unlock()
		list := t.d.receipts[conversation]
		if len(list) >= MaxReceipts {
			return
		}
		t.d.receipts[conversation] = append(list, id)
		if len(list) == 0 {
			t.d.lanes.kick(lane{kindReceipts, conversation})
		}
	})
}

// workReceipts sends one receipt for all that came within Timing.Receipts. Receipts that a crash
// overtakes are lost: the sender then sees a message as accepted, and not as delivered.
func (d *Device) workReceipts(ctx context.Context, id wire.ConversationID) error {
	if !d.wait(ctx, d.opts.Timing.Receipts) {
		return ctx.Err()
	}
	list := d.owed(id)
	if len(list) == 0 {
		return nil
	}
	c := &Content{Type: ContentReceipt, Refs: list, Time: d.now()}
	if err := d.random(c.ID[:]); err != nil {
		return err
	}
	body, err := EncodeContent(c)
	if err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
		if err == nil && t != nil {
			t, err = t.home()
		}
		if err != nil || t == nil || t.rec.State != StateActive && t.rec.State != StateMoving {
			return err
		}
		err = t.queue(body, 0)
		if wire.CodeOf(err) == wire.Quota {
			return nil // what people write goes first
		}
		if err != nil {
			return err
		}
		return t.save()
	})
}

func (d *Device) owed(id wire.ConversationID) []MessageID {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.receipts[id]
	delete(d.receipts, id)
	return list
}

// noteReceipt counts a device that has received own messages.
func (t *thread) noteReceipt(sender wire.DeviceID, c *Content) error {
	for _, id := range c.Refs {
		n, ok, err := t.findMessage(t.d.self.Device, id)
		if err != nil {
			return err
		}
		if !ok {
			continue // about somebody else's message
		}
		rec, key, err := t.messageAt(n)
		if err != nil || rec == nil {
			return err
		}
		rec.Delivered++
		if err := t.u.putRecord(key, rec); err != nil {
			return err
		}
		m, err := rec.message(t.id, n)
		if err != nil {
			return err
		}
		t.event(Event{Type: EventDelivered, Message: m, Device: sender})
	}
	return nil
}
