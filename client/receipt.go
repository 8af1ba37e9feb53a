package client

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// maxDelivered bounds the devices that are counted for one message.
const maxDelivered = 1024

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
		if len(list) >= MaxReceipts || slices.Contains(list, id) {
			return
		}
		t.d.receipts[conversation] = append(list, id)
		if len(list) == 0 {
			t.d.lanes.kick(laneReceipts)
		}
	})
}

// receiptBatch is for how many conversations one turn makes receipts at most.
const receiptBatch = 32

// workReceipts sends one receipt in each conversation for all that came there within Timing.Receipts, in one turn for several
// of them. Receipts that a crash overtakes are lost: the sender then sees a message as accepted, and not as delivered.
func (d *Device) workReceipts(ctx context.Context) error {
	if !d.wait(ctx, d.opts.Timing.Receipts) {
		return ctx.Err()
	}
	for batch := range slices.Chunk(d.owing(), receiptBatch) {
		owed := make(map[wire.ConversationID][]MessageID, len(batch))
		for _, id := range batch {
			owed[id] = d.owed(id)
		}
		err := d.turn(ctx, func(u *unit) error {
			for _, id := range batch {
				if err := d.acknowledge(u, id, owed[id]); err != nil {
					return err
				}
			}
			return nil
		})
		if isStore(err) || ctx.Err() != nil {
			return err
		}
		if err == nil {
			continue
		}
		for _, id := range batch { // one of them stands in the way of the others
			err := d.turn(ctx, func(u *unit) error { return d.acknowledge(u, id, owed[id]) })
			if isStore(err) || ctx.Err() != nil {
				return err
			}
			if err != nil {
				d.log.Warn("receipt not sent", "conversation", id, "error", err)
			}
		}
	}
	return nil
}

// acknowledge queues a receipt for messages of a conversation.
func (d *Device) acknowledge(u *unit, id wire.ConversationID, list []MessageID) error {
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
}

// owing are the conversations in which receipts are to be sent.
func (d *Device) owing() []wire.ConversationID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.receipts))
}

func (d *Device) owed(id wire.ConversationID) []MessageID {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.receipts[id]
	delete(d.receipts, id)
	return list
}

// deliveredKey marks that a device has received an own message, which is stored under a key of its own.
func deliveredKey(message []byte, device wire.DeviceID) []byte {
	who := sha256.Sum256([]byte(device))
	return recordKey(recordDelivered, message[len(recordKey(recordMessage)):], who[:16])
}

// noteReceipt counts a device that has received own messages. Each device counts once for a message, however
// often it says so; this device does not count for its own messages, nor does a device that is no member now:
// a message counts at most as many devices as were members while it was on its way.
func (t *thread) noteReceipt(sender wire.DeviceID, c *Content) error {
	if sender == t.d.self.Device || !t.isMember(sender) {
		return nil
	}
	seen := make(map[MessageID]bool, len(c.Refs))
	for _, id := range c.Refs {
		if seen[id] {
			continue
		}
		seen[id] = true
		if err := t.noteDelivered(sender, id); err != nil {
			return err
		}
	}
	return nil
}

// isMember reports whether a device is in the group whose messages come here: that of the successor, for a
// conversation that has moved.
func (t *thread) isMember(device wire.DeviceID) bool {
	if t.group == nil {
		return false
	}
	_, ok := t.group.ByIdentity([]byte(device))
	return ok
}

func (t *thread) noteDelivered(sender wire.DeviceID, id MessageID) error {
	n, ok, err := t.findMessage(t.d.self.Device, id)
	if err != nil || !ok {
		return err // about somebody else's message
	}
	rec, key, err := t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	mark := deliveredKey(key, sender)
	if _, counted, err := t.u.Get(mark); err != nil || counted {
		return err
	}
	if int(rec.Delivered) >= maxDelivered {
		return nil // receipts are for small conversations: more devices than that come and go
	}
	t.u.put(mark, []byte{1})
	rec.Delivered++
	if err := t.u.putRecord(key, rec); err != nil {
		return err
	}
	m, err := rec.message(t.id, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventDelivered, Message: m, Device: sender})
	return nil
}
