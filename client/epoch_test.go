package client

import (
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestEpochOfAMessageSentAgain checks that a message whose first form was refused as stale has the epoch in which it
// was accepted, at its sender too.
func TestEpochOfAMessageSentAgain(t *testing.T) {
	w, id, a, b, _ := trio(t, CreateOptions{})
	ctx := t.Context()
	w.refuse(wire.MethodSubmit, wire.Busy)
	_, err := a.SendText(ctx, id, "early")
	check(t, err)
	for range 3 { // the servers take messages of the epoch before too
		check(t, b.UpdateKeys(ctx, id))
	}
	agree(t, id, a, b)
	w.refuse(wire.MethodSubmit, "")
	hasTexts(t, b, id, "alice: early")
	check(t, a.CatchUp(ctx))
	eventually(t, func() error {
		sent, err := a.History(ctx, id, Query{Limit: 1})
		check(t, err)
		got, err := b.History(ctx, id, Query{Limit: 1})
		check(t, err)
		if s, r := &sent.Messages[0], &got.Messages[0]; s.Status != StatusAccepted || s.Epoch != r.Epoch {
			return fmt.Errorf("the sender has it %v in epoch %d, the reader in epoch %d", s.Status, s.Epoch, r.Epoch)
		}
		return nil
	})
}
