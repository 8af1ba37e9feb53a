package client

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

const (
	alicePhone  = "mimi://a.example/d/alice/phone"
	aliceLaptop = "mimi://a.example/d/alice/laptop"
	bobPhone    = "mimi://b.example/d/bob/phone"
	carolPhone  = "mimi://c.example/d/carol/phone"
	alice       = wire.UserID("mimi://a.example/u/alice")
	bob         = wire.UserID("mimi://b.example/u/bob")
	carol       = wire.UserID("mimi://c.example/u/carol")
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTwoPeopleTalk(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	id, err := a.Create(t.Context(), CreateOptions{Name: "Lunch"})
	check(t, err)
	check(t, a.Add(t.Context(), id, bob))
	agree(t, id, a, b)
	_, err = a.SendText(t.Context(), id, "Soup?")
	check(t, err)
	eventually(t, func() error {
		if len(b.texts(id)) != 1 {
			return fmt.Errorf("bob has %v", b.texts(id))
		}
		return nil
	})
	_, err = b.SendText(t.Context(), id, "Yes")
	check(t, err)
	want := []string{"alice: Soup?", "bob: Yes"}
	eventually(t, func() error {
		if !slices.Equal(a.texts(id), want) || !slices.Equal(b.texts(id), want) {
			return fmt.Errorf("alice has %v, bob has %v", a.texts(id), b.texts(id))
		}
		return nil
	})
}
