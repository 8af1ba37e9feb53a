package client

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// recordTrim is the letter of where the history of a conversation begins: conversation → trimRecord.
const recordTrim = 'B'

// trimRecord says which part of the history was deleted here.
type trimRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	From    uint64 `cbor:"2,keyasint,omitempty"` // messages with smaller numbers are gone
}

func trimKey(id wire.ConversationID) []byte { return recordKey(recordTrim, idPart(id)) }

// begins is the number from which on the history has messages.
func (t *thread) begins() (uint64, error) {
	r := new(trimRecord)
	_, err := t.u.getRecord(trimKey(t.id), r)
	return r.From, err
}

// trimBatch is how many messages one turn deletes at most: others get the turn in between.
const trimBatch = 256

// DeleteMessages deletes messages from the history of this device that were stored before a time, with the keys of files in
// them, and returns how many. It begins with the oldest and ends at the first that was stored later, or that still waits
// to go out. Other devices, also the user's own, keep what they have. A cursor goes on with the first message that is left.
func (d *Device) DeleteMessages(ctx context.Context, id wire.ConversationID, before time.Time) (int, error) {
	deleted := 0
	for {
		done, more := 0, false
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.knownThread(u, id)
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

// trim deletes a batch of the oldest messages. more says whether there may be others to delete.
func (t *thread) trim(before wire.Time) (deleted int, more bool, err error) {
	from, err := t.begins()
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
		t.deleteMessage(rec, key)
		deleted++
	}
	if n == from {
		return 0, false, nil
	}
	if left := t.rec.Counters.Message - n; t.rec.Counters.Unread > left { // at most what is left can be unread
		t.rec.Counters.Unread = left
		if err := t.save(); err != nil {
			return 0, false, err
		}
	}
	return deleted, n == most && n < t.rec.Counters.Message, t.u.putRecord(trimKey(t.id), &trimRecord{Version: recordVersion, From: n})
}

// deleteMessage deletes a message of the history. The index keeps the id of one that could still come a second time, so that
// it does not appear again.
func (t *thread) deleteMessage(rec *messageRecord, key []byte) {
	t.u.delete(key)
	t.u.deleteAll(recordKey(recordDelivered, key[len(recordKey(recordMessage)):]))
	if t.d.now()-rec.Stored < wire.Time(keepOld.Milliseconds()) {
		return
	}
	id := wire.ConversationID(key[3:][:key[2]]) // the letters, the length, the id: an earlier conversation's where this one succeeds it
	t.u.delete(messageIDKey(id, rec.Sender, rec.ID))
}
