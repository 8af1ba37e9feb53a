package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Status says what became of a message.
type Status uint8

// The statuses: of others' messages there is StatusReceived alone.
const (
	StatusReceived Status = 1
	StatusWaiting  Status = 2 // on its way to the organization
	StatusAccepted Status = 3 // on the organization's disk, and on its way to the members
	StatusRefused  Status = 4 // see Message.Error
)

// String is the status's name.
func (s Status) String() string {
	names := [...]string{"", "received", "waiting", "accepted", "refused"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

func outgoingKey(id wire.ConversationID, n uint64) []byte {
	return recordKey(recordOutgoing, idPart(id), number(n))
}

func messageKey(id wire.ConversationID, n uint64) []byte {
	return recordKey(recordMessage, idPart(id), number(n))
}

// messageIDKey finds a message by who sent it and its id: an id that somebody else has used does not
// hide it.
func messageIDKey(id wire.ConversationID, sender wire.DeviceID, m MessageID) []byte {
	who := sha256.Sum256([]byte(sender))
	return recordKey(recordMessageID, idPart(id), m[:], who[:8])
}

// noPlace stands in the index for what is not in the history: receipts.
const noPlace = ^uint64(0)

// Send encrypts a content and queues it, durably: once Send has returned, the message goes out in its
// order, whatever happens to the process or the network. ID and Time of the content are set here unless
// the caller has. EventAccepted tells when the organization has it.
func (d *Device) Send(ctx context.Context, id wire.ConversationID, c Content) (MessageID, error) {
	if c.ID.IsZero() {
		if err := d.random(c.ID[:]); err != nil {
			return c.ID, err
		}
	}
	if c.Time == 0 {
		c.Time = d.now()
	}
	body, err := EncodeContent(&c)
	if err != nil {
		return c.ID, err
	}
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.postableThread(u, id)
		if err != nil {
			return err
		}
		return t.post(&c, body)
	})
	d.Reconnect()
	return c.ID, err
}

// SendText sends a text.
func (d *Device) SendText(ctx context.Context, id wire.ConversationID, text string) (MessageID, error) {
	return d.Send(ctx, id, Content{Type: ContentText, Text: text})
}

// SendBytes sends bytes of the application's own.
func (d *Device) SendBytes(ctx context.Context, id wire.ConversationID, body []byte) (MessageID, error) {
	return d.Send(ctx, id, Content{Type: ContentBytes, Body: body})
}

// post queues an own message and puts it into the history.
func (t *thread) post(c *Content, body []byte) error {
	self := t.d.self.Device
	key := messageIDKey(t.id, self, c.ID)
	if _, used, err := t.findMessage(self, c.ID); err != nil || used {
		return errors.Join(err, wire.Errorf(wire.SubmissionReused, "send", "a message with id %v was sent before", c.ID))
	}
	n := t.rec.Counters.Message
	t.rec.Counters.Message++
	rec := &messageRecord{
		Version: recordVersion, ID: c.ID, Sender: self, Stored: c.Time, Epoch: wire.Epoch(t.group.Epoch()), Content: body, Status: StatusWaiting,
	}
	if err := t.u.putRecord(messageKey(t.id, n), rec); err != nil {
		return err
	}
	t.u.put(key, number(n))
	if err := t.queue(body, n+1); err != nil {
		return err
	}
	return t.save()
}

// queue encrypts a body and puts it at the end of what goes out. local is its number in the history plus
// one, 0 for none. The caller saves.
func (t *thread) queue(body []byte, local uint64) error {
	if most := t.d.opts.Limits.Outgoing; t.waiting() >= most {
		return wire.Errorf(wire.Quota, "send", "%d messages of %v wait already: wait until the organization can be reached", most, t.id)
	}
	n := t.rec.Counters.Outgoing
	t.rec.Counters.Outgoing++
	t.rec.Keys.Sent++
	t.kick(messages(t.id))
	if int(t.rec.Keys.Sent) == t.d.opts.Timing.KeyMessages {
		t.kick(handshakes(t.id))
	}
	return t.protect(n, &outgoingRecord{Version: recordVersion, Local: local, Content: body})
}

// waiting counts the messages that go out: they are sent in their order, without holes.
func (t *thread) waiting() int { return int(t.rec.Counters.Outgoing - t.rec.Counters.Sending) }

// protect encrypts the content of an outgoing record in the present epoch. The key that it uses, and the
// message, become durable with the same turn.
func (t *thread) protect(n uint64, o *outgoingRecord) error {
	if t.rec.State == StateMoving { // protected by the successor
		return t.u.putRecord(outgoingKey(t.id, n), o)
	}
	seen, err := t.sighted()
	if err != nil {
		return err
	}
	sealed, err := t.group.Protect(o.Content, mlscore.MessageOptions{AuthenticatedData: seen, DespiteProposals: true})
	if err != nil {
		return err
	}
	m := &wire.Message{Version: wire.MessageVersion, Conversation: t.id, Epoch: wire.Epoch(t.group.Epoch()), Content: sealed}
	if m.ID, err = t.d.newSubmission(); err != nil {
		return err
	}
	key, err := submissionKey(t.group)
	if err != nil {
		return err
	}
	if err := m.Sign(key); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	if o.Message, err = wire.Encode(m); err != nil {
		return err
	}
	return t.u.putRecord(outgoingKey(t.id, n), o)
}

