package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// A store that was put back to an older copy holds keys that were used since: what is sent under them, other members
// take for repeats and drop. The node knows how far the device had come, since a device acknowledges what is on its
// disk. So a device compares once in each process, and gives itself new keys in every conversation before it sends.

// recordStale is the letter of the records that hold messages back: conversation → staleRecord.
const recordStale = 'R'

// staleRecord says that this device's keys in a conversation may have been used.
type staleRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Since   wire.Time `cbor:"2,keyasint"`
}

func (t *thread) staleKey() []byte { return recordKey(recordStale, idPart(t.id)) }

// keysStale reports whether messages wait for new keys.
func (t *thread) keysStale() (bool, error) { return t.u.getRecord(t.staleKey(), new(staleRecord)) }

// compareStreams compares, in the first session of a process and before it reads, how far this device has come with
// what the node says. An error ends the session.
func (d *Device) compareStreams(ctx context.Context, s *session) error {
	if d.compared.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timing.Call)
	defer cancel()
	fresh := false // nothing was ever received or made here
	err := d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		fresh = err == nil && self.LastResort == 0
		return nil
	})
	if err != nil {
		return err
	}
	if fresh { // it has just been enrolled, and nobody can have added it
		d.compared.Store(true)
		return d.resume(ctx)
	}
	raw, err := s.request(ctx, wire.MethodConversations, nil)
	var a wire.ConversationsAnswer
	if err == nil {
		err = wire.Decode(raw, wire.MaxSessionFrame, &a)
	}
	var refused *wire.Error
	if errors.As(err, &refused) {
		d.log.Warn("streams not compared", "error", err)
		d.compared.Store(true)
		return d.resume(ctx)
	}
	if err == nil {
		err = d.turn(ctx, func(u *unit) error { return d.takeStreams(u, a.Conversations) })
	}
	if err != nil {
		return fmt.Errorf("compare streams: %w", err)
	}
	d.compared.Store(true)
	return d.resume(ctx) // messages have waited for this
}

// takeStreams finds streams that the node says this device has read further than its store knows.
func (d *Device) takeStreams(u *unit, list []wire.ConversationState) error {
	behind := false
	for i := range list {
		s := &list[i]
		at, ok, err := u.Get(cursorKey(&wire.Push{Conversation: &s.Conversation, Token: s.Token}))
		if err != nil {
			return err
		}
		if !ok {
			known, err := d.knowsAddress(u, s.Token)
			if err != nil {
				return err
			}
			if !known && s.Acknowledged > 0 {
				behind = true
				d.tellLost(u, s.Conversation)
			}
			continue
		}
		if parseNumber(at) >= s.Acknowledged {
			continue
		}
		behind = true
		err = fmt.Errorf("items %d to %d were taken in by this device before an older copy of it was put back: what was in them is missing here", parseNumber(at)+1, s.Acknowledged)
		u.then(func() { d.emit(Event{Type: EventGap, Conversation: s.Conversation, Err: err}) })
	}
	if !behind {
		return nil
	}
	ids, err := listConversations(u)
	if err != nil {
		return err
	}
	for _, id := range ids {
		t, err := d.thread(u, id)
		if err != nil {
			return err
		}
		if t.group == nil || t.rec.State == StateCreating {
			continue
		}
		if err := t.renewStale(); err != nil {
			return err
		}
	}
	return d.tellRolledBack(u)
}

// tellRolledBack tells the user that the store is an older copy, and has the KeyPackages replaced.
func (d *Device) tellRolledBack(u *unit) error {
	d.log.Warn("store is an older copy")
	if err := u.putRecord(recordKey(recordStalePackages), &staleRecord{Version: recordVersion, Since: d.now()}); err != nil {
		return err
	}
	why := errors.New("the store of this device is an older copy: it gives itself new keys in all conversations before it sends anything; do not run two copies of a device")
	u.then(func() {
		if !d.asked["older copy"] {
			d.remember("older copy")
			d.emit(Event{Type: EventRolledBack, Err: why})
		}
		d.lanes.kick(laneUpkeep)
	})
	return nil
}

