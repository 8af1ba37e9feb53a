package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// resume makes the queues look at the work that a restart left. It does not open the group of a conversation whose
// records show no work, so the cost of a start depends only on the due work.
func (d *Device) resume(ctx context.Context) error {
	return d.turn(ctx, func(u *unit) error {
		busy, err := d.busy(u)
		if err != nil {
			return err
		}
		keys, err := scheduled(u)
		if err != nil {
			return err
		}
		u.then(func() { d.queues.kick(queueContents) })
		return eachRecord(u, func(id ConversationID, rec *conversationRecord) error {
			if busy[id] || d.hasWork(rec, keys[id]) {
				u.then(func() { d.queues.kick(handshakes(id)) })
			}
			if rec.Counters.Outgoing != rec.Counters.Sending {
				u.then(func() { d.queues.kick(messages(id)) })
			}
			return nil
		})
	})
}

// hasWork reports whether the record of a conversation and its schedule show work for its log. See conversation.next.
func (d *Device) hasWork(rec *conversationRecord, k *keysRecord) bool {
	switch rec.State {
	case StateActive:
		return rec.Behind.Until > 0 || rec.Failed.At > 0 || rec.Waiting > 0 || d.mayBeDue(rec, k)
	case StateLeft, StateBroken, StateHeld:
		return false
	case StateMoved:
		return !rec.Line.Closed && !rec.Line.Erased
	}
	return true
}

// busy returns the conversations with records of waiting work: a pending envelope, changes of the group, items of a
// later membership, and commits that show that this device follows.
func (d *Device) busy(u *unit) (map[ConversationID]bool, error) {
	busy := make(map[ConversationID]bool)
	note := func(key []byte) { busy[wire.ConversationID(key[3:][:key[2]])] = true } // letters, length, id
	for _, kind := range []byte{recordPending, recordOperation, recordLater} {
		err := u.Scan(recordKey(kind), func(key, value []byte) error {
			clear(value)
			note(key)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	err := u.Scan(recordKey(recordPresence), func(key, value []byte) error {
		p := new(presenceRecord)
		if err := wire.Decode(value, maxRecord, p); err != nil {
			return err
		}
		if p.Due > 0 {
			note(key)
		}
		return nil
	})
	return busy, err
}
