package test

import (
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/test/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestHybridSuiteOverTheNetwork: devices with a post-quantum KEM beside X25519 enrol, add each other across
// organizations, talk and rotate their keys.
func TestHybridSuiteOverTheNetwork(t *testing.T) {
	const hybrid = mlscore.CipherSuite(0xf001)
	domains := []wire.Domain{"a.example", "b.example"}
	c, err := cluster.New(t.TempDir(), cluster.Options{Client: func(o *client.Options) { o.Suite = hybrid }}, domains...)
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
	id, list := gather(t, c, domains, 1)
	for who, d := range list {
		if err := d.UpdateKeys(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SendText(t.Context(), id, numbered(who, 0)); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, id, list, []int{1, 1})
}
