package client

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// TestDeleteMessages checks that the oldest messages are deleted in several batches, together with the index of those
// that cannot come again. Pages, unread counts and later messages work with the remaining ones.
func TestDeleteMessages(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	const old, young = 2*trimBatch + 3, 4
	var want []string
	for i := range old + young {
		text := fmt.Sprint("text ", i)
		if i >= old {
			want = append(want, "alice: "+text)
		}
		_, err := a.SendText(t.Context(), id, text)
		check(t, err)
	}
	eventually(t, func() error {
		c, err := b.Conversation(t.Context(), id)
		if err == nil && c.Messages != old+young {
			err = fmt.Errorf("%d messages", c.Messages)
		}
		return err
	})
	cut := time.Now()
	check(t, b.turn(t.Context(), func(u *unit) error { // as if they had been stored in other months
		c, err := b.findConversation(u, id)
		if err != nil {
			return err
		}
		for n := range uint64(old + young) {
			rec, key, err := c.messageAt(n)
			if err != nil {
				return err
			}
			age := 40 * 24 * time.Hour
			switch {
			case n >= old:
				age = -time.Minute
			case n >= old-2:
				age = time.Minute
			}
			rec.Stored = b.now() - wire.Time(age.Milliseconds())
			if err := u.putRecord(key, rec); err != nil {
				return err
			}
		}
		return nil
	}))
	n, err := b.DeleteMessages(t.Context(), id, cut)
	if err != nil || n != old {
		t.Fatalf("%d messages are deleted, %v; wanted %d", n, err, old)
	}
	if got := b.texts(id); !slices.Equal(got, want) {
		t.Errorf("left is %q", got)
	}
	page, err := b.History(t.Context(), id, Query{Limit: 2})
	if err != nil || len(page.Messages) != 2 || !page.More {
		t.Errorf("%d messages, more: %v, %v", len(page.Messages), page.More, err)
	}
	if page, err = b.History(t.Context(), id, Query{Before: page.Next}); err != nil || len(page.Messages) != 2 || page.More {
		t.Errorf("then %d messages, more: %v, %v", len(page.Messages), page.More, err)
	}
	if page, err = b.History(t.Context(), id, Query{Forward: true, Limit: 10}); err != nil || len(page.Messages) != young {
		t.Errorf("forward %d messages, %v", len(page.Messages), err)
	}
	if c, err := b.Conversation(t.Context(), id); err != nil || c.Unread != young {
		t.Errorf("%d are unread, %v", c.Unread, err)
	}
	indexed := 0
	check(t, b.turn(t.Context(), func(u *unit) error {
		return u.Scan(recordKey(recordMessageID, idPart(id)), func(_, value []byte) error {
			if parseNumber(value) != noPlace {
				indexed++
			}
			return nil
		})
	}))
	if indexed != young+2 {
		t.Errorf("%d messages are in the index, wanted the %d that are left and the 2 of the last month", indexed, young)
	}
	if n, err := b.DeleteMessages(t.Context(), id, cut); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	_, err = a.SendText(t.Context(), id, "later")
	check(t, err)
	hasTexts(t, b, id, append(want, "alice: later")...)
}
