package node

import (
	"context"
	"slices"

	"github.com/mlsfed/mlsfed/wire"
)

// policyOf returns the policy of a conversation to a reader, and the policy proposed for new conversations to any
// device here.
func (r *router) policyOf(ctx context.Context, d wire.DeviceID, q *wire.PolicyRequest) (any, error) {
	if q.Conversation == nil {
		policy := wire.Policy{Handshakes: wire.HandshakesPrivate}
		if r.admits(r.witness) {
			policy.Witness = r.witness
		}
		return &wire.PolicyAnswer{Policy: policy}, nil
	}
	if err := r.mustRead(ctx, "policy", d, *q.Conversation); err != nil {
		return nil, err
	}
	policy, err := r.orders.Policy(*q.Conversation)
	return &wire.PolicyAnswer{Policy: policy}, err
}

// admits reports whether an organization is admitted. A witness that is not admitted would have no vote.
func (r *router) admits(d wire.Domain) bool {
	return d != "" && slices.ContainsFunc(r.peers.Organizations(), func(o wire.Organization) bool { return o.Domain == d })
}

// waitingOf returns to a reader which messages wait for other organizations, and since when. Times are times of day.
func (r *router) waitingOf(ctx context.Context, d wire.DeviceID, q *wire.WaitingRequest) (any, error) {
	if err := r.mustRead(ctx, "waiting", d, q.Conversation); err != nil {
		return nil, err
	}
	list, err := r.outbox.Waiting(q.Conversation, wire.MaxWaiting)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Oldest, list[i].Last = r.shown(list[i].Oldest), r.shown(list[i].Last)
	}
	return &wire.WaitingAnswer{Lanes: list}, nil
}
