package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A device that was removed and added again while it was away has one stream for each membership, each under its own
// address. The memberships follow each other in the log. So items under a later address wait here until the
// membership before has ended. Only then the device has a group in which it can read them.

// recordLater is the letter of waiting items: conversation, token, sequence → wire.Push.
const recordLater = 'z'

// Bounds on the records that are handled at once, and on the addresses with waiting records.
const (
	laterBatch     = 64
	maxMemberships = 64 // of one conversation
)

func laterKey(id ConversationID, parts ...[]byte) []byte {
	return append(recordKey(recordLater, idPart(id)), recordKey(0, parts...)[2:]...)
}

// waitsLater reports whether any item waits for a membership in a conversation, without reading the store each time.
func (d *Device) waitsLater(u *unit, id ConversationID) (bool, error) {
	if d.later == nil {
		later := make(map[ConversationID]bool)
		prefix := recordKey(recordLater)
		err := u.Scan(prefix, func(key, _ []byte) error {
			n := int(key[len(prefix)])
			later[wire.ConversationID(key[len(prefix)+1:][:n])] = true
			return nil
		})
		if err != nil {
			return false, err
		}
		d.later = later
	}
	return d.later[id], nil
}

// deferItem keeps an item for a later membership, or until the commit before it is here, and reports whether the item
// has to wait.
func (t *conversation) deferItem(p *wire.Push, large bool) (bool, error) {
	waits, err := t.d.waitsLater(t.u, t.id)
	if err != nil {
		return false, err
	}
	others := waits
	if waits {
		if waits, err = t.hasLater(p.Token); err != nil {
			return false, err
		}
	}
	joining, err := t.waitsToJoin(p)
	if err != nil {
		return false, err
	}
	var rest *wire.BlobRef
	if large && !waits && !joining {
		if rest, err = t.pushLacksRest(p); err != nil {
			return false, err
		}
	}
	begins := !waits && !joining && rest == nil && t.beginsLater(p, others)
	if !waits && !begins && !joining && rest == nil {
		return false, nil
	}
	use, err := t.laterUse()
	if err != nil {
		return false, err
	}
	l := t.d.opts.Limits
	most, bytes := l.Held, l.HeldBytes
	if rest != nil || t.rec.State == StateJoining || t.rec.State == StateHeld || t.d.resting[t.id] {
		most, bytes = joiningItems*most, joiningItems*bytes
	}
	switch {
	case begins && len(use.tokens) >= maxMemberships:
		t.event(Event{Type: EventGap, Err: fmt.Errorf("what came since item %d, when this device was added again, is lost: %d memberships wait already", p.Sequence, len(use.tokens))})
		return true, nil
	case !begins && (use.count >= most || use.size+len(p.Payload) > bytes):
		return true, t.markLost(p)
	}
	t.d.later[t.id] = true
	if rest != nil {
		t.d.resting[t.id] = true
	}
	t.kick(handshakes(t.id))
	if begins && t.group != nil { // the entry that ends the present membership may have expired with its stream
		t.setBehind(t.rec.Position.Last+1, false)
		if err := t.save(); err != nil {
			return false, err
		}
	}
	use.add(p)
	return true, t.u.putRecord(laterKey(t.id, p.Token[:], number(p.Sequence)), p)
}

// joiningItems is the factor by which the limits for waiting items are larger while a device joins, its user decides,
// or a large commit is fetched. The device gets only these items for the time before, since the log keeps few
// entries.
const joiningItems = 8

// waitsToJoin reports whether an item comes before this device has entered the conversation to which it was added.
func (t *conversation) waitsToJoin(p *wire.Push) (bool, error) {
	switch t.rec.State {
	case StateJoining:
	case StateHeld:
		if c := new(wire.Committed); p.Kind == wire.ItemEntry && wire.Decode(p.Payload, wire.MaxSessionFrame, c) == nil {
			if e, err := c.Open(); err == nil && e.Envelope != nil && e.Envelope.Commit != nil && e.Envelope.Conversation == t.id && t.addressLeaves(e.Envelope) {
				return false, nil // the device is removed again: nobody has to decide
			}
		}
	default:
		return false, nil
	}
	if p.Token != t.rec.Token {
		return false, nil
	}
	_, known, err := t.u.Get(t.welcomeKey())
	return known, err
}

