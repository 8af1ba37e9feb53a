package node

import (
	"context"

	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// dropped tells the devices of this organization of messages that it had accepted and that another organization
// will not get. The notice is an item of the conversation's stream: the node does not know which device sent a
// message. An organization that has left the conversation misses nothing: no device of it is a member.
func (r *router) dropped(ctx context.Context, org wire.Domain, id wire.ConversationID, items []federation.Dropped) error {
	heads, err := r.orders.Heads(id)
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
	results, err := r.mail.Put(ctx, puts...)
	if err != nil {
		return err
	}
	for _, result := range results {
		switch wire.CodeOf(result.Err) {
		case "", wire.UnknownConversation: // that: no device of this organization reads it any longer
		default:
			r.log.Warn("devices not told of messages that were not delivered", "organization", org, "conversation", id, "error", result.Err)
		}
	}
	return nil
}

// lossOf is the reason that devices are told.
func lossOf(reason string) wire.Loss {
	switch reason {
	case federation.DropExpired:
		return wire.LossExpired
	case federation.DropForgotten:
		return wire.LossExcluded
	case federation.DropDamaged:
		return wire.LossDamaged
	}
	return wire.LossRefused
}
