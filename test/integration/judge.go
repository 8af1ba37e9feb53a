//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// exceptions are faults that a scenario allows because it has caused them.
type exceptions struct {
	orgs    []string  // whose nodes hold the conversation; nil for those of the members
	gaps    []*device // may have lost messages, with a notice
	crashes bool      // nodes may have been restarted by Docker
}

// judge waits until everything has arrived everywhere, and ends the test if any promise is violated:
//
//   - every message that an organization accepted is at every member's device, once, in its sender's order;
//   - members are in the same epoch with the same authenticator, and have read the log to the same order hash;
//   - all nodes that hold the conversation have the same log;
//   - the answers to submissions are those of one log without faults (porcupine), which has one commit an
//     epoch, all that was accepted where it was said to be, and nothing that was refused;
//   - no device has raised an alarm, and no node has crashed.
func (c *conversation) judge(x exceptions) {
	c.f.t.Helper()
	c.f.note("judgement of %v", c.id)
	c.settle(x)
	for _, check := range []func(exceptions) error{c.messages, c.alarms, c.nodes, c.submissions, c.stable} {
		if err := check(x); err != nil {
			c.f.note("judgement: %v", err)
			c.f.t.Error(err)
		}
	}
	if c.f.t.Failed() {
		c.f.t.FailNow()
	}
}

// settle waits until the members agree and nothing is on its way.
func (c *conversation) settle(x exceptions) {
	c.f.t.Helper()
	c.f.within("members agree", 90*time.Second, func() error {
		var first *client.Conversation
		for _, d := range c.members {
			v, err := d.Conversation(c.f.ctx, c.id)
			if err != nil {
				return fmt.Errorf("%s: %w", d.id, err)
			}
			switch {
			case v.State != client.StateActive:
				return fmt.Errorf("%s is %v: %s", d.id, v.State, v.Why)
			case v.Outgoing > 0:
				return fmt.Errorf("%d messages of %s have not been accepted", v.Outgoing, d.id)
			case first == nil:
				first = v
			case v.Epoch != first.Epoch || v.Sequence != first.Sequence:
				return fmt.Errorf("%s is in epoch %d at entry %d, %s in epoch %d at entry %d", d.id, v.Epoch, v.Sequence, c.members[0].id, first.Epoch, first.Sequence)
			case v.Order != first.Order || !bytes.Equal(v.Authenticator, first.Authenticator) || v.Members != first.Members:
				return fmt.Errorf("%s and %s are in epoch %d and differ: order %v and %v, authenticator %x and %x, members %d and %d", d.id, c.members[0].id,
					v.Epoch, v.Order, first.Order, v.Authenticator, first.Authenticator, v.Members, first.Members)
			}
		}
		return c.messages(x)
	})
}

// messages compares what was sent with what is at each device.
func (c *conversation) messages(x exceptions) error {
	accepted := make(map[wire.DeviceID][]client.MessageID)
	histories := make(map[*device][]client.Message)
	c.mu.Lock()
	everyone := slices.DeleteFunc(slices.Concat(c.members, c.some), func(d *device) bool { return !d.runs() })
	c.mu.Unlock()
	for _, d := range everyone {
		list, err := c.history(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.id, err)
		}
		histories[d] = list
		for _, m := range list {
			if m.Sender == d.id && m.Status == client.StatusAccepted {
				accepted[d.id] = append(accepted[d.id], m.ID)
			}
		}
	}
	var failures []error
	for _, d := range everyone {
		whole := slices.Contains(c.members, d) && !slices.Contains(x.gaps, d)
		failures = append(failures, compare(d, histories[d], accepted, whole))
	}
	return errors.Join(failures...)
}

