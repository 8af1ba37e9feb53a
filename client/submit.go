package client

import (
	"context"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// step is the next step of a conversation's handshake queue.
type step struct {
	join     *welcomeRecord
	rest     *wire.BlobRef // the blob of the next commit
	founding *wire.Payload // the founding of the conversation that succeeds this one
	search   bool          // the log has to be searched for the entry that added this device
	ask      bool          // a member has to be asked to add this device again
	fetch    bool
	fresh    bool // request the organizations' roots before the entries
	since    SequenceNumber
	behind   behind // what was missing when the step was made
	gone     bool   // set by fetch: the node no longer keeps the stream of a membership that the answer ends
	returns  bool   // set by fetch: after a removal, a later entry adds this device under the same address
	pending  *pendingRecord
	envelope *wire.Envelope
	wait     time.Duration
	again    bool // something was decided: call next again
}

// workHandshakes does the work of a conversation's log, one step at a time, until no work is left.
func (d *Device) workHandshakes(ctx context.Context, id ConversationID) error {
	for ctx.Err() == nil {
		var s *step
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.findConversation(u, id)
			if err == nil && t != nil {
				s, err = t.next()
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case s == nil:
			return nil
		case s.join != nil:
			err = d.joinLate(ctx, id, s.join)
		case s.rest != nil:
			err = d.bringRest(ctx, id, *s.rest)
		case s.founding != nil:
			err = d.takeFoundingOf(ctx, id, s.founding)
		case s.search:
			err = d.searchLog(ctx, id, s.since)
		case s.ask:
			err = d.askByItself(ctx, id)
		case s.fetch:
			err = d.fetch(ctx, id, s)
		case s.pending != nil:
			err = d.submitPending(ctx, id, s)
		case s.wait > 0:
			return later(s.wait)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// next decides the next step; nil means that there is none.
func (t *conversation) next() (*step, error) {
	if s, err := t.nextLater(); err != nil || s != nil {
		return s, err
	}
	switch t.rec.State {
	case StateJoining:
		if _, searches, err := t.searched(); err != nil || searches {
			return &step{search: true, since: t.rec.Position.Last}, err
		}
		w := new(welcomeRecord)
		ok, err := t.u.getRecord(t.welcomeKey(), w)
		if err != nil {
			return nil, err
		}
		if !ok || len(t.rec.Line.Expected) > 0 && len(t.rec.Line.From) == 0 {
			return t.nextOfFounding()
		}
		return &step{join: w}, nil
	case StateFounding:
		if s, wait, err := t.nextOfFounder(); err != nil || s != nil || wait {
			return s, err
		}
	case StateMoving:
		return t.nextOfMoving()
	case StateMoved:
		return t.nextOfMoved()
	case StateBroken:
		return t.nextOfBroken()
	case StateCreating, StateActive, StateLeaving:
	case StateRejoining:
		p, e, err := t.pending()
		if err != nil || p == nil || p.Accepted > 0 {
			return nil, err // the entry comes as the first item of the new address
		}
		return &step{pending: p, envelope: e}, nil
	default:
		return nil, nil
	}
	if s := t.catchUp(); s != nil {
		return s, nil
	}
	p, e, err := t.pending()
	if err != nil {
		return nil, err
	}
	if p != nil {
		return t.nextOfPending(p, e)
	}
	if t.rec.State == StateCreating || t.rec.State == StateFounding {
		return nil, nil
	}
	return t.nextChange()
}

// nextOfPending submits a pending envelope that is not accepted yet, and waits for the entry of an accepted one.
func (t *conversation) nextOfPending(p *pendingRecord, e *wire.Envelope) (*step, error) {
	if p.Accepted > 0 {
		t.setBehind(p.Accepted, false)
		return &step{again: true}, t.save()
	}
	if e.Kind != wire.KindCreate && e.Parent != t.rec.Position.Parent {
		return &step{again: true}, t.overtaken()
	}
	return &step{pending: p, envelope: e}, nil
}

// catchUp fetches missing entries, after giving them time to arrive as pushes.
func (t *conversation) catchUp() *step {
	b := t.rec.Behind
	if b.Until == 0 {
		return nil
	}
	grace := wire.Time(t.d.opts.Timing.Grace.Milliseconds())
	if waited := t.d.now() - b.Since; !b.Fresh && waited >= 0 && waited < grace {
		return &step{wait: time.Duration(grace-waited) * time.Millisecond}
	}
	return &step{fetch: true, fresh: b.Fresh, since: t.rec.Position.Last, behind: b}
}

// setBehind records that entries up to until are missing. The caller saves.
func (t *conversation) setBehind(until SequenceNumber, fresh bool) {
	b := &t.rec.Behind
	if until <= t.rec.Position.Last {
		return
	}
	if b.Until == 0 {
		b.Since = t.d.now()
	}
	b.Until = max(b.Until, until)
	b.Fresh = b.Fresh || fresh
	t.kick(handshakes(t.id))
}

// nextChange makes the next commit, if one is wanted.
func (t *conversation) nextChange() (*step, error) {
	if f := t.rec.Failed; f.At > 0 {
		if wait := f.Contest - t.d.now(); wait > 0 {
			return &step{wait: time.Duration(wait) * time.Millisecond}, nil
		}
		if lost, err := t.ownLost(); lost || err != nil {
			return nil, err
		}
	}
	n, op, err := t.firstOperation()
	if err != nil {
		return nil, err
	}
	if t.rec.Failed.At > 0 && (op == nil || op.Kind == opLeave || op.Kind == opClose) {
		return &step{again: true}, t.begin(&operationRecord{Kind: opCommit}, 0, false) // only a commit can contest
	}
	if op != nil {
		if wait := op.After - t.d.now(); wait > 0 {
			return &step{wait: time.Duration(wait) * time.Millisecond}, nil
		}
		if op.Kind == opReInit {
			if waits, err := t.successorWaits(op); waits || err != nil {
				return nil, err
			}
		}
		return &step{again: true}, t.start(n, op)
	}
	return t.nextHousekeeping()
}

// nextHousekeeping commits proposals of others and renews keys.
func (t *conversation) nextHousekeeping() (*step, error) {
	if t.rec.State == StateLeaving {
		return nil, nil
	}
	if due := t.rec.Waiting; due > 0 {
		if len(t.group.Public().Pending()) == 0 {
			t.rec.Waiting = 0
			return &step{again: true}, t.save()
		}
		if wait := due - t.d.now(); wait > 0 {
			return &step{wait: time.Duration(wait) * time.Millisecond}, nil
		}
		t.rec.Waiting = t.d.now() + 4*wire.Time(t.d.opts.Timing.RetryLast.Milliseconds())
		return &step{again: true}, t.enqueueOwn(&operationRecord{Kind: opCommit, Reason: reasonProposals})
	}
	if wait, again, err := t.nextPresence(); err != nil || again {
		return &step{again: true}, err
	} else if wait > 0 {
		return &step{wait: time.Duration(wait) * time.Millisecond}, nil
	}
	if decided, err := t.nextKeys(); err != nil || decided {
		return &step{again: true}, err
	}
	return nil, nil
}

// start turns an operation into the pending envelope. If that is impossible, the operation fails with the error; the
// turn does not.
func (t *conversation) start(n uint64, op *operationRecord) error {
	err := t.begin(op, n, true)
	if err == nil || isStore(err) {
		return err
	}
	if err := t.dropPending(); err != nil {
		return err
	}
	t.finish(n, op, err)
	return nil
}

func (t *conversation) begin(op *operationRecord, n uint64, known bool) error {
	number := n
	if !known {
		number = ^uint64(0) // plus one gives zero: none
	}
	switch op.Kind {
	case opLeave:
		return t.beginLeave(op, n)
	case opReInit:
		return t.beginReInit(op, n)
	case opClose:
		return t.sendOut(t.envelope(wire.KindClose), &pendingRecord{Version: recordVersion, Operation: number + 1})
	}
	c, err := t.resolve(op)
	if err != nil {
		return err
	}
	if c.pointless {
		t.finish(n, op, nil)
		return nil
	}
	return t.orderEnvelope(c, number)
}

// beginLeave proposes the removal of this device, or closes a conversation that has no other member.
func (t *conversation) beginLeave(op *operationRecord, n uint64) error {
	if t.group.Public().Size() == 1 {
		return t.sendOut(t.envelope(wire.KindClose), &pendingRecord{Version: recordVersion, Operation: n + 1})
	}
	t.setPolicy(nil)
	msg, err := t.group.ProposeLeave(mlscore.ProposeOptions{})
	if err != nil {
		return err
	}
	e := t.envelope(wire.KindProposal)
	e.Proposal = msg
	return t.sendOut(e, &pendingRecord{Version: recordVersion, Operation: n + 1})
}

// submitPending sends the pending envelope, and takes in the answer.
func (d *Device) submitPending(ctx context.Context, id ConversationID, s *step) error {
	err := d.uploadBlobs(ctx, id, s.pending.Blobs)
	var receipt wire.Receipt
	if err == nil {
		err = d.call(ctx, wire.MethodUpdate, s.envelope, &receipt)
	}
	var refused *Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, turnErr := d.findConversation(u, id)
		if turnErr != nil || t == nil {
			return turnErr
		}
		p, e, turnErr := t.pending()
		if turnErr != nil || p == nil || e.Submission != s.envelope.Submission {
			return turnErr // its entry was faster
		}
		if refused != nil {
			return t.refused(p, e, refused)
		}
		p.Accepted = receipt.Sequence
		if t.group != nil {
			t.setBehind(receipt.Sequence, false)
		}
		if turnErr := u.putRecord(t.pendingKey(), p); turnErr != nil {
			return turnErr
		}
		return t.save()
	})
}

// refused handles an error in the node's answer to a submission. An error that it returns makes the queue try again
// later.
func (t *conversation) refused(p *pendingRecord, e *wire.Envelope, err *Error) error {
	if t.rec.State == StateMoved && (err.Code == wire.UnknownConversation || err.Code == wire.NotReplica || err.Code == wire.StaleEpoch) {
		return t.closedOld()
	}
	switch err.Code {
	case wire.Version, wire.Malformed:
		if e.Commit != nil && e.Commit.Rest != nil && t.rec.State != StateFounding && t.rec.State != StateJoining {
			return t.restRefusedBy(err)
		}
	case wire.StaleEpoch:
		if t.rec.State == StateRejoining {
			return t.rejoinFailed(err)
		}
		return t.stale(p, e, err)
	case wire.NoQuorum, wire.Busy, wire.Unavailable, wire.Internal, wire.UnknownConversation, wire.NotReplica,
		wire.TooManyHeads, wire.BlobMissing, wire.Quota:
		return err
	}
	switch {
	case t.rec.State == StateMoved:
		return t.closedOld()
	case e.Kind == wire.KindCommit && (t.rec.State == StateFounding || t.rec.State == StateJoining):
		return err // a conversation depends on it
	case e.Kind == wire.KindCreate:
		return t.breakOff(err)
	case t.rec.State == StateRejoining:
		return t.rejoinFailed(err)
	}
	if dropErr := t.dropPending(); dropErr != nil {
		return dropErr
	}
	if p.Operation == 0 {
		t.event(Event{Type: EventFailed, Err: err})
		if t.rec.Failed.At > 0 {
			return t.breakOff(err) // the servers refuse even a contest
		}
		return nil
	}
	op := new(operationRecord)
	ok, getErr := t.u.getRecord(operationKey(t.id, p.Operation-1), op)
	if ok && getErr == nil {
		t.finish(p.Operation-1, op, err)
	}
	return getErr
}

// stale handles the answer that another commit has won the epoch. Once the entries up to the winner are taken in, the
// own commit is overtaken (see overtaken), and made again.
func (t *conversation) stale(p *pendingRecord, e *wire.Envelope, err *Error) error {
	until := t.rec.Position.Last + 1
	if s := err.Stale; s != nil {
		if last := t.rec.Position.Last; s.Head <= last && (s.Winner == nil || s.Winner.Sequence <= last) {
			return t.contestRefused(p, e, err)
		}
		if s.Winner != nil {
			until = max(until, s.Winner.Sequence)
			if s.Winner.Sequence == t.rec.Position.Last+1 {
				return t.takeEntry(s.Winner, false)
			}
		} else {
			until = max(until, s.Head)
		}
	}
	t.setBehind(until, false)
	t.rec.Behind.Since = 0 // the entries exist: no need to wait
	return t.save()
}

// refusals is how often a contest is refused, without new entries in the log, before the device gives it up.
const refusals = 8

// contestRefused handles a refusal that names no entry that is unknown here. For a contest the refusal means that the
// epochs that followed are confirmed, or too old: either a commit that this device can process has come, and its
// entry is fetched, or none will come.
func (t *conversation) contestRefused(p *pendingRecord, e *wire.Envelope, err *Error) error {
	if last := t.rec.Position.Last; p.Refused != last {
		p.Refused, p.Refusals = last, 0
	}
	if p.Refusals++; p.Refusals >= refusals && t.rec.Failed.At > 0 && e.Commit != nil && e.Commit.Contest {
		return t.breakOff(wire.Errorf(wire.StaleEpoch, "commit", "entry %d ended epoch %d with a commit that this device cannot process, and that can no longer be contested (%v): ask a member to restore this device", t.rec.Failed.At, e.Epoch, err))
	}
	t.setBehind(t.rec.Position.Last+1, false)
	if err := t.u.putRecord(t.pendingKey(), p); err != nil {
		return err
	}
	return t.save()
}

// overtaken puts the operation of a lost commit back into the queue, or gives it up.
func (t *conversation) overtaken() error {
	p, e, err := t.pending()
	if err != nil || p == nil {
		return err
	}
	if err := t.dropPending(); err != nil {
		return err
	}
	t.event(Event{Type: EventLost, Epoch: e.Epoch})
	if p.Operation == 0 {
		return nil
	}
	op := new(operationRecord)
	n := p.Operation - 1
	if ok, err := t.u.getRecord(operationKey(t.id, n), op); err != nil || !ok {
		return err
	}
	if op.Reason == reasonKeys {
		if waits, err := t.lostKeys(); err != nil || waits {
			if err == nil {
				t.finish(n, op, nil)
			}
			return err
		}
	}
	op.Attempts++
	if most := t.d.opts.Limits.Attempts; int(op.Attempts) >= most {
		t.finish(n, op, wire.Errorf(wire.StaleEpoch, "commit", "%d other commits came first: try again when %v is calmer", most, t.id))
		return nil
	}
	race := t.d.opts.Timing.Race
	op.After = t.d.now() + wire.Time(t.d.jitter(min(race<<min(op.Attempts, 10), 20*race)).Milliseconds())
	t.kick(handshakes(t.id))
	return t.u.putRecord(operationKey(t.id, n), op)
}

// uploadBlobs uploads the blobs that an entry names.
func (d *Device) uploadBlobs(ctx context.Context, id ConversationID, refs []wire.BlobRef) error {
	for _, ref := range refs {
		var content []byte
		err := d.turn(ctx, func(u *unit) error {
			var err error
			content, _, err = u.Get(recordKey(recordBlob, idPart(id), ref.Hash[:]))
			return err
		})
		if err != nil {
			return err
		}
		err = d.putBlob(ctx, id, ref, func(p []byte, offset uint64) error {
			copy(p, content[offset:])
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fetch requests missing entries, and takes them in.
func (d *Device) fetch(ctx context.Context, id ConversationID, s *step) error {
	if s.fresh {
		if err := d.refreshRoots(ctx); err != nil {
			return err
		}
		taken := false
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.findConversation(u, id)
			if err == nil && t != nil {
				taken, err = t.takeFresh()
			}
			return err
		})
		if err != nil || taken {
			return err
		}
	}
	var a wire.EntriesAnswer
	err := d.call(ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: id, Since: s.since}, &a)
	if wire.CodeOf(err) == wire.UnknownConversation {
		return d.contestBlind(ctx, id, s, err)
	}
	if err == nil {
		err = d.leaveToStream(ctx, id, &a, s)
	}
	if err == nil {
		err = d.bringRests(ctx, id, &a)
	}
	if err != nil {
		return err
	}
	if a.Gap {
		if comes, err := d.streamGives(ctx, id); err != nil {
			return err
		} else if comes {
			return later(d.backoff(1)) // the mailbox keeps items that the log does not
		}
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil {
			return err
		}
		return t.takeFetched(&a, s)
	})
}

// contestBlind handles the answer that this device is no reader of a conversation: if a commit that this device cannot
// process has removed it, the device contests that commit without the entries after it. In all other cases it returns
// the node's refusal.
func (d *Device) contestBlind(ctx context.Context, id ConversationID, s *step, refusal error) error {
	return d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil {
			return err
		}
		if t.rec.Failed.At == 0 || t.rec.Behind != s.behind {
			return refusal
		}
		t.rec.Behind = behind{}
		return t.save()
	})
}

