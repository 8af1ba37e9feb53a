package client

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// mayReInit allows a ReInit that changes nothing but the cipher suite.
func (a *author) mayReInit(group mlscore.GroupContext, r *mlscore.ReInit) error {
	refuse := func(format string, args ...any) error { return wire.Errorf(wire.Invalid, "ReInit", format, args...) }
	switch {
	case !a.admin:
		return refuse("by %s: only admins migrate", a.device)
	case r.Version != mlscore.MLS10 || !r.CipherSuite.SignsLike(r.CipherSuite):
		return refuse("to %v in version %d, which is not known here", r.CipherSuite, r.Version)
	case wire.ConversationID(r.GroupID).Check() != nil || bytes.Equal(r.GroupID, group.GroupID):
		return refuse("to a group whose id is none of a new conversation")
	case len(r.Extensions) != len(group.Extensions):
		return refuse("changes the extensions of the group")
	}
	for _, x := range group.Extensions {
		if data, ok := r.Extensions.Find(x.Type); !ok || !bytes.Equal(data, x.Data) {
			return refuse("changes extension %#04x", uint16(x.Type))
		}
	}
	return nil
}

// reinitialized takes in a ReInit that has closed the group. The data to found the successor came with it.
func (t *conversation) reinitialized(env *wire.Envelope, r *mlscore.ReInit, own bool) error {
	t.rec.Line.Leaving = t.rec.State == StateLeaving
	t.rec.State, t.rec.Line.Successor = StateMoving, bytes.Clone(r.GroupID)
	t.kick(handshakes(t.id))
	t.kick(handshakes(wire.ConversationID(t.rec.Line.Successor)))
	if own {
		return t.endOperation(env.Submission, nil)
	}
	if err := t.overtaken(); err != nil {
		return err
	}
	next, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.Successor))
	if err != nil {
		return err
	}
	switch {
	case next == nil:
		next = &conversation{d: t.d, u: t.u, id: wire.ConversationID(t.rec.Line.Successor), rec: &conversationRecord{Version: recordVersion, State: StateJoining}}
		if next.rec.Number, err = t.d.nextNumber(t.u); err != nil {
			return err
		}
	case next.rec.State != StateJoining || len(next.rec.Line.Expected) == 0:
		return t.breakOff(wire.Errorf(wire.Invalid, "ReInit", "names %v, which this device has been in before", next.id))
	}
	next.rec.Line.From = []byte(t.id)
	if err := next.save(); err != nil {
		return err
	}
	return t.u.putRecord(t.foundingKey(), env.Commit.Welcome)
}

func (t *conversation) foundingKey() []byte { return recordKey(recordFounding, idPart(t.id)) }

// expectFounding records a conversation whose create names this device: a commit that adds it will follow. The ReInit
// that names the old conversation is in another stream, which may be behind this one.
func (d *Device) expectFounding(u *unit, id ConversationID, c *wire.Committed) (bool, error) {
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Create == nil || e.Envelope.Conversation != id {
		return false, nil
	}
	t := &conversation{d: d, u: u, id: id, rec: &conversationRecord{Version: recordVersion, State: StateJoining}}
	ok, err := t.expect(c, e.Envelope.Create)
	if err != nil || !ok {
		return false, err
	}
	if t.rec.Number, err = d.nextNumber(u); err != nil {
		return false, err
	}
	return true, t.save()
}

// expect records the contents of a create. The caller saves.
func (t *conversation) expect(c *wire.Committed, create *wire.Create) (bool, error) {
	token, ok, err := t.d.ownToken(t.u, create.Delivery)
	if err != nil || !ok {
		return false, err
	}
	binding, err := (&wire.CommitBundle{Delivery: wire.DeliveryChange{Add: create.Delivery}}).Binding()
	if err != nil {
		return false, err
	}
	t.rec.Token, t.rec.Policy, t.rec.Line.Expected = token, uint8(create.Policy.Handshakes), binding[:]
	t.rec.Position = position{Last: c.Sequence, Order: c.Order, Parent: c.Sequence}
	return true, nil
}

