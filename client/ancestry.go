package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// A conversation that succeeds another includes the history of the earlier one: messages up to Base stay under the id
// of the earlier one, with the same numbers. Nothing is copied.

// hidden reports whether users must not see a conversation: it is one of two that continue as one.
func (t *conversation) hidden() bool {
	r := t.rec
	switch r.State {
	case StateFounding, StateMoved, StateHeld:
		return true
	case StateCreating:
		return len(r.Line.From) > 0
	case StateJoining:
		return len(r.Line.From) > 0 || len(r.Line.Expected) > 0
	case StateLeft:
		return r.Line.Erased
	}
	return false
}

// postableConversation is usableConversation for a caller that sends: messages sent while a conversation moves wait.
func (d *Device) postableConversation(u *unit, id ConversationID) (*conversation, error) {
	t, err := d.knownConversation(u, id)
	if err == nil && t.rec.State == StateMoving {
		return t, nil
	}
	return d.usableConversation(u, id)
}

// shownIn returns the conversation in which a message of this one is shown.
func (t *conversation) shownIn() (*conversation, error) {
	for t.rec.State == StateMoved {
		next, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.Successor))
		if err != nil || next == nil {
			return t, err
		}
		t = next
	}
	return t, nil
}

// predecessor returns the conversation that the record's conversation succeeds, or "" if it succeeds none.
func (t *conversation) predecessor(r *conversationRecord) (ConversationID, *conversationRecord, error) {
	if len(r.Line.From) == 0 {
		return "", nil, nil
	}
	old := new(conversationRecord)
	ok, err := t.u.getRecord(conversationKey(wire.ConversationID(r.Line.From)), old)
	if err != nil || !ok {
		return "", nil, err
	}
	return wire.ConversationID(r.Line.From), old, nil
}

// messageAt reads message n of the history and returns the key of its record; nil if there is no such message.
func (t *conversation) messageAt(n uint64) (*messageRecord, []byte, error) {
	id, r := t.id, t.rec
	for n < r.Line.Base {
		var err error
		if id, r, err = t.predecessor(r); err != nil || r == nil {
			return nil, nil, err
		}
	}
	key, rec := messageKey(id, n), new(messageRecord)
	ok, err := t.u.getRecord(key, rec)
	if err != nil || !ok {
		return nil, nil, err
	}
	return rec, key, nil
}

// findMessage finds the number of a message by its sender and its id.
func (t *conversation) findMessage(sender DeviceID, m MessageID) (n uint64, found bool, err error) {
	id, r := t.id, t.rec
	for r != nil {
		at, ok, err := t.u.Get(messageIDKey(id, sender, m))
		if err != nil || ok {
			return parseNumber(at), ok, err
		}
		if id, r, err = t.predecessor(r); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// lineage lists a conversation and those that it succeeds, newest first.
func (d *Device) lineage(ctx context.Context, id ConversationID) (ids []ConversationID, err error) {
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if wire.CodeOf(err) == wire.UnknownConversation {
			ids = []ConversationID{id} // unknown here: the node reports the error
			return nil
		}
		if err != nil {
			return err
		}
		at, r := t.id, t.rec
		for r != nil && err == nil {
			ids = append(ids, at)
			at, r, err = t.predecessor(r)
		}
		return err
	})
	return ids, err
}
