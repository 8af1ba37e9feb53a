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

// scheduleReceipt records that a receipt for a message is to be sent, together with others that come soon. In a large
// conversation devices send no receipts: each message would cost as many receipts as there are members.
func (t *conversation) scheduleReceipt(id MessageID) {
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
			t.d.queues.kick(queueReceipts)
		}
	})
}

// receiptBatch bounds the conversations for which one turn makes receipts.
const receiptBatch = 32

// workReceipts sends one receipt in each conversation for all messages that came there within Timing.Receipts, in one
// turn for several conversations. A crash loses unsent receipts: the sender then sees a message as accepted, and not
// as delivered.
func (d *Device) workReceipts(ctx context.Context) error {
	if !d.wait(ctx, d.opts.Timing.Receipts) {
		return ctx.Err()
	}
	for batch := range slices.Chunk(d.conversationsWithReceipts(), receiptBatch) {
		owed := make(map[ConversationID][]MessageID, len(batch))
		for _, id := range batch {
			owed[id] = d.receiptsDue(id)
		}
		err := d.turn(ctx, func(u *unit) error {
			for _, id := range batch {
				if err := d.receipt(u, id, owed[id]); err != nil {
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
		for _, id := range batch { // one of them blocks the others
			err := d.turn(ctx, func(u *unit) error { return d.receipt(u, id, owed[id]) })
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

// receipt queues a receipt for messages of a conversation.
func (d *Device) receipt(u *unit, id ConversationID, list []MessageID) error {
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
	t, err := d.findConversation(u, id)
	if err == nil && t != nil {
		t, err = t.shownIn()
	}
	if err != nil || t == nil || t.rec.State != StateActive && t.rec.State != StateMoving {
		return err
	}
	err = t.queue(body, 0)
	if wire.CodeOf(err) == wire.Quota {
		return nil // messages that people write go first
	}
	if err != nil {
		return err
	}
	u.put(messageIDKey(t.id, d.self.Device, c.ID), number(noPlace)) // see hasSent
	return t.save()
}

// conversationsWithReceipts returns the conversations in which receipts are to be sent.
func (d *Device) conversationsWithReceipts() []ConversationID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.receipts))
}

func (d *Device) receiptsDue(id ConversationID) []MessageID {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.receipts[id]
	delete(d.receipts, id)
	return list
}

// deliveredKey returns the key of the mark that a device has received an own message. message is the key under which
// the message is stored.
func deliveredKey(message []byte, device DeviceID) []byte {
	who := sha256.Sum256([]byte(device))
	return recordKey(recordDelivered, message[len(recordKey(recordMessage)):], who[:16])
}

// noteReceipt counts a device that has received own messages. Each device counts once for a message, even if it sends
// several receipts. This device does not count for its own messages, and neither does a device that is no longer a
// member. So a message counts at most as many devices as were members while it was on its way.
func (t *conversation) noteReceipt(sender DeviceID, c *Content) error {
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

// isMember reports whether a device is in the group whose messages come here. For a conversation that has moved, that
// is the group of the successor.
func (t *conversation) isMember(device DeviceID) bool {
	if t.group == nil {
		return false
	}
	_, ok := t.group.ByIdentity([]byte(device))
	return ok
}

func (t *conversation) noteDelivered(sender DeviceID, id MessageID) error {
	n, ok, err := t.findMessage(t.d.self.Device, id)
	if err != nil || !ok {
		return err // about a message of another sender
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
		return nil // receipts are for small conversations: the count gets this large only if devices come and go
	}
	t.u.put(mark, []byte{1})
	rec.Delivered++
	if err := t.u.putRecord(key, rec); err != nil {
		return err
	}
	m, err := t.shown(rec, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventDelivered, Message: m, Device: sender})
	return nil
}
