package client

import (
	"bytes"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestForgottenConversationLeavesNothing checks that only two records stay: the positions up to which its streams
// were read, and that the device left. A device that is added again starts without history.
func TestForgottenConversationLeavesNothing(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{Name: "Lunch"})
	for _, p := range []*peer{a, b, c} {
		p.movable()
	}
	ctx := t.Context()
	_, err := a.SendText(ctx, id, "old")
	check(t, err)
	hasTexts(t, b, id, "alice: old")
	check(t, b.SetOwnName(ctx, id, "Noon"))
	check(t, b.SetCursor(ctx, id, "bot", 1))
	if code := wire.CodeOf(b.Forget(ctx, id)); code != wire.Invalid {
		t.Errorf("a conversation that goes on is forgotten: %v", code)
	}
	next, err := a.Migrate(ctx, id, MigrateOptions{Suite: hybrid})
	check(t, err)
	agree(t, next, a, b, c)
	check(t, b.Leave(ctx, next))
	inState(t, b, next, StateLeft)
	check(t, b.Forget(ctx, next))
	if code := wire.CodeOf(b.Forget(ctx, next)); code != wire.UnknownConversation {
		t.Errorf("forgotten twice: %v", code)
	}
	list, err := b.Conversations(ctx)
	check(t, err)
	if len(list) != 0 {
		t.Errorf("%d conversations stay", len(list))
	}
	check(t, b.turn(ctx, func(u *unit) error {
		return u.Scan(nil, func(key, _ []byte) error {
			for _, gone := range []wire.ConversationID{id, next} {
				if bytes.Contains(key, []byte(gone)) && !slices.Contains([]byte{recordCursor, recordDeparted, recordRefusal}, key[1]) {
					t.Errorf("%q stays", key)
				}
			}
			return nil
		})
	}))
	b.restart()
	check(t, c.Add(ctx, next, bob))
	agree(t, next, a, b, c)
	_, err = a.SendText(ctx, next, "new")
	check(t, err)
	hasTexts(t, b, next, "alice: new")
}
