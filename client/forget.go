package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// forgottenKinds are the records of a conversation that Forget deletes, beside conversationRecord itself.
var forgottenKinds = []byte{
	recordOrder, recordPending, recordBlob, recordOperation, recordMessage, recordMessageID, recordOutgoing, recordHeld,
	recordWelcome, recordSighting, recordAccepted, recordDelivered, recordPresence, recordFounding, recordRequest,
	recordOwnName, recordConsumer, recordLater, recordStale, recordTended, recordAgain, recordKeys, recordTrim,
}

// Forget deletes what this device holds of a conversation that it has left, or cannot follow any further: keys, the
// history, files' keys, cursors, with what it has of those that the conversation succeeds. Somebody can add the device
// again, and then it begins from the start. wire.Invalid where the device is still in it: see Leave.
func (d *Device) Forget(ctx context.Context, id wire.ConversationID) error {
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		if s := t.rec.State; s != StateLeft && s != StateBroken {
			return wire.Errorf(wire.Invalid, "forget", "this device is %v in %v: leave it first", s, t.id)
		}
		at, r := t.id, t.rec
		for r != nil {
			old := &thread{d: d, u: u, id: at, rec: r}
			if err := old.eraseGroup(); err != nil {
				return err
			}
			for _, kind := range forgottenKinds {
				u.deleteAll(recordKey(kind, idPart(at)))
			}
			u.delete(conversationKey(at))
			old.noneLater()
			if at, r, err = t.before(r); err != nil {
				return err
			}
		}
		return nil
	})
}
