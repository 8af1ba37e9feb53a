package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// takePush takes in one item of a stream, or skips it if it was taken in before. large reports an entry whose commit
// travels in a blob. An error comes from the store.
func (d *Device) takePush(u *unit, p *wire.Push, large bool) error {
	key := cursorKey(p)
	at, ok, err := u.Get(key)
	if err != nil || ok && parseNumber(at) >= p.Sequence {
		return err
	}
	first := !ok
	u.put(key, number(p.Sequence))
	if p.Conversation == nil {
		return d.takeInbox(u, p)
	}
	d.noteRead(u, p)
	t, err := d.findConversation(u, *p.Conversation)
	if err != nil {
		return err
	}
	if t != nil {
		if waits, err := t.deferItem(p, large); err != nil || waits {
			return err
		}
	} else if first {
		if err := d.checkFirstItem(u, p); err != nil {
			return err
		}
	}
	return d.takeItem(u, t, p)
}

// takeItem takes in one item of a conversation's stream. t is nil if this device does not know the conversation.
func (d *Device) takeItem(u *unit, t *conversation, p *wire.Push) error {
	if t != nil {
		t.foreign = p.Token != t.rec.Token
	}
	switch {
	case p.GapFrom > 0:
		return d.takeGap(u, t, p)
	case p.Kind == wire.ItemEntry:
		c := new(wire.Committed)
		if err := wire.Decode(p.Payload, wire.MaxSessionFrame, c); err != nil {
			d.log.Warn("entry passed over", "conversation", *p.Conversation, "error", err)
			return nil
		}
		if t == nil {
			if ok, err := d.expectFounding(u, *p.Conversation, c); ok || err != nil {
				return err
			}
			if err := d.takeInvitation(u, *p.Conversation, nil, c); err != nil {
				return err
			}
			return d.refuseForeign(u, p)
		}
		return t.takeEntry(c, false)
	case p.Kind == wire.ItemMessage && t != nil:
		m := new(wire.Message)
		if err := wire.Decode(p.Payload, wire.MaxSessionFrame, m); err != nil || m.Conversation != t.id {
			d.log.Warn("message passed over", "conversation", t.id, "error", err)
			return nil
		}
		return t.takeMessage(m, p.Time)
	case p.Kind == wire.ItemUndelivered && t != nil:
		v := new(wire.Undelivered)
		if err := wire.Decode(p.Payload, wire.MaxSessionFrame, v); err != nil {
			d.log.Warn("notice passed over", "conversation", t.id, "error", err)
			return nil
		}
		return t.takeUndelivered(v)
	}
	return d.refuseForeign(u, p)
}

// refuseForeign gives up the address of a stream that belongs to no conversation of this device: nothing in the
// stream adds the device to one.
func (d *Device) refuseForeign(u *unit, p *wire.Push) error {
	_, known, err := u.Get(conversationKey(*p.Conversation))
	if err == nil && !known {
		d.refuseAt(u, *p.Conversation, p.Token)
	}
	return err
}

func cursorKey(p *wire.Push) []byte {
	if p.Conversation == nil {
		return recordKey(recordCursor, p.Token[:])
	}
	return recordKey(recordCursor, p.Token[:], idPart(*p.Conversation))
}

// mostItems is more than a node stores in a stream. A larger gap is not a number of expired items: a restored node
// moves its streams forward.
const mostItems = 1 << 24

// takeGap handles a push that reports expired items. Entries among them can still be in the log; messages are lost.
func (d *Device) takeGap(u *unit, t *conversation, p *wire.Push) error {
	err := fmt.Errorf("items %d to %d expired at the node before this device read them", p.GapFrom, p.Sequence)
	if p.Sequence-p.GapFrom > mostItems {
		err = fmt.Errorf("items from %d on are missing: the node has expired them, or was restored from a backup", p.GapFrom)
	}
	u.then(func() { d.emit(Event{Type: EventGap, Conversation: *p.Conversation, Err: err}) })
	if t == nil || t.group == nil {
		return d.searchAfterGap(u, t, p)
	}
	t.setBehind(t.rec.Position.Last+1, false)
	return t.save()
}

