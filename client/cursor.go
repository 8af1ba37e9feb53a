package client

import (
	"context"
	"crypto/sha256"
	"unicode/utf8"

	"github.com/mlsfed/mlsfed/wire"
)

// recordConsumer is the letter of the records that hold named cursors: conversation, hash of the name → cursorRecord.
const recordConsumer = 'U'

// Bounds of named cursors.
const (
	MaxCursors    = 64 // of one conversation
	MaxCursorName = 64 // bytes of UTF-8
)

// cursorRecord is the position up to which a consumer has read.
type cursorRecord struct {
	Version uint8  `cbor:"1,keyasint"`
	Name    string `cbor:"2,keyasint"`
	Next    uint64 `cbor:"3,keyasint,omitempty"` // the number of the first message that the consumer has not handled
}

func consumerKey(id ConversationID, name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return recordKey(recordConsumer, idPart(id), sum[:16])
}

// MarkRead sets a conversation's count of unread messages to zero.
func (d *Device) MarkRead(ctx context.Context, id ConversationID) error {
	return d.MarkReadTo(ctx, id, ^uint64(0))
}

// MarkReadTo counts the messages with numbers below next as read. Messages that were read before stay read.
func (d *Device) MarkReadTo(ctx context.Context, id ConversationID, next uint64) error {
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			err = t.beginEnds(next)
		}
		if err != nil || t.rec.Counters.Unread == 0 {
			return err
		}
		c := &t.rec.Counters
		left := uint64(0)
		for n := c.Message; n > next && left < c.Unread; n-- {
			received, err := t.isReceived(n - 1)
			if err != nil {
				return err
			}
			if received {
				left++
			}
		}
		if left == c.Unread {
			return nil
		}
		c.Unread = left
		return t.save()
	})
}

// isReceived reports whether message n is one that counts as unread until it is read.
func (t *conversation) isReceived(n uint64) (bool, error) {
	rec, _, err := t.messageAt(n)
	return err == nil && rec != nil && rec.Status == StatusReceived, err
}

// FirstUnread returns the number of the first unread message, or of the next message to come.
func (d *Device) FirstUnread(ctx context.Context, id ConversationID) (uint64, error) {
	var first uint64
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		first = t.rec.Counters.Message
		n := first
		for left := t.rec.Counters.Unread; left > 0 && n > 0; {
			n--
			received, err := t.isReceived(n)
			if err != nil {
				return err
			}
			if received {
				first = n
				left--
			}
		}
		return nil
	})
	return first, err
}

// Cursor returns the number of the first message that a consumer has not handled: 0 for a name that was never moved.
// A cursor is durable, belongs to this device, and continues in a conversation that succeeds another.
func (d *Device) Cursor(ctx context.Context, id ConversationID, name string) (uint64, error) {
	var next uint64
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err == nil {
			next, _, err = t.cursor(name)
		}
		return err
	})
	return next, err
}

// cursor also reports whether a cursor with that name exists.
func (t *conversation) cursor(name string) (next uint64, found bool, err error) {
	id, r := t.id, t.rec
	for r != nil {
		c := new(cursorRecord)
		ok, err := t.u.getRecord(consumerKey(id, name), c)
		if err != nil || ok {
			return c.Next, ok, err
		}
		if id, r, err = t.predecessor(r); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// SetCursor moves a consumer's cursor, also backwards. It returns [Invalid] if the name is empty, longer than
// MaxCursorName bytes or not UTF-8, and [Quota] if the conversation already has MaxCursors.
func (d *Device) SetCursor(ctx context.Context, id ConversationID, name string, next uint64) error {
	if name == "" || len(name) > MaxCursorName || !utf8.ValidString(name) {
		return wire.Errorf(wire.Invalid, "cursor", "a name of %d bytes, wanted 1 to %d of UTF-8", len(name), MaxCursorName)
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		key := consumerKey(t.id, name)
		if _, ok, err := u.Get(key); err != nil || !ok {
			count := 0
			if err == nil {
				err = u.Scan(recordKey(recordConsumer, idPart(t.id)), func(_, _ []byte) error { count++; return nil })
			}
			if err != nil {
				return err
			}
			if count >= MaxCursors {
				return wire.Errorf(wire.Quota, "cursor", "%v has %d cursors already: use one of them", t.id, count)
			}
		}
		return u.putRecord(key, &cursorRecord{Version: recordVersion, Name: name, Next: next})
	})
}

// Each calls handle with each message of a conversation in order, from a consumer's cursor on, and moves the cursor
// after each call that returns nil. It waits for further messages until ctx ends. If handle fails, Each returns its
// error, and the same message comes again the next time. So each message is handled once, unless the process dies
// between handle and the move. A consumer for which that matters remembers the ids of the last messages, or makes its
// action idempotent under Message.ID. Messages of this device are included: see Message.Sender. If several calls use
// one cursor, each message goes to one of them. handle must not call Each or EachSoFar with the same cursor: that
// call would wait for itself.
func (d *Device) Each(ctx context.Context, id ConversationID, cursor string, handle func(context.Context, *Message) error) error {
	events := d.Subscribe(ctx) // before reading the history, so that no message is missed
	if err := d.EachSoFar(ctx, id, cursor, handle); err != nil {
		return err
	}
	for e := range events {
		if e.Type != EventMessage && e.Type != EventAccepted && e.Type != EventMissed {
			continue
		}
		if err := d.EachSoFar(ctx, id, cursor, handle); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// consumer is a cursor at which calls handle messages, or wait to handle them.
type consumer struct {
	turn  chan struct{} // holds a value while a call handles messages
	calls int           // guarded by Device.mu
}

// consume waits until no other call handles messages at a cursor; done admits the next call.
func (d *Device) consume(ctx context.Context, id ConversationID, cursor string) (done func(), err error) {
	key := string(consumerKey(id, cursor))
	d.mu.Lock()
	c := d.consumers[key]
	if c == nil {
		c = &consumer{turn: make(chan struct{}, 1)}
		d.consumers[key] = c
	}
	c.calls++
	d.mu.Unlock()
	part := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if c.calls--; c.calls == 0 {
			delete(d.consumers, key)
		}
	}
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn; part() }, nil
	case <-ctx.Done():
		part()
		return nil, context.Cause(ctx)
	}
}

// EachSoFar is Each without waiting: it returns nil after the last message that is stored.
func (d *Device) EachSoFar(ctx context.Context, id ConversationID, cursor string, handle func(context.Context, *Message) error) error {
	done, err := d.consume(ctx, id, cursor)
	if err != nil {
		return err
	}
	defer done()
	next, err := d.Cursor(ctx, id, cursor)
	for err == nil {
		var page *Page
		if page, err = d.History(ctx, id, Query{Forward: true, After: next}); err != nil {
			break
		}
		for i := range page.Messages {
			m := &page.Messages[i]
			if err = handle(ctx, m); err != nil {
				return err
			}
			next = m.Number + 1
			// The cursor moves even if ctx has ended meanwhile: otherwise a handled message would come twice.
			if err = d.SetCursor(context.WithoutCancel(ctx), id, cursor, next); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		next = max(next, page.Next)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