// compare compares one device's history with the accepted messages of the senders, in their order.
func compare(d *device, have []client.Message, accepted map[wire.DeviceID][]client.MessageID, whole bool) error {
	bySender := make(map[wire.DeviceID][]client.MessageID)
	seen := make(map[string]bool)
	for _, m := range have {
		key := string(m.Sender) + m.ID.String()
		if seen[key] {
			return fmt.Errorf("%s has message %v of %s twice", d.id, m.ID, m.Sender)
		}
		seen[key] = true
		bySender[m.Sender] = append(bySender[m.Sender], m.ID)
	}
	for sender, sent := range accepted {
		got := slices.DeleteFunc(bySender[sender], func(id client.MessageID) bool { return !slices.Contains(sent, id) })
		if whole && !slices.Equal(got, sent) {
			return fmt.Errorf("%s has %d messages of %s, who had %d accepted%s", d.id, len(got), sender, len(sent), difference(sent, got))
		}
		if !whole && !within(got, sent) {
			return fmt.Errorf("%s has messages of %s in another order than they were sent", d.id, sender)
		}
	}
	return nil
}

// difference describes where two lists differ.
func difference(sent, got []client.MessageID) string {
	for i, id := range sent {
		switch at := slices.Index(got, id); {
		case at < 0:
			return fmt.Sprintf(": number %d is missing", i)
		case at != i:
			return fmt.Sprintf(": number %d is at %d", i, at)
		}
	}
	return ""
}

// within reports whether b contains all of a in that order.
func within(a, b []client.MessageID) bool {
	for _, id := range b {
		if len(a) > 0 && a[0] == id {
			a = a[1:]
		}
	}
	return len(a) == 0
}

// alarms returns an error if devices have raised alarms.
func (c *conversation) alarms(x exceptions) error {
	var failures []error
	for _, d := range c.members {
		d.mu.Lock()
		for _, text := range d.alarms {
			if !slices.Contains(x.gaps, d) {
				failures = append(failures, fmt.Errorf("%s raised %s", d.id, text))
			}
		}
		d.mu.Unlock()
	}
	return errors.Join(failures...)
}

// nodes compares the logs of the nodes.
func (c *conversation) nodes(x exceptions) error {
	orgs := x.orgs
	if orgs == nil {
		for _, d := range c.members {
			if !slices.Contains(orgs, d.org) {
				orgs = append(orgs, d.org)
			}
		}
	}
	c.f.eventually("nodes have the same log", func() error {
		first, order := "", ""
		for _, org := range orgs {
			r, err := c.f.replica(org, c.id)
			switch {
			case err != nil:
				return err
			case r == nil:
				return fmt.Errorf("the node of %s holds no replica", org)
			case r.Fault != "":
				return fmt.Errorf("the node of %s: %s", org, r.Fault)
			case r.Behind > 0:
				return fmt.Errorf("the node of %s has %d entries to deliver", org, r.Behind)
			}
			now := fmt.Sprintf("%d entries, epochs %v, order %s", r.Entries, r.Epochs, r.Order)
			if first == "" {
				first, order = org, now
			}
			if now != order {
				return fmt.Errorf("nodes differ: %s has %s, %s has %s", first, order, org, now)
			}
		}
		return nil
	})
	return nil
}

// submissions compares the history with the log.
func (c *conversation) submissions(exceptions) error {
	h := c.f.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.faults) > 0 {
		return errors.New(strings.Join(h.faults, "\n"))
	}
	log := h.logs[c.id]
	return errors.Join(chained(log), oneCommitAnEpoch(log), h.nothingLost(c.id), h.linearizable(c.id))
}

// chained computes the order hashes again, as far as entries are known.
func chained(log map[wire.SequenceNumber]*shown) error {
	for n, e := range log {
		before := wire.Hash{}
		if n > 1 {
			if log[n-1] == nil {
				continue
			}
			before = log[n-1].order
		}
		if e.entry != nil && wire.NextOrder(before, e.entry) != e.order {
			return fmt.Errorf("entry %d: the order hash does not chain", n)
		}
	}
	return nil
}

// oneCommitAnEpoch checks the log alone.
func oneCommitAnEpoch(log map[wire.SequenceNumber]*shown) error {
	ended := make(map[wire.SequenceNumber]wire.SequenceNumber)
	for _, n := range sortedKeys(log) {
		e := log[n].envelope
		if e == nil || e.Kind != wire.KindCommit || log[n].contest {
			continue
		}
		if first, twice := ended[e.Parent]; twice {
			return fmt.Errorf("the epoch that entry %d opened was ended by entries %d and %d", e.Parent, first, n)
		}
		ended[e.Parent] = n
	}
	return nil
}

