package node

import (
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/wire"
)

// calls returns the handlers of what nodes of other organizations may ask. Federation has authenticated the caller.
// These handlers decide what the caller may do, by whether its organization takes part in the conversation.
func (r *router) calls() map[wire.Method]federation.Handler {
	return map[wire.Method]federation.Handler{
		wire.CallNotify:      call(r.callNotify),
		wire.CallKeyMaterial: call(r.callKeyMaterial),
		wire.CallUpdate: func(ctx context.Context, from wire.NodeID, body []byte) (any, error) {
			e := new(wire.Envelope)
			if err := wire.Decode(body, maxCall, e); err != nil {
				return nil, err
			}
			return r.callUpdate(ctx, from, e)
		},
		wire.CallGroupInfo: call(r.callGroupInfo),
		wire.CallDownload:  call(r.callDownload),
		wire.CallFeatures: func(context.Context, wire.NodeID, []byte) (any, error) {
			return &wire.FeaturesAnswer{Features: features}, nil
		},
		wire.CallRevocations:     func(ctx context.Context, _ wire.NodeID, _ []byte) (any, error) { return revocations(ctx, r.directory) },
		wire.CallRevocationsPage: call(r.callRevocationsPage),
	}
}

// maxCall bounds the body of a call; the link has bounded it already.
const maxCall = wire.MaxSessionFrame

// call returns a handler that calls a function with a typed request.
func call[T any](fn func(context.Context, wire.Domain, *T) (any, error)) federation.Handler {
	return func(ctx context.Context, from wire.NodeID, body []byte) (any, error) {
		q := new(T)
		if err := wire.Decode(body, maxCall, q); err != nil {
			return nil, err
		}
		return fn(ctx, from.Organization(), q)
	}
}

// callNotify accepts messages of a lane, in order.
func (r *router) callNotify(ctx context.Context, from wire.Domain, q *wire.NotifyRequest) (any, error) {
	results := takeInOrder(len(q.Messages), func(i int) error { return r.receiveSoon(ctx, from, &q.Messages[i]) })
	return &wire.NotifyAnswer{Results: results}, nil
}

// receiveWait is about how long a message of another organization waits here for the entry before it. A longer wait
// happens in the lane of the sender, so that the call is not held up.
const receiveWait = time.Second

// receivePause is the first pause of receiveSoon. Each later pause is twice as long.
const receivePause = 10 * time.Millisecond

