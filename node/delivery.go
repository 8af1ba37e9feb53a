package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"slices"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// delivery puts committed entries into the organization's stream of the conversation, and tells those
// who were added in their inboxes. The stream's position makes it exactly once.
type delivery struct {
	org       wire.Domain
	mail      *mailbox.Mailbox
	directory *directory.Directory
	streams   *streams
	past      *pastKeys
	held      *held // may be nil
	log       *slog.Logger
	// contested returns the delivery list of the branch that a commit belongs to, nil where it is not known or
	// where there is one branch alone. May be nil.
	contested func(id wire.ConversationID, seq wire.SequenceNumber, contest bool) []wire.Address
}

var (
	_ consensus.Consumer  = (*delivery)(nil)
	_ consensus.Forgetter = (*delivery)(nil)
)

// Position is the last entry that the stream has.
func (d *delivery) Position(id wire.ConversationID) (wire.SequenceNumber, error) {
	at, err := d.mail.Position(context.Background(), mailbox.Conversation(id))
	return wire.SequenceNumber(at), err
}

// Reads implements consensus.Forgetter.
func (d *delivery) Reads(ctx context.Context, id wire.ConversationID) (bool, error) {
	n, err := d.mail.Readers(ctx, mailbox.Conversation(id))
	return n > 0, err
}

// Forget implements consensus.Forgetter: the stream, and the keys of its epochs, are of a conversation that nobody here
// reads. Another one may follow under its id.
func (d *delivery) Forget(ctx context.Context, id wire.ConversationID) error {
	reads, err := d.Reads(ctx, id)
	if err != nil || reads {
		return err
	}
	if err := d.past.forget(id); err != nil {
		return err
	}
	return d.mail.RemoveUnread(ctx, mailbox.Conversation(id))
}

// Consume stores one entry: the item, who joins and leaves the stream with it, and a note in the inbox
// of everyone who joins, in one write.
func (d *delivery) Consume(ctx context.Context, v consensus.Delivery) error {
	e, err := v.Committed.Open()
	if err != nil {
		return err
	}
	payload, err := wire.Encode(&v.Committed)
	if err != nil {
		return err
	}
	if v.Missed > 0 {
		d.log.Warn("entries are no longer kept: devices learn of the gap", "conversation", v.Conversation, "entries", v.Missed)
	}
	if err := d.past.note(v.Conversation, v.Committed.Sequence, e); err != nil {
		return err
	}
	add, remove := changes(e)
	joins, err := d.joins(v.Conversation, add)
	if err != nil {
		return err
	}
	if err := d.streams.add(joins); err != nil {
		return err
	}
	put := mailbox.Put{
		Stream: mailbox.Conversation(v.Conversation), ID: entryID(v.Committed.Sequence), Kind: mailbox.KindEntry,
		Payload: payload, Position: uint64(v.Committed.Sequence), Leave: tokens(d.org, remove),
	}
	for _, j := range joins {
		put.Join = append(put.Join, j.Token)
	}
	back, err := d.back(v, e)
	if err != nil {
		return err
	}
	if err := d.streams.add(back); err != nil {
		return err
	}
	for _, j := range back {
		put.Join = append(put.Join, j.Token)
	}
	if d.held != nil && len(joins)+len(back) > 0 {
		if err := d.held.hold(v.Conversation, v.Committed.Sequence, e); err != nil {
			return err
		}
	}
	notes, err := d.notes(v, joins)
	if err != nil {
		return err
	}
	results, err := d.mail.Put(ctx, append([]mailbox.Put{put}, notes...)...)
	if err != nil {
		return err
	}
	for i, r := range results {
		switch code := wire.CodeOf(r.Err); {
		case r.Err == nil:
		case i == 0 && code != wire.UnknownConversation: // that: nobody of this organization reads it
			return r.Err
		case i > 0:
			d.log.Warn("device not told that it was added: it finds the conversation in its list", "device", joins[i-1].device, "error", r.Err)
		}
	}
	d.streams.announce(append(joins, back...))
	return nil
}

// back finds the devices here that read the conversation again, since a commit that has removed them is
// contested: with the first commit of a branch in which they are that another organization has brought. A
// contest of their own does not count, so that a removed device does not bring itself back. Devices that read
// the stream are in the list too; nothing changes for them.
func (d *delivery) back(v consensus.Delivery, e *wire.Entry) ([]joined, error) {
	if d.contested == nil || e.Envelope == nil || e.Envelope.Commit == nil || e.Proposer.Organization() == d.org {
		return nil, nil
	}
	list := d.contested(v.Conversation, v.Committed.Sequence, e.Envelope.Commit.Contest)
	add, remove := changes(e)
	return d.joins(v.Conversation, slices.DeleteFunc(slices.Clone(list), func(a wire.Address) bool { // add joins anyway
		return slices.Contains(add, a) || slices.Contains(remove, a)
	}))
}

// joins finds whose the addresses are that are added, and gives them to the conversation. An address that is
// nobody's is passed over. So is one that another conversation has, or a conversation that the device has
// refused: nothing is stored for it, and the device hears nothing.
func (d *delivery) joins(id wire.ConversationID, add []wire.Address) ([]joined, error) {
	var list []joined
	for _, t := range tokens(d.org, add) {
		v, err := d.directory.Bind(id, t, func(v wire.DeviceID) (bool, error) { return d.streams.elsewhere(v, t, id) })
		switch wire.CodeOf(err) {
		case wire.NotFound, wire.Exists, wire.Denied, wire.Busy:
			d.log.Info("an address that was added reads nothing", "conversation", id, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, joined{v, reader{id, t}})
	}
	return list, nil
}

func (d *delivery) notes(v consensus.Delivery, joins []joined) ([]mailbox.Put, error) {
	var puts []mailbox.Put
	for _, j := range joins {
		note := wire.Joined{Conversation: v.Conversation, Token: j.Token, Sequence: v.Committed.Sequence}
		payload, err := wire.Encode(&note)
		if err != nil {
			return nil, err
		}
		puts = append(puts, mailbox.Put{Stream: mailbox.Inbox(j.device), ID: noteID(payload), Kind: mailbox.KindWelcome, Payload: payload})
	}
	return puts, nil
}

// changes are those of the delivery list that an entry makes.
func changes(e *wire.Entry) (add, remove []wire.Address) {
	switch {
	case e.Envelope == nil:
	case e.Envelope.Create != nil:
		add = e.Envelope.Create.Delivery
	case e.Envelope.Commit != nil:
		add, remove = e.Envelope.Commit.Delivery.Add, e.Envelope.Commit.Delivery.Remove
	}
	return add, remove
}

// tokens are the second halves of one organization's addresses.
func tokens(org wire.Domain, list []wire.Address) []wire.Token {
	var own []wire.Token
	for _, a := range list {
		if a.Organization == org {
			own = append(own, a.Token)
		}
	}
	return own
}

// Ids of items are derived under a label for each kind, so that a client cannot choose the id of a
// message to keep an entry out.

func entryID(n wire.SequenceNumber) mailbox.ID {
	return itemID("entry", binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func messageID(id wire.SubmissionID) mailbox.ID { return itemID("message", id[:]) }

func noteID(payload []byte) mailbox.ID { return itemID("note", payload) }

func itemID(label string, content []byte) mailbox.ID {
	h := sha256.Sum256(append([]byte("mlsfed item "+label+"\x00"), content...))
	return mailbox.ID(h[:16])
}
