// Package peopletest has devices for the tests of the commands for people.
package peopletest

import (
	"context"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// Pair returns the devices of alice and bob of one organization, in a conversation that alice has created. Each edit
// changes the options of both devices before they are opened.
func Pair(t *testing.T, edit ...func(*client.Options)) (ctx context.Context, alice, bob *client.Device, id wire.ConversationID) {
	t.Helper()
	c, err := cluster.New(t.TempDir(), cluster.Options{Client: func(o *client.Options) {
		for _, f := range edit {
			f(o)
		}
	}}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, d := range map[string]**client.Device{"alice": &alice, "bob": &bob} {
		if *d, err = c.Device(ctx, "a.example", name, "phone"); err != nil {
			t.Fatal(err)
		}
	}
	if id, err = alice.Create(ctx, client.CreateOptions{Name: "Lunch"}); err != nil {
		t.Fatal(err)
	}
	if err := alice.Add(ctx, id, "mimi://a.example/u/bob"); err != nil {
		t.Fatal(err)
	}
	return ctx, alice, bob, id
}
