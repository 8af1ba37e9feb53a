package consensus

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/mlsfed/mlsfed/consensus/machine"
	"github.com/mlsfed/mlsfed/wire"
)

// TestHeadsOfSleepers checks that the heads of a sleeping conversation are the ones that it had awake. They are read
// once and then cached, and read again after the conversation has been awake.
func TestHeadsOfSleepers(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		c.eventually("the rules are those of all three", func() bool { // the rules affect heads, and come with an entry of their own
			for _, n := range three {
				if s, err := c.nodes[n].m.Status(conv); err != nil || s.Level < wire.UsualLevel {
					return false
				}
			}
			return true
		})
		heads := func(n wire.NodeID) []machine.Head {
			t.Helper()
			got, err := c.nodes[n].m.Heads(conv)
			if err != nil || len(got) == 0 {
				t.Fatalf("%s: %d heads, %v", n, len(got), err)
			}
			return got
		}
		kept := func(n wire.NodeID) (list []machine.Head, ok bool) {
			rec, err := c.nodes[n].m.readRecord(conv)
			if err != nil {
				t.Fatal(err)
			}
			return c.nodes[n].m.heads.get(conv, rec.Applied)
		}
		for round := range 3 {
			for range 4 {
				p = c.commit(nodeB, p, wire.DeliveryChange{})
			}
			c.level(conv, three...)
			awake := make(map[wire.NodeID][]machine.Head)
			for _, n := range three {
				awake[n] = heads(n)
			}
			c.asleep(conv, three...)
			for _, n := range three {
				for range 2 {
					if got := heads(n); !reflect.DeepEqual(got, awake[n]) {
						t.Errorf("round %d: %s has other heads asleep: %+v, awake %+v", round, n, got, awake[n])
					}
				}
				if list, ok := kept(n); !ok || len(list) == 0 {
					t.Errorf("round %d: %s keeps no heads", round, n)
				}
				if full, err := c.nodes[n].m.GroupInfos(conv); err != nil || len(full) != len(awake[n]) || full[0].Key != awake[n][0].Key {
					t.Errorf("round %d: %s: %d heads with their GroupInfos, %v", round, n, len(full), err)
				}
			}
		}
	})
}

// BenchmarkHeadsOfSleepers reads the heads of many conversations with 100 commits each, in turn, as messages in
// conversations without commits do.
func BenchmarkHeadsOfSleepers(b *testing.B) {
	for _, n := range []int{16, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCluster(b, 1, nil, nodeA)
			defer c.stopAll()
			var ids []wire.ConversationID
			for i := range n {
				ids = append(ids, wire.ConversationID(fmt.Sprintf("conversation-%03d", i)))
				p := c.found(nodeA, ids[i], wire.Policy{}, "a.example")
				for range 100 {
					p = c.commit(nodeA, p, wire.DeliveryChange{})
				}
			}
			for _, id := range ids {
				conversation, err := c.nodes[nodeA].m.find(id)
				if err != nil {
					b.Fatal(err)
				}
				if l := conversation.awake(); l != nil {
					l.close(0, nil)
				}
				if _, err := c.nodes[nodeA].m.Heads(id); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for i := range b.N {
				if _, err := c.nodes[nodeA].m.Heads(ids[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
