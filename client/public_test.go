package client

import (
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

func TestPublicHandshakes(t *testing.T) {
	_, id, a, b, c := trio(t, CreateOptions{PublicHandshakes: true})
	check(t, b.UpdateKeys(t.Context(), id))
	check(t, a.Remove(t.Context(), id, carol))
	inState(t, c, id, StateLeft)
	check(t, b.Leave(t.Context(), id))
	inState(t, b, id, StateLeft)
	check(t, a.Add(t.Context(), id, bob, carol))
	agree(t, id, a, b, c)
	d, err := c.Conversation(t.Context(), id)
	check(t, err)
	if d.Handshakes != wire.HandshakesPublic {
		t.Errorf("handshakes %d", d.Handshakes)
	}
}

func TestRejoinIsTheUsersWord(t *testing.T) {
	for name, public := range map[string]bool{"private": false, "public": true} {
		t.Run(name, func(t *testing.T) {
			_, id, a, b, c := trio(t, CreateOptions{PublicHandshakes: public})
			if err := b.Rejoin(t.Context(), id); wire.CodeOf(err) != wire.Invalid {
				t.Errorf("rejoins what is not broken: %v", err)
			}
			check(t, b.turn(t.Context(), func(u *unit) error {
				th, err := b.usableConversation(u, id)
				if err != nil {
					return err
				}
				return th.breakOff(wire.Errorf(wire.NotFound, "entries", "no longer kept"))
			}))
			check(t, a.UpdateKeys(t.Context(), id))
			b.restart()
			inState(t, b, id, StateBroken)
			err := b.Rejoin(t.Context(), id)
			if !public {
				if wire.CodeOf(err) != wire.Invalid {
					t.Errorf("rejoins with private handshakes: %v", err)
				}
				return
			}
			check(t, err)
			agree(t, id, a, b, c)
			_, err = b.SendText(t.Context(), id, "Back")
			check(t, err)
			hasTexts(t, c, id, "bob: Back")
			_, err = a.SendText(t.Context(), id, "Good")
			check(t, err)
			hasTexts(t, b, id, "bob: Back", "alice: Good")
		})
	}
}