// outgoing is the message that is next to be sent.
type outgoing struct {
	number uint64
	record *outgoingRecord
	wire   *wire.Message
}

// workMessages sends what waits, one message after the other, so that they arrive in their order.
func (d *Device) workMessages(ctx context.Context, id wire.ConversationID) error {
	for ctx.Err() == nil {
		if !d.compared.Load() {
			return nil // compareStreams resumes
		}
		var o *outgoing
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.thread(u, id)
			if err != nil || t == nil || t.rec.State != StateActive && t.rec.State != StateLeaving {
				return err
			}
			if stale, err := t.keysStale(); err != nil || stale {
				return err
			}
			o, err = t.nextOutgoing()
			return err
		})
		if err != nil || o == nil {
			return err
		}
		if err := d.sendOne(ctx, id, o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// nextOutgoing is the message to be sent. One of an earlier epoch than the last that was sent, which had
// to be protected anew, is protected anew too: a member who holds that one until its commit comes would
// read this one first.
func (t *thread) nextOutgoing() (*outgoing, error) {
	o, err := t.firstOutgoing()
	if err != nil || o == nil || o.wire.Epoch >= t.rec.Counters.Sent || wire.Epoch(t.group.Epoch()) < t.rec.Counters.Sent {
		return o, err
	}
	if err := t.protect(o.number, o.record); err != nil {
		return nil, err
	}
	return t.firstOutgoing()
}

func (t *thread) firstOutgoing() (*outgoing, error) {
	if t.waiting() == 0 {
		return nil, nil
	}
	o := &outgoing{number: t.rec.Counters.Sending, record: new(outgoingRecord), wire: new(wire.Message)}
	ok, err := t.u.getRecord(outgoingKey(t.id, o.number), o.record)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, wire.Errorf(wire.Internal, "send", "message %d of %v that was to be sent is not in the store", o.number, t.id)
	}
	return o, wire.Decode(o.record.Message, maxRecord, o.wire)
}

func (d *Device) sendOne(ctx context.Context, id wire.ConversationID, o *outgoing) error {
	var accepted wire.Accepted
	err := d.call(ctx, wire.MethodSubmit, o.wire, &accepted)
	var refused *wire.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	var retry error
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
		if err != nil || t == nil || t.group == nil {
			return err
		}
		have := new(outgoingRecord)
		if ok, err := u.getRecord(outgoingKey(id, o.number), have); err != nil || !ok {
			return err
		}
		if refused == nil {
			return t.sent(o, StatusAccepted, nil)
		}
		retry, err = t.messageRefused(o, refused)
		return err
	})
	if err != nil {
		return err
	}
	return retry
}

// messageRefused acts on the error that the node answered a message with. retry makes the lane try again
// later.
func (t *thread) messageRefused(o *outgoing, refused *wire.Error) (retry, err error) {
	switch refused.Code {
	case wire.StaleEpoch, wire.Forged:
		if wire.Epoch(t.group.Epoch()) > o.wire.Epoch {
			return nil, t.protect(o.number, o.record) // as the same message, under another id and key
		}
		if refused.Code == wire.StaleEpoch {
			t.setBehind(t.rec.Position.Last+1, false)
			t.rec.Behind.Since = 0
			return refused, t.save()
		}
	case wire.NoQuorum, wire.Busy, wire.Unavailable, wire.Internal, wire.UnknownConversation, wire.NotReplica, wire.Quota:
		return refused, nil
	}
	return nil, t.sent(o, StatusRefused, refused)
}

// sent ends the outgoing message that is next to be sent.
func (t *thread) sent(o *outgoing, status Status, why error) error {
	t.u.delete(outgoingKey(t.id, o.number))
	t.rec.Counters.Sending = o.number + 1
	if status == StatusAccepted {
		t.rec.Line.Unknown = 0
		t.rec.Counters.Sent = max(t.rec.Counters.Sent, o.wire.Epoch)
	}
	if err := t.save(); err != nil || o.record.Local == 0 {
		return err
	}
	n := o.record.Local - 1
	rec, key, err := t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	rec.Status = status
	if status == StatusAccepted {
		t.noteAccepted(o, n)
	}
	event := Event{Type: EventAccepted, Err: why}
	if status == StatusRefused {
		event.Type, rec.Error = EventUndelivered, shorten(why.Error())
	}
	if event.Message, err = rec.message(t.id, n); err != nil {
		return err
	}
	t.event(event)
	return t.u.putRecord(key, rec)
}

// failOutgoing ends all that wait.
func (t *thread) failOutgoing(why error) error {
	for t.waiting() > 0 {
		o, err := t.firstOutgoing()
		if err != nil {
			return err
		}
		if err := t.sent(o, StatusRefused, why); err != nil {
			return err
		}
	}
	return nil
}

