package client

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// broken makes a conversation with private handshakes that bob's device cannot follow any further.
func broken(t *testing.T) (w *world, id wire.ConversationID, a, b, c *peer) {
	t.Helper()
	w = newWorld(t, "a.example", "b.example", "c.example")
	w.timing = func(q *Timing) { q.Unknown = 200 * time.Millisecond }
	a, b, c = w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer(carolPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	w.refuse(wire.MethodEntries, wire.UnknownConversation)
	check(t, misses(b, id))
	inState(t, b, id, StateBroken)
	w.refuse(wire.MethodEntries, "")
	return w, id, a, b, c
}

func (p *peer) asking(id wire.ConversationID) []wire.DeviceID {
	p.t.Helper()
	list, err := p.AskingAgain(p.t.Context(), id)
	check(p.t, err)
	return list
}

// TestBrokenDeviceAsksToBeAddedAgain: an admin's device is told, in a conversation of the two, and the user there has it
// added again.
func TestBrokenDeviceAsksToBeAddedAgain(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("pair %v", known), func(t *testing.T) {
			_, id, a, b, c := broken(t)
			ctx := t.Context()
			pair := wire.ConversationID("")
			if known {
				var err error
				pair, err = a.Create(ctx, CreateOptions{})
				check(t, err)
				check(t, a.Add(ctx, pair, bob))
				agree(t, pair, a, b)
			}
			asked, err := b.AskToBeAddedAgain(ctx, id)
			if err != nil || asked != a.id.User() {
				t.Fatalf("asked %q: %v", asked, err)
			}
			eventually(t, func() error {
				if told := a.events(EventAgain); len(told) != 1 || told[0].Conversation != id || told[0].Device != b.id {
					return fmt.Errorf("alice is told %+v", told)
				}
				return nil
			})
			list, err := b.Conversations(ctx)
			check(t, err)
			if len(list) != 2 {
				t.Errorf("bob has %d conversations", len(list))
			}
			if known {
				if got := a.texts(pair); len(got) != 1 || got[0] != "bob: "+askText("Lunch", id) {
					t.Errorf("alice reads %q", got)
				}
			}
			_, err = b.AskToBeAddedAgain(ctx, id) // impatient
			check(t, err)
			if got := a.asking(id); !slices.Equal(got, []wire.DeviceID{b.id}) || len(c.asking(id)) > 0 {
				t.Errorf("alice knows of %v, carol of %v", got, c.asking(id))
			}
			check(t, a.Restore(ctx, id, b.id))
			agree(t, id, a, b, c)
			if got := a.asking(id); len(got) > 0 {
				t.Errorf("afterwards alice knows of %v", got)
			}
			if code := wire.CodeOf(func() error { _, err := b.AskToBeAddedAgain(ctx, id); return err }()); code != wire.Invalid {
				t.Errorf("a device that is not broken asks: %v", code)
			}
			if n := len(a.events(EventAgain)); n != 1 {
				t.Errorf("alice was told %d times", n)
			}
		})
	}
}

// TestOnlyMembersAskToBeAddedAgain: a request that names a conversation in which its sender is no member, or that is in
// that conversation itself, is a text like others.
func TestOnlyMembersAskToBeAddedAgain(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := t.Context()
	own, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	pair, err := a.Create(ctx, CreateOptions{})
	check(t, err)
	check(t, a.Add(ctx, pair, bob))
	agree(t, pair, a, b)
	for _, id := range []wire.ConversationID{own, pair, "conversation-nowhere"} {
		body, err := wire.Encode(&againRequest{What: againWhat, Conversation: id})
		check(t, err)
		_, err = b.Send(ctx, pair, Content{Type: ContentText, Text: "please", Body: body})
		check(t, err)
	}
	hasTexts(t, a, pair, "bob: please", "bob: please", "bob: please")
	if told := a.events(EventAgain); len(told) > 0 || len(a.asking(own))+len(a.asking(pair)) > 0 {
		t.Errorf("alice is told %+v", told)
	}
	check(t, a.turn(ctx, func(u *unit) error { // another device of the name shows another key
		th, err := a.thread(u, pair)
		if err != nil {
			return err
		}
		body, err := wire.Encode(&againRequest{What: againWhat, Conversation: pair})
		if err != nil {
			return err
		}
		other := &thread{d: a.Device, u: u, id: own, rec: th.rec}
		if err := other.takeAgain(b.id, []byte("another key"), &Content{Type: ContentText, Body: body}); err != nil {
			return err
		}
		if _, kept, err := u.Get(againKey(pair, b.id)); kept || err != nil {
			return errors.New("the request of another key was kept")
		}
		return nil
	}))
}

func FuzzAgainRequest(f *testing.F) {
	b, err := wire.Encode(&againRequest{What: againWhat, Conversation: "conversation-one"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(againRequest)
		if wire.Decode(b, maxAgain, r) != nil {
			return
		}
		if again, err := wire.Encode(r); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("decoded from %x, encodes to %x (%v)", b, again, err)
		}
		for n := range b {
			if wire.Decode(b[:n], maxAgain, new(againRequest)) == nil {
				t.Fatalf("a prefix of %d bytes of %x was accepted", n, b)
			}
		}
	})
}