// receiveSoon calls receive, and waits a short time for the entries that a message builds on: these travel
// separately.
func (r *router) receiveSoon(ctx context.Context, from wire.Domain, m *wire.Message) error {
	var err error
	for wait := receivePause; ; wait *= 2 { // another organization causes these attempts: their number is small
		if err = r.take(ctx, from, m); wire.CodeOf(err) != wire.Unavailable || wait > receiveWait/2 {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
	if err != nil {
		r.refused(wire.CodeOf(err))
	}
	switch wire.CodeOf(err) {
	case wire.Forged, wire.Unavailable: // or the logs differ: replicas compare at once, and devices get an alarm
		r.orders.Doubt(m.Conversation, from)
	}
	return err
}

// takeInOrder accepts messages one after the other. If one has to wait, all messages behind it wait too: the sender
// sends all of them again. A message that is refused for good is skipped.
func takeInOrder(n int, take func(i int) error) []*wire.Error {
	results := make([]*wire.Error, n)
	for i := range results {
		err := take(i)
		if err == nil {
			continue
		}
		results[i] = wire.AsError("notify", err)
		if outbox.Temporary(err) {
			for k := i + 1; k < n; k++ {
				results[k] = results[i]
			}
			break
		}
	}
	return results
}

// take stores a message that another organization has accepted. It refuses an early message with Unavailable, so that
// the sender sends it again, and a message for a full stream with Busy, since no accepted message may be lost. It
// refuses a message for good if no known member has signed it.
func (r *router) take(ctx context.Context, from wire.Domain, m *wire.Message) error {
	if err := r.account.Room(quota.Foreign, uint64(len(m.Content))); err != nil {
		return err
	}
	heads, err := r.orders.Heads(m.Conversation)
	if wire.CodeOf(err) == wire.UnknownConversation {
		if missed, err := r.removals.missed(ctx, from, m, 0); missed || err != nil {
			return err
		}
		return wire.Errorf(wire.Unavailable, "notify", "no replica of %v is here yet", m.Conversation)
	}
	if err != nil {
		return err
	}
	after, err := mayTake(m, heads)
	if err == nil && !takesPart(heads, from) && slices.ContainsFunc(heads, func(h machine.Head) bool { return h.Epoch == m.Epoch }) {
		// The organization has no member in this epoch. A member elsewhere lends the signature, to fill another
		// organization's share of the stream.
		return wire.Errorf(wire.NotReplica, "notify", "%s has no part in epoch %d of conversation %v", from, m.Epoch, m.Conversation)
	}
	if wire.CodeOf(err) == wire.StaleEpoch && takesPart(heads, from) {
		err = r.takeLate(ctx, m, heads, after, err)
	}
	if wire.CodeOf(err) == wire.StaleEpoch {
		if missed, err := r.removals.missed(ctx, from, m, 0); missed || err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	payload, err := wire.Encode(m)
	if err != nil {
		return err
	}
	k, err := r.keep(ctx, arrival{from: from, after: after, heads: heads, message: m, payload: payload})
	if err == nil {
		_, err = r.removals.missed(ctx, from, m, k.item)
	}
	if wire.CodeOf(err) == wire.Quota {
		return wire.Errorf(wire.Busy, "notify", "the stream of %v is full here: %v", m.Conversation, err)
	}
	return err
}

// takeLate verifies a message of an epoch that ended more than one epoch ago, from an organization that takes part:
// that organization accepted the message while the epoch was current. stale is the refusal if the epoch's key is not
// kept. after is the newest entry: an entry that the stream does not have yet may bring the key.
func (r *router) takeLate(ctx context.Context, m *wire.Message, heads []machine.Head, after wire.SequenceNumber, stale error) error {
	known, signed, err := r.past.verify(ctx, r.logged, m)
	switch {
	case err != nil || signed:
		return err
	case known:
		return wire.Errorf(wire.Forged, "notify", "not signed with the submission key of epoch %d", m.Epoch)
	}
	at, err := r.mailbox.Position(ctx, mailbox.Conversation(m.Conversation))
	if err != nil {
		return err
	}
	if at >= uint64(after) {
		return stale
	}
	awaited, err := r.awaited(ctx, m.Conversation, heads)
	if err != nil {
		return err
	}
	if awaited {
		return wire.Errorf(wire.Unavailable, "notify", "entry %d of %v is not in the devices' streams yet: try again", after, m.Conversation)
	}
	return stale
}

// takesPart reports whether an organization receives a conversation.
func takesPart(heads []machine.Head, org wire.Domain) bool {
	return organizations(heads)[org]
}

// mustTakePart refuses an organization that has no part in the conversation.
func (r *router) mustTakePart(op string, id wire.ConversationID, org wire.Domain) error {
	heads, err := r.orders.Heads(id)
	if err == nil && !takesPart(heads, org) {
		err = wire.Errorf(wire.NotReplica, op, "%s has no part in conversation %v", org, id)
	}
	return err
}

func (r *router) callKeyMaterial(ctx context.Context, from wire.Domain, q *wire.KeyMaterialRequest) (any, error) {
	if q.User.Organization() != r.org {
		return nil, wire.Errorf(wire.NotFound, "keyMaterial", "%s is no user of %s", q.User, r.org)
	}
	if len(q.Devices) > 0 {
		return nil, wire.Errorf(wire.Denied, "keyMaterial", "%s names devices of %s: only a user's own devices can be named", from, q.User)
	}
	return claim(ctx, r.directory, r.org, string(from), q)
}

// callUpdate orders a handshake for a node that holds no replica. The organization must take part, and the signature
// must show that a member made the handshake. Both are checked before any other work.
func (r *router) callUpdate(ctx context.Context, from wire.NodeID, e *wire.Envelope) (any, error) {
	if e.Kind == wire.KindCreate {
		return nil, wire.Errorf(wire.Invalid, "update", "%s creates conversations on its own nodes", from.Organization())
	}
	if err := r.mustTakePart("update", e.Conversation, from.Organization()); err != nil {
		return nil, err
	}
	if err := r.limits.Handshake(from.Organization(), e.Conversation); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	receipt, err := r.orders.Take(ctx, from, e)
	if err != nil {
		return nil, err
	}
	return &receipt, nil
}

func (r *router) callGroupInfo(_ context.Context, from wire.Domain, q *wire.GroupInfoRequest) (any, error) {
	if err := r.mustTakePart("groupInfo", q.Conversation, from); err != nil {
		return nil, err
	}
	return groupInfo(r.orders, q.Conversation)
}

// callDownload returns a piece of a file that was uploaded for a conversation in which the organization takes part
// now. The organization of a former member gets nothing.
func (r *router) callDownload(ctx context.Context, from wire.Domain, q *wire.DownloadRequest) (any, error) {
	if err := r.mustTakePart("download", q.Conversation, from); err != nil {
		return nil, err
	}
	return r.files.get(ctx, q.Conversation, q.Blob, q.Offset)
}
