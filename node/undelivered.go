package node

import (
	"context"

	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// dropped notifies the devices of this organization of messages that it had accepted and that another organization
// will not get. The notice is an item of the conversation's stream, since the node does not know which device sent a
// message. An organization that has left the conversation misses nothing, since none of its devices is a member.
func (l *lanes) dropped(ctx context.Context, org wire.Domain, id wire.ConversationID, items []outbox.Dropped) error {
	heads, err := l.orders.Heads(id)
	if wire.CodeOf(err) == wire.UnknownConversation || err == nil && len(heads) > 0 && !takesPart(heads, org) {
		return nil
	}
	if err != nil {
		return err
	}
	lost := make(map[wire.Loss][]wire.SubmissionID)
	for _, it := range items {
		if it.ID != (wire.SubmissionID{}) {
			lost[lossOf(it.Reason)] = append(lost[lossOf(it.Reason)], it.ID)
		}
	}
	var puts []mailbox.Put
	for reason, ids := range lost {
		for len(ids) > 0 {
			n := min(len(ids), wire.MaxUndelivered)
			payload, err := wire.Encode(&wire.Undelivered{Organization: org, Reason: reason, IDs: ids[:n]})
			if err != nil {
				return err
			}
			puts = append(puts, mailbox.Put{Stream: mailbox.Conversation(id), ID: itemID("undelivered", payload), Kind: mailbox.KindUndelivered, Payload: payload})
			ids = ids[n:]
		}
	}
	results, err := l.mailbox.Put(ctx, puts...)
	if err != nil {
		return err
	}
	for _, result := range results {
		switch wire.CodeOf(result.Err) {
		case "", wire.UnknownConversation: // the second: no device here reads the conversation any longer
		default:
			l.log.Warn("notice of messages that were not delivered not stored", "organization", org, "conversation", id, "error", result.Err)
		}
	}
	return nil
}

// lossOf returns the reason that devices get.
func lossOf(reason string) wire.Loss {
	switch reason {
	case outbox.DropExpired:
		return wire.LossExpired
	case outbox.DropForgotten:
		return wire.LossExcluded
	case outbox.DropDamaged:
		return wire.LossDamaged
	}
	return wire.LossRefused
}
