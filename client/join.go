package client

import (
	"context"
	"errors"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

func (t *conversation) welcomeKey() []byte { return recordKey(recordWelcome, idPart(t.id)) }

// takeOutside takes in an entry of a conversation that this device has not joined, or has not joined yet.
func (t *conversation) takeOutside(c *wire.Committed) error {
	switch t.rec.State {
	case StateJoining:
		if _, searches, err := t.searched(); err != nil || searches {
			if err == nil && t.removedBy(c) { // a node that has left the conversation has no log of it
				t.u.delete(t.searchKey())
				return t.outSearched()
			}
			return err // the search finds the entry in the log
		}
		if took, err := t.takeFounding(c); took || err != nil {
			return err
		}
		t.setBehind(c.Sequence, false)
		return t.save()
	case StateRejoining:
		return t.rejoined(c)
	case StateHeld:
		return t.takeHeld(c)
	}
	return t.d.takeInvitation(t.u, t.id, t, c)
}

// takeInvitation checks whether an entry adds this device, and starts to join. t is nil if the device has not been in
// the conversation before.
func (d *Device) takeInvitation(u *unit, id ConversationID, t *conversation, c *wire.Committed) error {
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Kind != wire.KindCommit || e.Envelope.Conversation != id {
		return nil
	}
	env := e.Envelope
	if env.Commit.Welcome == nil {
		return nil
	}
	token, ok, err := d.ownToken(u, env.Commit.Delivery.Add)
	if err == nil && !ok && t != nil {
		token = t.rec.Token
		ok, err = t.staysAt(c, env)
	}
	if err != nil || !ok {
		return err
	}
	if _, err := peekCommit(env.Commit); err != nil {
		return nil // an undecodable Commit adds nobody
	}
	if !d.welcomes(u, env) {
		d.log.Info("a Welcome for none of this device's KeyPackages is dropped", "conversation", id)
		d.refuseAt(u, id, token)
		return nil
	}
	ask := d.opts.Admit != nil && (t == nil || t.rec.State == StateLeft && t.rec.Token != token)
	if t == nil {
		t = &conversation{d: d, u: u, id: id}
	}
	if err := t.beginJoin(c, env, token); err != nil {
		return err
	}
	if ask { // the queue inspects the group, and asks the user to decide
		return u.putRecord(t.requestKey(), &requestRecord{Version: recordVersion, Since: d.now()})
	}
	if env.Commit.Welcome.Blob != nil || env.Commit.Tree != nil && env.Commit.Tree.Blob != nil {
		return nil // the queue fetches them
	}
	var tree []byte
	if env.Commit.Tree != nil {
		tree = env.Commit.Tree.Inline
	}
	why := t.join(c, env, env.Commit.Welcome.Inline, tree)
	if why != nil && !isStore(why) {
		d.log.Info("join is tried again with fresh roots", "conversation", id, "error", why)
		return nil
	}
	return why
}

// welcomes reports whether the Welcome of a commit names a KeyPackage of this device. A Welcome that must be fetched
// is checked once it is here.
func (d *Device) welcomes(u *unit, env *wire.Envelope) bool {
	if env.Commit.Welcome.Blob != nil {
		return true
	}
	h, err := mlscore.Peek(env.Commit.Welcome.Inline)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(h.NewMembers, func(ref []byte) bool {
		ok, err := u.getRecord(keyPackageKey(ref), new(keyPackageRecord))
		return ok || err != nil // an error will show up again
	})
}

// staysAt reports whether an entry removes this device and adds it again under its present address, the one of its
// last resort: the delivery list does not change then.
func (t *conversation) staysAt(c *wire.Committed, env *wire.Envelope) (bool, error) {
	if t.addressLeaves(env) {
		return false, nil
	}
	if t.rec.State == StateLeft && t.rec.Position.Last == c.Sequence {
		return true, nil // this entry has just removed the device
	}
	if env.Commit.Welcome.Blob != nil {
		return false, nil
	}
	h, err := mlscore.Peek(env.Commit.Welcome.Inline)
	if err != nil {
		return false, nil // an undecodable Welcome adds nobody
	}
	for _, ref := range h.NewMembers {
		r := new(keyPackageRecord)
		if ok, err := t.u.getRecord(keyPackageKey(ref), r); err != nil || ok && r.Token == t.rec.Token {
			return ok, err
		}
	}
	return false, nil
}

// addressLeaves reports whether a commit takes this device's address off the delivery list.
func (t *conversation) addressLeaves(env *wire.Envelope) bool {
	own := wire.Address{Organization: t.d.self.Device.Organization(), Token: t.rec.Token}
	return slices.Contains(env.Commit.Delivery.Remove, own)
}

// removedBy reports whether an entry takes this device's address off the delivery list.
func (t *conversation) removedBy(c *wire.Committed) bool {
	e, err := c.Open()
	return err == nil && e.Envelope != nil && e.Envelope.Commit != nil && e.Envelope.Conversation == t.id && t.addressLeaves(e.Envelope)
}

// keepInvitation keeps an entry ahead of those that this device has taken in, if the entry adds the device: the
// device was removed in between, does not know it yet, and will not get the entry again.
func (t *conversation) keepInvitation(c *wire.Committed) error {
	e, err := c.Open()
	if err != nil || e.Envelope == nil || e.Envelope.Kind != wire.KindCommit {
		return nil
	}
	if _, ok, err := t.d.ownToken(t.u, e.Envelope.Commit.Delivery.Add); err != nil || !ok {
		return err
	}
	return t.keepEntry(c)
}

// keepEntry keeps an entry with which the device will join.
func (t *conversation) keepEntry(c *wire.Committed) error {
	raw, err := wire.Encode(c)
	if err != nil {
		return err
	}
	return t.u.putRecord(t.welcomeKey(), &welcomeRecord{Version: recordVersion, Entry: raw, Time: t.d.now()})
}

// useInvitation joins with the entry that keepInvitation kept, once this device knows of its removal.
func (t *conversation) useInvitation() error {
	w := new(welcomeRecord)
	ok, err := t.u.getRecord(t.welcomeKey(), w)
	if err != nil {
		return err
	}
	if !ok {
		return nil // held messages stay: the entry that adds this device again may be about to come
	}
	c := new(wire.Committed)
	if err := wire.Decode(w.Entry, maxRecord, c); err != nil {
		return err
	}
	if err := t.d.takeInvitation(t.u, t.id, t, c); err != nil {
		return err
	}
	return t.followLog()
}

// ownToken finds an address of this device among the added addresses.
func (d *Device) ownToken(u *unit, added []wire.Address) (token wire.Token, found bool, err error) {
	if d.self == nil {
		return token, false, nil
	}
	org := d.self.Device.Organization()
	mine := func(t wire.Token) bool {
		_, ok := slices.BinarySearchFunc(added, wire.Address{Organization: org, Token: t}, wire.Address.Compare)
		return ok
	}
	if !slices.ContainsFunc(added, func(a wire.Address) bool { return a.Organization == org }) {
		return token, false, nil
	}
	err = u.Scan(recordKey(recordKeyPackage), func(_, value []byte) error {
		r := new(keyPackageRecord)
		if err := wire.Decode(value, maxRecord, r); err != nil {
			return err
		}
		if mine(r.Token) {
			token, found = r.Token, true
		}
		return nil
	})
	return token, found, err
}

// beginJoin records that an entry adds this device. The earlier state of the group is erased: the device was removed
// from the group, or could not follow it.
func (t *conversation) beginJoin(c *wire.Committed, env *wire.Envelope, token wire.Token) error {
	old := t.rec
	h, err := peekCommit(env.Commit)
	if err != nil {
		return nil // an undecodable Commit adds nobody
	}
	t.rec = &conversationRecord{
		Version: recordVersion, State: StateJoining, Token: token, Policy: uint8(wire.HandshakesPrivate),
		Position: position{Last: c.Sequence, Order: c.Order, Parent: c.Sequence},
	}
	if h.WireFormat == mlscore.WireFormatPublicMessage {
		t.rec.Policy = uint8(wire.HandshakesPublic)
	}
	if old != nil {
		t.rec.Counters, t.rec.Number, t.rec.Padding = old.Counters, old.Number, old.Padding
		t.rec.Line.From, t.rec.Line.Base = old.Line.From, old.Line.Base
		if err := t.eraseGroup(); err != nil {
			return err
		}
		t.u.delete(t.staleKey()) // the device gets new keys
	} else if t.rec.Number, err = t.d.nextNumber(t.u); err != nil {
		return err
	}
	t.rec.Counters.Oldest = c.Sequence
	t.u.deleteAll(recordKey(recordOrder, idPart(t.id)))
	t.u.deleteAll(recordKey(recordSighting, idPart(t.id)))
	entry, err := wire.Encode(c)
	if err != nil {
		return err
	}
	t.kick(handshakes(t.id))
	if err := t.u.putRecord(t.welcomeKey(), &welcomeRecord{Version: recordVersion, Entry: entry, Time: t.d.now()}); err != nil {
		return err
	}
	return t.save()
}

// eraseGroup deletes the remaining state of the group.
func (t *conversation) eraseGroup() error {
	t.d.groups.drop(t.id)
	ids, err := t.d.client.Groups()
	if err != nil || !slices.ContainsFunc(ids, func(g []byte) bool { return string(g) == string(t.id) }) {
		return err
	}
	g, err := t.d.load(t.id)
	if err != nil {
		return err
	}
	return g.Erase()
}

// nextNumber returns the number for a new conversation.
func (d *Device) nextNumber(u *unit) (uint64, error) {
	self, err := d.enrolled()
	if err != nil {
		return 0, err
	}
	next := *self
	next.Number++
	return next.Number, d.saveSelf(u, &next)
}

// join enters the group with a Welcome. After an error that does not come from the store nothing has changed.
func (t *conversation) join(c *wire.Committed, env *wire.Envelope, welcome, tree []byte) error {
	h, err := mlscore.Peek(welcome)
	if err != nil {
		return err
	}
	w, err := t.d.client.OpenWelcome(welcome, mlscore.JoinOptions{GroupOptions: t.options(), Tree: tree})
	if err != nil {
		return err
	}
	report, by, err := reportOfWelcome(w)
	if err != nil {
		w.Drop()
		return err
	}
	extensions := w.Extensions()
	g, err := w.Join()
	if err != nil {
		w.Drop()
		return err
	}
	if err := t.checkJoined(g, env); err != nil {
		if eraseErr := g.Erase(); eraseErr != nil {
			return eraseErr
		}
		return err
	}
	t.group = g
	t.d.groups.keep(t.id, g, g.Public().Size())
	for _, ref := range h.NewMembers {
		if err := t.d.usedKeyPackage(t.u, ref); err != nil {
			return err
		}
	}
	t.u.delete(t.welcomeKey())
	t.u.delete(t.requestKey())
	t.u.put(t.orderKey(c.Sequence), c.Order[:])
	t.takeRoom(extensions)
	if err := t.takeReport(report, by); err != nil {
		return err
	}
	return t.joined()
}

// options returns the options with which this device sends in the group.
func (t *conversation) options() mlscore.GroupOptions {
	return mlscore.GroupOptions{PublicHandshakes: t.public(), Padding: t.rec.Padding.padding()}
}

// joined starts following the group.
func (t *conversation) joined() error {
	rules, err := t.rules()
	if err != nil {
		return err
	}
	epoch := wire.Epoch(t.group.Epoch())
	t.rec.State, t.rec.Joined, t.rec.Why, t.rec.Title = StateActive, epoch, "", rules.Name
	t.rec.Keys = keyAge{Since: t.d.now()}
	t.rec.Line.Suite = uint16(t.suite())
	t.u.delete(t.askedKey())
	if !rules.Admin(t.d.self.Device.User()) {
		t.u.delete(t.offerKey()) // from an earlier membership
	}
	t.event(Event{Type: EventJoined, Epoch: epoch})
	t.u.then(func() { t.d.lookAtReaders(t.id) })
	t.group.Public().Members(func(m mlscore.Member) bool {
		err = t.askAbout(m, "")
		return err == nil
	})
	if err = errors.Join(err, t.meetMembers()); err != nil {
		return err
	}
	if len(t.rec.Line.From) > 0 {
		if err := t.takeOver(); err != nil {
			return err
		}
	}
	if err := t.save(); err != nil {
		return err
	}
	t.kick(handshakes(t.id))
	t.kick(messages(t.id))
	return t.releaseHeld()
}

// checkJoined compares a joined group with the entry that carries the Welcome.
func (t *conversation) checkJoined(g *mlscore.Group, env *wire.Envelope) error {
	if string(g.GroupID()) != string(t.id) || wire.Epoch(g.Epoch()) != env.Epoch+1 {
		return wire.Errorf(wire.Forged, "join", "the Welcome is for epoch %d of %x, its entry for the one after %d of %v", g.Epoch(), g.GroupID(), env.Epoch, t.id)
	}
	key, err := submissionKey(g)
	if err != nil {
		return err
	}
	if publicKey(key) != env.Commit.Key {
		return wire.Errorf(wire.Forged, "join", "the submission key is not that of the epoch")
	}
	if _, err := rulesOf(g.Public().Context().Extensions); err != nil {
		return err
	}
	if err := t.checkExpected(g); err != nil {
		return err
	}
	self, _ := g.Public().Member(g.Self())
	token, err := tokenOf(self.Extensions)
	if err == nil && token != t.rec.Token {
		err = wire.Errorf(wire.Forged, "join", "the entry adds another address than the leaf's")
	}
	return err
}

// joinLate fetches the content that a join needs in addition to its entry, and joins with fresh roots. If that fails
// too, the conversation is broken for this device.
func (d *Device) joinLate(ctx context.Context, id ConversationID, w *welcomeRecord) error {
	c := new(wire.Committed)
	if err := wire.Decode(w.Entry, maxRecord, c); err != nil {
		return err
	}
	e, err := c.Open()
	if err != nil {
		return err
	}
	if err := d.refreshRoots(ctx); err != nil {
		return err
	}
	welcome, err := d.fetchPayload(ctx, id, e.Envelope.Commit.Welcome)
	var tree []byte
	if err == nil {
		tree, err = d.fetchPayload(ctx, id, e.Envelope.Commit.Tree)
	}
	if err != nil {
		return d.joinWaits(ctx, id, w, err)
	}
	if enter, err := d.admit(ctx, id, c, e.Envelope, welcome, tree); err != nil || !enter {
		return err
	}
	var why error
	err = d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateJoining {
			return err
		}
		why = t.join(c, e.Envelope, welcome, tree)
		return why
	})
	if why == nil || isStore(why) {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateJoining {
			return err
		}
		u.delete(t.welcomeKey())
		return t.breakOff(why)
	})
}

