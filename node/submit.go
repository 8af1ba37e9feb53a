package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// The two paths of what devices send. A handshake goes through the conversation's Raft group, whose
// replication is what brings it to the other organizations. An application message goes into the own
// stream and into a lane for each other organization, in one batch, and is accepted when that is on disk.

// orderWait is how long a handshake is tried before the device is told that no majority answers: longer
// than a new leader takes, and well before the device stops to wait for an answer (30 s).
const orderWait = 15 * time.Second

// update has a handshake ordered. What it names is stored with the conversation's replica when a member is
// known to have signed it.
func (r *router) update(ctx context.Context, d wire.DeviceID, e *wire.Envelope) (any, error) {
	if err := r.limits.update(d, e); err != nil {
		return nil, err
	}
	if err := r.contests.mayOpen(d.User(), e, r.orders.Heads); err != nil {
		return nil, err
	}
	if e.Kind == wire.KindCreate {
		if err := r.founded.claim(d.User(), e.Conversation); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	r.flushBefore(ctx, e)
	var receipt wire.Receipt
	var err error
	if e.Kind == wire.KindCreate {
		receipt, err = r.orders.Create(ctx, e)
	} else {
		receipt, err = r.orders.SubmitWith(ctx, e, func() error { return r.files.lend(r.orders, d, e) })
	}
	if err != nil && e.Kind == wire.KindCreate && !r.founded.held()[e.Conversation] {
		err = errors.Join(err, r.founded.release(e.Conversation)) // it was not created
	}
	if err != nil {
		return nil, err
	}
	r.contests.note(d.User(), e, receipt.Sequence)
	return &receipt, nil
}

// removalWait is how long a commit that removes members waits for messages that were accepted before it.
const removalWait = 2 * time.Second

// flushBefore lets what was accepted for members reach their organizations before the commit that removes them: their
// streams end with it, and messages and commits take different ways. An organization that cannot be reached is not
// waited for.
func (r *router) flushBefore(ctx context.Context, e *wire.Envelope) {
	if e.Commit == nil || len(e.Commit.Delivery.Remove) == 0 {
		return
	}
	orgs := machine.Organizations(e.Commit.Delivery.Remove)
	ctx, cancel := context.WithTimeout(ctx, removalWait)
	defer cancel()
	r.lanes.outbox.Flush(ctx, e.Conversation, slices.DeleteFunc(orgs, func(d wire.Domain) bool { return d == r.org }))
}

// submit accepts an application message.
func (r *router) submit(ctx context.Context, _ wire.DeviceID, m *wire.Message) (any, error) {
	heads, err := r.orders.Heads(m.Conversation)
	if err != nil {
		return nil, err
	}
	after, err := mayAccept(m, heads)
	if err != nil {
		return nil, err
	}
	payload, err := wire.Encode(m)
	if err != nil {
		return nil, err
	}
	to := organizations(heads)
	delete(to, r.org)
	others, refused, err := r.lanes.queue(ctx, slices.Collect(maps.Keys(to)), m, payload)
	if err != nil {
		return nil, err
	}
	if err := r.storeSoon(ctx, arrival{after: after, heads: heads, message: m, payload: payload}, others...); err != nil {
		return nil, err
	}
	if err := refused(); err != nil {
		return nil, err
	}
	return &wire.Accepted{Time: wire.TimeOf(r.now())}, nil
}

// storeWait is how long a message waits for the entry before it to be in the stream.
const storeWait = 5 * time.Second

// storePause is how often it looks.
const storePause = 10 * time.Millisecond

// storeSoon is store that waits for a stream which is about to come.
func (r *router) storeSoon(ctx context.Context, v arrival, with ...batch.Change) error {
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	for {
		err := r.store(ctx, v, with...)
		if wire.CodeOf(err) != wire.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(storePause):
		}
	}
}

// arrival is a message that is to be stored.
type arrival struct {
	from    wire.Domain         // that brings it, "" for a device of this organization
	after   wire.SequenceNumber // the entry that it has to stand behind
	heads   []machine.Head
	message *wire.Message
	payload []byte // the message, encoded
}