// takeMessage takes an application message in. One that is ahead of its commit is held.
func (t *thread) takeMessage(m *wire.Message, stored wire.Time) error {
	switch {
	case t.rec.State == StateJoining && t.foreign:
		return t.tooLate()
	case t.rec.State == StateJoining, t.rec.State == StateRejoining, t.rec.State == StateHeld:
		return t.hold(m, stored)
	case t.group == nil || m.Epoch < t.rec.Joined:
		if t.foreign {
			return t.tooLate()
		}
		return nil // not for this device
	case m.Epoch > wire.Epoch(t.group.Epoch()):
		if !t.foreign {
			t.setBehind(t.rec.Position.Last+1, false)
		}
		return t.hold(m, stored)
	}
	return t.read(m, stored)
}

// read decrypts a message of this epoch or an earlier one.
func (t *thread) read(m *wire.Message, stored wire.Time) error {
	r, err := t.group.Process(m.Content)
	switch {
	case isStore(err):
		return err
	case errors.Is(err, mlscore.ErrOwnMessage):
		return nil
	case errors.Is(err, mlscore.ErrReplay):
		if !t.foreign { // the node gives each item once under an address
			t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: fmt.Errorf("it was sent under a key that was used before: its sender's device may be an older copy that was put back (%w)", err)})
		}
		return nil
	case err != nil:
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: err})
		return nil
	case r.Application == nil:
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: wire.Errorf(wire.Invalid, "message", "it is a handshake")})
		return nil
	}
	sender, account, err := holderOf(r.Application.Sender.Credential)
	if err != nil {
		return err // the leaf was validated
	}
	if err := t.compareSighting(r.Application.AuthenticatedData, sender); err != nil {
		return err
	}
	c, err := DecodeContent(r.Application.Data)
	if err != nil {
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, By: sender, Err: err})
		return nil
	}
	home, err := t.home()
	if err != nil {
		return err
	}
	person, err := t.d.person(t.u, sender.User(), account)
	if err != nil {
		return err
	}
	if err := home.keep(m, sender, person, c, r.Application.Data, stored); err != nil {
		return err
	}
	return home.takeAgain(sender, r.Application.Sender.SignatureKey, c)
}

// keep puts a message that was read into the history, once.
func (t *thread) keep(m *wire.Message, sender wire.DeviceID, person int, c *Content, body []byte, stored wire.Time) error {
	key := messageIDKey(t.id, sender, c.ID)
	if _, known, err := t.findMessage(sender, c.ID); err != nil || known {
		return err // protected anew by its sender, who had not heard that the first was accepted
	}
	if c.Type == ContentReceipt {
		t.u.put(key, number(noPlace))
		return t.noteReceipt(sender, c)
	}
	n := t.rec.Counters.Message
	t.rec.Counters.Message++
	t.rec.Counters.Unread++
	t.u.put(key, number(n))
	rec := &messageRecord{Version: recordVersion, ID: c.ID, Sender: sender, Stored: stored, Epoch: m.Epoch, Content: body, Status: StatusReceived}
	if person > 1 {
		rec.Person = uint32(person)
	}
	if err := t.u.putRecord(messageKey(t.id, n), rec); err != nil {
		return err
	}
	shown, err := rec.message(t.id, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventMessage, Message: shown})
	t.owe(c.ID)
	return t.save()
}

// hold keeps a message until its epoch comes.
func (t *thread) hold(m *wire.Message, stored wire.Time) error {
	count, size := 0, 0
	prefix := recordKey(recordHeld, idPart(t.id))
	err := t.u.Scan(prefix, func(_, value []byte) error { count, size = count+1, size+len(value); return nil })
	if err != nil {
		return err
	}
	if l := t.d.opts.Limits; count >= l.Held || size+len(m.Content) > l.HeldBytes {
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: wire.Errorf(wire.Quota, "message", "%d messages wait for their commit already", count)})
		return t.save()
	}
	n := t.rec.Counters.Held
	t.rec.Counters.Held++
	if err := t.u.putRecord(append(prefix, number(n)...), &heldRecord{Version: recordVersion, Message: *m, Stored: stored}); err != nil {
		return err
	}
	return t.save()
}

// releaseHeld reads the messages whose epoch has come.
func (t *thread) releaseHeld() error {
	epoch := wire.Epoch(t.group.Epoch())
	var ready []*heldRecord
	err := t.u.Scan(recordKey(recordHeld, idPart(t.id)), func(key, value []byte) error {
		h := new(heldRecord)
		if err := wire.Decode(value, maxRecord, h); err != nil {
			return err
		}
		if h.Message.Epoch <= epoch {
			ready = append(ready, h)
			t.u.delete(key)
		}
		return nil
	})
	for _, h := range ready {
		if err == nil && h.Message.Epoch >= t.rec.Joined {
			err = t.read(&h.Message, h.Stored)
		}
	}
	return err
}
