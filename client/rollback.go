package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A store that was restored from an older copy holds keys that have been used since. Other members take messages
// under these keys for repeats and drop them. The node knows how far the device had come, since a device acknowledges
// the items that are on its disk. So a device compares once in each process, and if the store is older, gives itself
// new keys in every conversation before it sends.
//
// A device may have ended before it acknowledged its last messages and commits. They come back as unread items. So a
// device encrypts and sends in a conversation only when it has taken in the items that were there when it connected. A
// message of this device under a key that the store has not used, or a commit of this device that the store does not
// know, shows that the store is older.

// recordStale is the letter of the records that hold back messages: conversation → staleRecord.
const recordStale = 'R'

// staleRecord says that this device's keys in a conversation may have been used.
type staleRecord struct {
	Version uint8     `cbor:"1,keyasint"`
	Since   wire.Time `cbor:"2,keyasint"`
}

func (t *conversation) staleKey() []byte { return recordKey(recordStale, idPart(t.id)) }

// keysStale reports whether messages wait for new keys.
func (t *conversation) keysStale() (bool, error) {
	return t.u.getRecord(t.staleKey(), new(staleRecord))
}

// compareStreams compares, in the first session of a process and before the device reads, the positions of this
// device with those that the node reports. An error ends the session.
func (d *Device) compareStreams(ctx context.Context, s *session) error {
	if d.compared.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timing.Call)
	defer cancel()
	fresh := false // nothing was ever received or made in this store
	err := d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		fresh = err == nil && self.LastResort == 0
		return nil
	})
	if err != nil {
		return err
	}
	if fresh { // the device has just been enrolled, and nobody can have added it
		d.compared.Store(true)
		return d.resume(ctx)
	}
	raw, err := s.request(ctx, wire.MethodConversations, nil)
	var a wire.ConversationsAnswer
	if err == nil {
		err = wire.Decode(raw, wire.MaxSessionFrame, &a)
	}
	var refused *Error
	if errors.As(err, &refused) {
		d.log.Warn("streams not compared", "error", err)
		d.compared.Store(true)
		return d.resume(ctx)
	}
	if err == nil {
		err = d.turn(ctx, func(u *unit) error {
			d.noteUnread(a.Conversations)
			return d.takeStreams(u, a.Conversations)
		})
	}
	if err != nil {
		return fmt.Errorf("compare streams: %w", err)
	}
	d.compared.Store(true)
	return d.resume(ctx) // messages have waited for this
}

// takeStreams finds streams that this device has read further, according to the node, than its store knows.
func (d *Device) takeStreams(u *unit, list []wire.ConversationState) error {
	behind := false
	for i := range list {
		s := &list[i]
		key := cursorKey(&wire.Push{Conversation: &s.Conversation, Token: s.Token})
		at, ok, err := u.Get(key)
		if err != nil {
			return err
		}
		if !ok {
			known, err := d.knowsAddress(u, s.Token)
			if err != nil {
				return err
			}
			// A reader begins with the entry that adds it: if that entry is acknowledged too, the device was there.
			if s.Acknowledged > 0 && (!known || s.Acknowledged == s.End) {
				behind = true
				u.put(key, number(s.Acknowledged)) // reported once: the items do not come again
				d.reportLost(u, s.Conversation)
			}
			continue
		}
		if parseNumber(at) >= s.Acknowledged {
			continue
		}
		behind = true
		u.put(key, number(s.Acknowledged))
		what := fmt.Sprintf("items %d to %d were", parseNumber(at)+1, s.Acknowledged)
		if parseNumber(at)+1 == s.Acknowledged {
			what = fmt.Sprintf("item %d was", s.Acknowledged)
		}
		err = errors.New(what + " taken in by this device before an older copy of it was put back, and what was in there is missing here")
		u.then(func() { d.emit(Event{Type: EventGap, Conversation: s.Conversation, Err: err}) })
	}
	if !behind {
		return nil
	}
	return d.foundOlder(u, nil, false)
}

