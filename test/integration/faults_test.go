//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/wire"
)

// others returns all organizations except one.
func others(all []string, not string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(org string) bool { return org == not })
}

func domains(orgs []string) []wire.Domain {
	var list []wire.Domain
	for _, org := range orgs {
		list = append(list, domain(org))
	}
	return list
}

// caughtUp returns when a node has as many entries of a conversation as another has now.
func (c *conversation) caughtUp(org, with string) {
	c.f.t.Helper()
	want, err := c.f.replica(with, c.id)
	c.f.must(err)
	c.f.eventually(org+" has caught up", func() error {
		r, err := c.f.replica(org, c.id)
		switch {
		case err != nil:
			return err
		case r == nil || want == nil:
			return errors.New("no replica")
		case r.Entries < want.Entries || r.Behind > 0:
			return fmt.Errorf("entry %d of %d, %d to deliver", r.Entries, want.Entries, r.Behind)
		}
		return nil
	})
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// TestLeaderKilled repeatedly kills or pauses the container that leads, under load.
func TestLeaderKilled(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Leaders"}, alice, bob, carol)
	load := c.busy(100*time.Millisecond, c.members, c.members)
	var killed, paused, returns []time.Duration
	for i := range scale(4, 12) {
		leader := f.leader(c.id, f.orgs...)
		rest := others(f.orgs, leader)
		if i%2 == 0 {
			f.kill(leader)
			killed = append(killed, c.goesOn(rest))
		} else {
			f.pause(leader)
			paused = append(paused, c.goesOn(rest))
		}
		back := time.Now()
		if i%2 == 0 {
			f.run(leader)
		} else {
			f.unpause(leader)
		}
		c.caughtUp(leader, rest[0])
		returns = append(returns, time.Since(back))
	}
	load.stop()
	c.judge(exceptions{})
	n, _ := f.history.commits(c.id, f.began())
	report(t, "commits go on %v after the leader was killed and %v after it froze, median %v (promised: 5s); it is back and level after %v; %d commits in all",
		rounded(killed), rounded(paused), median(slices.Concat(killed, paused)).Round(10*time.Millisecond), rounded(returns), n)
}

// goesOn returns how long it takes from now until a commit of these organizations is accepted.
func (c *conversation) goesOn(orgs []string) time.Duration {
	c.f.t.Helper()
	began := time.Now()
	var gap time.Duration
	c.f.eventually("commits go on", func() error {
		// Commits that were decided before are answered at once.
		n, first := c.f.history.commits(c.id, began.Add(100*time.Millisecond), domains(orgs)...)
		if n == 0 {
			return errors.New("no commit was accepted since the leader fell silent")
		}
		gap = first.Sub(began)
		return nil
	})
	return gap
}

func rounded(list []time.Duration) []string {
	var text []string
	for _, d := range list {
		text = append(text, d.Round(10*time.Millisecond).String())
	}
	return text
}

// TestRollingRestart restarts all nodes, one after the other, under load.
func TestRollingRestart(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Rolling"}, alice, bob, carol)
	load := c.busy(100*time.Millisecond, c.members, c.members)
	var longest []time.Duration
	for range scale(1, 5) {
		for _, org := range f.orgs {
			began := time.Now()
			f.stop(org)
			stopped := time.Now()
			f.run(org)
			c.caughtUp(org, others(f.orgs, org)[0])
			longest = append(longest, f.history.longestGap(c.id, began, domains(others(f.orgs, org))...))
			f.note("%s was stopped in %v", org, stopped.Sub(began))
		}
	}
	load.stop()
	c.judge(exceptions{})
	n, _ := f.history.commits(c.id, f.began())
	report(t, "%d restarts: the longest time without a commit by the others was %v; %d commits in all", len(longest), rounded(longest), n)
}

// longestGap returns the longest time between accepted commits from a time until now.
func (h *history) longestGap(id wire.ConversationID, since time.Time, by ...wire.Domain) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var times []time.Time
	for _, op := range h.list {
		if e := &op.envelope; e.Conversation == id && e.Kind == wire.KindCommit && !op.open && op.code == "" && op.ret.After(since) && slices.Contains(by, op.device.Organization()) {
			times = append(times, op.ret)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	var longest time.Duration
	for _, at := range times {
		longest = max(longest, at.Sub(since))
		since = at
	}
	return max(longest, time.Since(since))
}

// begin starts a commit and returns a channel for its result.
func (c *conversation) begin(d *device) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- d.UpdateKeys(c.f.ctx, c.id) }()
	return ended
}

