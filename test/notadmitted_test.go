package test

import (
	"context"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestOrganizationThatIsNotAdmitted checks that a device that adds a user of an organization which is not admitted
// gets a final answer.
func TestOrganizationThatIsNotAdmitted(t *testing.T) {
	c, err := cluster.New(t.TempDir(), cluster.Options{}, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	alice, err := c.Device(ctx, "a.example", "alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.Add(ctx, id, "mimi://z.example/u/zoe"); wire.CodeOf(err) != wire.NotAdmitted {
		t.Errorf("a user of an organization that is not admitted: %v", err)
	}
}
