package client

import (
	"context"
	"errors"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// step is what a conversation's handshake lane does next.
type step struct {
	join     *welcomeRecord
	founding *wire.Payload // of the conversation that succeeds this one
	fetch    bool
	fresh    bool // ask for the organizations' roots before the entries
	since    wire.SequenceNumber
	pending  *pendingRecord
	envelope *wire.Envelope
	wait     time.Duration
	again    bool // something was decided: look again
}

// workHandshakes does what a conversation's log needs, one thing after the other, until nothing is left.
func (d *Device) workHandshakes(ctx context.Context, id wire.ConversationID) error {
	for ctx.Err() == nil {
		var s *step
		err := d.turn(ctx, func(u *unit) error {
			t, err := d.thread(u, id)
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
		case s.founding != nil:
			err = d.takeFoundingOf(ctx, id, s.founding)
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

// next decides what to do. nil is nothing.
func (t *thread) next() (*step, error) {
	if s, err := t.nextLater(); err != nil || s != nil {
		return s, err
	}
	switch t.rec.State {
	case StateJoining:
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
	case StateCreating, StateActive, StateLeaving:
	case StateRejoining:
		p, e, err := t.pending()
		if err != nil || p == nil || p.Accepted > 0 {
			return nil, err // its entry comes as the first of the new address
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

// nextOfPending submits what is not yet accepted, and waits for what is.
func (t *thread) nextOfPending(p *pendingRecord, e *wire.Envelope) (*step, error) {
	if p.Accepted > 0 {
		t.setBehind(p.Accepted, false)
		return &step{again: true}, t.save()
	}
	if e.Kind != wire.KindCreate && e.Parent != t.rec.Position.Parent {
		return &step{again: true}, t.overtaken()
	}
	return &step{pending: p, envelope: e}, nil
}

// catchUp fetches entries that are known to be missing, after giving them the time to come by themselves.
func (t *thread) catchUp() *step {
	b := t.rec.Behind
	if b.Until == 0 {
		return nil
	}
	grace := wire.Time(t.d.opts.Timing.Grace.Milliseconds())
	if waited := t.d.now() - b.Since; !b.Fresh && waited >= 0 && waited < grace {
		return &step{wait: time.Duration(grace-waited) * time.Millisecond}
	}
	return &step{fetch: true, fresh: b.Fresh, since: t.rec.Position.Last}
}

// setBehind notes that entries up to one are missing. The caller saves.
func (t *thread) setBehind(until wire.SequenceNumber, fresh bool) {
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
func (t *thread) nextChange() (*step, error) {
	if f := t.rec.Failed; f.At > 0 {
		if wait := f.Contest - t.d.now(); wait > 0 {
			return &step{wait: time.Duration(wait) * time.Millisecond}, nil
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

// nextHousekeeping commits what others have proposed and renews keys.
func (t *thread) nextHousekeeping() (*step, error) {
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

// start makes what an operation comes to into the envelope that goes out. One that cannot be made has
// failed; that is the operation's error, not the turn's.
func (t *thread) start(n uint64, op *operationRecord) error {
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

func (t *thread) begin(op *operationRecord, n uint64, known bool) error {
	number := n
	if !known {
		number = ^uint64(0) // plus one is none
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
	return t.submit(c, number)
}

// beginLeave proposes the own removal, or closes a conversation in which nobody else is.
func (t *thread) beginLeave(op *operationRecord, n uint64) error {
	if t.group.Public().Size() == 1 {
		return t.sendOut(t.envelope(wire.KindClose), &pendingRecord{Version: recordVersion, Operation: n + 1})
	}
	t.look(nil)
	msg, err := t.group.ProposeLeave(mlscore.ProposeOptions{})
	if err != nil {
		return err
	}
	e := t.envelope(wire.KindProposal)
	e.Proposal = msg
	return t.sendOut(e, &pendingRecord{Version: recordVersion, Operation: n + 1})
}

// submitPending sends the envelope that goes out, and takes the answer in.
func (d *Device) submitPending(ctx context.Context, id wire.ConversationID, s *step) error {
	err := d.uploadBlobs(ctx, id, s.pending.Blobs)
	var receipt wire.Receipt
	if err == nil {
		err = d.call(ctx, wire.MethodUpdate, s.envelope, &receipt)
	}
	var refused *wire.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	return d.turn(ctx, func(u *unit) error {
		t, turnErr := d.thread(u, id)
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

// refused acts on an error that the node answered a submission with. What it returns makes the lane try
// again later.
func (t *thread) refused(p *pendingRecord, e *wire.Envelope, err *wire.Error) error {
	if t.rec.State == StateMoved && (err.Code == wire.UnknownConversation || err.Code == wire.NotReplica || err.Code == wire.StaleEpoch) {
		return t.closedOld()
	}
	switch err.Code {
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
			return t.breakOff(err) // not even a contest is taken
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

// stale takes in that another commit has won the epoch. With the entries up to the winner taken in, the
// own commit is overtaken (see overtaken), and made again.
func (t *thread) stale(p *pendingRecord, e *wire.Envelope, err *wire.Error) error {
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
	t.rec.Behind.Since = 0 // they are there: no need to wait
	return t.save()
}

// refusals is how often a contest is refused, with nothing new in the log, before it is given up.
const refusals = 8

// contestRefused acts on a refusal that names no entry which is unknown here. For a contest it says that the
// epochs that followed are confirmed, or too old: either a commit that this device can process has come, and
// its entry is fetched, or none will.
func (t *thread) contestRefused(p *pendingRecord, e *wire.Envelope, err *wire.Error) error {
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

// overtaken puts the operation of a commit that lost back into the queue, or gives it up.
func (t *thread) overtaken() error {
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

// uploadBlobs hands in what stands beside an entry.
func (d *Device) uploadBlobs(ctx context.Context, id wire.ConversationID, refs []wire.BlobRef) error {
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

// fetch asks for entries that are missing, and takes them in.
func (d *Device) fetch(ctx context.Context, id wire.ConversationID, s *step) error {
	if s.fresh {
		if err := d.refreshRoots(ctx); err != nil {
			return err
		}
	}
	var a wire.EntriesAnswer
	err := d.call(ctx, wire.MethodEntries, &wire.EntriesRequest{Conversation: id, Since: s.since}, &a)
	if err == nil {
		err = d.leaveToStream(ctx, id, &a, s.fresh)
	}
	if err != nil {
		return err
	}
	if a.Gap {
		if comes, err := d.streamGives(ctx, id); err != nil {
			return err
		} else if comes {
			return later(d.backoff(1)) // the mailbox keeps what the log does not
		}
	}
	return d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
		if err != nil || t == nil {
			return err
		}
		return t.takeFetched(&a, s)
	})
}

// streamGives reports whether the stream of a conversation has something that this device has not taken in: the log keeps
// few entries, the mailbox those that a device has not read.
func (d *Device) streamGives(ctx context.Context, id wire.ConversationID) (bool, error) {
	var token wire.Token
	var read uint64
	waits := false
	err := d.turn(ctx, func(u *unit) error {
		t, err := d.thread(u, id)
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

// takeFetched takes in what the node answered. That it has no more entries than are known here ends the
// search, unless one is known to exist.
func (t *thread) takeFetched(a *wire.EntriesAnswer, s *step) error {
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
		return nil
	}
	if len(a.Entries) == 0 || t.rec.Position.Last == before {
		pending, _, err := t.pending()
		if err != nil {
			return err
		}
		if pending != nil && pending.Accepted > t.rec.Position.Last {
			return later(t.d.backoff(1)) // this node's replica is behind the one that answered
		}
		t.rec.Behind = behind{}
	}
	return t.save()
}
