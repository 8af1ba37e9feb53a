package consensus

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// writers counts the goroutines that write to other nodes.
func writers() int {
	b := make([]byte, 4<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), "(*peer).write(")
}

// TestInventedNamesCostNothing checks that a node which others only name gets neither a queue nor a goroutine, and
// that a real node that falls silent frees both.
func TestInventedNamesCostNothing(t *testing.T) {
	simulate(t, nil, []wire.NodeID{nodeA, nodeM}, func(c *cluster) {
		a := c.nodes[nodeA].m
		for round := range 3 {
			members := []wire.NodeID{nodeM}
			for i := range 200 {
				members = append(members, wire.NodeID(fmt.Sprintf("n%d.invented%d.example", i, round)))
			}
			if err := inviteAs(c.t, c, nodeM, nodeA, wire.ConversationID(fmt.Sprintf("made up %d", round)), 0, members...); err != nil {
				c.t.Fatal(err)
			}
		}
		time.Sleep(time.Minute) // it searches for the nodes, in vain
		synctest.Wait()
		if n := len(a.mesh.peers); n != 1 {
			c.t.Errorf("%d peers, one node is there", n)
		}
		if n := writers(); n > 2 {
			c.t.Errorf("%d goroutines write to other nodes, two nodes are there", n)
		}
		a.notify("n1.invented0.example", &frame{kind: kindBeats})
		if a.Refusals()[RefusedNode] == 0 {
			c.t.Error("nothing is counted")
		}
		c.roster.add("n1.gone.example") // admitted, and unreachable
		a.notify("n1.gone.example", &frame{kind: kindBeats})
		synctest.Wait()
		if n := len(a.mesh.peers); n != 2 {
			c.t.Errorf("%d peers, wanted one for the admitted node too", n)
		}
		time.Sleep(2 * a.cfg.Timers.Idle)
		synctest.Wait()
		if n := len(a.mesh.peers); n != 1 || writers() > 2 {
			c.t.Errorf("%d peers and %d goroutines when it has not been needed for long", n, writers())
		}
		if _, err := a.mesh.ask(c.context(time.Second), "n1.gone.example", &frame{kind: kindBeats}); err == nil {
			c.t.Error("it answers")
		}
	})
}
