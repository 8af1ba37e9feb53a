package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// Status is the state of a message.
type Status uint8

// The statuses. Messages of others have StatusReceived only.
const (
	StatusReceived Status = 1
	StatusWaiting  Status = 2 // on its way to the organization
	StatusAccepted Status = 3 // on the organization's disk, and on its way to the members
	StatusRefused  Status = 4 // see Message.Error
)

// String returns the name of the status.
func (s Status) String() string {
	names := [...]string{"", "received", "waiting", "accepted", "refused"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

func outgoingKey(id ConversationID, n uint64) []byte {
	return recordKey(recordOutgoing, idPart(id), number(n))
}

func messageKey(id ConversationID, n uint64) []byte {
	return recordKey(recordMessage, idPart(id), number(n))
}

// messageIDKey returns the key that finds a message by its sender and its id: another sender's message with the same
// id does not hide it.
func messageIDKey(id ConversationID, sender DeviceID, m MessageID) []byte {
	who := sha256.Sum256([]byte(sender))
	return recordKey(recordMessageID, idPart(id), m[:], who[:8])
}

// noPlace is the number in the index for contents that are not in the history: receipts.
const noPlace = ^uint64(0)

// Send encrypts a content and queues it durably: once Send has returned, the message is sent in its order, even if
// the process ends or the network fails. Send sets ID and Time of the content unless the caller has. EventAccepted
// reports when the organization has the message.
func (d *Device) Send(ctx context.Context, id ConversationID, c Content) (MessageID, error) {
	return d.send(ctx, id, c, nil)
}

// SendText sends a text.
func (d *Device) SendText(ctx context.Context, id ConversationID, text string) (MessageID, error) {
	return d.Send(ctx, id, Content{Type: ContentText, Text: text})
}

// SendBytes sends bytes in a format of the application.
func (d *Device) SendBytes(ctx context.Context, id ConversationID, body []byte) (MessageID, error) {
	return d.Send(ctx, id, Content{Type: ContentBytes, Body: body})
}

// queueMessage queues an own message and puts it into the history.
func (t *conversation) queueMessage(c *Content, body []byte) error {
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

// queue encrypts a body and appends it to the outgoing messages. local is its number in the history plus one, or 0
// for none. The caller saves the record.
func (t *conversation) queue(body []byte, local uint64) error {
	return t.queueRecord(&outgoingRecord{Version: recordVersion, Local: local, Content: body})
}

// queueRecord is queue for a record without a message yet.
func (t *conversation) queueRecord(o *outgoingRecord) error {
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
	return t.protect(n, o)
}

// waiting counts the outgoing messages: they are sent in their order, without holes.
func (t *conversation) waiting() int { return int(t.rec.Counters.Outgoing - t.rec.Counters.Sending) }

// protect encrypts the content of an outgoing record in the present epoch. The used key and the message become
// durable with the same turn. Before the device has compared its store with the node, it uses no key: nextOutgoing
// encrypts the message.
func (t *conversation) protect(n uint64, o *outgoingRecord) error {
	waits, err := t.readsFirst()
	if err != nil {
		return err
	}
	if waits || t.rec.State == StateMoving { // then the successor encrypts it
		return t.u.putRecord(outgoingKey(t.id, n), o)
	}
	if err := t.keepToFormat(o); err != nil {
		return err
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

// workMessages sends the waiting messages individually, so that they arrive in their order.
func (d *Device) workMessages(ctx context.Context, id ConversationID) error {
	for ctx.Err() == nil {
		var o *outgoing
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.findConversation(u, id)
			if err != nil || t == nil || t.rec.State != StateActive && t.rec.State != StateLeaving {
				return err
			}
			if stale, err := t.keysStale(); err != nil || stale {
				return err
			}
			if waits, err := t.readsFirst(); err != nil || waits {
				return err // compareStreams and noteRead resume
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

// nextOutgoing returns the next message to send. If an earlier message had to be encrypted again, and so was sent in
// a later epoch than this one, this one is encrypted again too. Otherwise a member that holds the earlier message
// until its commit comes would read this one first.
func (t *conversation) nextOutgoing() (*outgoing, error) {
	o, err := t.firstOutgoing()
	if err == nil && o != nil && len(o.record.Message) == 0 {
		if err := t.protect(o.number, o.record); err != nil {
			return nil, err
		}
		return t.firstOutgoing()
	}
	if err != nil || o == nil || o.wire.Epoch >= t.rec.Counters.Sent || wire.Epoch(t.group.Epoch()) < t.rec.Counters.Sent {
		return o, err
	}
	if err := t.protect(o.number, o.record); err != nil {
		return nil, err
	}
	return t.firstOutgoing()
}

func (t *conversation) firstOutgoing() (*outgoing, error) {
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
	if len(o.record.Message) == 0 {
		return o, nil
	}
	return o, wire.Decode(o.record.Message, maxRecord, o.wire)
}

func (d *Device) sendOne(ctx context.Context, id ConversationID, o *outgoing) error {
	var accepted wire.Accepted
	err := d.call(ctx, wire.MethodSubmit, o.wire, &accepted)
	var refused *Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	var retry error
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.group == nil {
			return err
		}
		have := new(outgoingRecord)
		if ok, err := u.getRecord(outgoingKey(id, o.number), have); err != nil || !ok {
			return err
		}
		if refused == nil {
			// A power failure that undoes this turn makes the device send the same bytes again, and the node accepts
			// a submission only once. So the turn does not wait for the disk.
			u.relaxed = true
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

// messageRefused handles an error in the node's answer to a message. retry makes the queue try again later.
func (t *conversation) messageRefused(o *outgoing, refused *Error) (retry, err error) {
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
func (t *conversation) sent(o *outgoing, status Status, why error) error {
	t.u.delete(outgoingKey(t.id, o.number))
	t.rec.Counters.Sending = o.number + 1
	if status == StatusAccepted {
		t.rec.Line.Unknown = 0
		t.rec.Counters.Sent = max(t.rec.Counters.Sent, o.wire.Epoch)
	}
	t.acted(o, why)
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
		rec.Epoch = o.wire.Epoch // a message that was refused as stale was encrypted again
		t.noteAccepted(o, n)
	}
	event := Event{Type: EventAccepted, Err: why}
	if status == StatusRefused {
		event.Type, rec.Error = EventUndelivered, shorten(why.Error())
	}
	if event.Message, err = t.shown(rec, n); err != nil {
		return err
	}
	t.event(event)
	return t.u.putRecord(key, rec)
}

// failOutgoing ends all waiting messages.
func (t *conversation) failOutgoing(why error) error {
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

// takeMessage takes in an application message. A message that is ahead of its commit is held.
func (t *conversation) takeMessage(m *wire.Message, stored wire.Time) error {
	switch {
	case t.rec.State == StateJoining && t.foreign:
		return t.tooLate()
	case t.rec.State == StateJoining, t.rec.State == StateRejoining, t.rec.State == StateHeld:
		return t.keepForEpoch(m, stored)
	case t.group == nil || m.Epoch < t.rec.Joined:
		if t.foreign {
			return t.tooLate()
		}
		return nil // not for this device
	case m.Epoch > wire.Epoch(t.group.Epoch()):
		if !t.foreign {
			t.setBehind(t.rec.Position.Last+1, false)
		}
		return t.keepForEpoch(m, stored)
	}
	return t.read(m, stored)
}

// read decrypts a message of the present epoch or an earlier one.
func (t *conversation) read(m *wire.Message, stored wire.Time) error {
	r, err := t.group.Process(m.Content)
	switch {
	case isStore(err):
		return err
	case errors.Is(err, mlscore.ErrOwnMessage):
		return nil
	case errors.Is(err, mlscore.ErrReplay):
		if !t.foreign && !t.d.repeats.has(m.Content) { // the node delivers each item once under an address
			t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: fmt.Errorf("the message has a key that was used before: the sender's device may be an older copy that was put back, or somebody sent a message of the device again (%w)", err)})
		}
		return nil
	case err != nil:
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: err})
		return nil
	case r.Application == nil:
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: wire.Errorf(wire.Invalid, "message", "it is a handshake")})
		return nil
	}
	t.d.repeats.add(m.Content)
	sender, account, err := holderOf(r.Application.Sender.Credential)
	if err != nil {
		return err // the leaf was validated
	}
	if err := t.compareSighting(r.Application.AuthenticatedData, sender); err != nil {
		return err
	}
	p, err := parseContent(r.Application.Data)
	if err != nil {
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, By: sender, Err: err})
		return nil
	}
	home, err := t.shownIn()
	if err != nil {
		return err
	}
	own := r.Application.Sender.Leaf == t.group.Self()
	if own { // under a key that this store has not used
		if sent, err := home.hasSent(sender, p, r.Application.Data); err != nil || sent {
			if err == nil {
				t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, Err: errors.New("a member sent a message of this device again, under another key")})
			}
			return err
		}
		if err := t.group.UseOwn(r.Application); err != nil {
			return err
		}
		if err := t.d.foundOlder(t.u, t, false); err != nil {
			return err
		}
	}
	if own && p.mimi == nil {
		return home.keepLost(m, sender, p.shown, r.Application.Data, stored)
	}
	person, err := t.d.person(t.u, sender.User(), account)
	if err != nil {
		return err
	}
	if p.mimi != nil {
		return home.keepContent(m, sender, person, p, r.Application.Data, stored)
	}
	if err := home.keep(m, sender, person, p.shown, r.Application.Data, stored); err != nil {
		return err
	}
	return home.takeAgain(sender, r.Application.Sender.SignatureKey, p.shown)
}

// hasSent reports whether this device has sent a content, and does not wait for the answer any more. Such a content
// under a key that this device has not used comes from another member, who has encrypted it again, and does not show
// that the store is an older copy.
func (t *conversation) hasSent(self DeviceID, p *parsed, body []byte) (bool, error) {
	n, known, err := t.findMessage(self, p.shown.ID)
	if err != nil {
		return false, err
	}
	if known {
		if n == noPlace {
			return true, nil
		}
		rec, _, err := t.messageAt(n)
		return rec == nil || rec.Status != StatusWaiting, err
	}
	if p.mimi == nil {
		return false, nil
	}
	it, err := t.itemOf(self.User(), p.mimi, body)
	if err != nil {
		return false, nil // keepContent reports it
	}
	s, err := t.states()
	if err != nil {
		return false, err
	}
	have, err := s.Load(it.ID)
	return have.Role != timeline.Unseen, err
}

// keep adds a decrypted message to the history, once.
func (t *conversation) keep(m *wire.Message, sender DeviceID, person int, c *Content, body []byte, stored wire.Time) error {
	key := messageIDKey(t.id, sender, c.ID)
	_, known, err := t.findMessage(sender, c.ID)
	if err != nil || known {
		return err // encrypted again by a sender that did not know that the first form was accepted
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
	if err := t.indexNew(rec, n); err != nil {
		return err
	}
	if rec, _, err = t.messageAt(n); err != nil {
		return err
	}
	shown, err := t.shown(rec, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventMessage, Message: shown})
	t.scheduleReceipt(c.ID)
	return t.save()
}

// keepLost adds to the history a message that this device sent before an older copy of its store was put back.
func (t *conversation) keepLost(m *wire.Message, self DeviceID, c *Content, body []byte, stored wire.Time) error {
	key := messageIDKey(t.id, self, c.ID)
	if _, known, err := t.findMessage(self, c.ID); err != nil || known {
		return err
	}
	if c.Type == ContentReceipt {
		t.u.put(key, number(noPlace))
		return nil
	}
	n := t.rec.Counters.Message
	t.rec.Counters.Message++
	t.u.put(key, number(n))
	rec := &messageRecord{Version: recordVersion, ID: c.ID, Sender: self, Stored: stored, Epoch: m.Epoch, Content: body, Status: StatusAccepted}
	if err := t.u.putRecord(messageKey(t.id, n), rec); err != nil {
		return err
	}
	if err := t.indexNew(rec, n); err != nil {
		return err
	}
	rec, _, err := t.messageAt(n)
	if err != nil {
		return err
	}
	shown, err := t.shown(rec, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventMessage, Message: shown})
	return t.save()
}

// keepForEpoch keeps a message until its epoch comes.
func (t *conversation) keepForEpoch(m *wire.Message, stored wire.Time) error {
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

// releaseHeld reads the held messages whose epoch has come.
func (t *conversation) releaseHeld() error {
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
