package node

import (
	"context"
	"time"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/quota"
	"github.com/mlsfed/mlsfed/wire"
)

// calls are what nodes of other organizations may ask. Federation has proved who asks; what they may do
// is decided here, by whether their organization takes part in the conversation.
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
		wire.CallRevocations: func(context.Context, wire.NodeID, []byte) (any, error) { return revocations(r.directory) },
	}
}

// maxCall bounds the body of a call; the link has bounded it already.
const maxCall = wire.MaxSessionFrame

// call makes a handler of a function with a typed request.
func call[T any](fn func(context.Context, wire.Domain, *T) (any, error)) federation.Handler {
	return func(ctx context.Context, from wire.NodeID, body []byte) (any, error) {
		q := new(T)
		if err := wire.Decode(body, maxCall, q); err != nil {
			return nil, err
		}
		return fn(ctx, from.Organization(), q)
	}
}

// callNotify takes messages of a lane, in order.
func (r *router) callNotify(ctx context.Context, from wire.Domain, q *wire.NotifyRequest) (any, error) {
	results := takeInOrder(len(q.Messages), func(i int) error { return r.receiveSoon(ctx, from, &q.Messages[i]) })
	return &wire.NotifyAnswer{Results: results}, nil
}

// receiveWait is about how long a message of another organization waits here for the entry before it. Longer waits are
// those of its lane: a call is not to be held up for as long as it may take.
const receiveWait = time.Second

// receiveSoon is receive that waits for what is about to come: the entries that a message builds on travel on their own.
func (r *router) receiveSoon(ctx context.Context, from wire.Domain, m *wire.Message) error {
	var err error
	for wait := storePause; ; wait *= 2 { // each look costs something, and another organization causes it
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
	case wire.Forged, wire.Unavailable: // or its members are in another future: replicas compare at once, and devices are told
		r.orders.Doubt(m.Conversation, from)
	}
	return err
}

// takeInOrder takes messages one after the other. Behind one that has to wait all others wait too: it comes
// again, and they with it. What is refused for good is passed over.
func takeInOrder(n int, take func(i int) error) []*wire.Error {
	results := make([]*wire.Error, n)
	for i := range results {
		err := take(i)
		if err == nil {
			continue
		}
		results[i] = wire.AsError("notify", err)
		if federation.Temporary(err) {
			for k := i + 1; k < n; k++ {
				results[k] = results[i]
			}
			break
		}
	}
	return results
}

// take stores a message that another organization has accepted. What is only early is refused with
// Unavailable, so that it comes again; a full stream with Busy, since nothing accepted may be lost. What nobody
// is known to have signed is refused for good.
func (r *router) take(ctx context.Context, from wire.Domain, m *wire.Message) error {
	if err := r.account.Room(quota.Foreign, uint64(len(m.Content))); err != nil {
		return err
	}
	heads, err := r.orders.Heads(m.Conversation)
	if wire.CodeOf(err) == wire.UnknownConversation {
		return wire.Errorf(wire.Unavailable, "notify", "no replica of %v is here yet", m.Conversation)
	}
	if err != nil {
		return err
	}
	after, err := mayTake(m, heads)
	if wire.CodeOf(err) == wire.StaleEpoch && takesPart(heads, from) {
		err = r.takeLate(ctx, m, heads, after, err)
	}
	if err != nil {
		return err
	}
	payload, err := wire.Encode(m)
	if err != nil {
		return err
	}
	err = r.store(ctx, arrival{from, after, heads, m, payload})
	if wire.CodeOf(err) == wire.Quota {
		return wire.Errorf(wire.Busy, "notify", "the stream of %v is full here: %v", m.Conversation, err)
	}
	return err
}

// takeLate verifies a message of an epoch that ended more than one epoch ago, from an organization that takes
// part: that organization accepted the message while the epoch was current. stale refuses it where the epoch's
// key is not kept. after is the newest entry: what the stream does not have yet may bring the key.
func (r *router) takeLate(ctx context.Context, m *wire.Message, heads []machine.Head, after wire.SequenceNumber, stale error) error {
	known, signed, err := r.past.verify(m)
	switch {
	case err != nil || signed:
		return err
	case known:
		return wire.Errorf(wire.Forged, "notify", "not signed with the submission key of epoch %d", m.Epoch)
	}
	at, err := r.mail.Position(ctx, mailbox.Conversation(m.Conversation))
	if err != nil {
		return err
	}
	if at < uint64(after) && r.awaited(m.Conversation, heads) {
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

func (r *router) callKeyMaterial(_ context.Context, from wire.Domain, q *wire.KeyMaterialRequest) (any, error) {
	if q.User.Organization() != r.org {
		return nil, wire.Errorf(wire.NotFound, "keyMaterial", "%s is no user of %s", q.User, r.org)
	}
	if len(q.Devices) > 0 {
		return nil, wire.Errorf(wire.Denied, "keyMaterial", "%s names devices of %s: only a user's own devices can be named", from, q.User)
	}
	return claim(r.directory, r.org, string(from), q)
}

// callUpdate orders a handshake for a node that holds no replica. The organization must take part, and the
// signature must show that a member made the handshake: both are checked before anything is done for it.
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

// callDownload hands out a piece of a file that was uploaded for a conversation in which the organization takes
// part now: the organization of a former member does not.
func (r *router) callDownload(_ context.Context, from wire.Domain, q *wire.DownloadRequest) (any, error) {
	if err := r.mustTakePart("download", q.Conversation, from); err != nil {
		return nil, err
	}
	return r.files.get(q.Conversation, q.Blob, q.Offset)
}
