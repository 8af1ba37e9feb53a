//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// TestThreeOrganizationsTalk checks what people do: create, add, talk, share a file, use a second device, change
// keys, remove, leave.
func TestThreeOrganizationsTalk(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Lunch"}, alice, bob, carol)
	for i := range scale(5, 50) {
		for _, d := range c.members {
			c.say(d, "%s says %d", d.id, i)
		}
	}
	c.shareFile(alice, scale(1<<20, 50<<20), bob, carol)

	laptop := f.enrol("b", "bob", "laptop")
	f.confirm(bob, laptop) // then bob's phone adds it automatically
	f.eventually("bob's laptop has joined", func() error { return joined(c, laptop, 4) })
	c.forATime(laptop)
	c.say(laptop, "from the laptop")

	dora := f.enrol("c", "dora", "phone")
	c.add(bob, dora.id.User())
	for _, d := range []*device{dora, carol} {
		f.eventually(string(d.id)+" sees that dora has joined", func() error { return joined(c, d, 5) })
	}
	c.forATime(dora)
	c.has(dora, c.say(carol, "welcome"))
	for _, d := range []*device{alice, bob, carol, dora, laptop} {
		f.must(d.UpdateKeys(f.ctx, c.id))
	}
	f.must(alice.Remove(f.ctx, c.id, dora.id.User()))
	f.eventually("dora knows that she is out", func() error { return out(c, dora) })
	after := c.say(alice, "without dora")
	c.has(bob, after)
	f.must(laptop.Leave(f.ctx, c.id))
	f.eventually("bob's laptop is out", func() error { return out(c, laptop) })
	c.say(carol, "bye")
	f.must(alice.Rename(f.ctx, c.id, "Dinner"))
	c.judge(exceptions{})
	list, err := c.history(dora)
	f.must(err)
	for _, m := range list {
		if m.ID == after {
			t.Error("dora has read a message that was sent after her removal")
		}
	}
	commits, _ := f.history.commits(c.id, f.began())
	all, err := c.history(alice)
	f.must(err)
	report(t, "%d messages, %d commits, a file of %d bytes; all at every device", len(all), commits, scale(1<<20, 50<<20))
}

// joined checks that a device is a member and sees a number of members.
func joined(c *conversation, d *device, members int) error {
	v, err := d.Conversation(c.f.ctx, c.id)
	if err == nil && (v.State != client.StateActive || v.Members != members) {
		err = fmt.Errorf("%s is %v and sees %d members of %d", d.id, v.State, v.Members, members)
	}
	return err
}

// out checks that a device knows that it is no longer a member.
func out(c *conversation, d *device) error {
	v, err := d.Conversation(c.f.ctx, c.id)
	if err == nil && v.State != client.StateLeft {
		err = fmt.Errorf("%s is %v", d.id, v.State)
	}
	return err
}

// shareFile sends a file, which the others must receive whole.
func (c *conversation) shareFile(from *device, size int, to ...*device) {
	c.f.t.Helper()
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content) // cannot fail
	id, err := from.SendFile(c.f.ctx, c.id, "menu.bin", bytes.NewReader(content), int64(size), "the menu")
	c.f.must(err)
	c.mu.Lock()
	c.sent[from.id] = append(c.sent[from.id], id)
	c.mu.Unlock()
	for _, d := range to {
		c.has(d, id)
		list, err := c.history(d)
		c.f.must(err)
		for _, m := range list {
			if m.ID != id {
				continue
			}
			var got bytes.Buffer
			c.f.must(d.SaveFile(c.f.ctx, c.id, m.Content.File, &got, 0))
			if !bytes.Equal(got.Bytes(), content) {
				c.f.t.Fatalf("%s got another file of %d bytes", d.id, got.Len())
			}
		}
	}
}

// TestCommitRaces makes all members commit at the same time, repeatedly.
func TestCommitRaces(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Races"}, alice, bob, carol)
	before, err := alice.Conversation(f.ctx, c.id)
	f.must(err)
	rounds := scale(20, 200)
	for i := range rounds {
		ended := make(chan error, 3)
		for _, d := range c.members {
			c.say(d, "round %d", i)
			go func() { ended <- d.UpdateKeys(f.ctx, c.id) }()
		}
		for range 3 {
			f.must(<-ended)
		}
	}
	c.judge(exceptions{})
	after, err := alice.Conversation(f.ctx, c.id)
	f.must(err)
	if got, want := after.Epoch-before.Epoch, wire.Epoch(3*rounds); got != want {
		t.Errorf("%d epochs for %d commits", got, want)
	}
	lost := 0
	for _, d := range c.members {
		lost += d.events(client.EventLost)
	}
	won := ""
	for _, d := range c.members {
		n, _ := f.history.commits(c.id, f.began(), domain(d.org))
		won += fmt.Sprintf(", %d by %s", n, domain(d.org))
	}
	report(t, "%d rounds of three: %d epochs%s; %d commits were overtaken and made again", rounds, 3*rounds, won, lost)
}