// noteUnread records the ends of the streams with unread items.
func (d *Device) noteUnread(list []wire.ConversationState) {
	d.unread = make(map[wire.Token]uint64)
	for i := range list {
		if list[i].Acknowledged < list[i].End {
			d.unread[list[i].Token] = list[i].End
		}
	}
}

// noteRead records that a stream was taken in up to an item. Its conversation sends once the items that were there
// when the device connected are taken in.
func (d *Device) noteRead(u *unit, p *wire.Push) {
	if end, ok := d.unread[p.Token]; ok && p.Sequence >= end {
		id, token := *p.Conversation, p.Token
		u.then(func() {
			delete(d.unread, token)
			d.queues.kick(messages(id))
		})
	}
}

// readsFirst reports whether the device has to compare its streams, or to take in items, before it uses a key.
func (t *conversation) readsFirst() (bool, error) {
	if !t.d.compared.Load() {
		return true, nil
	}
	end, ok := t.d.unread[t.rec.Token]
	if !ok {
		return false, nil
	}
	at, ok, err := t.u.Get(cursorKey(&wire.Push{Conversation: &t.id, Token: t.rec.Token}))
	return err == nil && (!ok || parseNumber(at) < end), err
}

// foundOlder handles the discovery that the store is an older copy, once in each process: all conversations get new
// keys. at is the conversation that the caller has open, if any: it gets new keys unless it is broken.
func (d *Device) foundOlder(u *unit, at *conversation, broken bool) error {
	if d.asked[olderCopy] || d.olderIn == u {
		return nil
	}
	d.olderIn = u
	ids, err := listConversations(u)
	if err != nil {
		return err
	}
	for _, id := range ids {
		t := at
		if at == nil || at.id != id {
			if t, err = d.findConversation(u, id); err != nil {
				return err
			}
		} else if broken {
			continue
		}
		if t == nil || t.group == nil || t.rec.State == StateCreating {
			continue
		}
		if err := t.renewStale(); err != nil {
			return err
		}
	}
	return d.reportRolledBack(u)
}

// olderCopy is the key of Device.asked under which an older copy is reported once.
const olderCopy = "older copy"

// reportRolledBack reports to the user that the store is an older copy, and schedules the replacement of the
// KeyPackages.
func (d *Device) reportRolledBack(u *unit) error {
	d.log.Warn("store is an older copy")
	if err := u.putRecord(recordKey(recordStalePackages), &staleRecord{Version: recordVersion, Since: d.now()}); err != nil {
		return err
	}
	why := errors.New("the store of this device is an older copy: it gives itself new keys in all conversations before it sends anything; do not run two copies of a device")
	u.then(func() {
		if !d.asked[olderCopy] {
			d.remember(olderCopy)
			d.emit(Event{Type: EventRolledBack, Err: why})
		}
		d.queues.kick(queueUpkeep)
	})
	return nil
}

// checkFirstItem inspects the first item of a stream that this device has never read, of a conversation that it does
// not know. A membership begins with the entry that adds the device. If the first item is a different one, the device
// read that entry before an older copy of its store was restored, in which the KeyPackage was not used yet.
func (d *Device) checkFirstItem(u *unit, p *wire.Push) error {
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
	d.reportLost(u, *p.Conversation)
	return d.reportRolledBack(u)
}

// knowsAddress reports whether a token belongs to this device according to its store.
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

// reportLost reports, once for each conversation, that an older copy of the store knows nothing of it.
func (d *Device) reportLost(u *unit, id ConversationID) {
	err := errors.New("device was in a conversation before an older copy of its store was put back, and cannot read the conversation any more: another member adds the device again")
	u.then(func() {
		if key := "lost " + string(id); !d.asked[key] { // the device may have had several memberships
			d.remember(key)
			d.emit(Event{Type: EventGap, Conversation: id, Err: err})
		}
	})
}

// recordStalePackages is the letter of the record that the directory may have KeyPackages whose keys this device has
// lost or used: nothing → staleRecord.
const recordStalePackages = 'K'