// nothingLost checks that every accepted submission is in the log once, at the place that the answer named, and that
// no refused submission is. The caller holds the mutex.
func (h *history) nothingLost(id wire.ConversationID) error {
	log, places := h.logs[id], make(map[wire.SubmissionID]wire.SequenceNumber)
	for n, e := range log {
		if e.envelope == nil {
			continue
		}
		if first, twice := places[e.envelope.Submission]; twice {
			return fmt.Errorf("submission %v is at %d and at %d", e.envelope.Submission, first, n)
		}
		places[e.envelope.Submission] = n
	}
	for _, op := range h.list {
		if op.envelope.Conversation != id || op.open {
			continue
		}
		at, there := places[op.envelope.Submission]
		switch {
		case op.code != "" && there:
			return fmt.Errorf("submission %v was refused (%v) and is at %d", op.envelope.Submission, op.code, at)
		case op.code == "" && !there:
			return fmt.Errorf("submission %v of %s was accepted as entry %d and is lost", op.envelope.Submission, op.device, op.receipt.Sequence)
		case op.code == "" && (at != op.receipt.Sequence || log[at].order != op.receipt.Order):
			return fmt.Errorf("submission %v was accepted as entry %d and is at %d", op.envelope.Submission, op.receipt.Sequence, at)
		}
	}
	return nil
}

// modelState is the state of the checker's model: the entry that opened the current epoch, and the last entry.
type modelState struct{ head, last wire.SequenceNumber }

type modelInput struct {
	kind   wire.Kind
	parent wire.SequenceNumber
}

type modelOutput struct {
	stale bool
	seq   wire.SequenceNumber
}

// model returns the answers that one copy of the log without faults would give.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return modelState{} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(modelState), input.(modelInput), output.(modelOutput)
			switch {
			case out.stale:
				return in.parent != s.head, s
			case in.parent != s.head || out.seq <= s.last:
				return false, s
			case in.kind == wire.KindProposal:
				return true, modelState{s.head, out.seq}
			}
			return true, modelState{out.seq, out.seq}
		},
		Equal:             func(a, b any) bool { return a == b },
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
}

// linearizable asks porcupine whether the answers can be those of one log, each given at one moment between its call
// and its return. A submission without an answer returns at the end of time if the log has it, and never happened
// otherwise. The caller holds the mutex.
func (h *history) linearizable(id wire.ConversationID) error {
	places := make(map[wire.SubmissionID]wire.SequenceNumber)
	for n, e := range h.logs[id] {
		if e.envelope != nil {
			places[e.envelope.Submission] = n
		}
	}
	var ops []porcupine.Operation
	for _, op := range h.list {
		if op.envelope.Conversation != id || op.code != "" && op.code != wire.StaleEpoch {
			continue
		}
		out, ret := modelOutput{stale: op.code != "", seq: op.receipt.Sequence}, op.ret.UnixNano()
		if op.open {
			at, there := places[op.envelope.Submission]
			if !there {
				continue
			}
			out, ret = modelOutput{seq: at}, math.MaxInt64
		}
		ops = append(ops, porcupine.Operation{
			ClientId: op.client, Input: modelInput{op.envelope.Kind, op.envelope.Parent}, Call: op.call.UnixNano(), Output: out, Return: ret,
		})
	}
	if result := porcupine.CheckOperationsTimeout(model(), ops, 30*time.Second); result != porcupine.Ok {
		return fmt.Errorf("the history of %d submissions is not linearizable: %v", len(ops), result)
	}
	return nil
}

// stable checks that no node has crashed.
func (c *conversation) stable(x exceptions) error {
	var failures []error
	for _, org := range c.f.services() {
		out, err := docker(c.f.ctx, "inspect", "--format", "{{.RestartCount}}", c.f.container(org))
		if err == nil && strings.TrimSpace(out) != "0" && !x.crashes {
			err = fmt.Errorf("the node of %s has crashed %s times", org, strings.TrimSpace(out))
		}
		failures = append(failures, err)
		if !x.crashes && bytes.Contains(output(c.f.ctx, "logs", c.f.container(org)), []byte("panic:")) {
			failures = append(failures, fmt.Errorf("the node of %s has panicked: see its log", org))
		}
	}
	return errors.Join(failures...)
}
