package client

import (
	"bytes"
	"slices"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/wire"
)

// ChangeKind says how a message has changed: see EventChanged.
type ChangeKind uint8

// The kinds.
const (
	ChangeReaction      ChangeKind = iota + 1 // somebody has reacted, or changed a reaction
	ChangeUnreaction                          // somebody has withdrawn a reaction
	ChangeEdit                                // the author has edited the message
	ChangeDelete                              // the message was deleted
	ChangeExpiry                              // the message has expired
	ChangeRefusedEdit                         // somebody else tried to edit the message; it stays as it is
	ChangeRefusedDelete                       // somebody else tried to delete the message; it stays
	ChangeEarlier                             // contents that came before the message was known were applied
)

// String returns the name of the kind.
func (k ChangeKind) String() string {
	names := [...]string{"", "reaction", "reaction withdrawn", "edited", "deleted", "expired", "edit refused", "delete refused", "changed"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

var changeByEffect = map[timeline.Effect]ChangeKind{
	timeline.Reacted: ChangeReaction, timeline.Withdrawn: ChangeUnreaction, timeline.Edited: ChangeEdit, timeline.Removed: ChangeDelete,
	timeline.RefusedEdit: ChangeRefusedEdit, timeline.RefusedDelete: ChangeRefusedDelete,
}

// nowSeconds returns the time in the unit of timeline.
func (d *Device) nowSeconds() uint64 { return uint64(max(0, d.opts.Clock.Now().Unix())) }

// itemOf describes a content for timeline. Moderators are none: the rules of a conversation have no such right yet.
func (t *conversation) itemOf(sender UserID, m *content.Content, body []byte) (*timeline.Item, error) {
	room, err := t.room()
	if err != nil {
		return nil, err
	}
	if err := m.CheckOrigin(string(sender), room); err != nil {
		return nil, wire.Errorf(wire.Malformed, "content", "%v", err)
	}
	id, err := content.DeriveID(string(sender), room, body, m.Salt)
	return &timeline.Item{ID: id, Sender: string(sender), Content: m, Raw: body}, err
}

// keepContent takes in a content that another device has sent, or this device before an older copy of its store was
// put back.
func (t *conversation) keepContent(m *wire.Message, sender DeviceID, person int, p *parsed, body []byte, stored wire.Time) error {
	it, err := t.itemOf(sender.User(), p.mimi, body)
	if wire.CodeOf(err) == wire.Malformed {
		t.event(Event{Type: EventUnreadable, Epoch: m.Epoch, By: sender, Err: err})
		return nil
	}
	if err != nil {
		return err
	}
	s, err := t.states()
	if err != nil {
		return err
	}
	if err := s.activate(); err != nil {
		return err
	}
	r, err := s.take(it)
	if err != nil || r.Known {
		return err
	}
	if r.Role != timeline.Message {
		return t.reportChange(s, r, sender)
	}
	n := t.rec.Counters.Message
	t.rec.Counters.Message++
	rec := &messageRecord{
		Version: recordVersion, ID: p.shown.ID, Sender: sender, Stored: stored, Epoch: m.Epoch, Content: body, Status: StatusReceived, Full: it.ID[:],
	}
	own := sender == t.d.self.Device
	if own {
		rec.Status = StatusAccepted
	} else {
		t.rec.Counters.Unread++
	}
	if person > 1 {
		rec.Person = uint32(person)
	}
	if err := s.place(it, n, rec); err != nil {
		return err
	}
	key := messageIDKey(t.id, sender, rec.ID)
	if _, used, err := t.findMessage(sender, rec.ID); err != nil {
		return err
	} else if !used {
		t.u.put(key, number(n))
	}
	shown, err := t.shown(rec, n)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventMessage, Message: shown})
	self := string(t.d.self.Device.User())
	if shown.Gone == Here && it.Sender != self && slices.ContainsFunc(p.mimi.Mentions(nil), func(x content.Mention) bool { return x.URL == self }) {
		t.event(Event{Type: EventMention, Message: shown})
	}
	if !own {
		t.scheduleReceipt(rec.ID)
	}
	return t.save()
}

// take takes in an item, and erases what has ended already.
func (s *states) take(it *timeline.Item) (*timeline.Result, error) {
	r, err := timeline.Take(s, it)
	if err != nil || r.Known {
		return r, err
	}
	now := s.t.d.nowSeconds()
	for _, id := range r.Touched {
		if _, err := timeline.Expire(s, id, now); err != nil {
			return nil, err
		}
	}
	if r.Held.IsZero() {
		return r, nil
	}
	return r, s.hold(it.Sender, r.Held, len(it.Raw))
}

// place puts a message that was taken in into the history as message n. The content of a message that is gone is not
// written.
func (s *states) place(it *timeline.Item, n uint64, rec *messageRecord) error {
	have, err := s.Load(it.ID)
	if err != nil {
		return err
	}
	if have.Erased {
		rec.Content = []byte{}
	}
	if err := s.t.u.putRecord(s.t.keyOf(n), rec); err != nil {
		return err
	}
	if have.Relative && !have.Erased {
		s.t.u.put(recordKey(recordEnding, idPart(s.root), number(n)), it.ID[:])
	}
	have.Place = n + 1
	return s.Save(it.ID, &have)
}

