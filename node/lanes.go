package node

import (
	"context"
	"log/slog"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// lanes sends application messages to other organizations through the outbox.
type lanes struct {
	orders  *consensus.Manager
	net     *network
	mailbox mailbox.Box
	log     *slog.Logger
}

// queue lists a message of a user for each organization.
func queue(u wire.UserID, orgs []wire.Domain, m *wire.Message, payload []byte) []lanestore.Item {
	items := make([]lanestore.Item, len(orgs))
	for i, org := range orgs {
		items[i] = lanestore.Item{Organization: org, Conversation: m.Conversation, ID: m.ID, Payload: payload, Sender: u}
	}
	return items
}

// Notify implements outbox.Link: it delivers what waits in one lane. An organization that no longer takes part in the
// conversation gets the messages that were accepted before this node knew that, so that it can notify the removed
// devices. No later message is accepted for it. An earlier build cannot notify them, and gets no second attempt.
func (l *lanes) Notify(ctx context.Context, org wire.Domain, id wire.ConversationID, payloads [][]byte) ([]error, error) {
	results, err := l.net.Notify(ctx, org, id, payloads)
	if err != nil || l.net.takesLate(org) {
		return results, err
	}
	heads, err := l.orders.Heads(id)
	if wire.CodeOf(err) != wire.UnknownConversation && (err != nil || len(heads) == 0 || takesPart(heads, org)) {
		return results, nil
	}
	for i := range results {
		if results[i] != nil && outbox.Temporary(results[i]) {
			results[i] = wire.Errorf(wire.NotReplica, "notify", "%s has left conversation %v", org, id)
		}
	}
	return results, nil
}

// links handles links to other nodes.
type links struct {
	node   wire.NodeID
	audit  *auditor
	outbox *outbox.Outbox
	orders *consensus.Manager
}

// changed handles a link that went up or down. When the link is up, items that waited for the node are sent at once.
func (l *links) changed(node wire.NodeID, up bool, why string) {
	l.audit.link(l.node, node, up, why)
	if up {
		l.outbox.Reached(node.Organization())
		l.orders.Reached(node)
	}
}

// organizations returns all organizations to which a conversation is delivered.
func organizations(heads []machine.Head) map[wire.Domain]bool {
	all := make(map[wire.Domain]bool)
	for _, h := range heads {
		for _, org := range machine.Organizations(h.Delivery) {
			all[org] = true
		}
	}
	return all
}
