package client

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// A conversation that succeeds another has its history: messages up to Base stand under the other's id, with
// the same numbers. Nothing is copied.

// hidden reports whether people are not to see a conversation: it is one of two that go on as one.
func (t *thread) hidden() bool {
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

// postableThread is usableThread for a caller who sends: what is sent while a conversation moves waits.
func (d *Device) postableThread(u *unit, id wire.ConversationID) (*thread, error) {
	t, err := d.knownThread(u, id)
	if err == nil && t.rec.State == StateMoving {
		return t, nil
	}
	return d.usableThread(u, id)
}

// home is the conversation that a message of this one is shown in.
func (t *thread) home() (*thread, error) {
	for t.rec.State == StateMoved {
		next, err := t.d.thread(t.u, wire.ConversationID(t.rec.Line.Successor))
		if err != nil || next == nil {
			return t, err
		}
		t = next
	}
	return t, nil
}

// before gives the conversation that a record's succeeds, "" if it succeeds none.
func (t *thread) before(r *conversationRecord) (wire.ConversationID, *conversationRecord, error) {
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

// messageAt reads message n of the history and says where it stands; nil if there is none.
func (t *thread) messageAt(n uint64) (*messageRecord, []byte, error) {
	id, r := t.id, t.rec
	for n < r.Line.Base {
		var err error
		if id, r, err = t.before(r); err != nil || r == nil {
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

// findMessage finds the number of a message by who sent it and its id.
func (t *thread) findMessage(sender wire.DeviceID, m MessageID) (n uint64, found bool, err error) {
	id, r := t.id, t.rec
	for r != nil {
		at, ok, err := t.u.Get(messageIDKey(id, sender, m))
		if err != nil || ok {
			return parseNumber(at), ok, err
		}
		if id, r, err = t.before(r); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// lineage lists a conversation and those that it succeeds, the newest first.
func (d *Device) lineage(ctx context.Context, id wire.ConversationID) (ids []wire.ConversationID, err error) {
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if wire.CodeOf(err) == wire.UnknownConversation {
			ids = []wire.ConversationID{id} // the node says so
			return nil
		}
		if err != nil {
			return err
		}
		at, r := t.id, t.rec
		for r != nil && err == nil {
			ids = append(ids, at)
			at, r, err = t.before(r)
		}
		return err
	})
	return ids, err
}
