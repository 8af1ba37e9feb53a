package client

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/markdown"
	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/wire"
)

// MaxReaction is the longest text of a reaction, in bytes.
const MaxReaction = 64

// maxExpiry is the longest time until a message ends: receivers may refuse a longer one (draft-ietf-mimi-content §9.1).
const maxExpiry = 365 * 24 * time.Hour

// writing is what a WriteOption sets.
type writing struct {
	reply    *Message
	topic    []byte
	expires  *content.Expiration
	set      bool // expires was given, perhaps as none
	markdown bool
	mentions []UserID
	err      error
}

// WriteOption changes how Write and Reply send a text.
type WriteOption func(*writing)

// ExpireAfter makes the message end a time after a person has read it, and on the devices of the sender that time after
// it was sent. 0 makes the message stay, whatever SetExpiry says. The time is rounded up to seconds.
func ExpireAfter(after time.Duration) WriteOption {
	return func(w *writing) {
		w.set, w.expires = true, nil
		if after < 0 || after > maxExpiry {
			w.err = wire.Errorf(wire.TooLarge, "write", "an end after %v, wanted up to %v", after, maxExpiry)
		} else if after > 0 {
			e := content.ExpireAfter(after)
			w.expires = &e
		}
	}
}

// ExpireAt makes the message end at a time, on all devices.
func ExpireAt(at time.Time) WriteOption {
	return func(w *writing) {
		e := content.ExpireAt(at)
		w.set, w.expires = true, &e
	}
}

// InTopic puts the message into a topic, which is any bytes that the members agree on.
func InTopic(topic []byte) WriteOption { return func(w *writing) { w.topic = topic } }

// Markdown says that the text is in GFM-MIMI (draft-ietf-mimi-content §7.1.1).
func Markdown() WriteOption { return func(w *writing) { w.markdown = true } }

// MentionUsers names users at the begin of the text: their devices emit EventMention.
func MentionUsers(users ...UserID) WriteOption { return func(w *writing) { w.mentions = users } }

// Write sends a text with options. It returns [Invalid] for options that a member's device does not know.
func (d *Device) Write(ctx context.Context, id ConversationID, text string, options ...WriteOption) (MessageID, error) {
	w := new(writing)
	for _, o := range options {
		o(w)
	}
	if w.err != nil {
		return MessageID{}, w.err
	}
	return d.send(ctx, id, Content{Type: ContentText, Text: text}, w)
}

// Reply sends a text as the answer to a message of the history.
func (d *Device) Reply(ctx context.Context, to *Message, text string, options ...WriteOption) (MessageID, error) {
	return d.Write(ctx, to.Conversation, text, append(options, func(w *writing) { w.reply = to })...)
}

// SetExpiry makes the messages that this device sends in a conversation from now on end a time after reading: see
// ExpireAfter. 0 makes them stay.
func (d *Device) SetExpiry(ctx context.Context, id ConversationID, after time.Duration) error {
	if after < 0 || after > maxExpiry {
		return wire.Errorf(wire.TooLarge, "expiry", "%v, wanted up to %v", after, maxExpiry)
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.postableConversation(u, id)
		if err != nil {
			return err
		}
		if after > 0 && !t.writesContent() {
			return t.notAllRead("messages that end")
		}
		s, err := t.states()
		if err != nil {
			return err
		}
		c, err := s.contents()
		if err != nil {
			return err
		}
		c.Posting = uint64((after + time.Second - 1) / time.Second)
		return s.putContents(c)
	})
}

// Expiry returns what SetExpiry has set.
func (d *Device) Expiry(ctx context.Context, id ConversationID) (after time.Duration, err error) {
	return after, d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		s, err := t.states()
		if err != nil {
			return err
		}
		c, err := s.contents()
		after = time.Duration(c.Posting) * time.Second
		return err
	})
}

// notAllRead is the error for something that the devices of some members do not know.
func (t *conversation) notAllRead(what string) error {
	return wire.Errorf(wire.Invalid, "content", "a member of %v has a device whose release does not know %s", t.id, what)
}

// plainText reports whether the options need nothing but the text.
func (w *writing) plainText() bool {
	return w == nil || w.reply == nil && len(w.topic) == 0 && w.expires == nil && !w.markdown && len(w.mentions) == 0
}

