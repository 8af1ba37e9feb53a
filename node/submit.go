package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// Submissions of devices take two paths. A handshake goes through the conversation's Raft group, whose replication
// brings it to the other organizations. An application message goes into the organization's own stream and into a
// lane for each other organization, in one batch, and is accepted when that batch is on disk.

// orderWait is how long a handshake is tried before the device gets the answer that there is no quorum: longer than a
// new leader takes, and well below the time for which the device waits for an answer (30 s).
const orderWait = 15 * time.Second

// update orders a handshake. The blobs that the handshake names are stored with the conversation's replica once a
// member's signature is verified.
func (r *router) update(ctx context.Context, d wire.DeviceID, e *wire.Envelope) (any, error) {
	if err := r.limits.update(d, e); err != nil {
		return nil, err
	}
	if err := r.contests.mayOpen(d.User(), e, r.orders.Heads); err != nil {
		return nil, err
	}
	if e.Kind == wire.KindCreate {
		if err := r.founded.claim(ctx, d.User(), e.Conversation); err != nil {
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
		receipt, err = r.orders.OrderWith(ctx, e, consensus.Caller{
			Lend:     func() error { return r.files.lend(ctx, r.orders, d, e) },
			Unproven: func() error { return r.mayAsk(ctx, d, e) },
		})
	}
	if err != nil && e.Kind == wire.KindCreate && !slices.Contains(r.orders.Conversations(), e.Conversation) {
		err = errors.Join(err, r.founded.release(ctx, e.Conversation)) // the conversation was not created
	}
	if err != nil {
		return nil, err
	}
	r.limits.ordered(e)
	r.contests.note(d.User(), e, receipt.Sequence)
	return &receipt, nil
}

// mayAsk refuses a submission that this node cannot judge yet, from a device that does not take part in the
// conversation: other nodes count each question against this organization.
func (r *router) mayAsk(ctx context.Context, d wire.DeviceID, e *wire.Envelope) error {
	list, err := r.readers.kept.In(ctx, d, e.Conversation)
	if err != nil || len(list) > 0 {
		return err
	}
	return wire.Errorf(wire.Unavailable, "update", "entry %d of %v has not arrived here: try again", e.Parent, e.Conversation)
}

// removalWait is how long a commit that removes members waits for messages that were accepted before it.
const removalWait = 2 * time.Second

// flushBefore delivers messages that were accepted for members to their organizations before the commit that removes
// these members: their streams end with the commit, and messages and commits take different paths. It does not wait
// for an organization that cannot be reached.
func (r *router) flushBefore(ctx context.Context, e *wire.Envelope) {
	if e.Commit == nil || len(e.Commit.Delivery.Remove) == 0 {
		return
	}
	orgs := machine.Organizations(e.Commit.Delivery.Remove)
	ctx, cancel := context.WithTimeout(ctx, removalWait)
	defer cancel()
	r.outbox.Flush(ctx, e.Conversation, slices.DeleteFunc(orgs, func(d wire.Domain) bool { return d == r.org }))
}

// submit accepts an application message.
func (r *router) submit(ctx context.Context, d wire.DeviceID, m *wire.Message) (any, error) {
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
	v := arrival{after: after, heads: heads, message: m, payload: payload, queue: queue(d.User(), slices.Collect(maps.Keys(to)), m, payload)}
	k, err := r.storeSoon(ctx, v)
	if err == nil {
		err = r.outbox.Refusal(k.full)
	}
	if err != nil {
		return nil, err
	}
	return &wire.Accepted{Time: wire.TimeOf(r.now())}, nil
}

// storeWait is how long a message waits for the entry before it to be in the stream.
const storeWait = 5 * time.Second

// storeSoon calls keep, and waits for the entry before the message.
func (r *router) storeSoon(ctx context.Context, v arrival) (k kept, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	k, err = r.keep(ctx, v)
	if early := new(earlyError); !errors.As(err, early) {
		return k, err
	}
	if waited := mailbox.Reached(ctx, r.mailbox, mailbox.Conversation(v.message.Conversation), uint64(v.after)); waited != nil {
		return k, err
	}
	return r.keep(ctx, v)
}

// arrival is a message that has to be stored.
type arrival struct {
	from    wire.Domain         // that brings it, "" for a device of this organization
	after   wire.SequenceNumber // the entry that must precede it
	heads   []machine.Head
	message *wire.Message
	payload []byte           // the message, encoded
	queue   []lanestore.Item // for other organizations
}

// kept is the result of storing an arrival.
type kept struct {
	item uint64               // where the message is in the organization's own stream; 0 for nowhere
	full map[wire.Domain]bool // organizations that had no room for it
}

// keep appends a message to the organization's own stream, behind the entry with number after. A device that joins
// with that entry reads from it on, and must not miss messages of the epoch that the entry opened. A retry finds the
// message there. Items for other organizations are queued with it, or alone if no device here reads the conversation.
func (r *router) keep(ctx context.Context, v arrival) (k kept, err error) {
	m, name := v.message, mailbox.Conversation(v.message.Conversation)
	at, err := r.mailbox.Position(ctx, name)
	if err != nil {
		return k, err
	}
	w := store.Write{Queue: v.queue}
	if at >= uint64(v.after) {
		put := mailbox.Put{Stream: name, ID: messageID(v.from, m.ID), Kind: mailbox.KindMessage, Payload: v.payload}
		if v.from != "" {
			put.Sender, put.Senders = string(v.from), len(organizations(v.heads))
		}
		w.Puts = []mailbox.Put{put}
	} else if awaited, err := r.awaited(ctx, m.Conversation, v.heads); err != nil {
		return k, err
	} else if awaited {
		return k, earlyError{wire.Errorf(wire.Unavailable, "submitMessage", "entry %d of %v has been ordered, and is not in the devices' streams yet: try again", v.after, m.Conversation)}
	}
	written, err := r.store.Write(ctx, w)
	if err != nil {
		return k, err
	}
	for _, result := range written.Results {
		k.item = result.Sequence
		if wire.CodeOf(result.Err) != wire.UnknownConversation { // UnknownConversation: all readers have left meanwhile
			err = result.Err
		}
	}
	k.full = written.Full
	return k, err
}

// earlyError is the refusal of a message whose entry is not in the stream yet.
type earlyError struct{ err error }

func (e earlyError) Error() string { return e.err.Error() }

// Unwrap returns the refusal that a device gets.
func (e earlyError) Unwrap() error { return e.err }

// awaited reports whether a device of this organization will read a conversation.
func (r *router) awaited(ctx context.Context, id wire.ConversationID, heads []machine.Head) (bool, error) {
	var at []wire.Token
	for _, h := range heads {
		at = append(at, tokens(r.org, h.Delivery)...)
	}
	return r.directory.AnyReads(ctx, id, at...)
}

// mayAccept applies mayTake to a message that a device sends now. A commit that removes a member ends the epoch
// before it at once, since the removed member has the key of that epoch: the others encrypt their pending messages
// again. A message that an organization had accepted before is still taken from it.
func mayAccept(m *wire.Message, heads []machine.Head) (after wire.SequenceNumber, err error) {
	for i := range heads {
		h := &heads[i]
		if key, removed, ok := h.Past(m.Epoch); ok && removed && m.Verify(key) {
			e := wire.Errorf(wire.StaleEpoch, "submitMessage", "epoch %d ended with the removal of a member: encrypt the message again", m.Epoch)
			e.Stale = &wire.Stale{Epoch: h.Epoch, Head: h.Sequence}
			return h.Sequence, e
		}
	}
	return mayTake(m, heads)
}

// mayTake checks that the message has the signature of a member of the current epoch or of an accepted earlier one:
// the epoch before, or an epoch that can still be contested and since which no member was removed. It returns the
// number of the entry that must precede the message in a stream.
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
		e := wire.Errorf(wire.StaleEpoch, "submitMessage", "encrypted in epoch %d, two or more before the current one: encrypt the message again", m.Epoch)
		e.Stale = &wire.Stale{Epoch: newest.Epoch, Head: newest.Sequence}
		return newest.Sequence, e
	}
	return 0, wire.Errorf(wire.Forged, "submitMessage", "not signed with the submission key of epoch %d", m.Epoch)
}
