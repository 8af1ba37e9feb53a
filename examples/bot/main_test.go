package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
)

// TestBot runs the program as a user would: enrolled with a link, stopped, and started again. It checks that the bot
// answers each message once.
func TestBot(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example")
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
	link, err := c.Invite(ctx, "a.example", "bot")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "bot")
	if err := run(ctx, folder, ""); err == nil {
		t.Error("the bot runs without a link")
	}
	start := func(link string) (stop func()) {
		running, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- run(running, folder, link) }()
		return func() {
			t.Helper()
			end()
			if err := <-ended; err != nil {
				t.Errorf("the bot: %v", err)
			}
		}
	}
	stop := start(link.String())
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.Await(ctx, alice, func() (bool, error) { // until the bot has enrolled and uploaded KeyPackages
		err := alice.Add(ctx, id, "mimi://a.example/u/bot")
		if code := client.CodeOf(err); code == client.NotFound || code == client.NoneLeft {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	answered := func(want ...string) {
		t.Helper()
		var got []string
		err := cluster.Await(ctx, alice, func() (bool, error) {
			page, err := alice.History(ctx, id, client.Query{})
			got = nil
			for _, m := range page.Messages {
				if m.Sender.User().Name() == "bot" {
					got = append(got, m.Content.Text)
				}
			}
			return len(got) >= len(want), err
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if len(got) != len(want) || got[i] != "You said: "+want[i] {
				t.Fatalf("answers %q to %q", got, want)
			}
		}
	}
	say := func(text string) {
		t.Helper()
		if _, err := alice.SendText(ctx, id, text); err != nil {
			t.Fatal(err)
		}
	}
	say("Soup?")
	answered("Soup?")
	stop()
	say("At noon?")
	stop = start("")
	answered("Soup?", "At noon?")
	say("Fine.")
	answered("Soup?", "At noon?", "Fine.")
	stop()
}