// keyOf returns the key of a new message of the history.
func (t *conversation) keyOf(n uint64) []byte { return messageKey(t.id, n) }

// reportChange emits the event of a content that concerns a message of the history.
func (t *conversation) reportChange(s *states, r *timeline.Result, by DeviceID) error {
	kind, ok := changeByEffect[r.Effect]
	if !ok {
		return nil
	}
	return t.changed(s, r.Message, kind, by)
}

// changed emits EventChanged for a message, if the message is in the history.
func (t *conversation) changed(s *states, id ContentID, kind ChangeKind, by DeviceID) error {
	have, err := s.Load(id)
	if err != nil || have.Place == 0 {
		return err
	}
	rec, _, err := t.messageAt(have.Place - 1)
	if err != nil || rec == nil {
		return err
	}
	m, err := t.shown(rec, have.Place-1)
	if err != nil {
		return err
	}
	t.event(Event{Type: EventChanged, Message: m, Change: kind, By: by})
	return nil
}

// indexBatch bounds the messages that get their states in one turn.
const indexBatch = 256

// activate makes all messages of the conversation get states: the ones that are there in the background, the later
// ones when they come.
func (s *states) activate() error {
	c, err := s.contents()
	if err != nil || c.Indexed {
		return err
	}
	c.Indexed = true
	if err := s.putContents(c); err != nil {
		return err
	}
	from, err := s.t.firstKept()
	if err != nil || from == s.t.rec.Counters.Message {
		return err
	}
	s.t.u.put(recordKey(recordUnindexed, idPart(s.root)), append(number(from), number(s.t.rec.Counters.Message)...))
	s.t.u.then(func() { s.t.d.queues.kick(queueContents) })
	return nil
}

// indexSome gives a batch of messages their states, and reports whether more are left.
func (s *states) indexSome() (more bool, err error) {
	key := recordKey(recordUnindexed, idPart(s.root))
	value, ok, err := s.t.u.Get(key)
	if err != nil || !ok || len(value) != 16 {
		s.t.u.delete(key)
		return false, err
	}
	next, last := parseNumber(value[:8]), parseNumber(value[8:])
	from, err := s.t.firstKept()
	if err != nil {
		return false, err
	}
	next = max(next, from)
	for most := min(last, next+indexBatch); next < most; next++ {
		rec, _, err := s.t.messageAt(next)
		if err != nil {
			return false, err
		}
		if rec == nil {
			continue
		}
		if err := s.index(rec, next); err != nil {
			return false, err
		}
	}
	if next >= last {
		s.t.u.delete(key)
		return false, nil
	}
	s.t.u.put(key, append(number(next), number(last)...))
	return true, nil
}

// index gives a message in the format of Content its state, and applies the contents that have waited for it.
func (s *states) index(rec *messageRecord, n uint64) error {
	if len(rec.Full) > 0 || isMIMI(rec.Content) {
		return nil
	}
	id, err := s.t.contentIDOf(rec.Sender.User(), rec.Content, rec.ID)
	if err != nil {
		return err
	}
	before, err := s.Load(id)
	if err != nil || before.Role != timeline.Unseen {
		return err
	}
	links, err := s.Links(id, "")
	if err != nil {
		return err
	}
	if _, err := s.take(&timeline.Item{ID: id, Sender: string(rec.Sender.User()), Content: content.Plain("")}); err != nil {
		return err
	}
	rec, key, err := s.t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	rec.Full = bytes.Clone(id[:])
	if err := s.t.u.putRecord(key, rec); err != nil {
		return err
	}
	have, err := s.Load(id)
	if err != nil {
		return err
	}
	have.Place = n + 1
	if err := s.Save(id, &have); err != nil {
		return err
	}
	if len(before.Acts) == 0 && len(links) == 0 {
		return nil
	}
	return s.t.changed(s, id, ChangeEarlier, "")
}

// indexNew is index for a message that was just put into the history. It does nothing before activate.
func (t *conversation) indexNew(rec *messageRecord, n uint64) error {
	s, err := t.states()
	if err != nil {
		return err
	}
	c, err := s.contents()
	if err != nil || !c.Indexed {
		return err
	}
	return s.index(rec, n)
}

// forgetContents deletes the state of a message that leaves the history. If the message could still come a second
// time, its id is kept, so that it does not appear again.
func (t *conversation) forgetContents(rec *messageRecord, old bool) error {
	if len(rec.Full) != len(ContentID{}) {
		return nil
	}
	s, err := t.states()
	if err != nil {
		return err
	}
	id := ContentID(rec.Full)
	if err := timeline.Forget(s, id); err != nil || !old {
		return err
	}
	return s.Save(id, nil)
}