// takeEntry takes in the next entry of the log. fresh means that the organizations' roots have been requested since
// the entry was made. An error comes from the store.
func (t *conversation) takeEntry(c *wire.Committed, fresh bool) error {
	at := &t.rec.Position
	switch {
	case t.group == nil:
		return t.takeOutside(c)
	case c.Sequence <= at.Last:
		return t.compareOrder(c.Sequence, c.Order, "", "the node")
	case c.Sequence > at.Last+1:
		if !t.foreign {
			t.setBehind(c.Sequence, false)
		}
		if err := t.keepInvitation(c); err != nil {
			return err
		}
		return t.save()
	}
	e, err := c.Open()
	if err != nil {
		t.alarm("", wire.Errorf(wire.Malformed, "entry", "entry %d cannot be read: %v", c.Sequence, err))
		e = &wire.Entry{}
	}
	if ref, err := t.lacksRest(c, e); err != nil {
		return err
	} else if ref != nil { // the queue fetches both, unless the item comes again once its blob is here
		t.setBehind(c.Sequence, fresh)
		t.rec.Behind.Since = 0
		return t.save()
	}
	again, err := t.enact(c, e, fresh)
	if err != nil {
		return err
	}
	if again { // processed again when the roots are fresh
		t.setBehind(c.Sequence, true)
		if err := t.u.putRecord(t.freshKey(), c); err != nil {
			return err
		}
		return t.save()
	}
	return t.advance(c, e)
}

// advance counts an entry that was taken in.
func (t *conversation) advance(c *wire.Committed, e *wire.Entry) error {
	at := &t.rec.Position
	at.Last, at.Order = c.Sequence, wire.NextOrder(at.Order, c.Entry)
	t.rec.Line.Unknown = 0
	if at.Order != c.Order {
		t.alarm("", fmt.Errorf("entry %d: the node says that the order hash is %v, it is %v", c.Sequence, c.Order, at.Order))
	}
	t.u.put(t.orderKey(at.Last), at.Order[:])
	if err := t.releaseSightings(); err != nil {
		return err
	}
	if kept := wire.SequenceNumber(t.d.opts.Limits.Orders); at.Last > kept {
		for old := &t.rec.Counters.Oldest; *old <= at.Last-kept; *old++ {
			t.u.delete(t.orderKey(*old))
		}
	}
	if e.Envelope != nil && e.Envelope.Commit != nil && e.Envelope.Commit.Rest != nil {
		t.d.rests.drop(e.Envelope.Commit.Rest.Hash)
	}
	if t.rec.Behind.Fresh {
		t.u.delete(t.freshKey())
	}
	if t.rec.Behind.Until > 0 && t.rec.Behind.Until <= at.Last {
		t.rec.Behind = behind{}
	}
	if t.rec.Behind.Until > 0 || t.rec.Failed.At > 0 {
		t.kick(handshakes(t.id))
	}
	if err := t.save(); err != nil {
		return err
	}
	if t.group == nil {
		return t.useInvitation()
	}
	return t.releaseHeld()
}

func (t *conversation) orderKey(n SequenceNumber) []byte {
	return recordKey(recordOrder, idPart(t.id), number(uint64(n)))
}

// compareOrder compares what a member or node claims about an entry with what this device has seen. Entries from
// before this device joined, and entries that are too old, cannot be compared.
func (t *conversation) compareOrder(n SequenceNumber, order wire.Hash, by DeviceID, who string) error {
	have, ok, err := t.u.Get(t.orderKey(n))
	if err != nil || !ok || wire.Hash(have) == order {
		return err
	}
	t.alarm(by, fmt.Errorf("%s was shown another order: up to entry %d its hash is %v, here it is %x", who, n, order, have))
	return nil
}

func (t *conversation) alarm(by DeviceID, err error) {
	t.d.log.Error("divergence", "conversation", t.id, "error", err)
	t.event(Event{Type: EventDivergence, By: by, Err: err})
}

// enact applies an entry. again requests the entry once more, with fresh roots.
func (t *conversation) enact(c *wire.Committed, e *wire.Entry, fresh bool) (again bool, err error) {
	env := e.Envelope
	if env == nil || env.Conversation != t.id {
		return false, nil
	}
	if t.rec.State == StateMoving || t.rec.State == StateMoved {
		return false, t.afterReInit(env)
	}
	switch env.Kind {
	case wire.KindCreate:
		return false, t.created(c, env)
	case wire.KindProposal:
		return false, t.proposed(env)
	case wire.KindCommit:
		return t.committed(c, env, fresh)
	case wire.KindClose:
		if env.Parent != t.rec.Position.Parent {
			return false, nil // the envelope was made for another head
		}
		if err := t.endOperation(env.Submission, nil); err != nil {
			return false, err
		}
		if t.rec.State == StateFounding {
			return false, t.forget()
		}
		return false, t.leave("", "the conversation was closed")
	}
	return false, nil
}