// textPart returns the part of a text.
func (w *writing) textPart(text string) content.Part {
	if w == nil || !w.markdown && len(w.mentions) == 0 {
		return plainPart(text)
	}
	if !w.markdown {
		text = markdown.Escape(text)
	}
	var b strings.Builder
	for _, u := range w.mentions {
		b.WriteString(markdown.LinkTo(string(u), "@"+u.Name()) + " ")
	}
	return content.MarkdownPart(b.String() + text)
}

// send sends a content with options; w is nil for none.
func (d *Device) send(ctx context.Context, id ConversationID, c Content, w *writing) (MessageID, error) {
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
		t, err := d.postableConversation(u, id)
		if err != nil {
			return err
		}
		return t.post(&c, body, w)
	})
	d.Reconnect()
	return c.ID, err
}

// post queues an own message in the format of the conversation. body is its encoding in the format of Content.
func (t *conversation) post(c *Content, body []byte, w *writing) error {
	if !t.writesContent() || !fitsMIMI(c) {
		return t.postOld(c, body, w)
	}
	s, err := t.states()
	if err != nil {
		return err
	}
	if err := s.activate(); err != nil {
		return err
	}
	m := mimiOf(c, w.textPart)
	if err := s.write(m, w); err != nil {
		return err
	}
	if body, err = m.Encode(content.Limits{}); err != nil {
		return tooLarge(err)
	}
	it, err := t.itemOf(t.d.self.Device.User(), m, body)
	if err != nil {
		return err
	}
	n := t.rec.Counters.Message
	if err := t.queueMessage(c, body); err != nil {
		return err
	}
	if _, err := s.take(it); err != nil {
		return err
	}
	rec, _, err := t.messageAt(n)
	if err != nil {
		return err
	}
	rec.Full = it.ID[:]
	if err := s.place(it, n, rec); err != nil {
		return err
	}
	t.u.delete(recordKey(recordEnding, idPart(s.root), number(n)))
	_, err = timeline.Read(s, it.ID, t.d.nowSeconds()) // the sender has read it
	return err
}

// postOld queues an own message in the format of Content, which knows replies and no other option.
func (t *conversation) postOld(c *Content, body []byte, w *writing) error {
	if !w.plainText() {
		if w.topic != nil || w.expires != nil || w.markdown || len(w.mentions) > 0 || w.reply == nil {
			return t.notAllRead("this kind of message")
		}
		c.Refs = []MessageID{w.reply.ID}
		var err error
		if body, err = EncodeContent(c); err != nil {
			return err
		}
	}
	n := t.rec.Counters.Message
	if err := t.queueMessage(c, body); err != nil {
		return err
	}
	rec, _, err := t.messageAt(n)
	if err != nil {
		return err
	}
	return t.indexNew(rec, n)
}

// keepToFormat gives an own message that waits the format of Content, if a device that knows no other has joined
// meanwhile. A content that loses something in that format, such as its end, stays: that device cannot read it.
func (t *conversation) keepToFormat(o *outgoingRecord) error {
	if o.Local == 0 || !isMIMI(o.Content) || t.writesContent() {
		return nil
	}
	p, err := parseContent(o.Content)
	if err != nil {
		return err
	}
	m := p.mimi
	if m.Expires != nil || len(m.TopicID) > 0 || !m.InReplyTo.IsZero() || !fitsMIMI(p.shown) || len(m.Mentions(nil)) > 0 {
		return nil
	}
	body, err := EncodeContent(p.shown)
	if err != nil {
		return err
	}
	rec, key, err := t.messageAt(o.Local - 1)
	if err != nil || rec == nil || len(rec.Content) == 0 {
		return err
	}
	if err := t.forgetContents(rec, true); err != nil {
		return err
	}
	rec.Content, rec.Full, o.Content = body, nil, body
	if err := t.u.putRecord(key, rec); err != nil {
		return err
	}
	return t.indexNew(rec, o.Local-1)
}

func tooLarge(err error) error {
	if errors.Is(err, content.ErrLimit) {
		return wire.Errorf(wire.TooLarge, "content", "%v", err)
	}
	return err
}

