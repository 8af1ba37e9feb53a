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
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// delivery puts committed entries into the organization's stream of the conversation, and a note into the inbox of
// each device that was added. The stream's position makes delivery exactly once.
type delivery struct {
	org       wire.Domain
	store     store.Store
	mailbox   mailbox.Box
	directory *directory.Directory
	readers   *readers
	past      *pastKeys
	removals  *removals
	held      *held
	log       *slog.Logger
	orders    later[*consensus.Manager] // whose entries delivery consumes; asked for the branches of contested conversations
}

var (
	_ consensus.Consumer  = (*delivery)(nil)
	_ consensus.Forgetter = (*delivery)(nil)
)

// Position returns the last entry that the stream has.
func (d *delivery) Position(id wire.ConversationID) (wire.SequenceNumber, error) {
	at, err := d.mailbox.Position(context.Background(), mailbox.Conversation(id))
	return wire.SequenceNumber(at), err
}

// Reads implements consensus.Forgetter.
func (d *delivery) Reads(ctx context.Context, id wire.ConversationID) (bool, error) {
	n, err := d.mailbox.Readers(ctx, mailbox.Conversation(id))
	return n > 0, err
}

// Forget implements consensus.Forgetter. It removes the stream, and the keys of its epochs, of a conversation that no
// device here reads. Another conversation may follow under the same id.
func (d *delivery) Forget(ctx context.Context, id wire.ConversationID) error {
	reads, err := d.Reads(ctx, id)
	if err != nil || reads {
		return err
	}
	if err := d.past.forget(ctx, id); err != nil {
		return err
	}
	return d.mailbox.RemoveUnread(ctx, mailbox.Conversation(id))
}

// Consume stores one entry in one write: the item, the readers that join and leave the stream with it, and a note in
// the inbox of each device that joins.
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
	if err := d.past.note(ctx, v.Conversation, v.Committed.Sequence, e); err != nil {
		return err
	}
	add, remove := changes(e)
	joins, err := d.joins(ctx, v.Conversation, add)
	if err != nil {
		return err
	}
	put := mailbox.Put{
		Stream: mailbox.Conversation(v.Conversation), ID: entryID(v.Committed.Sequence), Kind: mailbox.KindEntry,
		Payload: payload, Position: uint64(v.Committed.Sequence), Leave: tokens(d.org, remove),
	}
	back, err := d.back(ctx, v, e)
	if err != nil {
		return err
	}
	readers := append(slices.Clone(joins), back...)
	for _, j := range readers {
		put.Join = append(put.Join, j.Token)
	}
	if err := d.held.hold(ctx, v.Conversation, v.Committed.Sequence, e, len(readers) > 0); err != nil {
		return err
	}
	if err := d.removals.note(ctx, v.Conversation, v.Committed.Sequence, e, put.Join, put.Leave); err != nil {
		return err
	}
	notes, err := d.notes(v, joins)
	if err != nil {
		return err
	}
	written, err := d.store.Write(ctx, store.Write{Puts: append([]mailbox.Put{put}, notes...), Readers: readers})
	if err != nil {
		return err
	}
	for i, r := range written.Results {
		switch code := wire.CodeOf(r.Err); {
		case r.Err == nil:
		case i == 0 && code != wire.UnknownConversation: // UnknownConversation: no device here reads the conversation
			return r.Err
		case i > 0:
			d.log.Warn("notice to an added device not stored: the device finds the conversation in its list", "device", joins[i-1].Device, "error", r.Err)
		}
	}
	d.readers.announce(readers)
	if len(put.Leave) > 0 {
		return d.removals.ended(ctx, v.Conversation, v.Committed.Sequence, e, written.Results[0].Sequence)
	}
	return nil
}

// back finds the devices here that read the conversation again, because a commit that removed them is contested. They
// read again from the first commit that another organization brings on a branch in which they are members. A contest
// by their own organization does not count, so that a removed device does not bring itself back. Devices that read
// the stream are in the list too; nothing changes for them.
func (d *delivery) back(ctx context.Context, v consensus.Delivery, e *wire.Entry) ([]store.Joined, error) {
	if e.Envelope == nil || e.Envelope.Commit == nil || e.Proposer.Organization() == d.org {
		return nil, nil
	}
	list := contestedList(d.orders.get(), v.Conversation, v.Committed.Sequence, e.Envelope.Commit.Contest)
	add, remove := changes(e)
	return d.joins(ctx, v.Conversation, slices.DeleteFunc(slices.Clone(list), func(a wire.Address) bool { // add joins anyway
		return slices.Contains(add, a) || slices.Contains(remove, a)
	}))
}

// joins finds the devices of the added addresses, and assigns the addresses to the conversation. It skips an address
// that belongs to no device or to another conversation, and an address whose device has refused the conversation:
// nothing is stored for it, and the device gets no notice.
func (d *delivery) joins(ctx context.Context, id wire.ConversationID, add []wire.Address) ([]store.Joined, error) {
	var list []store.Joined
	since := wire.TimeOf(d.readers.now())
	for _, t := range tokens(d.org, add) {
		v, err := d.directory.Bind(ctx, id, t, func(v wire.DeviceID) (bool, error) { return d.readers.elsewhere(ctx, v, t, id) })
		switch wire.CodeOf(err) {
		case wire.NotFound, wire.Exists, wire.Denied, wire.Busy:
			d.log.Info("an address that was added reads nothing", "conversation", id, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, store.Joined{Device: v, Reader: store.Reader{Conversation: id, Token: t}, Since: since})
	}
	return list, nil
}

func (d *delivery) notes(v consensus.Delivery, joins []store.Joined) ([]mailbox.Put, error) {
	var puts []mailbox.Put
	for _, j := range joins {
		note := wire.Joined{Conversation: v.Conversation, Token: j.Token, Sequence: v.Committed.Sequence}
		payload, err := wire.Encode(&note)
		if err != nil {
			return nil, err
		}
		puts = append(puts, mailbox.Put{Stream: mailbox.Inbox(j.Device), ID: noteID(payload), Kind: mailbox.KindJoined, Payload: payload})
	}
	return puts, nil
}

// changes returns the addresses that an entry adds to and removes from the delivery list.
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

// tokens returns the second halves of one organization's addresses.
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

// messageID returns the id of a message that another organization brings, or for "" a device here. It depends on who
// brings the message: otherwise an organization that learns the id of a message could bring another message under this
// id first, and the genuine one would count as a repetition.
func messageID(from wire.Domain, id wire.SubmissionID) mailbox.ID {
	return itemID("message", append(id[:], from...))
}

func noteID(payload []byte) mailbox.ID { return itemID("note", payload) }

func itemID(label string, content []byte) mailbox.ID {
	h := sha256.Sum256(append([]byte("mlsfed item "+label+"\x00"), content...))
	return mailbox.ID(h[:16])
}
