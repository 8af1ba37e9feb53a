package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// TestEmbedded starts the program several times, as a timer would. It checks that each start ends by itself, and that
// the program executes commands that came while it slept before it sends the reading.
func TestEmbedded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example", "b.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	link, err := c.Invite(ctx, "a.example", "sensor")
	if err != nil {
		t.Fatal(err)
	}
	folder, sensor := filepath.Join(t.TempDir(), "sensor"), filepath.Join(t.TempDir(), "temperature")
	wake := func(reading, link string) {
		t.Helper()
		if err := os.WriteFile(sensor, []byte(reading+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(ctx, sensor, folder, link); err != nil {
			t.Fatalf("a start with the reading %s: %v", reading, err)
		}
	}
	wake("20", link.String()) // enrols; there is no conversation yet
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := c.Device(ctx, "b.example", "bob", "phone")
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Boiler"})
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.Add(ctx, id, "mimi://a.example/u/sensor", "mimi://b.example/u/bob"); err != nil {
		t.Fatal(err)
	}
	readings := func(want ...string) {
		t.Helper()
		var got []string
		err := cluster.Await(ctx, alice, func() (bool, error) {
			page, err := alice.History(ctx, id, client.Query{})
			got = nil
			for _, m := range page.Messages {
				if m.Sender.User().Name() == "sensor" {
					got = append(got, m.Content.Text)
				}
			}
			return len(got) >= len(want), err
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("readings %q, wanted %q: %v", got, want, err)
		}
	}
	say := func(d *client.Device, text string) {
		t.Helper()
		message, err := d.SendText(ctx, id, text)
		if err != nil {
			t.Fatal(err)
		}
		err = cluster.Await(ctx, alice, func() (bool, error) { // until all devices have the text
			page, err := alice.History(ctx, id, client.Query{})
			return slices.ContainsFunc(page.Messages, func(m client.Message) bool {
				return m.ID == message && (m.Status == client.StatusReceived || m.Status == client.StatusAccepted)
			}), err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wake("21.5", "")
	readings("21.5")
	err = cluster.Await(ctx, bob, func() (bool, error) {
		v, err := bob.Conversation(ctx, id)
		return err == nil && v.State == client.StateActive, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	say(bob, "above 1000") // from another organization: not obeyed
	wake("22", "")
	readings("21.5", "22")
	say(alice, "above 40")
	wake("39", "")
	wake("41", "")
	readings("21.5", "22", "41")
	say(alice, "all")
	wake("23", "")
	readings("21.5", "22", "41", "23")
}
