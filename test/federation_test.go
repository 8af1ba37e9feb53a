package test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

func newCluster(t *testing.T, domains ...wire.Domain) *cluster.Cluster {
	t.Helper()
	return newClusterIn(t, t.TempDir(), cluster.Options{}, domains...)
}

// newClusterIn is newCluster with a folder and options of the caller.
func newClusterIn(t *testing.T, dir string, o cluster.Options, domains ...wire.Domain) *cluster.Cluster {
	t.Helper()
	if os.Getenv("MLSFED_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c, err := cluster.New(dir, o, domains...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func device(t *testing.T, c *cluster.Cluster, d wire.Domain, user, name string) *client.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, err := c.Device(ctx, d, user, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestThreeOrganizationsTalk checks the main path: create, add across organizations, talk in all directions.
func TestThreeOrganizationsTalk(t *testing.T) {
	c := newCluster(t, "a.example", "b.example", "c.example")
	alice, bob, carol := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone"), device(t, c, "c.example", "carol", "phone")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob", "mimi://c.example/u/carol")
	everyone := []*client.Device{alice, bob, carol}
	for _, d := range everyone {
		if err := cluster.Await(ctx, d, func() (bool, error) {
			m, err := d.Members(ctx, id)
			return len(m) == 3, ignore(err, wire.UnknownConversation)
		}); err != nil {
			t.Fatalf("members: %v", err)
		}
	}
	texts := []string{"Soup?", "Yes.", "At noon."}
	for i, d := range everyone {
		if _, err := d.SendText(ctx, id, texts[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range everyone {
		if err := cluster.Await(ctx, d, func() (bool, error) {
			page, err := d.History(ctx, id, client.Query{})
			if err != nil {
				return false, err
			}
			seen := make(map[string]int)
			for _, m := range page.Messages {
				seen[m.Content.Text]++
			}
			for _, text := range texts {
				if seen[text] > 1 {
					t.Fatalf("device %d has %q %d times", i, text, seen[text])
				}
				if seen[text] == 0 {
					return false, nil
				}
			}
			return true, nil
		}); err != nil {
			t.Fatalf("history of device %d: %v", i, err)
		}
	}
}

// ignore returns err, or nil if err has the code.
func ignore(err error, code wire.Code) error {
	if wire.CodeOf(err) == code {
		return nil
	}
	return err
}