// store appends a message to the organization's own stream, behind the entry with number after: who joins
// with that entry reads from it on, and must not miss what was said in the epoch that it opened. A retry
// finds the message there. Changes of other parts are made with it, or alone where nobody here reads it.
func (r *router) store(ctx context.Context, v arrival, with ...batch.Change) error {
	m, name := v.message, mailbox.Conversation(v.message.Conversation)
	at, err := r.mail.Position(ctx, name)
	if err != nil {
		return err
	}
	if at < uint64(v.after) {
		if !r.awaited(m.Conversation, v.heads) { // nobody here reads it
			_, err := r.mail.PutWith(ctx, with)
			return err
		}
		return wire.Errorf(wire.Unavailable, "submitMessage", "entry %d of %v has been ordered, and is not in the devices' streams yet: try again", v.after, m.Conversation)
	}
	put := mailbox.Put{Stream: name, ID: messageID(m.ID), Kind: mailbox.KindMessage, Payload: v.payload}
	if v.from != "" {
		put.Sender, put.Senders = string(v.from), len(organizations(v.heads))
	}
	results, err := r.mail.PutWith(ctx, with, put)
	if err != nil {
		return err
	}
	if err := results[0].Err; wire.CodeOf(err) != wire.UnknownConversation { // that: all readers have left meanwhile
		return err
	}
	return nil
}

// awaited reports whether a device of this organization is to read a conversation.
func (r *router) awaited(id wire.ConversationID, heads []machine.Head) bool {
	for _, h := range heads {
		for _, t := range tokens(r.org, h.Delivery) {
			if ok, err := r.directory.MayRead(id, t); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// mayAccept is mayTake for what a device sends now. A commit that removes somebody ends the epoch before it at
// once, since who was removed has its key: the others encrypt anew what was on its way. What an organization
// had accepted before is still taken from it.
func mayAccept(m *wire.Message, heads []machine.Head) (after wire.SequenceNumber, err error) {
	for i := range heads {
		h := &heads[i]
		if key, removed, ok := h.Past(m.Epoch); ok && removed && m.Verify(key) {
			e := wire.Errorf(wire.StaleEpoch, "submitMessage", "epoch %d ended with the removal of a member: encrypt it anew", m.Epoch)
			e.Stale = &wire.Stale{Epoch: h.Epoch, Head: h.Sequence}
			return h.Sequence, e
		}
	}
	return mayTake(m, heads)
}

// mayTake checks that a member of the epoch signed the message, or of an earlier one: of the one before, or of
// one that can still be contested and since which nobody was removed. It returns the number of the entry that
// the message has to stand behind in a stream.
func mayTake(m *wire.Message, heads []machine.Head) (after wire.SequenceNumber, err error) {
	if len(heads) == 0 {
		return 0, wire.Errorf(wire.Unavailable, "submitMessage", "this node does not know the state of %v yet: try again", m.Conversation)
	}
	newest := &heads[0]
	for i := range heads {
		h := &heads[i]
		key, removed, past := h.Past(m.Epoch)
		switch {
		case m.Epoch == h.Epoch && m.Verify(h.Key), past && (!removed || m.Epoch+1 == h.Epoch) && m.Verify(key):
			return h.Sequence, nil
		case h.Epoch > newest.Epoch:
			newest = h
		}
	}
	switch {
	case m.Epoch > newest.Epoch:
		err := wire.Errorf(wire.Unavailable, "submitMessage", "the commit that opened epoch %d has not arrived here yet, %d is the newest: try again", m.Epoch, newest.Epoch)
		return 0, err
	case m.Epoch+1 < newest.Epoch:
		e := wire.Errorf(wire.StaleEpoch, "submitMessage", "encrypted in epoch %d, two or more before the current one: encrypt it anew", m.Epoch)
		e.Stale = &wire.Stale{Epoch: newest.Epoch, Head: newest.Sequence}
		return newest.Sequence, e
	}
	return 0, wire.Errorf(wire.Forged, "submitMessage", "not signed with the submission key of epoch %d", m.Epoch)
}
