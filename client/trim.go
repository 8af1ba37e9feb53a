package client

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// recordTrim is the letter of the records of where the history of a conversation begins: conversation → trimRecord.
const recordTrim = 'B'

// trimRecord records which part of the history was deleted on this device.
type trimRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	From    uint64 `cbor:"2,keyasint,omitempty"` // messages with smaller numbers are deleted
}

func trimKey(id ConversationID) []byte { return recordKey(recordTrim, idPart(id)) }

// firstKept returns the number from which on the history has messages.
func (t *conversation) firstKept() (uint64, error) {
	r := new(trimRecord)
	_, err := t.u.getRecord(trimKey(t.id), r)
	return r.From, err
}

// trimBatch bounds the messages that one turn deletes: other work gets the turn in between.
const trimBatch = 256

// DeleteMessages deletes the messages in this device's history that were stored before a time, with the keys of files
// in them, and returns their number. It begins with the oldest message and ends at the first one that was stored
// later, or that still waits to be sent. Other devices, also the user's own, keep their copies. A cursor continues
// with the first remaining message.
func (d *Device) DeleteMessages(ctx context.Context, id ConversationID, before time.Time) (int, error) {
	deleted := 0
	for {
		done, more := 0, false
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.knownConversation(u, id)
			if err == nil {
				done, more, err = t.trim(wire.TimeOf(before))
			}
			return err
		})
		if err != nil {
			return deleted, err
		}
		if deleted += done; !more {
			return deleted, nil
		}
	}
}

// trim deletes a batch of the oldest messages. more reports whether others may have to be deleted.
func (t *conversation) trim(before wire.Time) (deleted int, more bool, err error) {
	from, err := t.firstKept()
	if err != nil {
		return 0, false, err
	}
	n, most := from, min(from+trimBatch, t.rec.Counters.Message)
	for ; n < most; n++ {
		rec, key, err := t.messageAt(n)
		if err != nil {
			return 0, false, err
		}
		if rec == nil {
			continue
		}
		if rec.Stored >= before || rec.Status == StatusWaiting {
			break
		}
		if err := t.deleteMessage(rec, key); err != nil {
			return 0, false, err
		}
		deleted++
	}
	if n == from {
		return 0, false, nil
	}
	if left := t.rec.Counters.Message - n; t.rec.Counters.Unread > left { // only remaining messages can be unread
		t.rec.Counters.Unread = left
		if err := t.save(); err != nil {
			return 0, false, err
		}
	}
	return deleted, n == most && n < t.rec.Counters.Message, t.u.putRecord(trimKey(t.id), &trimRecord{Version: recordVersion, From: n})
}

// deleteMessage deletes a message of the history. If the message could still come a second time, the index keeps its
// id, so that it does not appear again.
func (t *conversation) deleteMessage(rec *messageRecord, key []byte) error {
	t.u.delete(key)
	t.u.deleteAll(recordKey(recordDelivered, key[len(recordKey(recordMessage)):]))
	old := t.d.now()-rec.Stored >= wire.Time(keepOld.Milliseconds())
	if err := t.forgetContents(rec, old); err != nil || !old {
		return err
	}
	id := wire.ConversationID(key[3:][:key[2]]) // letters, length, id (perhaps of an earlier conversation)
	t.u.delete(messageIDKey(id, rec.Sender, rec.ID))
	return nil
}