// laterSum counts the waiting items of a conversation: the addresses, the items and their bytes.
type laterSum struct {
	tokens      map[wire.Token]bool
	count, size int
}

func (s *laterSum) add(p *wire.Push) {
	s.tokens[p.Token] = true
	s.count++
	s.size += len(p.Payload)
}

// lostMark is a key behind all items of an address. Its record says that some items did not fit: those from GapFrom
// on.
const lostMark = ^uint64(0)

func (t *conversation) markLost(p *wire.Push) error {
	key := laterKey(t.id, p.Token[:], number(lostMark))
	if _, ok, err := t.u.Get(key); err != nil || ok {
		return err
	}
	mark := &wire.Push{Conversation: p.Conversation, Token: p.Token, Sequence: lostMark, GapFrom: p.Sequence}
	if s := t.d.laterSums[t.id]; s != nil {
		s.add(mark)
	}
	return t.u.putRecord(key, mark)
}

// takeLost records that items of the present membership are lost, and fetches the entries among them. It fetches up
// to the entry that begins the next membership, since the entry that ends the present one can be lost too.
func (t *conversation) takeLost(p *wire.Push) error {
	t.event(Event{Type: EventGap, Err: fmt.Errorf("items from %d on, of a time when this device was added again, did not fit into what it keeps: messages among them are lost", p.GapFrom)})
	until := t.rec.Position.Last + 1
	next, _, err := t.firstLater(laterKey(t.id))
	if err != nil {
		return err
	}
	if c := new(wire.Committed); next != nil && next.Kind == wire.ItemEntry && wire.Decode(next.Payload, wire.MaxSessionFrame, c) == nil {
		until = max(until, c.Sequence)
	}
	t.setBehind(until, false)
	return t.save()
}

// hasLater reports whether an item waits under an address.
func (t *conversation) hasLater(token wire.Token) (bool, error) {
	p, _, err := t.firstLater(laterKey(t.id, token[:]))
	return p != nil, err
}

// beginsLater reports whether an item adds this device under another address after a membership that continues here,
// or that waits.
func (t *conversation) beginsLater(p *wire.Push, waits bool) bool {
	switch t.rec.State {
	case StateActive, StateLeaving, StateJoining:
	case StateLeft, StateBroken:
		if !waits {
			return false
		}
	default:
		return false
	}
	if p.Token == t.rec.Token {
		return false
	}
	if p.GapFrom > 0 {
		return t.gapBeginsLater(p)
	}
	if p.Kind != wire.ItemEntry {
		return false
	}
	c := new(wire.Committed)
	if wire.Decode(p.Payload, wire.MaxSessionFrame, c) != nil || c.Sequence <= t.rec.Position.Last {
		return false
	}
	return t.adds(c, p.Token)
}

// gapBeginsLater reports whether a gap hides the entry that began a membership after the present one. The streams of
// one conversation number their items together.
func (t *conversation) gapBeginsLater(p *wire.Push) bool {
	if !t.d.isOwnAddress(t.u, p.Token) {
		return false
	}
	at, _, err := t.u.Get(cursorKey(&wire.Push{Conversation: &t.id, Token: t.rec.Token}))
	return err == nil && (len(at) == 0 || p.GapFrom >= parseNumber(at))
}

// adds reports whether an entry adds an address of this device.
func (t *conversation) adds(c *wire.Committed, token wire.Token) bool {
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Kind != wire.KindCommit || e.Envelope.Conversation != t.id {
		return false
	}
	own := wire.Address{Organization: t.d.self.Device.Organization(), Token: token}
	if !slices.Contains(e.Envelope.Commit.Delivery.Add, own) {
		return false
	}
	_, known, err := t.d.ownToken(t.u, []wire.Address{own}) // the address of a KeyPackage: a node does not choose it
	return known && err == nil
}

