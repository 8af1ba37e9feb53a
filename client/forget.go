package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// forgottenKinds are the records of a conversation that Forget deletes, in addition to conversationRecord.
var forgottenKinds = []byte{
	recordOrder, recordPending, recordBlob, recordOperation, recordMessage, recordMessageID, recordOutgoing, recordHeld,
	recordWelcome, recordSighting, recordAccepted, recordDelivered, recordPresence, recordFounding, recordRequest,
	recordOwnName, recordConsumer, recordLater, recordStale, recordTended, recordAgain, recordKeys, recordDropped, recordTrim, recordAdminOffer, recordAsked,
	recordState, recordLink, recordWaits, recordContents, recordUnindexed, recordEnding, recordRoom, recordFresh, recordSearch,
}

// Forget deletes the data that this device holds of a conversation that it has left, or cannot follow any further:
// keys, the history, file keys and cursors, including those of the conversations that it succeeds. If somebody adds
// the device again, it starts without history. Forget returns [Invalid] if the device is still in the
// conversation: see Leave.
func (d *Device) Forget(ctx context.Context, id ConversationID) error {
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		if s := t.rec.State; s != StateLeft && s != StateBroken {
			return wire.Errorf(wire.Invalid, "forget", "this device is %v in %v: leave it first", s, t.id)
		}
		at, r := t.id, t.rec
		for r != nil {
			old := &conversation{d: d, u: u, id: at, rec: r}
			if err := old.eraseGroup(); err != nil {
				return err
			}
			for _, kind := range forgottenKinds {
				u.deleteAll(recordKey(kind, idPart(at)))
			}
			u.delete(conversationKey(at))
			old.noneLater()
			if at, r, err = t.predecessor(r); err != nil {
				return err
			}
		}
		return nil
	})
}
