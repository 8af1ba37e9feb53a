package client

import (
	"time"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/timeline"
	"github.com/mlsfed/mlsfed/wire"
)

// Gone says whether a message of the history was erased. Its number stays.
type Gone uint8

// The values.
const (
	Here    Gone = 0
	Deleted Gone = 1 // by Message.GoneBy
	Expired Gone = 2
)

// String returns the name of the value.
func (g Gone) String() string {
	names := [...]string{"", "deleted", "expired"}
	if int(g) < len(names) {
		return names[g]
	}
	return "unknown"
}

// Details are what a Message has in the format of package content, and what later contents have made of it.
type Details struct {
	Full    ContentID // identifies the message for all members
	Version ContentID // of the latest edit, or Full
	Edited  bool
	Gone    Gone
	GoneBy  UserID
	// Reply is the message that this one answers; nil if it answers none.
	Reply *Answered
	Topic []byte // that the message belongs to; empty for none
	// Expires is when the message ends; zero for never, or until it is read. ExpiresAfter is the time from reading to the
	// end; 0 for none.
	Expires      time.Time
	ExpiresAfter time.Duration
	Reactions    []Reaction // sorted by text and user
	Refused      []RefusedChange
	Mentions     []UserID
}

// Answered is the message that a reply answers.
type Answered struct {
	To     ContentID
	Known  bool   // the message is in the history, as Number
	Number uint64 // of the message in the history
}

// Reaction is a reaction of a user to a message.
type Reaction struct {
	Text string // usually one emoji; "" for a reaction without a text, such as a picture
	User UserID
}

// RefusedChange is an attempt by somebody else than the author to change a message. It had no effect.
type RefusedChange struct {
	User   UserID
	Delete bool // otherwise an edit
}

// shown returns a message of the history as it is to be shown now.
func (t *conversation) shown(rec *messageRecord, n uint64) (*Message, error) {
	m, p, err := rec.decode(t.id, n)
	if err != nil {
		return nil, err
	}
	s, err := t.states()
	if err != nil {
		return nil, err
	}
	if m.Full, err = t.fullID(rec); err != nil {
		return nil, err
	}
	m.Version = m.Full
	if p != nil && p.mimi != nil {
		if err := s.describe(m, p.mimi); err != nil {
			return nil, err
		}
	}
	if c, err := s.contents(); err != nil || !c.Indexed {
		return m, err
	}
	have, err := s.Load(m.Full)
	if err != nil || have.Role == timeline.Unseen {
		return m, err
	}
	return m, s.overlay(m, &have)
}

// fullID returns the id of a message for all members. An erased message has it in its record.
func (t *conversation) fullID(rec *messageRecord) (ContentID, error) {
	if len(rec.Full) == len(ContentID{}) {
		return ContentID(rec.Full), nil
	}
	return t.contentIDOf(rec.Sender.User(), rec.Content, rec.ID)
}

// describe sets what a content says beyond Content.
func (s *states) describe(m *Message, c *content.Content) error {
	m.Topic = c.TopicID
	for _, x := range c.Mentions(nil) {
		if u, err := wire.ParseUserID(x.URL); err == nil {
			m.Mentions = append(m.Mentions, u)
		}
	}
	if c.Expires != nil && c.Expires.Relative {
		m.ExpiresAfter = time.Duration(c.Expires.Seconds) * time.Second
	}
	if c.InReplyTo.IsZero() {
		return nil
	}
	root, err := timeline.Root(s, c.InReplyTo)
	if err != nil {
		return err
	}
	on, err := s.Load(root)
	if err != nil {
		return err
	}
	m.Reply = &Answered{To: c.InReplyTo, Known: on.Place > 0}
	if on.Place > 0 {
		m.Reply.Number = on.Place - 1
	}
	return nil
}

// overlay sets what later contents have made of a message.
func (s *states) overlay(m *Message, have *timeline.State) error {
	now := s.t.d.nowSeconds()
	gone, by := have.Gone(now)
	if gone != timeline.Here {
		m.Gone, m.GoneBy, m.Content = Gone(gone), UserID(by), Content{}
		m.Reply, m.Topic, m.Mentions, m.ExpiresAfter = nil, nil, nil, 0
		return nil
	}
	if have.Ends > 0 {
		m.Expires = time.Unix(int64(have.Ends), 0).UTC()
	}
	if e := have.Latest(); e != nil {
		p, err := parseContent(e.Raw)
		if err != nil {
			return err
		}
		m.Edited, m.Version, m.Mentions = true, e.ID, nil
		m.Content.Type, m.Content.Text, m.Content.Body, m.Content.File = p.shown.Type, p.shown.Text, p.shown.Body, p.shown.File
		for _, x := range p.mimi.Mentions(nil) {
			if u, err := wire.ParseUserID(x.URL); err == nil {
				m.Mentions = append(m.Mentions, u)
			}
		}
	}
	for _, r := range have.Refused() {
		m.Refused = append(m.Refused, RefusedChange{User: UserID(r.Sender), Delete: r.Delete})
	}
	reactions, err := timeline.Reactions(s, m.Full, now)
	for _, r := range reactions {
		m.Reactions = append(m.Reactions, Reaction{Text: r.Text, User: UserID(r.Sender)})
	}
	return err
}
