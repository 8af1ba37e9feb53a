package test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// TestIDTakenWithAUsedAddress checks a conversation whose id was taken: a member of mallory.example, who has learned
// an address of carol's from a conversation with her, founds a conversation under the id of another one with that
// address. Carol's node holds mallory's replica, and replaces it by the replica of alice's conversation, which only
// alice's organization supports.
func TestIDTakenWithAUsedAddress(t *testing.T) {
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Consensus.Claim = config.Duration(500 * time.Millisecond)
	}}, "a.example", "c.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const known, wanted = wire.ConversationID("carol and mallory"), wire.ConversationID("carol and alice")
	got := make(chan *wire.Push, 16)
	carol := rawDevice(ctx, t, c, "c.example", "carol", func(p *wire.Push) {
		if p.Conversation != nil {
			got <- p
		}
	})
	defer carol.close()
	alice := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {})
	defer alice.close()
	mallory := rawDevice(ctx, t, c, "mallory.example", "mallory", func(*wire.Push) {})
	defer mallory.close()
	address := func(s *rawSession) wire.Address {
		token := wire.Token(random16())
		if err := s.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
			t.Fatal(err)
		}
		return wire.Address{Organization: s.device.Organization(), Token: token}
	}
	comes := func(id wire.ConversationID, from wire.NodeID) { // its first entry
		t.Helper()
		for {
			select {
			case p := <-got:
				entry := new(wire.Committed)
				if *p.Conversation != id || p.Kind != wire.ItemEntry {
					continue
				}
				if err := wire.Decode(p.Payload, wire.MaxSessionFrame, entry); err != nil {
					t.Fatal(err)
				}
				if e, err := entry.Open(); err != nil || e.Proposer != from || entry.Sequence != 1 {
					t.Fatalf("entry %d by %s (%v)", entry.Sequence, e.Proposer, err)
				}
				return
			case <-ctx.Done():
				t.Fatalf("carol never hears of %v; her node: %+v", id, c.Node("c.example").Status().Conversations)
			}
		}
	}
	used := address(carol)
	if err := mallory.createWith(ctx, known, used); err != nil {
		t.Fatal(err)
	}
	comes(known, "n1.mallory.example")
	if err := mallory.createWith(ctx, wanted, used); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "carol's node holds what mallory made", func() error {
		for _, v := range c.Node("c.example").Status().Conversations {
			if v.ID == wanted.String() && v.Entries > 0 {
				return nil
			}
		}
		return errors.New("the founder does not list the conversation with entries")
	})
	if err := alice.createWith(ctx, wanted, address(alice), address(carol)); err != nil {
		t.Fatal(err)
	}
	comes(wanted, "n1.a.example")
	if n := c.Node("c.example").Status(); len(n.Conversations) != 2 {
		t.Errorf("carol's node holds %+v", n.Conversations)
	}
}