// write sets the fields of a new message.
func (s *states) write(m *content.Content, w *writing) error {
	c, err := s.contents()
	if err != nil {
		return err
	}
	if c.Posting > 0 && (w == nil || !w.set) {
		m.WithExpires(content.ExpireAfter(time.Duration(c.Posting) * time.Second))
	}
	if w == nil {
		return nil
	}
	if w.expires != nil {
		m.WithExpires(*w.expires)
	}
	m.TopicID = w.topic
	if w.reply == nil {
		return nil
	}
	on, err := s.message(w.reply)
	if err != nil {
		return err
	}
	m.InReplyTo = on.version
	return nil
}

// named is a message of the history that an act names.
type named struct {
	id, version ContentID
	rec         *messageRecord
	state       timeline.State
}

// message finds a message of the history that the caller got from History or an event, and gives it a state.
func (s *states) message(m *Message) (*named, error) {
	rec, _, err := s.t.messageAt(m.Number)
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.ID != m.ID || rec.Sender != m.Sender {
		return nil, wire.Errorf(wire.NotFound, "content", "message %v is not in the history of this device", m.ID)
	}
	if err := s.index(rec, m.Number); err != nil {
		return nil, err
	}
	if rec, _, err = s.t.messageAt(m.Number); err != nil {
		return nil, err
	}
	on := &named{id: ContentID(rec.Full), rec: rec}
	if on.state, err = s.Load(on.id); err != nil {
		return nil, err
	}
	switch gone, _ := on.state.Gone(s.t.d.nowSeconds()); gone {
	case timeline.Deleted:
		return nil, wire.Errorf(wire.NotFound, "content", "message %v was deleted", m.ID)
	case timeline.Expired:
		return nil, wire.Errorf(wire.NotFound, "content", "message %v has expired", m.ID)
	}
	on.version = on.id
	if e := on.state.Latest(); e != nil {
		on.version = e.ID
	}
	return on, nil
}