// refusedForQuorum returns when a commit of an organization's devices was refused because there was no quorum, with
// the node's refusal.
func (c *conversation) refusedForQuorum(org string, since time.Time, ended <-chan error) refusal {
	c.f.t.Helper()
	var said refusal
	c.f.eventually("the minority refuses commits", func() error {
		select {
		case err := <-ended:
			c.f.must(fmt.Errorf("a commit of %s in %v has ended without a majority: %v", org, c.id, err))
		default:
		}
		for _, r := range c.f.history.refusals(c.id, domain(org), since) {
			if r.code == wire.NoQuorum {
				said = r
				return nil
			}
		}
		return fmt.Errorf("no commit of %s was refused for lack of a majority yet", org)
	})
	return said
}

// ends waits for the result of an operation that was begun.
func (f *federation) ends(what string, ended <-chan error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute*patience())
	defer cancel()
	select {
	case err := <-ended:
		f.must(err)
	case <-ctx.Done():
		f.must(fmt.Errorf("%s: it has not ended within a minute", what))
	}
}

// TestPartition cuts one organization off. It checks three conversations: of three organizations; of two, of which
// one has the only vote; and of two with a witness, which make three votes.
func TestPartition(t *testing.T) {
	f := start(t, setup{})
	alice, laptop := f.enrol("a", "alice", "phone"), f.enrol("a", "alice", "laptop")
	bob, carol := f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	f.confirm(alice, laptop)
	three := f.converse(client.CreateOptions{Name: "Three"}, alice, laptop, bob, carol)
	two := f.converse(client.CreateOptions{Name: "Two"}, carol, alice, laptop)
	watched := f.converse(client.CreateOptions{Name: "Watched", Witness: domain("b")}, alice, laptop, carol)
	three.voters("a", "b", "c")
	two.voters("c")
	watched.voters("a", "b", "c")
	var said refusal
	var waited []time.Duration
	for range scale(1, 5) {
		f.cut("a")
		cut := time.Now()
		lonely := []<-chan error{three.begin(alice), two.begin(alice), watched.begin(alice)}
		f.ends("the majority goes on", three.begin(bob))
		f.ends("the majority goes on", three.begin(carol))
		f.ends("the only vote goes on", two.begin(carol))
		f.ends("the majority with the witness goes on", watched.begin(carol))
		for _, c := range []*conversation{three, two, watched} {
			c.has(laptop, c.say(alice, "inside the minority"))
		}
		three.has(bob, three.say(carol, "inside the majority"))
		three.has(carol, three.say(bob, "the same"))
		said = three.refusedForQuorum("a", cut, lonely[0])
		two.refusedForQuorum("a", cut, lonely[1])
		watched.refusedForQuorum("a", cut, lonely[2])
		waited = append(waited, said.at.Sub(cut))
		if !slices.Contains(said.lack, nodeOf("b")) || !slices.Contains(said.lack, nodeOf("c")) {
			t.Errorf("the refusal names %v as missing, wanted the nodes of b and c: %q", said.lack, said.text)
		}
		f.heal("a")
		for _, ended := range lonely {
			f.ends("what waited for the majority", ended)
		}
	}
	three.judge(exceptions{})
	two.judge(exceptions{})
	watched.judge(exceptions{orgs: []string{"a", "b", "c"}})
	report(t, "%d partitions; the minority said after %v: %s (missing: %v)", scale(1, 5), rounded(waited), said.text, said.lack)
}

// voters waits until exactly the nodes of these organizations vote.
func (c *conversation) voters(orgs ...string) {
	c.f.t.Helper()
	var want []wire.NodeID
	for _, org := range orgs {
		want = append(want, nodeOf(org))
	}
	slices.Sort(want)
	c.f.eventually("voters are placed", func() error {
		r, err := c.f.replica(orgs[0], c.id)
		if err != nil || r == nil {
			return errors.Join(err, errors.New("no replica"))
		}
		have := slices.Sorted(slices.Values(r.Voters))
		if !slices.Equal(have, want) {
			return fmt.Errorf("the voters are %v, wanted %v", have, want)
		}
		return nil
	})
}

// TestPartitionOfManyEpochs lets the majority pass more epochs than members keep, while the minority talks.
func TestPartitionOfManyEpochs(t *testing.T) {
	f := start(t, setup{})
	alice, bob, carol := f.enrol("a", "alice", "phone"), f.enrol("b", "bob", "phone"), f.enrol("c", "carol", "phone")
	c := f.converse(client.CreateOptions{Name: "Far apart"}, alice, bob, carol)
	c.voters("a", "b", "c")
	f.cut("a")
	for i := range 6 {
		c.say(alice, "minority %d", i)
		f.ends("the majority goes on", c.begin(bob))
		c.say(carol, "majority %d", i)
	}
	f.heal("a")
	c.judge(exceptions{})
	report(t, "6 messages of the minority were read 6 epochs later")
}
