package consensus

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mlsfed/mlsfed/wire"
)

// A history holds the requests of the clients and their answers, with the times, in the form that the checker needs.
// Each submission is one operation, independent of the number of tries.

type operation struct {
	client  int
	e       *wire.Envelope
	call    time.Time
	ret     time.Time
	receipt wire.Receipt
	code    wire.Code // "" for accepted
	open    bool      // no answer: the submission may have been accepted, or may still be
}

type history struct {
	mu  sync.Mutex // guards ops
	ops []*operation
}

func (h *history) add(op *operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// placed is an entry's place in the final log.
type placed struct {
	seq   wire.SequenceNumber
	order wire.Hash
	entry *wire.Entry
}

// final is the log on which all replicas agree at the end.
type final struct {
	by   map[wire.SubmissionID]placed
	list []placed
}

func readFinal(entries []wire.Committed) (*final, error) {
	f := &final{by: make(map[wire.SubmissionID]placed)}
	var order wire.Hash
	for i := range entries {
		c := &entries[i]
		if c.Sequence != wire.SequenceNumber(i+1) {
			return nil, fmt.Errorf("entry %d is at place %d", c.Sequence, i+1)
		}
		if order = wire.NextOrder(order, c.Entry); order != c.Order {
			return nil, fmt.Errorf("entry %d: the order hash does not chain", c.Sequence)
		}
		e, err := c.Open()
		if err != nil {
			return nil, err
		}
		p := placed{c.Sequence, c.Order, e}
		f.list = append(f.list, p)
		if e.Envelope == nil {
			continue
		}
		if first, twice := f.by[e.Envelope.Submission]; twice {
			return nil, fmt.Errorf("submission %v is in the log at %d and at %d", e.Envelope.Submission, first.seq, c.Sequence)
		}
		f.by[e.Envelope.Submission] = p
	}
	return f, nil
}

// oneCommitAnEpoch checks the log only.
func (f *final) oneCommitAnEpoch() error {
	ended := make(map[wire.SequenceNumber]wire.SequenceNumber)
	for _, p := range f.list {
		e := p.entry.Envelope
		if e == nil || e.Kind != wire.KindCommit {
			continue
		}
		if first, twice := ended[e.Parent]; twice {
			return fmt.Errorf("the epoch that entry %d opened was ended by entries %d and %d", e.Parent, first, p.seq)
		}
		ended[e.Parent] = p.seq
	}
	return nil
}

// nothingLost checks that every accepted submission is in the log, at the place in its receipt.
func (h *history) nothingLost(f *final) error {
	for _, op := range h.ops {
		p, there := f.by[op.e.Submission]
		switch {
		case op.open || op.code != "" && !there:
		case op.code != "":
			return fmt.Errorf("submission %v was refused (%v) and is in the log at %d", op.e.Submission, op.code, p.seq)
		case !there:
			return fmt.Errorf("submission %v was accepted as entry %d and is lost", op.e.Submission, op.receipt.Sequence)
		case p.seq != op.receipt.Sequence || p.order != op.receipt.Order:
			return fmt.Errorf("submission %v was accepted as entry %d and is in the log at %d", op.e.Submission, op.receipt.Sequence, p.seq)
		}
	}
	return nil
}

// The state of the checker's model: the entry that opened the current epoch, and the last entry.
type modelState struct{ head, last wire.SequenceNumber }

type modelInput struct {
	commit bool
	parent wire.SequenceNumber
}

type modelOutput struct {
	code wire.Code
	seq  wire.SequenceNumber
}

// model gives the answers of a single log without faults.
func model(start wire.SequenceNumber) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return modelState{start, start} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(modelState), input.(modelInput), output.(modelOutput)
			switch {
			case out.code == wire.StaleEpoch:
				return in.parent != s.head, s
			case in.parent != s.head || out.seq <= s.last:
				return false, s
			case in.commit:
				return true, modelState{out.seq, out.seq}
			}
			return true, modelState{s.head, out.seq}
		},
		Equal:             func(a, b any) bool { return a == b },
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
}

// check asks porcupine whether the answers can come from one log, each at one moment between its call and its return.
// A submission without an answer returns at the end of time if the log has it, and otherwise never happened.
func (h *history) check(f *final, start wire.SequenceNumber) error {
	var ops []porcupine.Operation
	for _, op := range h.ops {
		out := modelOutput{code: op.code, seq: op.receipt.Sequence}
		ret := op.ret.UnixNano()
		if op.open {
			p, there := f.by[op.e.Submission]
			if !there {
				continue
			}
			out, ret = modelOutput{seq: p.seq}, math.MaxInt64
		}
		if out.code != "" && out.code != wire.StaleEpoch {
			continue // refused because of its content: the order does not matter
		}
		ops = append(ops, porcupine.Operation{ClientId: op.client, Input: modelInput{op.e.Kind == wire.KindCommit, op.e.Parent},
			Call: op.call.UnixNano(), Output: out, Return: ret})
	}
	if result := porcupine.CheckOperationsTimeout(model(start), ops, 20*time.Second); result != porcupine.Ok {
		text := ""
		for _, op := range ops {
			text += fmt.Sprintf("\n  client %d: %+v → %+v, from %d to %d", op.ClientId, op.Input, op.Output, op.Call/1e6, op.Return/1e6)
		}
		return fmt.Errorf("the history of %d operations is not linearizable: %v%s", len(ops), result, text)
	}
	return nil
}
