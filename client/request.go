package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Decision is the answer to a request: a conversation to which another user has added this device.
type Decision uint8

// The decisions.
const (
	Join   Decision = 0 // enter the conversation
	Hold   Decision = 1 // wait for Device.Accept or Device.Refuse
	Refuse Decision = 2 // give up the address: no item of the conversation comes any more
)

// JoinRequest describes a conversation to which another user has added this device, and that the device has not
// entered.
type JoinRequest struct {
	Conversation ConversationID
	Name         string
	Users        []UserID // the members when the device was added; at most MaxRequestUsers, sorted
	Members      int      // number of devices
	Since        time.Time
}

// MaxRequestUsers bounds the users that a JoinRequest names.
const MaxRequestUsers = 64

const (
	recordRequest = 'H' // conversation → requestRecord
	recordRefusal = 'y' // token, conversation → 1: the node must be informed
)

// requestRecord is a conversation that the device does not enter before the user decides.
type requestRecord struct {
	Version  uint8     `cbor:"1,keyasint"`
	Since    wire.Time `cbor:"2,keyasint"`
	Accepted bool      `cbor:"3,keyasint,omitempty"`
	Name     string    `cbor:"4,keyasint,omitempty"`
	Users    []UserID  `cbor:"5,keyasint,omitempty"`
	Members  uint32    `cbor:"6,keyasint,omitempty"`
}

func (r *requestRecord) request(id ConversationID) JoinRequest {
	return JoinRequest{Conversation: id, Name: r.Name, Users: slices.Clone(r.Users), Members: int(r.Members), Since: r.Since.Std()}
}

func (t *conversation) requestKey() []byte { return recordKey(recordRequest, idPart(t.id)) }

// errLooked ends a turn that has only inspected a group: none of its changes are kept.
var errLooked = errors.New("the group was only looked at")

// admit decides about a conversation to which this device was added. It reports whether the device enters it now.
// welcome and tree are the data with which it enters.
func (d *Device) admit(ctx context.Context, id ConversationID, c *wire.Committed, env *wire.Envelope, welcome, tree []byte) (bool, error) {
	var r *requestRecord
	ours := false
	err := d.turn(ctx, func(u *unit) error {
		t, have, err := d.requested(u, id)
		if err != nil || have == nil || have.Accepted {
			return err
		}
		if err := t.join(c, env, welcome, tree); err != nil {
			return err
		}
		if r, ours, err = t.requestOf(have); err != nil {
			return err
		}
		return errLooked
	})
	switch {
	case err == nil:
		return true, nil // no decision is needed
	case !errors.Is(err, errLooked):
		return true, nil // join fails in the same way, and reports why
	}
	decision := Join
	if !ours && d.opts.Admit != nil {
		decision = d.opts.Admit(r.request(id))
	}
	return decision == Join, d.turn(ctx, func(u *unit) error {
		t, have, err := d.requested(u, id)
		if err != nil || have == nil || have.Accepted {
			return err
		}
		switch decision {
		case Join:
			r.Accepted = true
			return u.putRecord(t.requestKey(), r)
		case Hold:
			return t.holdRequest(r)
		}
		return t.drop()
	})
}

// requested returns a conversation that is being joined, and the known data of the request; nil for none.
func (d *Device) requested(u *unit, id ConversationID) (*conversation, *requestRecord, error) {
	t, err := d.findConversation(u, id)
	if err != nil || t == nil || t.rec.State != StateJoining {
		return nil, nil, err
	}
	r := new(requestRecord)
	ok, err := u.getRecord(t.requestKey(), r)
	if err != nil || !ok {
		return t, nil, err
	}
	return t, r, nil
}

// requestOf describes the group that was joined for inspection. ours means that it contains another device of the
// user that this device knows: then the user is in it.
func (t *conversation) requestOf(have *requestRecord) (r *requestRecord, ours bool, err error) {
	rules, err := t.rules()
	if err != nil {
		return nil, false, err
	}
	r = &requestRecord{Version: recordVersion, Since: have.Since, Name: rules.Name, Members: uint32(t.group.Public().Size())}
	users := make(map[UserID]bool)
	t.group.Public().Members(func(m mlscore.Member) bool {
		device, bad := deviceOf(m.Credential)
		if bad != nil || m.Leaf == t.group.Self() {
			return true
		}
		if device.User() == t.d.self.Device.User() {
			known := false
			known, err = t.d.isKnownKey(t.u, m.SignatureKey)
			ours = ours || known
		}
		if len(users) < MaxRequestUsers {
			users[device.User()] = true
		}
		return err == nil
	})
	for user := range users {
		r.Users = append(r.Users, user)
	}
	slices.Sort(r.Users)
	return r, ours, err
}

