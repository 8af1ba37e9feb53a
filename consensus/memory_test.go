package consensus

import (
	"fmt"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

// TestAwakeConversationsAreBoundedByBytes checks that an organization which keeps conversations with large entries
// awake makes another organization's node keep only a limited number of bytes in memory. Conversations of others
// continue, and its own ones catch up when some of them sleep.
func TestAwakeConversationsAreBoundedByBytes(t *testing.T) {
	const limit, policy, entry = 6 << 20, 4 << 20, 900 << 10
	simulate(t, func(cfg *Config) {
		if cfg.Node == nodeB {
			cfg.Limits.Awake = limit
		}
	}, three, func(c *cluster) {
		b := c.nodes[nodeB].m
		states := func() (n int) {
			for _, cv := range b.list() {
				if l := cv.awake(); l != nil && cv.book.payer == "a.example" {
					n += l.size()
				}
			}
			return n
		}
		other := c.found(nodeC, "conversation-c", wire.Policy{}, "b.example", "c.example")
		c.settled("conversation-c", 1, 1)
		ids := []wire.ConversationID{"conversation-1", "conversation-2", "conversation-3", "conversation-4"}
		places := make(map[wire.ConversationID]author.Place)
		for _, id := range ids {
			places[id] = c.found(nodeA, id, wire.Policy{RecentBytes: policy}, "a.example", "b.example")
			c.settled(id, 1, 1)
		}
		for range 6 { // the conversations stay awake all the time
			for _, id := range ids {
				e := places[id].Commit(c.id(), entry, wire.DeliveryChange{})
				r, err := c.nodes[nodeA].m.Order(c.context(20*time.Second), e)
				if err != nil {
					t.Fatal(err)
				}
				places[id] = author.After(e, r)
				if n := states(); n > limit+len(ids)*2*(entry+64<<10) { // entries that were accepted before memory was full
					t.Fatalf("%d bytes are in memory, the limit is %d", n, limit)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if b.Counts().MemoryRefusals == 0 {
			t.Error("nothing was refused")
		}
		other = c.commit(nodeC, other, wire.DeliveryChange{})
		c.level("conversation-c", nodeB, nodeC)
		for _, id := range ids { // each catches up as others fall asleep
			c.eventually(fmt.Sprint(id, " has caught up"), func() bool {
				there, err := c.nodes[nodeA].m.Status(id)
				here, err2 := b.Status(id)
				return err == nil && err2 == nil && there.Order == here.Order
			})
		}
		c.asleep("conversation-c", nodeB, nodeC)
		c.eventually("nothing is accounted for that sleeps", func() bool { return b.memory.of("a.example") == states() })
		c.commit(nodeC, other, wire.DeliveryChange{})
	})
}

// TestMemoryAtItsEdge checks that with one byte left a conversation is woken and accepts entries, that with none it
// is not woken, and that a conversation of this node's own always is.
func TestMemoryAtItsEdge(t *testing.T) {
	simulate(t, func(cfg *Config) { cfg.Limits.Awake = 1 << 20 }, []wire.NodeID{nodeA, nodeB}, func(c *cluster) {
		c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example")
		c.settled(conv, 1, 1)
		c.asleep(conv, nodeA, nodeB)
		wake := func(n wire.NodeID) error {
			m := c.nodes[n].m
			cv, err := m.find(conv)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = m.wake(c.context(time.Second), cv)
			return err
		}
		b := c.nodes[nodeB].m
		b.memory.add("a.example", 1<<20)
		c.nodes[nodeA].m.memory.add("a.example", 1<<20)
		if err := wake(nodeB); wire.CodeOf(err) != wire.Busy {
			t.Errorf("with nothing left: %v", err)
		}
		if err := wake(nodeA); err != nil {
			t.Errorf("a conversation of this node's own: %v", err)
		}
		b.memory.add("a.example", -1)
		if err := wake(nodeB); err != nil {
			t.Errorf("with a byte left: %v", err)
		}
	})
}
