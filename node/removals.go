package node

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// removals records since which epoch a device here reads a conversation under an address, and with which entry its
// membership ended. A message of an epoch in which the device was a member can arrive after that entry, because
// another organization accepted the message before it knew of the removal. The device has no key for the message any
// more, so it gets a notice in its inbox (wire.Missed) for each such message, up to maxMissed for one removal. No
// message for the device is lost without a notice.
//
// A removal is stored before its entry is in the stream.
type removals struct {
	kept    store.Removals
	mailbox mailbox.Box
	owners  func(context.Context, ...wire.Token) (map[wire.Token]wire.DeviceID, error)           // of addresses that have one
	keys    func(context.Context, wire.ConversationID, wire.Epoch) ([]wire.SubmissionKey, error) // the oldest first
	now     func() time.Time

	mu sync.Mutex // held while a record is read and written
}

const (
	// removalLife is how long a removal is remembered: longer than another organization keeps messages that it could
	// not deliver.
	removalLife = 30 * 24 * time.Hour
	// maxMissed bounds the notices of one removal. The last notice reports that there may be more.
	maxMissed = 16
	// removalEpochs is the number of epochs before a removal whose keys are kept with it, and maxRemovalKeys bounds
	// these keys.
	removalEpochs  = 8
	maxRemovalKeys = 16
)

// note stores the devices that join and leave with an entry, before the entry is in the stream.
func (r *removals) note(ctx context.Context, id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry, join, leave []wire.Token) error {
	if len(join)+len(leave) == 0 {
		return nil
	}
	opened, _, ok := opens(e)
	if !ok {
		return nil
	}
	var members []store.Removed
	devices, err := r.owners(ctx, leave...)
	if err != nil {
		return err
	}
	for _, t := range leave {
		device, known := devices[t]
		if !known {
			continue // the device is gone: no notice is needed
		}
		since, err := r.kept.Since(ctx, t, id)
		if err != nil {
			return err
		}
		members = append(members, store.Removed{Token: t, Device: device, Since: since})
	}
	if len(members) == 0 {
		return r.kept.Note(ctx, id, opened, join, nil)
	}
	rec := &store.Removal{Sequence: seq, Epoch: opened - 1, Time: wire.TimeOf(r.now()), Members: members}
	for epoch := rec.Epoch; epoch+removalEpochs > rec.Epoch; epoch-- {
		keys, err := r.keys(ctx, id, epoch)
		if err != nil {
			return err
		}
		for i := len(keys) - 1; i >= 0 && len(rec.Keys) < maxRemovalKeys; i-- {
			rec.Keys = append(rec.Keys, store.RemovalKey{Epoch: epoch, Key: keys[i]})
		}
		if epoch == 0 {
			break
		}
	}
	return r.kept.Note(ctx, id, opened, join, rec)
}

// ended stores which item of the stream a noted entry is.
func (r *removals) ended(ctx context.Context, id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry, item uint64) error {
	opened, _, ok := opens(e)
	if !ok || opened == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.kept.Between(ctx, id, opened-1, opened-1)
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].Epoch == opened-1 && list[i].Sequence == seq {
			list[i].Until = item
			return r.kept.Set(ctx, id, &list[i])
		}
	}
	return nil
}

// missed notifies removed devices of a message that another organization brings after the removal. item is the
// message's place in the stream, 0 if it is not there. missed reports whether the message was for such a device: then
// the sending organization need not send it again.
func (r *removals) missed(ctx context.Context, from wire.Domain, m *wire.Message, item uint64) (bool, error) {
	// No later removal has the key of the message's epoch. In a conversation with many removals, each message would
	// otherwise read all of them.
	last := m.Epoch + min(removalEpochs-1, math.MaxUint64-m.Epoch)
	list, err := r.kept.Between(ctx, m.Conversation, m.Epoch, last)
	if err != nil || len(list) == 0 { // an empty list is the usual case
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err = r.kept.Between(ctx, m.Conversation, m.Epoch, last)
	found := false
	for i := range list {
		rec := &list[i]
		if !proves(rec, m) || item > 0 && (rec.Until == 0 || item < rec.Until) {
			continue // no signature proves that it is of this conversation, or the device reads it
		}
		reached, err := r.notify(ctx, from, m, rec)
		if err != nil {
			return found, err
		}
		found = found || reached
		if rec.Notices > 0 {
			if err := r.kept.Set(ctx, m.Conversation, rec); err != nil {
				return found, err
			}
		}
	}
	return found, err
}

// proves reports whether a member signed a message in an epoch before the removal.
func proves(rec *store.Removal, m *wire.Message) bool {
	return slices.ContainsFunc(rec.Keys, func(k store.RemovalKey) bool { return k.Epoch == m.Epoch && m.Verify(k.Key) })
}

// notify puts a notice into the inboxes of the devices that were members in the message's epoch, and reports
// whether there was such a device.
func (r *removals) notify(ctx context.Context, from wire.Domain, m *wire.Message, rec *store.Removal) (bool, error) {
	var puts []mailbox.Put
	for _, v := range rec.Members {
		if v.Since > m.Epoch {
			continue
		}
		if rec.Notices >= maxMissed {
			return true, nil
		}
		payload, err := wire.Encode(&wire.Missed{Conversation: m.Conversation, Organization: from, More: rec.Notices == maxMissed-1})
		if err != nil {
			return false, err
		}
		id := itemID("missed", slices.Concat(m.ID[:], v.Token[:], []byte(from)))
		puts = append(puts, mailbox.Put{Stream: mailbox.Inbox(v.Device), ID: id, Kind: mailbox.KindMissed, Payload: payload})
	}
	if len(puts) == 0 {
		return false, nil
	}
	results, err := r.mailbox.Put(ctx, puts...)
	if err != nil {
		return false, err
	}
	fresh := false
	for _, result := range results {
		fresh = fresh || result.Err == nil && !result.Duplicate
	}
	if fresh { // otherwise the organization sends it again
		rec.Notices++
	}
	return true, nil
}

// sweep forgets removals older than removalLife.
func (r *removals) sweep(ctx context.Context) error {
	return r.kept.Sweep(ctx, wire.TimeOf(r.now().Add(-removalLife)))
}
