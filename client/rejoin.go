package client

import (
	"context"
	"errors"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// rejoinAttempts is how often Rejoin tries again when another commit was faster.
const rejoinAttempts = 8

// Rejoin enters a conversation that is broken for this device again, by an external commit (RFC 9420 §12.4.3.2). It
// gives up the security that the group had against somebody who has the device's keys, so only the user decides on
// it; a device never rejoins by itself. Rejoin works where handshakes are public. With private handshakes servers
// accept no external commit, and another member uses Restore.
func (d *Device) Rejoin(ctx context.Context, id ConversationID) error {
	for attempt := range rejoinAttempts {
		err := d.rejoinOnce(ctx, id)
		if wire.CodeOf(err) != wire.StaleEpoch || attempt == rejoinAttempts-1 {
			return err
		}
		if !d.wait(ctx, d.jitter(d.opts.Timing.Race<<attempt)) {
			return ctx.Err()
		}
	}
	return nil
}

func (d *Device) rejoinOnce(ctx context.Context, id ConversationID) error {
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		id = t.id
		if t.rec.State != StateBroken {
			return wire.Errorf(wire.Invalid, "rejoin", "this device is %v in %v, and not broken", t.rec.State, id)
		}
		if !t.public() {
			return wire.Errorf(wire.Invalid, "rejoin", "%v has private handshakes: ask a member to restore this device", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.refreshRoots(ctx); err != nil {
		return err
	}
	head, info, tree, err := d.headToJoin(ctx, id)
	if err != nil {
		return err
	}
	token, err := d.newToken()
	if err != nil {
		return err
	}
	if err := d.call(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
		return err
	}
	var outcome <-chan error
	var o operation
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.knownConversation(u, id)
		if err != nil {
			return err
		}
		n, err := t.rejoin(head, info, tree, token)
		o = operation{id, n}
		if err == nil {
			outcome = d.waiters.add(o)
		}
		return err
	})
	if err != nil {
		return err
	}
	return d.await(ctx, o, outcome)
}

// headToJoin fetches the node's data about the newest epoch.
func (d *Device) headToJoin(ctx context.Context, id ConversationID) (h wire.GroupInfo, info, tree []byte, err error) {
	var a wire.GroupInfoAnswer
	if err = d.call(ctx, wire.MethodGroupInfo, &wire.GroupInfoRequest{Conversation: id}, &a); err != nil {
		return h, nil, nil, err
	}
	if len(a.Heads) == 0 || a.Heads[0].Info == nil || a.Heads[0].Tree == nil {
		return h, nil, nil, wire.Errorf(wire.NotFound, "rejoin", "nothing is published to join %v by", id)
	}
	h = a.Heads[0]
	if info, err = d.fetchPayload(ctx, id, h.Info); err == nil {
		tree, err = d.fetchPayload(ctx, id, h.Tree)
	}
	return h, info, tree, err
}

// rejoin makes the external commit, and stores the resulting group with the envelope. Until the entry of the commit
// comes, the group is not used.
func (t *conversation) rejoin(h wire.GroupInfo, info, tree []byte, token wire.Token) (uint64, error) {
	if t.rec.State != StateBroken {
		return 0, wire.Errorf(wire.Invalid, "rejoin", "this device is %v in %v", t.rec.State, t.id)
	}
	org := t.d.self.Device.Organization()
	delivery := wire.DeliveryChange{
		Add:    []wire.Address{{Organization: org, Token: token}},
		Remove: []wire.Address{{Organization: org, Token: t.rec.Token}},
	}
	said, err := t.statement(&change{}, delivery)
	if err != nil {
		return 0, err
	}
	t.d.groups.drop(t.id)
	self, err := t.identity()
	if err != nil {
		return 0, err
	}
	x, err := t.d.client.ExternalJoin(self, info, mlscore.ExternalOptions{
		GroupOptions: t.options(), Tree: tree, Resync: true, LeafExtensions: addressExtension(token),
		AuthenticatedData: said, GroupInfo: mlscore.GroupInfoOptions{External: true},
	})
	if err != nil {
		return 0, err
	}
	g, err := x.Complete()
	if err != nil {
		return 0, err
	}
	actual, err := deliveryChange(x.Effects, g.Public())
	if err != nil {
		return 0, err
	}
	if !equalChange(actual, delivery) {
		return 0, wire.Errorf(wire.Invalid, "rejoin", "the group knows this device under another address")
	}
	return t.sendRejoin(h, x, g, token, delivery)
}

func (t *conversation) sendRejoin(h wire.GroupInfo, x *mlscore.ExternalCommit, g *mlscore.Group, token wire.Token, delivery wire.DeliveryChange) (uint64, error) {
	key, err := submissionKey(g)
	if err != nil {
		return 0, err
	}
	tree, err := g.Public().Tree()
	if err != nil {
		return 0, err
	}
	t.rec.State, t.rec.Token, t.rec.Why = StateRejoining, token, ""
	n, err := t.enqueue(&operationRecord{Kind: opRejoin})
	if err != nil {
		return 0, err
	}
	p := &pendingRecord{Version: recordVersion, Operation: n + 1}
	bundle := &wire.CommitBundle{Commit: x.Message, Key: publicKey(key), Delivery: delivery}
	if bundle.Info, err = t.payload(p, x.GroupInfo); err != nil {
		return 0, err
	}
	if bundle.Tree, err = t.payload(p, tree); err != nil {
		return 0, err
	}
	e := &wire.Envelope{
		Version: wire.EnvelopeVersion, Conversation: t.id, Kind: wire.KindCommit, Epoch: h.Epoch, Parent: h.Parent, Commit: bundle,
	}
	if e.Submission, err = t.d.newSubmission(); err != nil {
		return 0, err
	}
	// Not signed: this device does not know the submission key of the epoch, and the message proves its sender.
	if p.Envelope, err = wire.Encode(e); err != nil {
		return 0, err
	}
	return n, t.u.putRecord(t.pendingKey(), p)
}

// rejoined takes in the entry of the own external commit.
func (t *conversation) rejoined(c *wire.Committed) error {
	p, own, err := t.pending()
	if err != nil || p == nil {
		return err
	}
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Submission != own.Submission {
		return nil
	}
	if t.group, err = t.d.group(t.id); err != nil {
		return err
	}
	t.rec.Position = position{Last: c.Sequence, Order: c.Order, Parent: c.Sequence}
	t.rec.Counters.Oldest = c.Sequence
	t.u.deleteAll(recordKey(recordOrder, idPart(t.id)))
	t.u.deleteAll(recordKey(recordSighting, idPart(t.id)))
	t.u.put(t.orderKey(c.Sequence), c.Order[:])
	if err := t.endOperation(own.Submission, nil); err != nil {
		return err
	}
	return t.joined()
}

// rejoinFailed forgets an external commit that was refused. The conversation stays broken.
func (t *conversation) rejoinFailed(why *Error) error {
	if err := t.eraseGroup(); err != nil {
		return err
	}
	return t.breakOff(errors.Join(why))
}
