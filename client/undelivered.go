package client

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// maxAccepted is how many of a conversation's own messages are known by the ids under which the organization
// accepted them: it may still give them up.
const maxAccepted = 4096

// maxRefusals bounds the organizations that are remembered for one message.
const maxRefusals = 256

func acceptedKey(id wire.ConversationID, n uint64) []byte {
	return recordKey(recordAccepted, idPart(id), number(n))
}

// noteAccepted remembers an own message that the organization has accepted. n is its number in the history.
func (t *thread) noteAccepted(o *outgoing, n uint64) {
	t.u.put(acceptedKey(t.id, o.number), append(o.wire.ID[:], number(n)...))
	if o.number >= maxAccepted {
		t.u.delete(acceptedKey(t.id, o.number-maxAccepted))
	}
}

// takeUndelivered is told of messages that another organization will not get. Those of other devices of the
// organization are not known here.
func (t *thread) takeUndelivered(v *wire.Undelivered) error {
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

// undelivered tells the user of a message that some members will not get. It stays accepted: others have it.
func (t *thread) undelivered(n uint64, v *wire.Undelivered) error {
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
	if event.Message, err = rec.message(t.id, n); err != nil {
		return err
	}
	t.event(event)
	return t.u.putRecord(key, rec)
}

func lossError(org wire.Domain, l wire.Loss) *wire.Error {
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
