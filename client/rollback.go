package client

import (
	"context"
	"errors"
	"fmt"

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
	any := false // stream that this device has read
	err := d.turn(ctx, func(u *unit) error {
		err := u.Scan(recordKey(recordCursor), func(_, _ []byte) error { any = true; return errStop })
		if err == error(errStop) {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if !any { // nothing was acknowledged
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
		if !ok || parseNumber(at) >= s.Acknowledged {
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
	why := errors.New("the store of this device is an older copy: it gives itself new keys in all conversations before it sends anything; do not run two copies of a device")
	d.log.Warn("store is an older copy")
	u.then(func() { d.emit(Event{Type: EventRolledBack, Err: why}) })
	return nil
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