// lookForLost looks at the first item of a stream that this device has never read, of a conversation that it does not
// know. A membership begins with the entry that adds the device: the item is another one if the device has read that entry
// before an older copy of its store was put back, in which the KeyPackage was not used yet.
func (d *Device) lookForLost(u *unit, p *wire.Push) error {
	if p.GapFrom > 0 || p.Kind != wire.ItemEntry && p.Kind != wire.ItemMessage {
		return nil
	}
	if c := new(wire.Committed); p.Kind == wire.ItemEntry && wire.Decode(p.Payload, wire.MaxSessionFrame, c) == nil {
		e, err := c.Open()
		if err != nil || e.Envelope == nil || e.Envelope.Kind == wire.KindCreate {
			return nil
		}
		own := wire.Address{Organization: d.self.Device.Organization(), Token: p.Token}
		if b := e.Envelope.Commit; b != nil && (slices.Contains(b.Delivery.Add, own) || b.Welcome != nil && d.welcomes(u, e.Envelope)) {
			return nil
		}
	}
	d.tellLost(u, *p.Conversation)
	return d.tellRolledBack(u)
}

// knowsAddress reports whether a token is one of this device's, as far as its store says.
func (d *Device) knowsAddress(u *unit, token wire.Token) (known bool, err error) {
	err = u.Scan(recordKey(recordKeyPackage), func(_, value []byte) error {
		r := new(keyPackageRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		known = known || r.Token == token
		return nil
	})
	if err != nil || known {
		return known, err
	}
	err = u.Scan(recordKey(recordOne), func(_, value []byte) error {
		r := new(conversationRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		known = known || r.Token == token
		return nil
	})
	return known, err
}

// tellLost tells of a conversation of which an older copy of the store knows nothing.
func (d *Device) tellLost(u *unit, id wire.ConversationID) {
	err := errors.New("this device was in a conversation before an older copy of its store was put back, and cannot read it any more: another member adds it again")
	u.then(func() { d.emit(Event{Type: EventGap, Conversation: id, Err: err}) })
}

// recordStalePackages is the letter of the record that says that the directory may have KeyPackages whose keys this
// device has lost, or has used: nothing → staleRecord.
const recordStalePackages = 'K'

// discardStale has the directory forget KeyPackages whose keys the store may not have. Others are made after it.
func (d *Device) discardStale(ctx context.Context) error {
	stale := false
	err := d.turn(ctx, func(u *unit) (err error) {
		stale, err = u.getRecord(recordKey(recordStalePackages), new(staleRecord))
		return err
	})
	if err != nil || !stale {
		return err
	}
	ok, err := d.supports(ctx, wire.FeatureDiscard)
	if err != nil || !ok {
		return err // an earlier release keeps them until they end
	}
	if err := d.call(ctx, wire.MethodDiscard, nil, nil); err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error { u.delete(recordKey(recordStalePackages)); return nil })
}

// renewStale holds messages back until a commit with new keys of this device was taken in.
func (t *thread) renewStale() error {
	if err := t.u.putRecord(t.staleKey(), &staleRecord{Version: recordVersion, Since: t.d.now()}); err != nil {
		return err
	}
	t.setBehind(t.rec.Position.Last+1, false)
	if t.rec.State != StateActive {
		return t.save()
	}
	if err := t.enqueueOwn(&operationRecord{Kind: opCommit}); err != nil && wire.CodeOf(err) != wire.Quota {
		return err
	}
	return t.save()
}

// renewed protects what waits under the new keys. Its submission ids are new too: under the old ones the node may have
// taken it already, and then members keep one.
func (t *thread) renewed() error {
	stale, err := t.keysStale()
	if err != nil || !stale {
		return err
	}
	t.u.delete(t.staleKey())
	for n := t.rec.Counters.Sending; n < t.rec.Counters.Outgoing; n++ {
		o := new(outgoingRecord)
		ok, err := t.u.getRecord(outgoingKey(t.id, n), o)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := t.protect(n, o); err != nil {
			return err
		}
	}
	t.kick(messages(t.id))
	return nil
}
