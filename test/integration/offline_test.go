//go:build integration

package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
)

// TestOfflineForLong keeps devices offline, within and beyond the time for which unread items are kept.
func TestOfflineForLong(t *testing.T) {
	const age = 15 * time.Second
	f := start(t, setup{environment: map[string]string{"MLSFED_MAILBOX_AGE": age.String()}})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Away"}, alice, bob, carol)
	talk := func(text string) {
		for i := range scale(5, 50) {
			for _, d := range []*device{alice, bob} {
				c.say(d, "%s %d", text, i)
			}
			f.ends("the others commit", c.begin(alice))
		}
	}
	carol.goOffline()
	talk("while carol is away for a short time")
	carol.comeBack()
	c.judge(exceptions{}) // she has it all

	carol.goOffline()
	talk("while carol is away for long")
	c.has(alice, c.say(bob, "the last one"))
	time.Sleep(age + age/5) // the test is about real time; nodes look each tenth of the age
	carol.comeBack()
	f.eventually("carol learns of the gap", func() error {
		if carol.events(client.EventGap) == 0 {
			return errors.New("no gap was reported")
		}
		return nil
	})
	c.has(carol, c.say(alice, "welcome back"))
	c.has(alice, c.say(carol, "I have missed something"))
	f.ends("carol commits", c.begin(carol))
	carol.forgive(client.EventGap)
	c.judge(exceptions{gaps: []*device{carol}})
	list, err := c.history(carol)
	f.must(err)
	all, err := c.history(alice)
	f.must(err)
	report(t, "within the expiry everything came; beyond it a gap was reported, %d of %d messages were missed, and no epoch", len(all)-len(list), len(all))
}
