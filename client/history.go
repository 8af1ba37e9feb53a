package client

import (
	"context"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of one page of the history.
const (
	MaxPage    = 500   // messages
	MaxSearch  = 10000 // messages that one page searches
	maxPattern = 1024  // bytes of Query.Search
)

// Message is a message of the local history.
type Message struct {
	Conversation ConversationID
	Number       uint64 // position in the history of this device, from 0, without holes
	ID           MessageID
	Sender       DeviceID
	Person       int       // the sender's number among the persons with that name, as in Member.Person, or 1
	Time         time.Time // the sender's clock, as it claims
	Stored       time.Time // when the organization stored it; for an own message, when it was made
	Epoch        Epoch
	Content      Content
	Status       Status
	Delivered    int    // number of devices that have sent a receipt
	Error        string // for StatusRefused, and for StatusAccepted if some members will not get the message
	Details
}

// decode returns a message as it was sent. An erased message has no content.
func (r *messageRecord) decode(id ConversationID, n uint64) (*Message, *parsed, error) {
	m := &Message{
		Conversation: id, Number: n, ID: r.ID, Sender: r.Sender, Person: max(1, int(r.Person)), Time: r.Stored.Std(), Stored: r.Stored.Std(), Epoch: r.Epoch,
		Status: r.Status, Delivered: int(r.Delivered), Error: r.Error,
	}
	if len(r.Content) == 0 {
		return m, nil, nil
	}
	p, err := parseContent(r.Content)
	if err != nil {
		return nil, nil, err
	}
	m.Time, m.Content = p.shown.Time.Std(), *p.shown
	return m, p, nil
}

// Query asks for a page of the history. The zero Query asks for the newest messages.
type Query struct {
	// Before selects messages with smaller numbers; 0 selects the newest. If Forward is set, After selects messages
	// from a number on instead.
	Before  uint64
	After   uint64
	Forward bool
	Limit   int // 0 for 50, at most MaxPage
	// Search keeps messages whose present text or file name contains it, ignoring case.
	Search string
}

// Page is the result of a Query, oldest message first.
type Page struct {
	Messages []Message
	// Next is the Before, or with Forward the After, of the next page. More reports whether there is a next page.
	Next uint64
	More bool
}

// History returns a page of a conversation's messages, also for a conversation that this device has left.
func (d *Device) History(ctx context.Context, id ConversationID, q Query) (*Page, error) {
	if q.Limit == 0 {
		q.Limit = 50
	}
	if q.Limit < 0 || q.Limit > MaxPage || len(q.Search) > maxPattern {
		return nil, wire.Errorf(wire.TooLarge, "history", "page of %d messages for a pattern of %d bytes, at most %d and %d", q.Limit, len(q.Search), MaxPage, maxPattern)
	}
	page := &Page{}
	return page, d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		if q.Forward {
			return t.forward(q, page)
		}
		return t.backward(q, page)
	})
}

func (t *conversation) forward(q Query, page *Page) error {
	from, err := t.firstKept()
	if err != nil {
		return err
	}
	n := max(q.After, from)
	for looked := 0; n < t.rec.Counters.Message && len(page.Messages) < q.Limit && looked < MaxSearch; looked++ {
		if err := t.addIfMatches(q, n, page); err != nil {
			return err
		}
		n++
	}
	page.Next, page.More = n, n < t.rec.Counters.Message
	return nil
}

func (t *conversation) backward(q Query, page *Page) error {
	from, err := t.firstKept()
	if err != nil {
		return err
	}
	n := t.rec.Counters.Message
	if q.Before > 0 {
		n = min(n, q.Before)
	}
	for looked := 0; n > from && len(page.Messages) < q.Limit && looked < MaxSearch; looked++ {
		n--
		if err := t.addIfMatches(q, n, page); err != nil {
			return err
		}
	}
	page.Next, page.More = n, n > from
	for i, j := 0, len(page.Messages)-1; i < j; i, j = i+1, j-1 {
		page.Messages[i], page.Messages[j] = page.Messages[j], page.Messages[i]
	}
	return nil
}

// addIfMatches adds message n to a page if it matches the search.
func (t *conversation) addIfMatches(q Query, n uint64, page *Page) error {
	rec, _, err := t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	m, err := t.shown(rec, n)
	if err != nil {
		return err
	}
	if q.Search != "" && !contains(&m.Content, q.Search) {
		return nil
	}
	page.Messages = append(page.Messages, *m)
	return nil
}

func contains(c *Content, pattern string) bool {
	pattern = strings.ToLower(pattern)
	return strings.Contains(strings.ToLower(c.Text), pattern) ||
		c.File != nil && strings.Contains(strings.ToLower(c.File.Name), pattern)
}