// created takes in the entry that orders this device's own create.
func (t *conversation) created(c *wire.Committed, env *wire.Envelope) error {
	if t.rec.State != StateCreating {
		return nil
	}
	p, own, err := t.pending()
	if err != nil {
		return err
	}
	if p == nil || own.Submission != env.Submission {
		return t.breakOff(wire.Errorf(wire.Exists, "create", "somebody else has created %v", t.id))
	}
	t.rec.State, t.rec.Position.Parent = StateActive, c.Sequence
	if len(t.rec.Line.From) > 0 {
		t.rec.State = StateFounding
		t.kick(handshakes(wire.ConversationID(t.rec.Line.From)))
		return t.endOperation(env.Submission, nil)
	}
	t.event(Event{Type: EventCreated})
	t.kick(messages(t.id))
	return t.endOperation(env.Submission, nil)
}

// endOperation ends the operation whose envelope has been ordered.
func (t *conversation) endOperation(id wire.SubmissionID, outcome error) error {
	p, own, err := t.pending()
	if err != nil || p == nil || own.Submission != id {
		return err
	}
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	t.kick(handshakes(t.id))
	if p.Operation == 0 {
		return nil
	}
	n := p.Operation - 1
	op := new(operationRecord)
	ok, err := t.u.getRecord(operationKey(t.id, n), op)
	if ok && err == nil {
		t.finish(n, op, outcome)
	}
	return err
}

// proposed stores a proposal to wait for a commit. A proposal that cannot be processed is skipped: a commit that
// refers to it cannot be processed either.
func (t *conversation) proposed(env *wire.Envelope) error {
	if env.Parent != t.rec.Position.Parent {
		return nil
	}
	t.setPolicy(nil)
	_, err := t.group.Process(env.Proposal)
	switch {
	case isStore(err):
		return err
	case err != nil && !errors.Is(err, mlscore.ErrOwnMessage):
		t.d.log.Warn("proposal passed over", "conversation", t.id, "error", err)
		return nil
	}
	if p, own, err := t.pending(); err != nil {
		return err
	} else if p != nil && own.Submission == env.Submission {
		t.rec.State = StateLeaving // this device proposes nothing but a leave
		return t.endOperation(env.Submission, nil)
	}
	if t.rec.Waiting == 0 {
		t.rec.Waiting = t.d.now() + wire.Time(t.groupDelay(t.d.opts.Timing.Proposals).Milliseconds())
	}
	t.kick(handshakes(t.id))
	return nil
}

// committed takes in a commit. The first child of the present epoch, in log order, that this device can process
// becomes the next epoch. Envelopes of other branches are skipped.
func (t *conversation) committed(c *wire.Committed, env *wire.Envelope, fresh bool) (again bool, err error) {
	if env.Parent != t.rec.Position.Parent {
		return false, t.noteOtherBranch(env)
	}
	if t.rec.State == StateFounding {
		if moving, err := t.succeeds(); err != nil || !moving {
			return true, err // another member was faster than this device's own stream
		}
	}
	staged, why := t.inspect(env)
	if isStore(why) {
		return false, why
	}
	if errors.Is(why, mlscore.ErrOwnUnknown) || errors.Is(why, mlscore.ErrOwnMessage) {
		if lost, err := t.lostCommit(c.Sequence, env.Submission, why); lost || err != nil {
			return false, err
		}
	}
	if why != nil {
		if !fresh {
			return true, nil
		}
		return false, t.poisoned(c.Sequence, env, why)
	}
	return false, t.enterEpoch(c, env, staged)
}

