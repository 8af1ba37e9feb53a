package client

import (
	"context"
	"errors"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// FuzzPush lets a node push arbitrary items: none of them may stop a device, or count as a failure of its store. The
// first byte selects the kind.
func FuzzPush(f *testing.F) {
	w := newWorld(f, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	ctx := context.Background()
	id, err := a.Create(ctx, CreateOptions{})
	check(f, err)
	check(f, a.Add(ctx, id, bob))
	agree(f, id, a, b)
	b.stop()
	b.open()
	check(f, a.UpdateKeys(ctx, id))
	_, err = a.SendText(ctx, id, "Hello")
	check(f, err)
	hasTexts(f, a, id, "alice: Hello")
	eventually(f, func() error {
		c, err := a.Conversation(ctx, id)
		if err == nil && c.Outgoing > 0 {
			err = errors.New("not sent")
		}
		return err
	})
	w.mu.Lock()
	for _, it := range w.convs[id].streams["b.example"].items {
		f.Add(append([]byte{byte(it.kind) - 1}, it.payload...))
	}
	w.mu.Unlock()
	notice, err := wire.Encode(&wire.Notice{Type: wire.NoticeKeyPackages, Suite: 1, Left: 2})
	check(f, err)
	f.Add(append([]byte{byte(wire.ItemNotice) - 1}, notice...))
	a.stop() // background work during fuzzing would look like coverage
	rollback := errors.New("rolled back")
	var token wire.Token
	check(f, b.turn(ctx, func(u *unit) error {
		t, err := b.knownConversation(u, id)
		if err == nil {
			token = t.rec.Token
		}
		return err
	}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 {
			return
		}
		p := &wire.Push{Token: token, Sequence: 1 << 40, Kind: wire.ItemKind(payload[0]%4 + 1), Payload: payload[1:]}
		if p.Kind == wire.ItemEntry || p.Kind == wire.ItemMessage {
			p.Conversation = &id
		}
		err := b.turn(ctx, func(u *unit) error {
			if err := b.takePush(u, p, false); err != nil {
				return err
			}
			return rollback
		})
		if !errors.Is(err, rollback) {
			t.Fatalf("push of kind %d: %v", p.Kind, err)
		}
	})
}
