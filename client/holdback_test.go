package client

import (
	"errors"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestLostItemsAreAcknowledged checks that an item which finds no room among those that wait is acknowledged: the number
// of waiting items does not grow with it, so nothing else would keep the window of the session from filling.
func TestLostItemsAreAcknowledged(t *testing.T) {
	w, id, _, b, _ := trio(t, CreateOptions{})
	w.mute(b.id, true)
	s := &session{pushes: make(chan *wire.Push, 256)}
	push := func(at uint64) *wire.Push {
		return &wire.Push{Conversation: &id, Token: wire.Token{7}, Sequence: at, Kind: wire.ItemMessage, Payload: []byte{1}}
	}
	err := b.turn(t.Context(), func(u *unit) error {
		if _, err := b.waitsLater(u, id); err != nil {
			return err
		}
		b.later[id] = true
		p := push(5)
		if err := u.putRecord(laterKey(id, p.Token[:], number(p.Sequence)), p); err != nil {
			return err
		}
		for at, want := range map[uint64]bool{4: false, 5: true, 6: false} {
			if got, err := b.withholds(u, s, push(at)); err != nil || got != want {
				t.Errorf("item %d: withheld %v, %v", at, got, err)
			}
		}
		return errEnough // change nothing
	})
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
}
