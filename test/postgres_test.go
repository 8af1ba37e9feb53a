package test

import (
	"context"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/node"
	"github.com/mlsfed/mlsfed/store/postgres/pgtest"
	"github.com/mlsfed/mlsfed/wire"
)

// onPostgres returns an option that puts an organization's node over a new database of a server.
func onPostgres(t *testing.T, s *pgtest.Server, d wire.Domain) func(*config.Config) {
	t.Helper()
	url, _ := s.Database(t, "")
	return func(cfg *config.Config) {
		if cfg.Domain != d {
			return
		}
		cfg.Storage, cfg.Postgres.URL = config.StoragePostgres, url
		if _, err := node.InitPostgres(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPostgresAndPebbleTalk checks the main path between an organization over PostgreSQL and one over Pebble, in both
// directions, over a restart of the nodes and a crash of the database.
func TestPostgresAndPebbleTalk(t *testing.T) {
	s := pgtest.Own(t)
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: onPostgres(t, s, "b.example")}, "a.example", "b.example")
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ours := create(ctx, t, alice, bob, "mimi://b.example/u/bob")
	theirs := create(ctx, t, bob, alice, "mimi://a.example/u/alice")
	talk := func(text string) {
		t.Helper()
		for _, id := range []wire.ConversationID{ours, theirs} {
			for _, way := range []struct{ from, to *client.Device }{{alice, bob}, {bob, alice}} {
				if _, err := way.from.SendText(ctx, id, text); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
			}
		}
		for _, id := range []wire.ConversationID{ours, theirs} {
			for _, d := range []*client.Device{alice, bob} {
				if err := cluster.Await(ctx, d, func() (bool, error) {
					n, err := heardTimes(ctx, d, id, text)
					if n > 2 {
						t.Fatalf("%q is there %d times", text, n)
					}
					return n == 2, err
				}); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
			}
		}
	}
	talk("first")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	talk("after a crash of the database")
	for _, d := range []wire.Domain{"a.example", "b.example"} {
		if err := c.Stop(d); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	talk("after a restart of the nodes")
}

// create makes a conversation with one other user and waits until that user has it.
func create(ctx context.Context, t *testing.T, from, with *client.Device, user wire.UserID) wire.ConversationID {
	t.Helper()
	id, err := from.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, from, id, user)
	if err := cluster.Await(ctx, with, func() (bool, error) {
		m, err := with.Members(ctx, id)
		return len(m) == 2, ignore(err, wire.UnknownConversation)
	}); err != nil {
		t.Fatalf("members: %v", err)
	}
	return id
}

// heardTimes counts a text in a history.
func heardTimes(ctx context.Context, d *client.Device, id wire.ConversationID, text string) (n int, err error) {
	page, err := d.History(ctx, id, client.Query{})
	if err != nil {
		return 0, err
	}
	for _, m := range page.Messages {
		if m.Content.Text == text {
			n++
		}
	}
	return n, nil
}
