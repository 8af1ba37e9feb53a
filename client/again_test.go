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

// TestBrokenDeviceAsksToBeAddedAgain checks that an admin's device gets the request, in a conversation of the two,
// and that the user there can have the device added again.
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
				if reported := a.events(EventAgain); len(reported) != 1 || reported[0].Conversation != id || reported[0].Device != b.id {
					return fmt.Errorf("alice gets the events %+v", reported)
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
			_, err = b.AskToBeAddedAgain(ctx, id) // an impatient second call
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
				t.Errorf("alice got %d events", n)
			}
		})
	}
}

// TestOnlyMembersAskToBeAddedAgain checks that a request is an ordinary text if its sender is no member of the named
// conversation, or if it is sent in that conversation itself.
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
	if reported := a.events(EventAgain); len(reported) > 0 || len(a.asking(own))+len(a.asking(pair)) > 0 {
		t.Errorf("alice gets the events %+v", reported)
	}
	check(t, a.turn(ctx, func(u *unit) error { // another device with the same name shows another key
		th, err := a.findConversation(u, pair)
		if err != nil {
			return err
		}
		body, err := wire.Encode(&againRequest{What: againWhat, Conversation: pair})
		if err != nil {
			return err
		}
		other := &conversation{d: a.Device, u: u, id: own, rec: th.rec}
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

// asksByItself breaks a conversation for a device, which then asks without a decision of its user.
func (p *peer) asksByItself(id wire.ConversationID, want wire.UserID) {
	p.t.Helper()
	eventually(p.t, func() error {
		c, err := p.Conversation(p.t.Context(), id)
		if err == nil && (c.State != StateBroken || c.Asked != want) {
			err = fmt.Errorf("%s is %v and has asked %q, wanted %q", p.id, c.State, c.Asked, want)
		}
		return err
	})
}

func (p *peer) offersAgain(id wire.ConversationID, want ...wire.DeviceID) {
	p.t.Helper()
	eventually(p.t, func() error {
		c, err := p.Conversation(p.t.Context(), id)
		if err == nil && !slices.Equal(c.Again, want) {
			err = fmt.Errorf("%s offers to add %v again, wanted %v", p.id, c.Again, want)
		}
		return err
	})
}

// TestBrokenDeviceAsksByItself checks that the device asks an admin with whom there is a conversation of the two, so
// that the admin's device offers to add it again, and asks nobody if that would make a new conversation with another
// user.
func TestBrokenDeviceAsksByItself(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("pair %v", known), func(t *testing.T) {
			w, id, a, b, c := trio(t, CreateOptions{Name: "Lunch"})
			if known {
				pair, err := b.Create(t.Context(), CreateOptions{})
				check(t, err)
				check(t, b.Add(t.Context(), pair, a.id.User()))
				agree(t, pair, a, b)
			}
			w.breaks(b, id)
			if !known {
				b.queuesRest(id)
				b.asksByItself(id, "")
				if list, err := b.Conversations(t.Context()); err != nil || len(list) != 1 {
					t.Errorf("bob has %d conversations (%v)", len(list), err)
				}
				return
			}
			b.asksByItself(id, a.id.User())
			a.offersAgain(id, b.id)
			c.offersAgain(id)
			a.restart() // the request is on disk
			a.offersAgain(id, b.id)
			check(t, a.Restore(t.Context(), id, b.id))
			agree(t, id, a, b, c)
			a.offersAgain(id)
		})
	}
}

// TestBrokenDeviceAsksItsSibling checks that another device of the same user is asked first, in a conversation of
// these devices alone.
func TestBrokenDeviceAsksItsSibling(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	w.timing = func(q *Timing) { q.Upkeep = 10 * time.Millisecond }
	a, b, laptop := w.peer(alicePhone).ready(), w.peer(bobPhone).ready(), w.peer("mimi://b.example/d/bob/laptop").ready()
	confirm(t, b, laptop)
	id, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b, laptop)
	w.breaks(b, id)
	b.asksByItself(id, bob)
	laptop.offersAgain(id, b.id)
	a.offersAgain(id)
	check(t, laptop.Restore(t.Context(), id, b.id))
	agree(t, id, a, b, laptop)
	laptop.offersAgain(id)
}

// queuesRest waits until a device has asked, or decided not to.
func (p *peer) queuesRest(id wire.ConversationID) {
	p.t.Helper()
	eventually(p.t, func() error {
		tried := false
		err := p.turn(p.t.Context(), func(u *unit) error {
			t, err := p.knownConversation(u, id)
			if err == nil {
				_, tried, err = u.Get(t.askedKey())
			}
			return err
		})
		p.queues.mu.Lock()
		defer p.queues.mu.Unlock()
		if err == nil && (!tried || p.queues.busy[handshakes(id)] != nil) {
			err = errors.New("the device is about to ask")
		}
		return err
	})
}

// breaks makes a device find that it lacks entries that nobody keeps.
func (w *world) breaks(p *peer, id wire.ConversationID) {
	w.t.Helper()
	check(w.t, p.turn(w.t.Context(), func(u *unit) error {
		t, err := p.usableConversation(u, id)
		if err != nil {
			return err
		}
		return t.takeFetched(&wire.EntriesAnswer{Gap: true}, &step{since: t.rec.Position.Last})
	}))
	inState(w.t, p, id, StateBroken)
}
