package test

import (
	"context"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestWitnessOfTheOperatorsChoice checks that a conversation of two organizations gets the third vote that the
// configuration proposes, continues while the founder's organization is away, and keeps the policy when it is
// migrated.
func TestWitnessOfTheOperatorsChoice(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		if cfg.Domain == "a.example" {
			cfg.Consensus.Witness = "w.example"
		}
	}}, "a.example", "b.example", "w.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	for _, q := range []struct {
		d    *client.Device
		want wire.Domain
	}{{alice, "w.example"}, {bob, ""}} {
		if p, err := q.d.ProposedPolicy(ctx); err != nil || p.Witness != q.want {
			t.Errorf("proposed is %+v, %v, wanted witness %q", p, err, q.want)
		}
	}
	without, err := alice.Create(ctx, client.CreateOptions{NoWitness: true})
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Create(ctx, client.CreateOptions{Voters: 3})
	if err != nil {
		t.Fatal(err)
	}
	policyIs := func(d *client.Device, id wire.ConversationID, voters uint8, witness wire.Domain) {
		t.Helper()
		if p, err := d.Policy(ctx, id); err != nil || p.Voters != voters || p.Witness != witness {
			t.Errorf("the policy is %+v, %v, wanted %d voters and witness %q", p, err, voters, witness)
		}
	}
	policyIs(alice, without, 0, "")
	policyIs(alice, id, 3, "w.example")
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	await(t, ctx, id, 2, alice, bob)
	next, err := alice.Migrate(ctx, id, client.MigrateOptions{Suite: mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier()})
	if err != nil {
		t.Fatal(err)
	}
	moved(ctx, t, id, mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier(), []*client.Device{alice, bob})
	policyIs(bob, next, 3, "w.example")
	awaitReplicas(t, ctx, c, next, []wire.Domain{"a.example"}, 3, 0)
	if err := c.Stop("a.example"); err != nil {
		t.Fatal(err)
	}
	if err := bob.UpdateKeys(ctx, next); err != nil {
		t.Errorf("bob's organization and the witness do not go on: %v", err)
	}
}