// holdRequest keeps a conversation waiting. If too many wait, it refuses the conversation.
func (t *conversation) holdRequest(r *requestRecord) error {
	n := 0
	err := eachRecord(t.u, func(_ ConversationID, rec *conversationRecord) error {
		if rec.State == StateHeld {
			n++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if n >= t.d.opts.Limits.Strangers {
		t.d.log.Warn("a request to join is refused: too many wait", "conversation", t.id, "waiting", n)
		t.event(Event{Type: EventRefused, Err: wire.Errorf(wire.Quota, "join", "%d requests wait for an answer already", n)})
		return t.drop()
	}
	t.rec.State, t.rec.Title = StateHeld, r.Name
	if err := t.u.putRecord(t.requestKey(), r); err != nil {
		return err
	}
	t.event(Event{Type: EventRequest})
	return t.save()
}

// drop deletes a conversation that this device has never been in, and makes the node forget it too. A conversation
// that the device was in before returns to the state of having been left.
func (t *conversation) drop() error {
	for _, key := range [][]byte{t.welcomeKey(), t.requestKey()} {
		t.u.delete(key)
	}
	for _, kind := range []byte{recordHeld, recordOrder} {
		t.u.deleteAll(recordKey(kind, idPart(t.id)))
	}
	t.d.refuseAt(t.u, t.id, t.rec.Token)
	t.group = nil
	if t.rec.Counters.Message > 0 || len(t.rec.Line.From) > 0 {
		t.rec.State, t.rec.Behind, t.rec.Why = StateLeft, behind{}, "this device was added again, and did not enter"
		return t.save()
	}
	t.u.delete(conversationKey(t.id))
	return nil
}

// refuseAt schedules a report to the node that an address refuses a conversation. A node that does not support the
// report keeps pushing, so this process reports it only once.
func (d *Device) refuseAt(u *unit, id ConversationID, token wire.Token) {
	key := recordKey(recordRefusal, token[:], []byte(id))
	if d.asked[string(key)] {
		return
	}
	u.put(key, []byte{1})
	u.then(func() {
		d.remember(string(key))
		d.queues.kick(queueUpkeep)
	})
}

// tendRefusals reports to the node which conversations this device has refused.
func (d *Device) tendRefusals(ctx context.Context) error {
	var keys [][]byte
	prefix := recordKey(recordRefusal)
	err := d.turn(ctx, func(u *unit) error {
		return u.Scan(prefix, func(key, _ []byte) error {
			keys = append(keys, slices.Clone(key))
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		r := &wire.RefuseRequest{Conversation: wire.ConversationID(key[len(prefix)+len(wire.Token{}):])}
		copy(r.Token[:], key[len(prefix):])
		err := d.call(ctx, wire.MethodRefuse, r, nil)
		switch wire.CodeOf(err) {
		case wire.Busy, wire.Unavailable, wire.Internal:
			return err
		}
		var refused *Error
		if err != nil && !errors.As(err, &refused) {
			return err
		}
		if err := d.turn(ctx, func(u *unit) error { u.delete(key); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// takeHeld takes in an entry of a conversation that waits for the user's decision: it records how far the log has
// come, and drops the conversation when the entry removes this device.
func (t *conversation) takeHeld(c *wire.Committed) error {
	if e, err := c.Open(); err == nil && e.Envelope != nil && e.Envelope.Commit != nil && e.Envelope.Conversation == t.id && t.addressLeaves(e.Envelope) {
		return t.drop()
	}
	t.setBehind(c.Sequence, false)
	return t.save()
}

// Held lists the conversations that wait for Accept or Refuse, oldest first. At most Limits.Strangers wait; the
// device refuses further ones.
func (d *Device) Held(ctx context.Context) ([]JoinRequest, error) {
	var list []JoinRequest
	err := d.turn(ctx, func(u *unit) error {
		return eachRecord(u, func(id ConversationID, rec *conversationRecord) error {
			if rec.State != StateHeld {
				return nil
			}
			r := new(requestRecord)
			_, err := u.getRecord((&conversation{id: id}).requestKey(), r)
			if err == nil {
				list = append(list, r.request(id))
			}
			return err
		})
	})
	slices.SortFunc(list, func(a, b JoinRequest) int { return a.Since.Compare(b.Since) })
	return list, err
}

// Accept enters a waiting conversation. EventJoined reports when the device has entered it. Messages that were sent
// meanwhile arrive as far as Limits.Held allows. Accept returns [NotFound] if no conversation with that id waits.
func (d *Device) Accept(ctx context.Context, id ConversationID) error {
	return d.decide(ctx, id, func(t *conversation, r *requestRecord) error {
		r.Accepted, t.rec.State = true, StateJoining
		t.kick(handshakes(t.id))
		return errors.Join(t.u.putRecord(t.requestKey(), r), t.save())
	})
}

// RefuseRequest refuses a waiting conversation: this device deletes its data, and the node stores nothing of it for
// this device any more. Its members see this device as a member until somebody removes it. RefuseRequest returns
// [NotFound] if no conversation with that id waits.
func (d *Device) RefuseRequest(ctx context.Context, id ConversationID) error {
	return d.decide(ctx, id, func(t *conversation, _ *requestRecord) error { return t.drop() })
}

func (d *Device) decide(ctx context.Context, id ConversationID, do func(*conversation, *requestRecord) error) error {
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil {
			return err
		}
		if t == nil || t.rec.State != StateHeld {
			return wire.Errorf(wire.NotFound, "request", "no request to join %v waits", id)
		}
		r := new(requestRecord)
		if _, err := u.getRecord(t.requestKey(), r); err != nil {
			return err
		}
		return do(t, r)
	})
}