// firstLater returns the first item below a prefix of keys, or nil if there is none. For the prefix of a conversation
// that is an item of the earliest membership: the streams of one conversation number their items together.
func (t *conversation) firstLater(prefix []byte) (first *wire.Push, key []byte, err error) {
	whole := len(prefix) == len(laterKey(t.id))
	err = t.u.Scan(prefix, func(at, value []byte) error {
		p := new(wire.Push)
		if err := wire.Decode(value, maxRecord, p); err != nil {
			return err
		}
		if first == nil || p.Sequence < first.Sequence {
			first, key = p, append([]byte{}, at...)
		}
		if whole {
			return nil
		}
		return errStop
	})
	if err == error(errStop) {
		err = nil
	}
	return first, key, err
}

// laterUse returns the sum of the waiting items. It is counted once and then kept up to date, since a device that
// joins late takes thousands of items.
func (t *conversation) laterUse() (*laterSum, error) {
	if s := t.d.laterSums[t.id]; s != nil {
		return s, nil
	}
	s := &laterSum{tokens: make(map[wire.Token]bool)}
	err := t.u.Scan(laterKey(t.id), func(_, value []byte) error {
		p := new(wire.Push)
		if err := wire.Decode(value, maxRecord, p); err != nil {
			return err
		}
		s.add(p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if t.d.laterSums == nil {
		t.d.laterSums = make(map[ConversationID]*laterSum)
	}
	t.d.laterSums[t.id] = s
	return s, nil
}

// deleteLater deletes one waiting item.
func (t *conversation) deleteLater(key []byte, p *wire.Push) {
	t.u.delete(key)
	t.taken()
	if s := t.d.laterSums[t.id]; s != nil {
		s.count--
		s.size -= len(p.Payload)
	}
}

// someLater returns the first items under an address.
func (t *conversation) someLater(token wire.Token, most int) (list []*wire.Push, keys [][]byte, err error) {
	err = t.u.Scan(laterKey(t.id, token[:]), func(key, value []byte) error {
		p := new(wire.Push)
		if err := wire.Decode(value, maxRecord, p); err != nil {
			return err
		}
		list, keys = append(list, p), append(keys, append([]byte{}, key...))
		if len(list) == most {
			return errStop
		}
		return nil
	})
	if err == error(errStop) {
		err = nil
	}
	return list, keys, err
}

// nextLater takes up the waiting items if it is their turn. The returned step requests another look.
func (t *conversation) nextLater() (*step, error) {
	if waits, err := t.d.waitsLater(t.u, t.id); err != nil || !waits {
		return nil, err
	}
	switch t.rec.State {
	case StateLeft, StateBroken:
		return t.beginLater()
	case StateActive, StateLeaving:
	default:
		return nil, nil
	}
	done := 0
	list, keys, err := t.someLater(t.rec.Token, laterBatch)
	if err != nil {
		return nil, err
	}
	delete(t.d.resting, t.id)
	for i, p := range list {
		if t.group == nil {
			break
		}
		rest, err := t.pushLacksRest(p)
		if err != nil {
			return nil, err
		}
		if rest != nil {
			if t.d.resting[t.id] = true; done == 0 {
				return &step{rest: rest}, nil
			}
			break
		}
		t.deleteLater(keys[i], p)
		done++
		take := func() error { return t.d.takeItem(t.u, t, p) }
		if p.Sequence == lostMark {
			take = func() error { return t.takeLost(p) }
		}
		if err := take(); err != nil {
			return nil, err
		}
	}
	if done > 0 {
		return &step{again: true}, nil
	}
	next, _, err := t.firstLater(laterKey(t.id))
	if err != nil || next == nil {
		if err == nil {
			t.noneLater()
		}
		return nil, err
	}
	if next.GapFrom > 0 && next.Sequence != lostMark {
		return nil, nil // the present membership has not ended yet
	}
	c := new(wire.Committed)
	if next.Kind != wire.ItemEntry || wire.Decode(next.Payload, wire.MaxSessionFrame, c) != nil || c.Sequence <= t.rec.Position.Last {
		return &step{again: true}, t.dropLater(next)
	}
	return nil, nil // the rest of the present membership has not come yet
}

// noneLater records that no item waits. The turn may write nothing, and CatchUp waits for this.
func (t *conversation) noneLater() {
	t.u.then(t.d.wrote.give)
	delete(t.d.later, t.id)
	delete(t.d.laterSums, t.id)
}

// dropLater gives up a membership that cannot be entered.
func (t *conversation) dropLater(p *wire.Push) error {
	t.u.deleteAll(laterKey(t.id, p.Token[:]))
	t.taken()
	delete(t.d.laterSums, t.id)
	t.event(Event{Type: EventGap, Err: fmt.Errorf("device was added again with item %d and cannot enter there: what came then is lost", p.Sequence)})
	return nil
}

// beginLater enters the earliest waiting membership. If the device cannot enter it, the items that wait for it are
// lost.
func (t *conversation) beginLater() (*step, error) {
	p, key, err := t.firstLater(laterKey(t.id))
	if err != nil || p == nil {
		if err == nil {
			t.noneLater()
		}
		return nil, err
	}
	t.deleteLater(key, p)
	c := new(wire.Committed)
	if p.Kind == wire.ItemEntry {
		err = wire.Decode(p.Payload, wire.MaxSessionFrame, c)
	}
	if p.GapFrom > 0 && p.Sequence != lostMark {
		if err := t.d.takeGap(t.u, t, p); err != nil {
			return nil, err
		}
	}
	if err == nil && c.Sequence > t.rec.Position.Last {
		if err := t.d.takeInvitation(t.u, t.id, t, c); err != nil {
			return nil, err
		}
	}
	if t.rec.Token != p.Token || t.rec.State == StateLeft || t.rec.State == StateBroken {
		return &step{again: true}, t.dropLater(p)
	}
	return &step{again: true}, nil
}

// tooLate reports once that messages of an earlier membership came after this device had entered a later one.
func (t *conversation) tooLate() error {
	if key := "earlier " + string(t.id); !t.d.asked[key] {
		t.event(Event{Type: EventGap, Err: errors.New("messages of a time before this device was added again cannot be read any more")})
		t.u.then(func() { t.d.remember(key) })
	}
	return nil
}

// leaveToStream drops from an answer the entries after the one that removes this device: later memberships come with
// their streams. It drops that entry too while the device's stream has items left, since the device can read the
// messages before the entry only while it is a member. A search for a fresh judgment concerns an entry from the
// stream.
func (d *Device) leaveToStream(ctx context.Context, id ConversationID, a *wire.EntriesAnswer, s *step) error {
	at, returns := -1, false
	var token wire.Token
	var read uint64
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.group == nil {
			return err
		}
		token = t.rec.Token
		at = slices.IndexFunc(a.Entries, func(c wire.Committed) bool {
			e, err := c.Open()
			return err == nil && e.Envelope != nil && e.Envelope.Kind == wire.KindCommit && e.Envelope.Conversation == id && t.addressLeaves(e.Envelope)
		})
		if at < 0 {
			return nil
		}
		returns = slices.ContainsFunc(a.Entries[at+1:], func(c wire.Committed) bool { return t.adds(&c, token) })
		cursor, ok, err := u.Get(cursorKey(&wire.Push{Conversation: &id, Token: token}))
		if ok && err == nil {
			read = parseNumber(cursor)
		}
		return err
	})
	if err != nil || at < 0 {
		return err
	}
	a.Entries = a.Entries[:at+1]
	if s.fresh {
		return nil
	}
	s.returns = returns // with a last resort; that stream has no item left, so a gap hid the entry
	var streams wire.ConversationsAnswer
	if err := d.call(ctx, wire.MethodConversations, nil, &streams); err != nil {
		return err
	}
	s.gone = true
	for _, v := range streams.Conversations {
		if v.Conversation != id || v.Token != token {
			continue
		}
		s.gone = false
		if v.End > max(read, v.Acknowledged) {
			a.Entries, s.returns = a.Entries[:at], false
		}
	}
	return nil
}
