package client

import (
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// delivered waits until an own message was delivered to this number of devices.
func delivered(t testing.TB, p *peer, id wire.ConversationID, m MessageID, want uint32) {
	t.Helper()
	eventually(t, func() error {
		page, err := p.History(t.Context(), id, Query{Limit: MaxPage})
		if err != nil {
			return err
		}
		for _, have := range page.Messages {
			if have.ID == m {
				if uint32(have.Delivered) == want {
					return nil
				}
				return fmt.Errorf("delivered to %d devices, want %d", have.Delivered, want)
			}
		}
		return fmt.Errorf("no message %v", m)
	})
}

// TestReceiptsCountDevices checks that a message counts each device once that has sent receipts, even several.
func TestReceiptsCountDevices(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	m, err := a.SendText(t.Context(), id, "did you get it?")
	check(t, err)
	delivered(t, a, id, m, 2)
	refs := make([]MessageID, MaxReceipts)
	for i := range refs {
		refs[i] = m
	}
	for range 3 { // each receipt is a separate message
		_, err = b.Send(t.Context(), id, Content{Type: ContentReceipt, Refs: refs})
		check(t, err)
	}
	// Its own device does not count, nor does a device that confirms messages of others.
	_, err = a.Send(t.Context(), id, Content{Type: ContentReceipt, Refs: refs[:1]})
	check(t, err)
	foreign, err := c.SendText(t.Context(), id, "mine")
	check(t, err)
	delivered(t, c, id, foreign, 2)
	_, err = b.Send(t.Context(), id, Content{Type: ContentReceipt, Refs: []MessageID{foreign, {1}, m}})
	check(t, err)
	last, err := b.SendText(t.Context(), id, "after all receipts")
	check(t, err)
	delivered(t, b, id, last, 2) // alice has taken in bob's earlier items
	delivered(t, a, id, m, 2)
	reported(t, a, EventDelivered, 2)
	if _, err := EncodeContent(&Content{ID: MessageID{1}, Type: ContentReceipt, Refs: make([]MessageID, MaxReceipts+1)}); wire.CodeOf(err) != wire.TooLarge {
		t.Errorf("a receipt for %d messages: %v", MaxReceipts+1, err)
	}
}

// TestReceiptsOfMembersAlone checks, at the rule itself, that neither a device that is no member nor the own device
// counts, and that marks are bounded for each message.
func TestReceiptsOfMembersAlone(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{})
	m, err := a.SendText(t.Context(), id, "x")
	check(t, err)
	delivered(t, a, id, m, 2)
	check(t, a.Remove(t.Context(), id, c.id.User()))
	take := func(by wire.DeviceID) (n uint32) {
		check(t, a.turn(t.Context(), func(u *unit) error {
			th, err := a.usableConversation(u, id)
			check(t, err)
			u.deleteAll(recordKey(recordDelivered))
			check(t, th.noteReceipt(by, &Content{Type: ContentReceipt, Refs: []MessageID{m, m}}))
			place, _, err := th.findMessage(a.id, m)
			check(t, err)
			rec, _, err := th.messageAt(place)
			check(t, err)
			n = rec.Delivered
			return nil
		}))
		return n
	}
	for _, by := range []wire.DeviceID{c.id, a.id, "mimi://c.example/d/nobody/phone"} {
		if n := take(by); n != 2 {
			t.Errorf("%s made it %d", by, n)
		}
	}
	if n := take(b.id); n != 3 { // the marks were deleted
		t.Errorf("a member made it %d", n)
	}
	check(t, a.turn(t.Context(), func(u *unit) error {
		th, err := a.usableConversation(u, id)
		check(t, err)
		place, _, err := th.findMessage(a.id, m)
		check(t, err)
		rec, key, err := th.messageAt(place)
		check(t, err)
		rec.Delivered = maxDelivered - 1
		return u.putRecord(key, rec)
	}))
	if n := take(b.id); n != maxDelivered {
		t.Errorf("at the bound: %d", n)
	}
	if n := take(b.id); n != maxDelivered {
		t.Errorf("beyond the bound: %d", n)
	}
}