// streamGives reports whether the stream of a conversation has items that this device has not taken in: the log keeps
// few entries, while the mailbox keeps all items that a device has not read.
func (d *Device) streamGives(ctx context.Context, id ConversationID) (bool, error) {
	var token wire.Token
	var read uint64
	waits := false
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.findConversation(u, id)
		if err != nil || t == nil {
			return err
		}
		token = t.rec.Token
		if waits, err = d.waitsLater(u, id); err == nil && waits {
			waits, err = t.hasLater(token)
		}
		if err != nil {
			return err
		}
		cursor, ok, err := u.Get(cursorKey(&wire.Push{Conversation: &id, Token: token}))
		if ok && err == nil {
			read = parseNumber(cursor)
		}
		return err
	})
	if err != nil || waits {
		return waits, err
	}
	var streams wire.ConversationsAnswer
	if err := d.call(ctx, wire.MethodConversations, nil, &streams); err != nil {
		return false, err
	}
	for _, s := range streams.Conversations {
		if s.Conversation == id && s.Token == token && s.End > max(read, s.Acknowledged) {
			return true, nil
		}
	}
	return false, nil
}

// takeFetched takes in the node's answer. If the node has no more entries than are known here, the search ends,
// unless a further entry is known to exist, or was asked for since the request.
func (t *conversation) takeFetched(a *wire.EntriesAnswer, s *step) error {
	if a.Gap && t.rec.Position.Last == s.since && t.group != nil {
		return t.breakOff(wire.Errorf(wire.NotFound, "entries", "the entries after %d are no longer kept, and without them the epochs cannot be followed", s.since))
	}
	t.rec.Line.Unknown = 0
	before := t.rec.Position.Last
	for i := range a.Entries {
		if err := t.takeEntry(&a.Entries[i], s.fresh); err != nil {
			return err
		}
	}
	if t.group == nil {
		if s.gone {
			t.event(Event{Type: EventGap, Err: errors.New("what came before this device was removed expired at the node before this device read it: messages among it are lost")})
		}
		if s.returns && t.rec.State == StateLeft {
			return t.search(t.rec.Token)
		}
		return nil
	}
	if len(a.Entries) == 0 || t.rec.Position.Last == before {
		pending, _, err := t.pending()
		if err != nil {
			return err
		}
		if pending != nil && pending.Accepted > t.rec.Position.Last {
			return later(t.d.backoff(1)) // this node's replica is behind the one that named the entry
		}
		if t.rec.Behind == s.behind {
			t.rec.Behind = behind{}
		} // else a push that came meanwhile, or an entry of the answer, needs one more fetch
	}
	return t.save()
}
