//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// TestThreeNodes gives each organization three nodes, all with a vote in one conversation. It kills one node of an
// organization, and then the node to which its devices connect: its vote stays. Devices of the latter node are
// offline meanwhile, and miss nothing.
func TestThreeNodes(t *testing.T) {
	f := start(t, setup{nodes: "3"})
	all := f.services()
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Nine votes", Voters: 9}, alice, bob, carol)
	small := f.converse(client.CreateOptions{Name: "Alone"}, carol)
	c.voters(all...)
	small.voters("c", "c2", "c3")
	everywhere := exceptions{orgs: all}
	c.judge(everywhere)

	var further, first []time.Duration
	for range scale(1, 5) {
		// The load is so slow that an absent device misses fewer epochs than devices keep keys of: a message may come
		// after all of these epochs.
		load := c.busy(2*time.Second, c.members, c.members)
		f.kill("a2")
		further = append(further, c.goesOn([]string{"a"}))
		f.run("a2")
		c.caughtUp("a2", "a")

		f.kill("a")
		first = append(first, c.goesOn([]string{"b", "c"}))
		// Five of nine votes are left, two of them of a: without these two there would be no quorum.
		for _, service := range []string{"b2", "b3", "c2"} {
			f.kill(service)
		}
		f.ends("the votes of a's other nodes count", c.begin(bob))
		c.has(carol, c.say(bob, "while alice's node is away"))
		f.ends("one organization alone goes on with two of its three nodes", small.begin(carol))
		for _, service := range []string{"a", "b2", "b3", "c2"} {
			f.run(service)
		}
		load.stop()
		for _, service := range all[1:] {
			c.caughtUp(service, "a")
		}
	}
	c.voters(all...)
	for _, d := range c.members {
		f.ends("everyone commits", c.begin(d))
		c.say(d, "all are back")
	}
	c.judge(everywhere)
	small.judge(exceptions{orgs: []string{"c", "c2", "c3"}})
	n, _ := f.history.commits(c.id, f.began())
	report(t, "nine nodes: commits of an organization go on %v after one of its three nodes was killed, of the others %v after the one with its devices was; its vote stayed; %d commits in all",
		rounded(further), rounded(first), n)
}