// inspect processes a commit and makes all checks that a member can make.
func (t *conversation) inspect(env *wire.Envelope) (*mlscore.StagedCommit, error) {
	h, err := peekCommit(env.Commit)
	if err != nil {
		return nil, err
	}
	message, err := t.wholeCommit(env.Commit)
	if err != nil {
		return nil, err
	}
	said := new(statement)
	if err := wire.Decode(h.AuthenticatedData, maxStatement, said); err != nil {
		return nil, err
	}
	revoked, err := t.d.evidence(said.Evidence)
	if err != nil {
		return nil, err
	}
	t.setPolicy(revoked)
	r, err := t.group.Process(message)
	if err != nil {
		return nil, err
	}
	if r.Commit == nil {
		return nil, wire.Errorf(wire.Invalid, "commit", "the entry holds no Commit")
	}
	if err := t.checkBundle(env, said, r.Commit); err != nil {
		return nil, err
	}
	by := t.committer(r.Commit.Effects())
	if err := t.takeReport(said.Readers, by); err != nil {
		return nil, err
	}
	return r.Commit, t.compareOrder(said.Last, said.Order, by, string(by))
}

// committer returns the device that made a commit.
func (t *conversation) committer(e *mlscore.Effects) DeviceID {
	m, ok := t.group.Public().Member(e.Committer)
	if e.External && len(e.Removed) > 0 {
		m, ok = e.Removed[0], true
	}
	if !ok {
		return ""
	}
	device, err := deviceOf(m.Credential)
	if err != nil {
		return ""
	}
	return device
}

// checkBundle compares the data around a Commit with the effects of the Commit.
func (t *conversation) checkBundle(env *wire.Envelope, said *statement, s *mlscore.StagedCommit) error {
	binding, err := env.Commit.Binding()
	if err != nil {
		return err
	}
	if binding != said.Binding {
		return wire.Errorf(wire.Forged, "commit", "the change of the delivery list is not the one that the committer states")
	}
	e := s.Effects()
	if e.ReInit != nil && env.Commit.Welcome == nil {
		return wire.Errorf(wire.Invalid, "commit", "a ReInit without the founding of the successor")
	}
	if e.External && len(e.Removed) != 1 {
		return wire.Errorf(wire.Invalid, "commit", "somebody who was no member joins by himself")
	}
	if s.RemovesSelf() {
		return nil // no further check is possible
	}
	after := s.Public()
	delivery, err := deliveryChange(e, after)
	if err != nil {
		return err
	}
	if t.rec.State != StateFounding && !equalChange(delivery, env.Commit.Delivery) { // set by a successor's create
		return wire.Errorf(wire.Forged, "commit", "the change of the delivery list is not that of the members")
	}
	key, err := submissionKey(s)
	if err != nil {
		return err
	}
	if publicKey(key) != env.Commit.Key {
		return wire.Errorf(wire.Forged, "commit", "the submission key is not that of the epoch")
	}
	return errors.Join(t.checkCommitter(e, after), t.checkSuccession(e, after))
}

// checkCommitter refuses a committer who moves to another mailbox address or account: the committer's new leaf is no
// proposal, so the policy has not seen it.
func (t *conversation) checkCommitter(e *mlscore.Effects, after *mlscore.PublicState) error {
	old, ok := t.group.Public().Member(e.Committer)
	if e.External {
		old, ok = e.Removed[0], true // checkBundle has counted the removed members
	}
	now, okNow := after.Member(e.Committer)
	if !ok || !okNow {
		return wire.Errorf(wire.Invalid, "commit", "committer has no leaf")
	}
	if knowAccounts(t.group.Public()) {
		if err := sameAccount(old.Credential, now.Credential); err != nil {
			return err
		}
	}
	if e.External {
		return nil // the committer comes under a fresh address
	}
	return sameToken(old.Extensions, now.Extensions)
}

// poisoned records a commit that won its epoch and that this device cannot process. The device stays in its epoch
// until another child of the epoch comes, and makes one itself if none comes.
func (t *conversation) poisoned(at SequenceNumber, env *wire.Envelope, why error) error {
	t.event(Event{Type: EventPoison, Epoch: env.Epoch, Err: why})
	t.d.log.Warn("commit cannot be processed", "conversation", t.id, "entry", at, "error", why)
	p, own, err := t.pending()
	if err != nil {
		return err
	}
	if p != nil && (own.Kind != wire.KindCommit || !own.Commit.Contest) {
		if err := t.overtaken(); err != nil {
			return err
		}
	}
	if t.rec.Failed.At == 0 {
		t.rec.Failed = failed{At: at, Contest: t.d.now() + wire.Time(min(t.groupDelay(t.d.opts.Timing.Contest), maxContest).Milliseconds())}
	}
	return nil
}