// discardStale makes the directory forget KeyPackages whose keys the store may not have. New ones are made
// afterwards.
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

// recordDropped is the letter of the records of commits that this device has given up: conversation → droppedRecord.
const recordDropped = 'G'

// maxDropped is the number of commits that a conversation remembers after the device has given them up.
const maxDropped = 16

// othersContest is the time for which a device waits for others to contest a commit of its own that it cannot process, in
// multiples of the longest delay of a contest.
const othersContest = 5

// droppedRecord has the newest commits that this device has given up, for example because the servers refused them. If
// they are ordered all the same, the store is no older copy.
type droppedRecord struct {
	Version uint8               `cbor:"1,keyasint"`
	IDs     []wire.SubmissionID `cbor:"2,keyasint"` // the newest last
	// Own is a commit that this device has made with a newer store: see ownLost. 0 for none.
	Own SequenceNumber `cbor:"3,keyasint,omitempty"`
}

func (t *conversation) dropped() (*droppedRecord, error) {
	rec := &droppedRecord{Version: recordVersion}
	_, err := t.u.getRecord(recordKey(recordDropped, idPart(t.id)), rec)
	return rec, err
}

// noteDropped remembers the pending commit, if there is one.
func (t *conversation) noteDropped() error {
	_, e, err := t.pending()
	if err != nil || e == nil || e.Kind != wire.KindCommit {
		return err
	}
	rec, err := t.dropped()
	if err != nil {
		return err
	}
	rec.IDs = append(rec.IDs, e.Submission)
	rec.IDs = rec.IDs[max(0, len(rec.IDs)-maxDropped):]
	return t.u.putRecord(recordKey(recordDropped, idPart(t.id)), rec)
}

// lostCommit stops following a conversation after a commit of this device whose keys the store does not have, and
// reports whether it has done so. Either the servers ordered the commit although they had refused it: that concerns this
// conversation alone. Or the device made it before an older copy was put back, and the keys of the next epoch were in
// the newer store: the device waits for others to contest it.
func (t *conversation) lostCommit(at SequenceNumber, id wire.SubmissionID, why error) (bool, error) {
	rec, err := t.dropped()
	if err != nil {
		return false, err
	}
	if slices.Contains(rec.IDs, id) {
		return true, t.breakOff(fmt.Errorf("the servers refused change %d of this device, and ordered it all the same: another member adds the device again", at))
	}
	if !errors.Is(why, mlscore.ErrOwnUnknown) {
		return false, nil
	}
	if err := t.d.foundOlder(t.u, t, true); err != nil {
		return false, err
	}
	t.u.delete(t.staleKey())
	if err := t.overtaken(); err != nil {
		return false, err
	}
	if t.rec.Failed.At > 0 {
		return true, nil
	}
	if rec, err = t.dropped(); err != nil {
		return false, err
	}
	t.rec.Failed = failed{At: at, Contest: t.d.now() + wire.Time((othersContest * t.longestContest()).Milliseconds())}
	rec.Own = at
	return true, t.u.putRecord(recordKey(recordDropped, idPart(t.id)), rec)
}

// ownLost reports whether the commit that this device cannot process is its own. The device does not contest it: if it is
// good, the others have accepted it. If no other member has contested it in time, the device stops following the
// conversation.
func (t *conversation) ownLost() (bool, error) {
	rec, err := t.dropped()
	if err != nil || rec.Own == 0 || rec.Own != t.rec.Failed.At {
		return false, err
	}
	return true, t.breakOff(fmt.Errorf("the device has made change %d before an older copy of its store was put back, and the keys after it are lost: another member adds the device again", rec.Own))
}

// renewStale holds back messages until this device has taken in a commit with its new keys.
func (t *conversation) renewStale() error {
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

// renewed encrypts the waiting messages under the new keys. Their submission ids are new too: the node may have
// accepted them under the old ids already, and then members keep one copy.
func (t *conversation) renewed() error {
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
