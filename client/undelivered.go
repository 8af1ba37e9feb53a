package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// maxAccepted bounds the own messages of a conversation that are remembered by the ids under which the organization
// accepted them: the organization may still give them up.
const maxAccepted = 4096

// maxRefusals bounds the organizations that are recorded for one message.
const maxRefusals = 256

func acceptedKey(id ConversationID, n uint64) []byte {
	return recordKey(recordAccepted, idPart(id), number(n))
}

// noteAccepted records an own message that the organization has accepted. n is its number in the history.
func (t *conversation) noteAccepted(o *outgoing, n uint64) {
	t.u.put(acceptedKey(t.id, o.number), append(o.wire.ID[:], number(n)...))
	if o.number >= maxAccepted {
		t.u.delete(acceptedKey(t.id, o.number-maxAccepted))
	}
}

// takeUndelivered handles a report of messages that another organization will not get. Messages of other devices of
// the organization are unknown here.
func (t *conversation) takeUndelivered(v *wire.Undelivered) error {
	var mine []uint64
	err := t.u.Scan(recordKey(recordAccepted, idPart(t.id)), func(_, value []byte) error {
		for i := range v.IDs {
			if len(value) == len(v.IDs[i])+8 && bytes.Equal(value[:len(v.IDs[i])], v.IDs[i][:]) {
				mine = append(mine, binary.BigEndian.Uint64(value[len(v.IDs[i]):]))
			}
		}
		return nil
	})
	for _, n := range mine {
		if err == nil {
			err = t.undelivered(n, v)
		}
	}
	return err
}

// undelivered records a message that some members will not get, and emits an event. The message stays accepted: other
// members have it.
func (t *conversation) undelivered(n uint64, v *wire.Undelivered) error {
	rec, key, err := t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	if len(rec.Refusals) < maxRefusals && !slices.ContainsFunc(rec.Refusals, func(r refusal) bool { return r.Organization == v.Organization }) {
		rec.Refusals = append(rec.Refusals, refusal{Organization: v.Organization, Reason: v.Reason})
	}
	why := lossError(v.Organization, v.Reason)
	rec.Error = shorten(why.Error())
	event := Event{Type: EventUndelivered, Err: why}
	if event.Message, err = t.shown(rec, n); err != nil {
		return err
	}
	t.event(event)
	return t.u.putRecord(key, rec)
}

// ErrLate is wrapped by the error of an EventGap for a message that came after this device was removed from the
// conversation.
var ErrLate = errors.New("came too late to be read")

// takeMissed handles the report of a message that came after this device was removed.
func (d *Device) takeMissed(u *unit, payload []byte) error {
	m := new(wire.Missed)
	if err := wire.Decode(payload, wire.MaxSessionFrame, m); err != nil {
		d.log.Warn("notice passed over", "error", err)
		return nil
	}
	what := "a message of %s"
	if m.More {
		what = "a message of %s, and perhaps more,"
	}
	err := fmt.Errorf(what+" was on its way when this device was removed, and %w", m.Organization, ErrLate)
	u.then(func() { d.emit(Event{Type: EventGap, Conversation: m.Conversation, Err: err}) })
	return nil
}

func lossError(org Domain, l wire.Loss) *Error {
	return wire.Errorf(lossCode(l), "deliver", "members of %s will not get the message (%v): send it again when their organization can be reached", org, l)
}

func lossCode(l wire.Loss) wire.Code {
	switch l {
	case wire.LossExpired:
		return wire.Unavailable
	case wire.LossExcluded:
		return wire.Denied
	case wire.LossDamaged:
		return wire.Internal
	}
	return wire.Invalid
}
