package client

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/content"
)

// nested returns an encoded content whose body has so many levels.
func nested(levels int) []byte {
	b := append([]byte{0x87, 0x50}, bytes.Repeat([]byte{1}, 16)...)
	b = append(b, 0xf6, 0x40, 0xf6, 0xf6, 0xa0)
	for range levels {
		b = append(b, 0x85, 0x01, 0x60, 0x03, 0x02) // a part of two parts that follow: see docs/spec/content.md
		b = append(b, 0x82)
	}
	return append(b, 0x85, 0x01, 0x60, 0x01, 0x60, 0x40)
}

// TestHostileContents checks that contents which break the rules, or use them up, leave the devices of others working:
// they are refused or shown, and messages after them come.
func TestHostileContents(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	ctx := t.Context()
	first, err := a.SendText(ctx, id, "mine")
	check(t, err)
	m := b.message(id, first, saying("mine"))
	c.message(id, first, nil)
	raw := func(x *content.Content) []byte {
		check(t, b.random(x.Salt[:]))
		body, err := x.Encode(content.Limits{Parts: 1 << 20, Size: 1 << 20})
		check(t, err)
		return body
	}
	parts := make([]content.Part, 10000)
	for i := range parts {
		parts[i] = content.SinglePart("", nil)
	}
	strange := content.Message(content.Part{Disposition: 200, Cardinality: 9})
	other := content.Plain("of another room")
	other.SetExtension(content.KeyRoom, content.TextString("mimi:///r/00"))
	forged := content.Plain("of another sender")
	forged.SetExtension(content.KeySender, content.TextString(string(a.id.User())))
	refused := [][]byte{
		nested(1000), raw(content.Message(content.MultiPart(content.ProcessAll, parts...))), {0x87}, bytes.Repeat([]byte{0x9f}, 1000),
		raw(other), raw(forged),
	}
	for _, body := range refused {
		b.sendRaw(id, body)
	}
	shown := []*content.Content{
		content.Text("[" + strings.Repeat("*", 5000) + "](mimi://a.example/u/alice)" + strings.Repeat("> ", 5000)),
		strange,
		content.Plain("in 1970").WithExpires(content.Expiration{}),
		content.Plain("in 2106").WithExpires(content.Expiration{Seconds: 1<<32 - 1}),
		content.Plain("long").WithExpires(content.Expiration{Relative: true, Seconds: 1<<32 - 1}),
		content.Plain("at once").WithExpires(content.Expiration{Relative: true}),
		content.Reply(ContentID{1, 7}, plainPart("to nothing")).WithTopic(bytes.Repeat([]byte{1}, content.DefaultTopic)),
	}
	unshown := []*content.Content{
		content.Reaction(ContentID{1, 9}, "to nothing"),
		content.Edit(nil, ContentID{1, 9}, content.MaxEdits, plainPart("of nothing")),
		content.Delete(nil, ContentID{1, 9}),
		content.Edit(nil, m.Full, content.MaxEdits, plainPart("of another's")),
		content.Reaction(m.Full, strings.Repeat("\u202e", 50000), "x", "x", "x", "x", "x", "x"),
		content.Profile(plainPart("a profile")),
		{},
	}
	var bodies [][]byte
	for _, x := range append(shown, unshown...) {
		bodies = append(bodies, raw(x))
		b.sendRaw(id, bodies[len(bodies)-1])
		b.sendRaw(id, bodies[len(bodies)-1]) // twice
	}
	last, err := b.SendText(ctx, id, "after all")
	check(t, err)
	for _, p := range []*peer{a, c} {
		p.message(id, last, saying("after all"))
		if n := len(p.events(EventUnreadable)); n != len(refused) {
			t.Errorf("%s could not read %d contents, wanted %d", p.id, n, len(refused))
		}
		page, err := p.History(ctx, id, Query{Limit: MaxPage})
		check(t, err)
		if len(page.Messages) != len(shown)+2 {
			t.Errorf("%s has %d messages, wanted %d", p.id, len(page.Messages), len(shown)+2)
		}
		for i := range page.Messages {
			m := &page.Messages[i]
			if len(m.Content.Text) > 64<<10 || len(m.Reactions) > 8 {
				t.Errorf("message %d has a text of %d bytes and %d reactions", m.Number, len(m.Content.Text), len(m.Reactions))
			}
			for _, r := range m.Reactions {
				if len(r.Text) > MaxReaction {
					t.Errorf("a reaction has %d bytes", len(r.Text))
				}
			}
		}
		if m := p.message(id, first, saying("mine")); m.Edited || len(m.Refused) != 1 {
			t.Errorf("%s: alice's message is %+v", p.id, m.Details)
		}
		check(t, p.MarkRead(ctx, id))
		eventually(t, func() error {
			if found := append(p.holds("in 1970"), p.holds("at once")...); len(found) > 0 {
				return fmt.Errorf("%s keeps texts that have ended in %q", p.id, found)
			}
			return nil
		})
		p.restart()
		p.message(id, last, saying("after all"))
	}
	check(t, errorOf(c.React(ctx, c.message(id, last, nil), "+")))
	a.message(id, last, reactions("carol +"))
	if n := time.Until(a.message(id, last, nil).Expires); n > 0 {
		t.Error("the last message ends")
	}
}
