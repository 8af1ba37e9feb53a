package node

import (
	"context"

	"github.com/mlsfed/mlsfed/batch"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/wire"
)

// lanes sends application messages to other organizations, by way of the outbox.
type lanes struct {
	outbox *federation.Outbox
	orders *consensus.Manager
	notify federation.SendFunc
}

// queue is the change that queues a message for each organization, none if there are none. A retry is
// queued once. What was refused is known when the change has been made.
func (l *lanes) queue(ctx context.Context, orgs []wire.Domain, m *wire.Message, payload []byte) (c []batch.Change, refused func() error, err error) {
	if len(orgs) == 0 {
		return nil, func() error { return nil }, nil
	}
	items := make([]federation.OutboxItem, len(orgs))
	for i, org := range orgs {
		items[i] = federation.OutboxItem{Organization: org, Conversation: m.Conversation, ID: m.ID, Payload: payload}
	}
	change, refused, err := l.outbox.Change(ctx, items...)
	return []batch.Change{change}, refused, err
}

// send hands over what waits in one lane. An organization that has no part in the conversation any more
// gets nothing.
func (l *lanes) send(ctx context.Context, org wire.Domain, id wire.ConversationID, items []federation.Item) ([]error, error) {
	heads, err := l.orders.Heads(id)
	gone := wire.CodeOf(err) == wire.UnknownConversation || err == nil && len(heads) > 0 && !takesPart(heads, org)
	if !gone {
		return l.notify(ctx, org, id, items)
	}
	results := make([]error, len(items))
	for i := range results {
		results[i] = wire.Errorf(wire.NotReplica, "notify", "%s has left conversation %v", org, id)
	}
	return results, nil
}

// linked takes in that the link to another node went up or down. What waited for the node goes at once when it is up.
func (n *Node) linked(node wire.NodeID, up bool, why string) {
	n.audit.link(n.cfg.Node, node, up, why)
	if up {
		n.outbox.Reached(node.Organization())
		n.orders.Reached(node)
	}
}

// organizations are all that one conversation is delivered to.
func organizations(heads []machine.Head) map[wire.Domain]bool {
	all := make(map[wire.Domain]bool)
	for _, h := range heads {
		for _, org := range machine.Organizations(h.Delivery) {
			all[org] = true
		}
	}
	return all
}