// longestContest is how long a member waits at most before it contests a commit.
func (t *conversation) longestContest() time.Duration {
	return min(t.longestDelay(t.d.opts.Timing.Contest), maxContest)
}

// maxContest bounds how long a member waits for others to contest a commit.
const maxContest = time.Minute

// enterEpoch makes the epoch of a commit the present epoch.
func (t *conversation) enterEpoch(c *wire.Committed, env *wire.Envelope, s *mlscore.StagedCommit) error {
	e, by := s.Effects(), t.committer(s.Effects())
	old, err := t.rules()
	if err != nil {
		return err
	}
	out, public := s.RemovesSelf(), t.group.Public()
	founding := t.rec.State == StateFounding
	if !founding {
		if err := t.reportMembers(e, by); err != nil {
			return err
		}
	}
	if err := t.group.Merge(s); err != nil {
		return err
	}
	if out {
		if err := t.leave(by, t.whyOut(by)); err != nil || env.Commit.Welcome == nil || t.addressLeaves(env) {
			return err
		}
		return t.keepEntry(c) // the entry adds this device again: useInvitation joins with it
	}
	before := t.rec.Position.Parent
	t.rec.Position.Parent, t.rec.Failed, t.rec.Waiting = c.Sequence, failed{}, 0
	if founding {
		return t.founded(env)
	}
	if err := t.noteEpoch(before, by, s.Own(), env.Commit.Contest); err != nil {
		return err
	}
	epoch := wire.Epoch(t.group.Epoch())
	t.event(Event{Type: EventEpoch, By: by, Epoch: epoch})
	if e.ReInit != nil {
		return t.reinitialized(env, e.ReInit, s.Own())
	}
	if e.ExtensionsChanged {
		if now, err := t.rules(); err == nil && !(now.renames(old) && now.Name == old.Name) {
			t.rec.Title = now.Name
			t.event(Event{Type: EventRules, By: by, Epoch: epoch})
			t.reportAdmin(old, now, by)
		} else if err == nil && by.User() == t.d.self.Device.User() {
			t.u.delete(t.offerKey()) // the user has accepted the offer
		}
	}
	if s.Own() {
		t.rec.Keys = keyAge{Since: t.d.now()}
		t.event(Event{Type: EventWon, Epoch: epoch})
		if err := t.renewed(); err != nil {
			return err
		}
		return t.endOperation(env.Submission, nil)
	}
	if err := t.tidyAdmins(e, by.User(), public); err != nil {
		return err
	}
	t.kick(messages(t.id))
	if err := t.overtaken(); err != nil || t.rec.State != StateLeaving {
		return err
	}
	return t.enqueueOwn(&operationRecord{Kind: opLeave}) // the committer had not seen the proposal
}

func (t *conversation) reportMembers(e *mlscore.Effects, by DeviceID) error {
	for _, list := range []struct {
		what    EventType
		members []mlscore.Member
	}{{EventRemoved, e.Removed}, {EventAdded, e.Added}} {
		for _, m := range list.members {
			if device, err := deviceOf(m.Credential); err == nil {
				t.noteDeparted(device, list.what == EventRemoved)
				if err := t.doneAgain(device); err != nil {
					return err
				}
				t.event(Event{Type: list.what, Device: device, By: by, Epoch: wire.Epoch(e.Epoch)})
			}
		}
	}
	for _, m := range e.Added {
		if err := errors.Join(t.askAbout(m, by), t.noteAccount(m, by)); err != nil {
			return err
		}
	}
	return nil
}

// leave ends the conversation for this device. The history stays. reason is for the user.
func (t *conversation) leave(by DeviceID, reason string) error {
	t.rec.Why = shorten(reason)
	why := wire.Errorf(wire.Closed, "conversation", "this device is no longer in %v", t.id)
	t.rec.State, t.rec.Behind, t.rec.Failed, t.rec.Waiting = StateLeft, behind{}, failed{}, 0
	t.event(Event{Type: EventLeft, By: by})
	t.kick(handshakes(t.id)) // items of a later membership may wait
	t.u.delete(t.pendingKey())
	t.u.deleteAll(recordKey(recordBlob, idPart(t.id)))
	if t.group.Active() { // a close: the group did not process it
		if err := t.group.Erase(); err != nil {
			return err
		}
	}
	t.d.groups.drop(t.id)
	t.group = nil
	if err := t.failOperations(why); err != nil {
		return err
	}
	return t.failOutgoing(why)
}
