package consensus

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlsfed/mlsfed/consensus/internal/author"
	"github.com/mlsfed/mlsfed/wire"
)

const conv wire.ConversationID = "conversation-one"

const (
	nodeA wire.NodeID = "n1.a.example"
	nodeB wire.NodeID = "n1.b.example"
	nodeC wire.NodeID = "n1.c.example"
)

// simulate runs a test in virtual time.
func simulate(t *testing.T, edit func(*Config), names []wire.NodeID, fn func(*cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, edit, names...)
		defer c.stopAll()
		fn(c)
	})
}

var three = []wire.NodeID{nodeA, nodeB, nodeC}

func TestOrderOnEveryReplica(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		for _, n := range three {
			p = c.commit(n, p, wire.DeliveryChange{})
		}
		if p.Epoch != 3 {
			t.Fatalf("epoch %d", p.Epoch)
		}
		c.level(conv, three...)
		if keys, err := c.nodes[nodeB].m.Keys(conv); err != nil || len(keys) != 2 || keys[0] != author.Public(p.Opener) {
			t.Fatalf("keys %v, %v", keys, err)
		}
	})
}

func TestSleepAndWake(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{})
		for _, at := range three {
			c.asleep(conv, three...)
			for _, n := range three {
				entries, gap, err := c.nodes[n].m.Entries(conv, 0, 100, 1<<20)
				if err != nil || gap || len(entries) == 0 || entries[len(entries)-1].Sequence < p.Parent {
					t.Fatalf("%s: %d entries, gap %v, %v", n, len(entries), gap, err)
				}
				if c.nodes[n].m.Counts().Awake != 0 {
					t.Fatalf("reading woke %s", n)
				}
			}
			start := time.Now()
			p = c.commit(at, p, wire.DeliveryChange{})
			if took := time.Since(start); took > time.Second {
				t.Fatalf("waking by %s took %v of virtual time", at, took)
			}
			c.level(conv, three...)
		}
	})
}

// TestSleepOnRequest checks that only the leader can put a conversation to sleep, and only when all replicas are
// level, and that reading still works.
func TestSleepOnRequest(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		p := c.found(nodeA, conv, wire.Policy{}, "a.example", "b.example", "c.example")
		c.settled(conv, 3, 0)
		p = c.commit(nodeA, p, wire.DeliveryChange{Add: author.Addresses(2, "a.example")})
		c.level(conv, three...)
		lead := c.leader(conv)
		for _, n := range three {
			err := c.nodes[n].m.Sleep(conv)
			if n == lead.id && err != nil {
				t.Fatalf("the leader does not sleep: %v", err)
			}
			if n != lead.id && err != nil && wire.CodeOf(err) != wire.Invalid {
				t.Fatalf("a follower answered %v", err)
			}
			if n == lead.id {
				break
			}
		}
		c.asleep(conv, three...)
		for _, n := range three {
			if list, err := c.nodes[n].m.DeliveryList(conv); err != nil || len(list) != 4 {
				t.Fatalf("%s: %d addresses (%v)", n, len(list), err)
			}
		}
		if err := c.nodes[nodeB].m.Wake(c.context(10*time.Second), conv); err != nil {
			t.Fatal(err)
		}
		c.commit(nodeC, p, wire.DeliveryChange{})
	})
}

// TestManyConversationsShareANode checks that each conversation has its own order, and that all sleep and wake
// independently.
func TestManyConversationsShareANode(t *testing.T) {
	simulate(t, nil, three, func(c *cluster) {
		const n = 40
		places := make([]author.Place, n)
		for i := range places {
			id := wire.ConversationID(fmt.Sprintf("conversation-%03d", i))
			places[i] = c.found(three[i%3], id, wire.Policy{}, "a.example", "b.example", "c.example")
		}
		for i := range places {
			c.settled(places[i].Conversation, 3, 0)
			places[i] = c.commit(three[(i+1)%3], places[i], wire.DeliveryChange{})
		}
		c.eventually("all asleep", func() bool {
			return c.nodes[nodeA].m.Counts().Awake+c.nodes[nodeB].m.Counts().Awake+c.nodes[nodeC].m.Counts().Awake == 0
		})
		c.commit(nodeB, places[7], wire.DeliveryChange{})
		for _, node := range three { // a majority has committed; the third node may still be opening
			c.eventually("one awake, the others asleep", func() bool {
				got := c.nodes[node].m.Counts()
				return got.Awake == 1 && got.Held == n
			})
		}
	})
}