// takeFounding takes in the first entries of a conversation that succeeds another: the create, and the commit with
// which this device joins.
func (t *conversation) takeFounding(c *wire.Committed) (took bool, err error) {
	if len(t.rec.Line.From) == 0 && len(t.rec.Line.Expected) == 0 {
		return false, nil // the device was added in the usual way
	}
	if _, known, err := t.u.Get(t.welcomeKey()); err != nil || known {
		return false, err
	}
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Conversation != t.id {
		return true, nil
	}
	env := e.Envelope
	switch {
	case env.Kind == wire.KindCreate && len(t.rec.Line.Expected) == 0:
		if _, err := t.expect(c, env.Create); err != nil {
			return true, err
		}
		return true, t.save()
	case env.Kind == wire.KindClose && len(t.rec.Line.From) == 0:
		return true, t.forget()
	case env.Kind != wire.KindCommit, env.Parent != t.rec.Position.Parent, env.Commit.Welcome == nil:
		return true, nil
	}
	t.rec.Position = position{Last: c.Sequence, Order: c.Order, Parent: c.Sequence}
	t.rec.Counters.Oldest = c.Sequence
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	entry, err := wire.Encode(c)
	if err != nil {
		return true, err
	}
	if err := t.u.putRecord(t.welcomeKey(), &welcomeRecord{Version: recordVersion, Entry: entry, Time: t.d.now()}); err != nil {
		return true, err
	}
	t.kick(handshakes(t.id))
	return true, t.save()
}

// checkExpected compares the delivery list of the create with the members of the group: a founding does not change
// the list.
func (t *conversation) checkExpected(g *mlscore.Group) error {
	if len(t.rec.Line.Expected) == 0 {
		return nil
	}
	var members []mlscore.Member
	g.Public().Members(func(m mlscore.Member) bool { members = append(members, m); return true })
	list, err := addresses(members)
	if err != nil {
		return err
	}
	binding, err := (&wire.CommitBundle{Delivery: wire.DeliveryChange{Add: list}}).Binding()
	if err != nil {
		return err
	}
	if !bytes.Equal(binding[:], t.rec.Line.Expected) {
		return wire.Errorf(wire.Forged, "join", "the delivery list of %v is not that of its members", t.id)
	}
	return nil
}

// nextOfFounding decides a member's next step until the founding has been ordered: the founder submits it, and if the
// founder does not, another member does.
func (t *conversation) nextOfFounding() (*step, error) {
	p, e, err := t.pending()
	if err != nil || p == nil || p.Accepted > 0 {
		return nil, err // its entry comes
	}
	if wait := p.After - t.d.now(); wait > 0 {
		return &step{wait: time.Duration(wait) * time.Millisecond}, nil
	}
	return &step{pending: p, envelope: e}, nil
}

// nextOfMoving fetches the founding of the successor.
func (t *conversation) nextOfMoving() (*step, error) {
	p := new(wire.Payload)
	ok, err := t.u.getRecord(t.foundingKey(), p)
	if err != nil || !ok {
		return nil, err
	}
	return &step{founding: p}, nil
}

// takeFoundingOf keeps the founding of a conversation's successor, to be submitted if its founder does not.
func (d *Device) takeFoundingOf(ctx context.Context, id ConversationID, p *wire.Payload) error {
	raw, err := d.fetchPayload(ctx, id, p)
	if err != nil {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateMoving {
			return err
		}
		u.delete(t.foundingKey())
		f := new(founding)
		var e *wire.Envelope
		if err = wire.Decode(raw, wire.MaxBlob, f); err == nil {
			e, err = f.open()
		}
		if err == nil && (string(e.Conversation) != string(t.rec.Line.Successor) || e.Kind != wire.KindCommit || e.Epoch != 0) {
			err = wire.Errorf(wire.Invalid, "ReInit", "what came with it founds another conversation")
		}
		if err != nil {
			return t.breakOff(err)
		}
		return t.keepFounding(f, e)
	})
}

// open decodes the envelope, and checks that the blobs that it names are here.
func (f *founding) open() (*wire.Envelope, error) {
	e := new(wire.Envelope)
	if err := wire.Decode(f.Envelope, wire.MaxEntry, e); err != nil {
		return nil, err
	}
	for _, ref := range e.Blobs() {
		if !slices.ContainsFunc(f.Blobs, func(b []byte) bool { return uint64(len(b)) == ref.Size && hashOf(b) == ref.Hash }) {
			return nil, wire.Errorf(wire.Invalid, "ReInit", "what came with it lacks blob %v", ref)
		}
	}
	return e, nil
}

