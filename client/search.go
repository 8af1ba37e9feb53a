package client

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A node keeps an unread item for 30 days by default. If the entry that adds a device to a conversation expires before
// the device reads the entry, the stream of that membership begins with a gap. The log may still have the entry: the
// device searches the log and joins with the entry. The messages among the expired items are lost, as EventGap
// reports. If the log has forgotten the entry too, the conversation is broken for the device.

// recordSearch is the letter of the records of searches: conversation → the address whose membership is searched. The
// state of the conversation is StateJoining during the search.
const recordSearch = 'X'

// maxSearched bounds the entries that a search takes from a node. A log keeps 256.
const maxSearched = 4096

func (t *conversation) searchKey() []byte { return recordKey(recordSearch, idPart(t.id)) }

// isOwnAddress reports whether an address is the one of a KeyPackage of this device: a node does not choose it.
func (d *Device) isOwnAddress(u *unit, token wire.Token) bool {
	if d.self == nil {
		return false
	}
	_, known, err := d.ownToken(u, []wire.Address{{Organization: d.self.Device.Organization(), Token: token}})
	return known && err == nil // an error of the store shows up again
}

// searchAfterGap starts a search if a gap hides the beginning of a membership. t is nil if the device does not know
// the conversation.
func (d *Device) searchAfterGap(u *unit, t *conversation, p *wire.Push) error {
	if !d.isOwnAddress(u, p.Token) {
		return nil
	}
	if t != nil {
		left := t.rec.State == StateLeft && !t.rec.Line.Erased
		other := t.rec.State == StateBroken && p.Token != t.rec.Token // Broken's own membership began earlier
		if !left && !other {
			return nil
		}
		return t.search(p.Token)
	}
	t = &conversation{d: d, u: u, id: *p.Conversation, rec: &conversationRecord{Version: recordVersion, Policy: uint8(wire.HandshakesPrivate)}}
	var err error
	if t.rec.Number, err = d.nextNumber(u); err != nil {
		return err
	}
	return t.search(p.Token)
}

// search makes the device search the log for the entry that added an address.
func (t *conversation) search(token wire.Token) error {
	t.rec.State, t.rec.Token = StateJoining, token
	t.rec.Why = "the entry that added this device expired at the node before this device read it: the device searches the log for the entry"
	t.u.put(t.searchKey(), token[:])
	t.kick(handshakes(t.id))
	return t.save()
}

// searched returns the address whose membership is searched.
func (t *conversation) searched() (token wire.Token, searches bool, err error) {
	if t.rec.State != StateJoining {
		return token, false, nil
	}
	raw, ok, err := t.u.Get(t.searchKey())
	copy(token[:], raw)
	return token, ok && err == nil, err
}

// searchLog requests the log from an entry on, and ends the search.
func (d *Device) searchLog(ctx context.Context, id ConversationID, since SequenceNumber) error {
	var list []wire.Committed
	for {
		var a wire.EntriesAnswer
		if err := d.call(ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: id, Since: since}, &a); err != nil {
			return err
		}
		if list = slices.Concat(list, a.Entries); len(list) > maxSearched {
			return wire.Errorf(wire.Quota, "entries", "the node gives more than %d entries of %v: no log is that long", maxSearched, id)
		}
		if len(a.Entries) == 0 || a.Entries[len(a.Entries)-1].Sequence <= since {
			break
		}
		since = a.Entries[len(a.Entries)-1].Sequence
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil {
			return err
		}
		token, searches, err := t.searched()
		if err != nil || !searches {
			return err
		}
		return t.takeSearched(token, list)
	})
}

// takeSearched joins with the last entry that adds an address, unless a later entry removes the address.
func (t *conversation) takeSearched(token wire.Token, list []wire.Committed) error {
	t.u.delete(t.searchKey())
	var added *wire.Committed
	removed, joins := false, false // joins: the delivery list changes with added
	for i := range list {
		e, err := list[i].Open()
		if err != nil || e.Envelope == nil || e.Envelope.Conversation != t.id {
			continue
		}
		if e.Envelope.Kind == wire.KindCreate && t.rec.Position.Last == 0 {
			if ok, err := t.expectSearched(&list[i], list[i+1:]); err != nil || ok {
				return err
			}
		}
		if e.Envelope.Kind != wire.KindCommit || list[i].Sequence <= t.rec.Position.Last {
			continue
		}
		adds := t.adds(&list[i], token)
		stays := false
		if !adds && e.Envelope.Commit.Welcome != nil {
			if stays, err = t.staysAt(&list[i], e.Envelope); err != nil {
				return err
			}
		}
		switch {
		case adds || stays:
			added, joins, removed = &list[i], adds, false
		case t.addressLeaves(e.Envelope):
			added, removed = nil, true
		}
	}
	if added != nil {
		return t.enterSearched(added, token, joins)
	}
	if removed {
		return t.outSearched()
	}
	return t.breakOff(wire.Errorf(wire.NotFound, "join", "the entry that added this device expired at the node before this device read it, and the log no longer has it: ask a member to restore this device"))
}

// expectSearched begins a conversation that succeeds another, if its create names this device.
func (t *conversation) expectSearched(c *wire.Committed, rest []wire.Committed) (bool, error) {
	if ok, err := t.d.expectFounding(t.u, t.id, c); err != nil || !ok {
		return false, err
	}
	next, err := t.d.findConversation(t.u, t.id)
	for i := range rest {
		if err != nil || next == nil {
			return true, err
		}
		err = next.takeEntry(&rest[i], false)
	}
	return true, err
}

// enterSearched joins with an entry of the log, and then takes in the entries after it.
func (t *conversation) enterSearched(c *wire.Committed, token wire.Token, joins bool) error {
	t.rec.State, t.rec.Why = StateLeft, ""
	if joins {
		t.rec.Token = wire.Token{} // takeInvitation asks the user about a new membership
	}
	if err := t.d.takeInvitation(t.u, t.id, t, c); err != nil {
		return err
	}
	if t.rec.State == StateLeft {
		t.rec.Token = token
		return t.breakOff(wire.Errorf(wire.NotFound, "join", "this device no longer has the KeyPackage with which entry %d added it: ask a member to restore this device", c.Sequence))
	}
	return t.followLog()
}

// followLog fetches the entries after the one with which this device joined: the stream does not bring them again.
func (t *conversation) followLog() error {
	switch t.rec.State {
	case StateJoining, StateActive:
		t.setBehind(t.rec.Position.Last+1, false)
		return t.save()
	}
	return nil
}

// outSearched ends a search that found that the device was removed again.
func (t *conversation) outSearched() error {
	t.u.deleteAll(recordKey(recordHeld, idPart(t.id)))
	if t.rec.Counters.Message == 0 && t.rec.Position.Last == 0 && len(t.rec.Line.From) == 0 {
		t.u.delete(conversationKey(t.id))
		return nil
	}
	t.rec.State, t.rec.Behind = StateLeft, behind{}
	t.rec.Why = "this device was added again and removed again while it was away"
	t.kick(handshakes(t.id)) // items of a later membership may wait
	return t.save()
}
