package gateway

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/mlsfed/mlsfed/wire"
)

// TestDeliveryProperty puts items into streams, acknowledges, breaks the connection and comes back, in any
// order. A device that drops what it knows must see each item once and in order, and never more than the
// window unacknowledged.
func TestDeliveryProperty(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.Window, c.PageItems, c.Requests = 5, 2, 4 })
	round := 0
	rapid.Check(t, func(rt *rapid.T) { // one function, since all of it shares what the device knows
		round++
		name := func(i int) string { return fmt.Sprintf("conversation-%d-%d", round, i) }
		reader := wire.DeviceID("mimi://a.example/d/alice/phone")
		put, seen := make(map[string]uint64), make(map[string]uint64)
		open := make(map[string][]uint64) // in this session
		var c *device
		connect := func() {
			if c != nil {
				_ = c.conn.Close()
			}
			c = w.login(reader, true)
			clear(open)
		}
		take := func() {
			p := c.push()
			id := inbox
			if p.Conversation != nil {
				id = string(*p.Conversation)
			}
			if n := len(open[id]); n > 0 && p.Sequence != open[id][n-1]+1 {
				rt.Fatalf("item %d of %s after %d", p.Sequence, id, open[id][n-1])
			}
			if p.Sequence > seen[id]+1 {
				rt.Fatalf("item %d of %s, %d were seen", p.Sequence, id, seen[id])
			}
			seen[id] = max(seen[id], p.Sequence)
			open[id] = append(open[id], p.Sequence)
			n := 0
			for _, list := range open {
				n += len(list)
			}
			if n > 5 {
				rt.Fatalf("%d are unacknowledged", n)
			}
		}
		acknowledge := func(id string, n int) {
			c.ack(id, open[id][n-1])
			open[id] = open[id][n:]
		}
		connect()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			id := name(rapid.IntRange(0, 2).Draw(rt, "stream"))
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0, 1, 2:
				put[id]++
				w.feeds.put(id, "x")
			case 3:
				if n := len(open[id]); n > 0 {
					acknowledge(id, rapid.IntRange(1, n).Draw(rt, "ack"))
				}
			case 4:
				unacknowledged, total := 0, 0
				for i := range 3 {
					unacknowledged += len(open[name(i)])
					total += int(put[name(i)] - seen[name(i)])
				}
				if unacknowledged < 5 && total > 0 {
					take()
				}
			case 5:
				connect()
			}
		}
		for i := range 3 { // all of it arrives
			for seen[name(i)] < put[name(i)] {
				for id := range open {
					if n := len(open[id]); n > 0 {
						acknowledge(id, n)
					}
				}
				take()
			}
		}
		_ = c.conn.Close()
		eventually(t, "sessions", func() bool { return w.Sessions() == 0 })
		for i := range 3 { // not in the way of the next round
			w.feeds.drop(name(i))
		}
	})
}