func (t *conversation) keepFounding(f *founding, e *wire.Envelope) error {
	next, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.Successor))
	if err != nil || next == nil || next.rec.State != StateJoining {
		return err
	}
	if _, known, err := t.u.Get(next.welcomeKey()); err != nil || known {
		return err // the founding has been ordered
	}
	wait := t.d.opts.Timing.Founding
	p := &pendingRecord{
		Version: recordVersion, Envelope: f.Envelope, Blobs: e.Blobs(), After: t.d.now() + wire.Time((wait + t.d.jitter(wait)).Milliseconds()),
	}
	for _, content := range f.Blobs {
		t.u.put(next.blobKey(wire.BlobRef{Hash: hashOf(content), Size: uint64(len(content))}), content)
	}
	t.kick(handshakes(next.id))
	return t.u.putRecord(next.pendingKey(), p)
}

// takeOver makes this conversation the one that continues: it takes the history and the messages that wait to be
// sent. The caller saves.
func (t *conversation) takeOver() error {
	old, err := t.d.findConversation(t.u, wire.ConversationID(t.rec.Line.From))
	if err != nil || old == nil || old.rec.State != StateMoving {
		return err
	}
	c := &t.rec.Counters
	c.Message, c.Unread = old.rec.Counters.Message, old.rec.Counters.Unread
	t.rec.Line.Base, t.rec.Number, t.rec.Padding, t.rec.Line.Expected = c.Message, old.rec.Number, old.rec.Padding, nil
	for ; old.waiting() > 0; old.rec.Counters.Sending++ {
		key := outgoingKey(old.id, old.rec.Counters.Sending)
		o := new(outgoingRecord)
		if ok, err := t.u.getRecord(key, o); err != nil {
			return err
		} else if !ok {
			return wire.Errorf(wire.Internal, "migrate", "message %d of %v that was to be sent is not in the store", old.rec.Counters.Sending, old.id)
		}
		t.u.delete(key)
		if err := t.protect(c.Outgoing, o); err != nil {
			return err
		}
		c.Outgoing++
	}
	if err := old.failOperations(wire.Errorf(wire.Unavailable, "change", "%v has moved to another cipher suite meanwhile: try again", old.id)); err != nil {
		return err
	}
	wait := t.d.opts.Timing.Closing
	old.rec.State, old.rec.Line.CloseAt = StateMoved, t.d.now()+wire.Time((wait+t.d.jitter(wait)).Milliseconds())
	t.u.delete(old.foundingKey())
	if err := old.save(); err != nil {
		return err
	}
	t.event(Event{Type: EventMoved, From: old.id, Epoch: wire.Epoch(t.group.Epoch())})
	t.u.then(func() { t.d.waiters.done(operation{t.id, foundedMark}, nil) })
	t.kick(messages(t.id))
	t.kick(handshakes(old.id))
	if !old.rec.Line.Leaving {
		return nil
	}
	return t.enqueueOwn(&operationRecord{Kind: opLeave})
}

// afterReInit takes in an entry of a group that has ended: only a close still has an effect.
func (t *conversation) afterReInit(env *wire.Envelope) error {
	if env.Kind != wire.KindClose {
		return nil
	}
	return t.closedOld()
}

// closedOld records that a migrated conversation is closed on the servers.
func (t *conversation) closedOld() error {
	t.rec.Line.Closed = true
	t.u.delete(t.pendingKey())
	return t.save()
}

// nextOfMoved closes the old conversation on the servers, after the time that its last messages may need.
func (t *conversation) nextOfMoved() (*step, error) {
	if t.rec.Line.Closed || t.group == nil {
		return nil, nil
	}
	if wait := t.rec.Line.CloseAt - t.d.now(); wait > 0 {
		return &step{wait: time.Duration(wait) * time.Millisecond}, nil
	}
	p, e, err := t.pending()
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return &step{again: true}, t.sendOut(t.envelope(wire.KindClose), &pendingRecord{Version: recordVersion})
	case p.Accepted > 0:
		return nil, nil // its entry comes
	}
	return &step{pending: p, envelope: e}, nil
}
