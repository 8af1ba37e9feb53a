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
	MaxSearch  = 10000 // messages that one page looks through
	maxPattern = 1024  // bytes of Query.Search
)

// Message is one of the local history.
type Message struct {
	Conversation wire.ConversationID
	Number       uint64 // in the history of this device, from 0, without holes
	ID           MessageID
	Sender       wire.DeviceID
	Person       int       // the sender's number among the persons with that name, as Member.Person; 1 if nothing else is known
	Time         time.Time // the sender's clock, as it claims
	Stored       time.Time // when the organization stored it; of an own one, when it was made
	Epoch        wire.Epoch
	Content      Content
	Status       Status
	Delivered    int    // devices that have sent a receipt
	Error        string // of StatusRefused, and of StatusAccepted where some members will not get it
}

func (r *messageRecord) message(id wire.ConversationID, n uint64) (*Message, error) {
	c, err := DecodeContent(r.Content)
	if err != nil {
		return nil, err
	}
	return &Message{
		Conversation: id, Number: n, ID: r.ID, Sender: r.Sender, Person: max(1, int(r.Person)), Time: c.Time.Std(), Stored: r.Stored.Std(), Epoch: r.Epoch,
		Content: *c, Status: r.Status, Delivered: int(r.Delivered), Error: r.Error,
	}, nil
}

// Query asks for a page of the history. The zero Query asks for the newest messages.
type Query struct {
	// Before asks for messages with smaller numbers; 0 for the newest. After asks for those from a number
	// on instead, if Forward is set.
	Before  uint64
	After   uint64
	Forward bool
	Limit   int // 0 for 50, at most MaxPage
	// Search keeps messages whose text or file name holds it, without regard to case.
	Search string
}

// Page is what a Query found, oldest first.
type Page struct {
	Messages []Message
	// Next continues: the Before, or with Forward the After, of the next page. More says whether there is one.
	Next uint64
	More bool
}

// History gives a page of a conversation's messages, also of one that this device has left.
func (d *Device) History(ctx context.Context, id wire.ConversationID, q Query) (*Page, error) {
	if q.Limit == 0 {
		q.Limit = 50
	}
	if q.Limit < 0 || q.Limit > MaxPage || len(q.Search) > maxPattern {
		return nil, wire.Errorf(wire.TooLarge, "history", "page of %d messages for a pattern of %d bytes, at most %d and %d", q.Limit, len(q.Search), MaxPage, maxPattern)
	}
	page := &Page{}
	return page, d.turn(ctx, func(u *unit) error {
		t, err := d.knownThread(u, id)
		if err != nil {
			return err
		}
		if q.Forward {
			return t.forward(q, page)
		}
		return t.backward(q, page)
	})
}

func (t *thread) forward(q Query, page *Page) error {
	from, err := t.begins()
	if err != nil {
		return err
	}
	n := max(q.After, from)
	for looked := 0; n < t.rec.Counters.Message && len(page.Messages) < q.Limit && looked < MaxSearch; looked++ {
		if err := t.match(q, n, page); err != nil {
			return err
		}
		n++
	}
	page.Next, page.More = n, n < t.rec.Counters.Message
	return nil
}

func (t *thread) backward(q Query, page *Page) error {
	from, err := t.begins()
	if err != nil {
		return err
	}
	n := t.rec.Counters.Message
	if q.Before > 0 {
		n = min(n, q.Before)
	}
	for looked := 0; n > from && len(page.Messages) < q.Limit && looked < MaxSearch; looked++ {
		n--
		if err := t.match(q, n, page); err != nil {
			return err
		}
	}
	page.Next, page.More = n, n > from
	for i, j := 0, len(page.Messages)-1; i < j; i, j = i+1, j-1 {
		page.Messages[i], page.Messages[j] = page.Messages[j], page.Messages[i]
	}
	return nil
}

// match adds message n to a page if it holds what is searched for.
func (t *thread) match(q Query, n uint64, page *Page) error {
	rec, _, err := t.messageAt(n)
	if err != nil || rec == nil {
		return err
	}
	m, err := rec.message(t.id, n)
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
