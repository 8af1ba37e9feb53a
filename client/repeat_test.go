package client

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// operations counts the waiting changes of a conversation.
func (p *peer) operations(id wire.ConversationID) (n int) {
	p.t.Helper()
	check(p.t, p.turn(p.t.Context(), func(u *unit) error {
		t, err := p.knownConversation(u, id)
		if err != nil {
			return err
		}
		return t.eachOperation(func(uint64, *operationRecord) error { n++; return nil })
	}))
	return n
}

// calls counts the calls that wait for a change.
func (p *peer) calls() (n int) {
	p.waiters.mu.Lock()
	defer p.waiters.mu.Unlock()
	for _, list := range p.waiters.byOp {
		n += len(list)
	}
	return n
}

// TestRepeatedChangeWaitsForTheFirst checks a call that ends with its context because there is no quorum: its change
// is kept. The same call again waits for that change, and queues and claims nothing.
func TestRepeatedChangeWaitsForTheFirst(t *testing.T) {
	name := "Dinner"
	for what, change := range map[string]func(context.Context, *peer, wire.ConversationID) error{
		"add": func(ctx context.Context, p *peer, id wire.ConversationID) error {
			return p.Add(ctx, id, "mimi://b.example/u/dave")
		},
		"remove": func(ctx context.Context, p *peer, id wire.ConversationID) error { return p.Remove(ctx, id, bob) },
		"rename": func(ctx context.Context, p *peer, id wire.ConversationID) error { return p.Rename(ctx, id, name) },
	} {
		t.Run(what, func(t *testing.T) {
			w, id, a, b, c := trio(t, CreateOptions{})
			w.peer("mimi://b.example/d/dave/phone").ready()
			before, err := a.Conversation(t.Context(), id)
			check(t, err)
			w.refuse(wire.MethodUpdate, wire.NoQuorum)
			for range 3 {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- change(ctx, a, id) }()
				eventually(t, func() error {
					if a.calls() == 0 {
						return errors.New("no call waits")
					}
					return nil
				})
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Fatalf("without a quorum: %v", err)
				}
			}
			if n := a.operations(id); n != 1 {
				t.Errorf("%d changes wait, wanted 1", n)
			}
			done := make(chan error, 1)
			go func() { done <- change(t.Context(), a, id) }()
			eventually(t, func() error {
				if a.calls() == 0 {
					return errors.New("no call waits")
				}
				return nil
			})
			w.refuse(wire.MethodUpdate, "")
			check(t, <-done)
			if n := a.operations(id); n != 0 {
				t.Errorf("%d changes wait after the last", n)
			}
			after, err := a.Conversation(t.Context(), id)
			check(t, err)
			if after.Epoch != before.Epoch+1 {
				t.Errorf("%d commits were made", after.Epoch-before.Epoch)
			}
			if what != "remove" {
				agree(t, id, a, b, c)
			}
		})
	}
}

// TestAddedRemovedAndAdded checks that waiting changes count in their order: a user whom a removal in between
// concerns is added again.
func TestAddedRemovedAndAdded(t *testing.T) {
	w, id, a, _, c := trio(t, CreateOptions{})
	w.refuse(wire.MethodUpdate, wire.NoQuorum)
	var calls []chan error
	for n, do := range []func() error{
		func() error { return a.Remove(t.Context(), id, bob) },
		func() error { return a.Add(t.Context(), id, bob) },
		func() error { return a.Remove(t.Context(), id, bob) },
		func() error { return a.Add(t.Context(), id, bob) },
	} {
		done := make(chan error, 1)
		calls = append(calls, done)
		go func() { done <- do() }()
		eventually(t, func() error {
			if have := a.operations(id); have != n+1 {
				return fmt.Errorf("%d changes wait, wanted %d", have, n+1)
			}
			return nil
		})
	}
	w.refuse(wire.MethodUpdate, "")
	for _, done := range calls {
		check(t, <-done)
	}
	members(t, a, id, 3)
	agree(t, id, a, c)
}
