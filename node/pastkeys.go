package node

import (
	"context"

	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// pastKeys keeps the submission keys of a conversation's epochs. The state of the log knows only the last two of
// them. The kept keys verify messages that another organization accepted in an earlier epoch. Delivery stores each
// key with the entry that opens its epoch, on disk before that entry is in the stream.
type pastKeys struct {
	kept store.Epochs
	most uint64 // the number of epochs of one conversation, the newest
}

// entriesOf returns the entries that the log of a conversation still has.
type entriesOf func(id wire.ConversationID) ([]wire.Committed, error)

// maxBranches bounds the keys of one epoch: the keys of the newest branches are kept. Each key costs one verification
// of a message of that epoch.
const maxBranches = 8

// opens returns the epoch that an entry opens and its submission key, or false for an entry that opens no epoch.
func opens(e *wire.Entry) (wire.Epoch, wire.SubmissionKey, bool) {
	switch {
	case e.Envelope == nil:
	case e.Envelope.Create != nil:
		return 0, e.Envelope.Create.Key, true
	case e.Envelope.Commit != nil:
		return e.Envelope.Epoch + 1, e.Envelope.Commit.Key, true
	}
	return 0, wire.SubmissionKey{}, false
}

// note keeps the key that an entry brings, and forgets keys that are too old. It does not wait for the disk: a later
// write that waits for the disk makes the key durable too.
func (p *pastKeys) note(ctx context.Context, id wire.ConversationID, seq wire.SequenceNumber, e *wire.Entry) error {
	epoch, key, ok := opens(e)
	if !ok {
		return nil
	}
	before := wire.Epoch(0)
	if uint64(epoch) >= p.most {
		before = wire.Epoch(uint64(epoch) - p.most + 1)
	}
	return p.kept.Note(ctx, id, store.EpochKey{Epoch: epoch, Sequence: seq, Key: key}, maxBranches, before)
}

// keys returns the keys of an epoch, the oldest first.
func (p *pastKeys) keys(ctx context.Context, id wire.ConversationID, e wire.Epoch) ([]wire.SubmissionKey, error) {
	return p.kept.Keys(ctx, id, e)
}

// verify checks a message of a past epoch. known is false where no key of that epoch is kept.
func (p *pastKeys) verify(ctx context.Context, log entriesOf, m *wire.Message) (known, signed bool, err error) {
	list, err := p.keys(ctx, m.Conversation, m.Epoch)
	if err == nil && len(list) == 0 {
		if err = p.search(ctx, log, m.Conversation); err == nil {
			list, err = p.keys(ctx, m.Conversation, m.Epoch)
		}
	}
	for i := len(list) - 1; i >= 0 && err == nil && !signed; i-- {
		signed = m.Verify(list[i])
	}
	return len(list) > 0, signed, err
}

// search stores the keys of the entries that the log still has, once for each conversation.
func (p *pastKeys) search(ctx context.Context, log entriesOf, id wire.ConversationID) error {
	searched, err := p.kept.Searched(ctx, id)
	if err != nil || searched {
		return err
	}
	list, err := log(id)
	if err != nil {
		return err
	}
	for i := range list {
		e, err := list[i].Open()
		if err == nil {
			err = p.note(ctx, id, list[i].Sequence, e)
		}
		if err != nil {
			return err
		}
	}
	return p.kept.SetSearched(ctx, id)
}

// forget drops the keys of one conversation.
func (p *pastKeys) forget(ctx context.Context, id wire.ConversationID) error {
	return p.kept.Forget(ctx, id)
}

// sweep forgets the keys of conversations that this node no longer holds.
func (p *pastKeys) sweep(ctx context.Context, held []wire.ConversationID) error {
	here := make(map[wire.ConversationID]bool, len(held))
	for _, id := range held {
		here[id] = true
	}
	return p.kept.Sweep(ctx, func(id wire.ConversationID) bool { return here[id] })
}
