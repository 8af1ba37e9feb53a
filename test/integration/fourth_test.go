//go:build integration

package integration

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mlsfed/mlsfed/client"
)

// TestFourthOrganization lets a new organization take part by an added user, and removes it again.
func TestFourthOrganization(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	var list []*conversation
	for i := range scale(2, 10) {
		list = append(list, f.converse(client.CreateOptions{Name: fmt.Sprint("Guests ", i)}, alice, bob, carol))
	}
	f.up("a", "b", "c", "d")
	dave := f.enrol("d", "dave", "phone")
	for _, c := range list {
		c.say(bob, "before")
		c.add(alice, dave.id.User())
		for _, d := range []*device{dave, carol} {
			f.eventually(string(d.id)+" sees that dave has joined", func() error { return joined(c, d, 4) })
		}
		c.members = append(c.members, dave) // from here on; the judgement includes both
		c.forATime(dave)
		c.caughtUp("d", "a")
		c.has(dave, c.say(carol, "hello"))
		c.has(carol, c.say(dave, "hello"))
		f.ends("dave commits", c.begin(dave))
		c.judge(exceptions{orgs: []string{"a", "b", "c", "d"}})
	}
	for _, c := range list {
		f.must(alice.Remove(f.ctx, c.id, dave.id.User()))
		f.eventually("dave knows that he is out", func() error { return out(c, dave) })
		f.ends("another organization follows the removal", c.begin(bob)) // from then on the removal is effective
		c.say(bob, "after")
	}
	f.within("the replicas of d are deleted", scenarioWait(), func() error {
		for _, c := range list {
			if r, err := f.replica("d", c.id); err != nil || r != nil {
				return errors.Join(err, errors.New("d holds a replica still"))
			}
		}
		return nil
	})
	for _, c := range list {
		c.voters("a", "b", "c")
		c.judge(exceptions{orgs: []string{"a", "b", "c"}})
	}
	report(t, "%d conversations: replicas appeared at the fourth organization, and were deleted", len(list))
}