// act sends a content that concerns a message of the history. build makes the contents; none is fine.
func (d *Device) act(ctx context.Context, m *Message, build func(*states, *named) ([]*content.Content, error)) ([]ContentID, error) {
	var ids []ContentID
	err := d.turn(ctx, func(u *unit) error {
		ids = nil
		t, err := d.postableConversation(u, m.Conversation)
		if err != nil {
			return err
		}
		if !t.writesContent() {
			return t.notAllRead("reactions, edits and deletes")
		}
		s, err := t.states()
		if err == nil {
			err = s.activate()
		}
		if err != nil {
			return err
		}
		on, err := s.message(m)
		if err != nil {
			return err
		}
		list, err := build(s, on)
		if err != nil {
			return err
		}
		for _, c := range list {
			id, err := s.sendAct(c)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return t.save()
	})
	d.Reconnect()
	return ids, err
}

// sendAct queues an own content that concerns a message, and applies it here.
func (s *states) sendAct(c *content.Content) (ContentID, error) {
	d := s.t.d
	if err := d.random(c.Salt[:]); err != nil {
		return ContentID{}, err
	}
	c.SetTime(d.now().Std())
	body, err := c.Encode(content.Limits{})
	if err != nil {
		return ContentID{}, tooLarge(err)
	}
	it, err := s.t.itemOf(d.self.Device.User(), c, body)
	if err != nil {
		return ContentID{}, err
	}
	r, err := s.take(it)
	if err != nil {
		return ContentID{}, err
	}
	if err := s.t.reportChange(s, r, d.self.Device); err != nil {
		return ContentID{}, err
	}
	return it.ID, s.t.queueRecord(&outgoingRecord{Version: recordVersion, Content: body, Act: it.ID[:]})
}

// React reacts to a message with a text, usually one emoji. It returns the id of the reaction. If the user has reacted
// with the same text, it returns the id of that reaction and sends nothing. EventActed reports when the organization has
// the reaction, as for the other methods that change messages.
func (d *Device) React(ctx context.Context, m *Message, text string) (ContentID, error) {
	text = strings.TrimSpace(markdown.Clean(text))
	if text == "" || len(text) > MaxReaction {
		return ContentID{}, wire.Errorf(wire.TooLarge, "react", "a reaction of %d bytes, wanted 1 to %d", len(text), MaxReaction)
	}
	var have ContentID
	ids, err := d.act(ctx, m, func(s *states, on *named) ([]*content.Content, error) {
		own, err := s.ownReactions(on.id)
		for _, r := range own {
			if r.Text == text {
				have = r.ID
				return nil, err
			}
		}
		return []*content.Content{content.Reaction(on.version, text)}, err
	})
	if err == nil && len(ids) > 0 {
		have = ids[0]
	}
	return have, err
}

// ownReactions returns the reactions of this device's user to a message.
func (s *states) ownReactions(id ContentID) (own []timeline.ShownReaction, err error) {
	return timeline.ReactionsOf(s, id, string(s.t.d.self.Device.User()), s.t.d.nowSeconds())
}

// Unreact withdraws the reactions of this device's user to a message that have a text; all of them if text is "". It
// returns the ids of the sent contents, and [NotFound] if there is no such reaction.
func (d *Device) Unreact(ctx context.Context, m *Message, text string) ([]ContentID, error) {
	return d.act(ctx, m, func(s *states, on *named) ([]*content.Content, error) {
		own, err := s.ownReactions(on.id)
		if err != nil {
			return nil, err
		}
		var list []*content.Content
		seen := make(map[ContentID]bool)
		for _, r := range own {
			if (text == "" || r.Text == text) && !seen[r.ID] {
				seen[r.ID] = true
				list = append(list, content.Unlike(r.ID, on.version))
			}
		}
		if len(list) == 0 {
			return nil, wire.Errorf(wire.NotFound, "react", "you have no such reaction to message %v", m.ID)
		}
		return list, nil
	})
}

// Edit gives a text message of this device's user another text, or a file another caption. It returns the id of the
// edit.
func (d *Device) Edit(ctx context.Context, m *Message, text string) (ContentID, error) {
	if text == "" || len(text) > MaxText {
		return ContentID{}, wire.Errorf(wire.TooLarge, "edit", "a text of %d bytes, wanted 1 to %d", len(text), MaxText)
	}
	ids, err := d.act(ctx, m, func(s *states, on *named) ([]*content.Content, error) {
		if err := s.mayChange(on, m); err != nil {
			return nil, err
		}
		p, err := parseContent(on.rec.Content)
		if err != nil {
			return nil, err
		}
		body := plainPart(text)
		switch p.shown.Type {
		case ContentText:
		case ContentFile:
			body = content.MultiPart(content.ProcessAll, body, filePart(p.shown.File))
		default:
			return nil, wire.Errorf(wire.Invalid, "edit", "message %v is neither a text nor a file", m.ID)
		}
		return []*content.Content{content.Edit(p.mimi, on.id, on.state.Highest()+1, body)}, nil
	})
	if err != nil || len(ids) == 0 {
		return ContentID{}, err
	}
	return ids[0], nil
}

// Delete deletes a message of this device's user for all members: their devices erase it, and show that it was deleted.
// A member can have kept a copy. Delete returns the id of the request.
func (d *Device) Delete(ctx context.Context, m *Message) (ContentID, error) {
	ids, err := d.act(ctx, m, func(s *states, on *named) ([]*content.Content, error) {
		if err := s.mayChange(on, m); err != nil {
			return nil, err
		}
		return []*content.Content{content.Delete(nil, on.id)}, nil
	})
	if err != nil || len(ids) == 0 {
		return ContentID{}, err
	}
	return ids[0], nil
}

// mayChange refuses to change a message of somebody else.
func (s *states) mayChange(on *named, m *Message) error {
	if on.state.Sender != string(s.t.d.self.Device.User()) {
		return wire.Errorf(wire.Invalid, "content", "message %v is one of %s: only its author can edit or delete it", m.ID, m.Sender.User())
	}
	return nil
}

// acted ends an own content that is not in the history.
func (t *conversation) acted(o *outgoing, why error) {
	if len(o.record.Act) == len(ContentID{}) {
		t.event(Event{Type: EventActed, Content: ContentID(o.record.Act), Err: why})
	}
}