// joinWaits records why a join has to wait. If nobody has the content any more, the join waits no longer than
// Timing.Unknown.
func (d *Device) joinWaits(ctx context.Context, id ConversationID, w *welcomeRecord, why error) error {
	if errors.Is(why, ErrOffline) || ctx.Err() != nil {
		return why
	}
	gone := wire.CodeOf(why) == wire.BlobMissing && d.now()-w.Time >= wire.Time(d.opts.Timing.Unknown.Milliseconds())
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil || t.rec.State != StateJoining {
			return err
		}
		if gone {
			u.delete(t.welcomeKey())
			return t.breakOff(wire.Errorf(wire.BlobMissing, "join", "the Welcome by which this device was added is no longer kept: %v", why))
		}
		if text := shorten("the Welcome by which this device was added cannot be fetched yet: " + why.Error()); t.rec.Why != text {
			t.rec.Why = text
			return t.save()
		}
		return nil
	})
	if err != nil || gone {
		return err
	}
	return why
}

// fetchPayload returns the content of a payload, or nil if there is no payload.
func (d *Device) fetchPayload(ctx context.Context, id ConversationID, p *wire.Payload) ([]byte, error) {
	if p == nil {
		return nil, nil
	}
	if p.Blob == nil {
		return p.Inline, nil
	}
	return d.download(ctx, id, "", *p.Blob)
}
