package client

import (
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestWitnessMustBeAdmitted checks that a witness that is not admitted is refused: it would have no vote, and nobody
// would notice.
func TestWitnessMustBeAdmitted(t *testing.T) {
	w := newWorld(t, "a.example", "w.example")
	a := w.peer(alicePhone).ready()
	if _, err := a.Create(t.Context(), CreateOptions{Witness: "z.example"}); wire.CodeOf(err) != wire.NotAdmitted {
		t.Errorf("created with a witness that is not admitted: %v", err)
	}
	list, err := a.Conversations(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("made %d conversations, %v", len(list), err)
	}
	_, err = a.Create(t.Context(), CreateOptions{Witness: "w.example"})
	check(t, err)
}
