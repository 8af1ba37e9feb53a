package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// ExampleWorld contains two devices of two organizations, with servers in memory, for the examples.
type ExampleWorld struct {
	tb         *exampleTB
	Alice, Bob *Device
	a, b       *peer
}

// exampleTB is a testing.TB for code that runs outside a test.
type exampleTB struct {
	testing.TB
	mu       sync.Mutex
	cleanups []func()
}

func (t *exampleTB) Helper()                   {}
func (t *exampleTB) Fatal(args ...any)         { panic(args) }
func (t *exampleTB) Fatalf(f string, a ...any) { panic([]any{f, a}) }
func (t *exampleTB) Errorf(f string, a ...any) { panic([]any{f, a}) }
func (t *exampleTB) Context() context.Context  { return context.Background() }
func (t *exampleTB) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// NewExampleWorld creates an ExampleWorld.
func NewExampleWorld() *ExampleWorld {
	tb := &exampleTB{}
	w := newWorld(tb, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	return &ExampleWorld{tb: tb, Alice: a.Device, Bob: b.Device, a: a, b: b}
}

// Close stops the world.
func (w *ExampleWorld) Close() {
	for i := len(w.tb.cleanups) - 1; i >= 0; i-- {
		w.tb.cleanups[i]()
	}
}

// Conversation creates a conversation of the two devices.
func (w *ExampleWorld) Conversation() wire.ConversationID {
	id, err := w.Alice.Create(context.Background(), CreateOptions{})
	check(w.tb, err)
	check(w.tb, w.Alice.Add(context.Background(), id, bob))
	agree(w.tb, id, w.a, w.b)
	return id
}

// Sent waits until all of Alice's messages have been accepted.
func (w *ExampleWorld) Sent(id wire.ConversationID) {
	eventually(w.tb, func() error {
		c, err := w.Alice.Conversation(context.Background(), id)
		if err == nil && c.Outgoing > 0 {
			err = fmt.Errorf("%d messages wait", c.Outgoing)
		}
		return err
	})
}

// Wait waits until Bob's device has emitted an event.
func (w *ExampleWorld) Wait(t EventType) {
	for len(w.b.events(t)) == 0 {
		time.Sleep(time.Millisecond)
	}
}
