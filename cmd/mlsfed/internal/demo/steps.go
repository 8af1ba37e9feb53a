package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// enrol gives each user a device, and alice two: the second one by a link that the first one makes.
func (d *demo) enrol(ctx context.Context) (string, error) {
	for _, who := range []struct {
		to   **participant
		org  wire.Domain
		user string
	}{{&d.alice, orgA, "alice"}, {&d.bob, orgB, "bob"}, {&d.carol, orgC, "carol"}} {
		link, err := d.world.Invite(ctx, who.org, who.user)
		if err != nil {
			return "", err
		}
		if *who.to, err = d.join(ctx, link, "phone"); err != nil {
			return "", err
		}
	}
	link, err := d.world.Invite(ctx, orgA, "alice")
	if err != nil {
		return "", err
	}
	if link.Code, _, err = d.alice.InviteDevice(ctx, 60); err != nil {
		return "", err
	}
	if d.laptop, err = d.join(ctx, link, "laptop"); err != nil {
		return "", err
	}
	if err := d.enrolSimulated(ctx); err != nil {
		return "", err
	}
	for _, t := range d.allTraffic() { // their KeyPackages are there
		if err := t.Settle(ctx, stepTime); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d devices, each with a certificate and 11 KeyPackages of %v", len(d.everybody()), d.opts.suite), nil
}

func (d *demo) allTraffic() []*traffic.Meter {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.traffics)
}

func (d *demo) enrolSimulated(ctx context.Context) error {
	orgs := []wire.Domain{orgA, orgB, orgC}
	d.simulated = make([]*participant, d.opts.members)
	const workers = 8
	return cluster.Spread(workers, func(w int) error {
		for i := w; i < len(d.simulated); i += workers {
			link, err := d.world.Invite(ctx, orgs[i%len(orgs)], fmt.Sprintf("user%d", i+1))
			if err != nil {
				return err
			}
			if d.simulated[i], err = d.join(ctx, link, "device"); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *demo) create(ctx context.Context) (string, error) {
	begin := time.Now()
	var err error
	if d.id, err = d.alice.Create(ctx, client.CreateOptions{Name: "Lunch"}); err != nil {
		return "", err
	}
	took := time.Since(begin)
	d.alice.setOut(false)
	epoch, err := d.agree(ctx, []*participant{d.alice, d.laptop}, 1)
	d.laptop.setOut(false)
	return fmt.Sprintf("%s, ordered after %s; her laptop is added by itself: epoch %d", cli.ShortID(d.id), milliseconds(took), epoch), err
}

func (d *demo) add(ctx context.Context) (string, error) {
	added := append([]*participant{d.bob, d.carol}, d.simulated...)
	var users []wire.UserID
	for _, p := range added {
		users = append(users, p.id.User())
	}
	begin := time.Now()
	if err := d.alice.Add(ctx, d.id, users...); err != nil {
		return "", err
	}
	took := time.Since(begin)
	for _, p := range added {
		p.setOut(false)
	}
	epoch, err := d.agree(ctx, d.members(), d.epochOf(ctx, d.alice))
	if err == nil {
		err = d.voters(ctx, 3)
	}
	return fmt.Sprintf("epoch %d, %d devices, one commit in %s; 3 nodes vote on the order after %s",
		epoch, len(d.members()), milliseconds(took), milliseconds(time.Since(begin))), err
}

// voters waits until n nodes vote on the conversation's order. Placement follows the members in separate steps.
func (d *demo) voters(ctx context.Context, n int) error {
	for {
		s, err := d.world.Status(ctx, orgA)
		if err != nil {
			return err
		}
		for _, c := range s.Conversations {
			if c.ID == d.id.String() && len(c.Voters) == n && len(c.Learners) == 0 {
				return nil
			}
		}
		if err := cluster.Pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("the conversation does not come to %d voters: %w", n, err)
		}
	}
}

func (d *demo) epochOf(ctx context.Context, p *participant) wire.Epoch {
	c, err := p.Conversation(ctx, d.id)
	if err != nil {
		return 0
	}
	return c.Epoch
}

// talk makes all devices send a message at once, and waits until all devices have read it.
func (d *demo) talk(ctx context.Context) (string, error) {
	first, before := d.saidSoFar(), d.owing()
	err := together(d.members(), func(p *participant) error {
		times := 5
		if slices.Contains(d.simulated, p) {
			times = 1
		}
		for n := range times {
			if err := d.say(ctx, p, fmt.Sprintf("message %d", n+1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = d.heard(ctx, d.members())
	}
	messages, copies := d.owing().minus(before)
	return fmt.Sprintf("%d messages, each on disk and read by %d devices, %s", messages, copies/max(messages, 1), d.took(first)), err
}

// tally counts messages, and how many devices must have them.
type tally struct{ messages, copies int }

func (t tally) minus(before tally) (messages, copies int) {
	return t.messages - before.messages, t.copies - before.copies
}

func (d *demo) owing() tally {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := tally{messages: len(d.said)}
	for _, r := range d.said {
		t.copies += len(r.owed)
	}
	return t
}

// race makes two members commit in one epoch. If one is done before the other has begun, they try again.
func (d *demo) race(ctx context.Context) (string, error) {
	for range 20 {
		d.bob.clear()
		d.carol.clear()
		err := together([]*participant{d.bob, d.carol}, func(p *participant) error { return p.UpdateKeys(ctx, d.id) })
		if err != nil {
			return "", err
		}
		if _, err := d.agree(ctx, d.members(), d.epochOf(ctx, d.bob)); err != nil {
			return "", err
		}
		for _, pair := range [][2]*participant{{d.bob, d.carol}, {d.carol, d.bob}} {
			winner, loser := pair[0], pair[1]
			lost, ok := loser.find(client.EventLost)
			won, okWon := winner.find(client.EventWon)
			again, okAgain := loser.find(client.EventWon)
			if ok && okWon && okAgain && won.Epoch == lost.Epoch+1 {
				return fmt.Sprintf("%s wins epoch %d; %s is refused as stale, commits again: epoch %d, %s later",
					winner.name, won.Epoch, loser.name, again.Epoch, milliseconds(again.Time.Sub(won.Time))), nil
			}
		}
	}
	return "", errors.New("of 20 attempts to commit at the same time none came to a race")
}

func (d *demo) remove(ctx context.Context) (string, error) {
	if err := d.alice.Remove(ctx, d.id, d.carol.id.User()); err != nil {
		return "", err
	}
	if _, err := d.await(ctx, d.carol, func(c *client.Conversation) bool { return c.State == client.StateLeft }); err != nil {
		return "", err
	}
	d.carol.setOut(true)
	epoch, err := d.agree(ctx, d.members(), d.epochOf(ctx, d.alice))
	if err != nil {
		return "", err
	}
	if _, err := d.carol.SendText(ctx, d.id, "Am I still here?"); wire.CodeOf(err) != wire.Closed {
		return "", fmt.Errorf("carol sends after her removal: got %v, want it refused", err)
	}
	if err := d.say(ctx, d.bob, "carol is not to read this"); err != nil {
		return "", err
	}
	return fmt.Sprintf("epoch %d, %d devices; she can send no more, and what bob says then is not for her", epoch, len(d.members())), d.heard(ctx, d.members())
}

func (d *demo) restore(ctx context.Context) (string, error) {
	if err := d.bob.Add(ctx, d.id, d.carol.id.User()); err != nil {
		return "", err
	}
	d.carol.setOut(false)
	epoch, err := d.agree(ctx, d.members(), d.epochOf(ctx, d.bob))
	if err == nil {
		err = d.voters(ctx, 3)
	}
	return fmt.Sprintf("epoch %d, %d devices, 3 voters", epoch, len(d.members())), err
}

// stop takes an organization's node away while people talk: the one that leads the conversation's order.
func (d *demo) stop(ctx context.Context) (string, error) {
	s, err := d.world.Status(ctx, orgA)
	if err != nil {
		return "", err
	}
	lead := "another node leads"
	for _, c := range s.Conversations {
		if c.ID == d.id.String() && c.Leader == s.Node {
			lead = "it led"
		}
	}
	before := d.owing()
	down := make(chan time.Duration, 1)
	err = together(d.of(orgB, orgC)[:2], func(p *participant) error {
		for n := range 20 {
			if p == d.bob && n == 5 {
				begin := time.Now()
				if err := d.world.Stop(orgA); err != nil {
					return err
				}
				down <- time.Since(begin)
			}
			if err := d.say(ctx, p, fmt.Sprintf("%s goes on talking (%d)", p.name, n+1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = d.heard(ctx, d.of(orgB, orgC))
	}
	if err != nil {
		return "", err
	}
	messages, _ := d.owing().minus(before)
	return fmt.Sprintf("%s; stopped in %s; %d messages meanwhile, read at the other two", lead, milliseconds(<-down), messages), nil
}

// goOnWithout makes the remaining members commit: two of three voters are a majority.
func (d *demo) goOnWithout(ctx context.Context) (string, error) {
	var took []time.Duration
	for n := range 6 {
		p := []*participant{d.bob, d.carol}[n%2]
		begin := time.Now()
		if err := p.UpdateKeys(ctx, d.id); err != nil {
			return "", err
		}
		took = append(took, time.Since(begin))
	}
	epoch, err := d.agree(ctx, d.of(orgB, orgC), d.epochOf(ctx, d.carol))
	rest := slices.Sorted(slices.Values(took[1:]))
	return fmt.Sprintf("%d commits by 2 of 3 voters: epoch %d; the first after %s, then %s each", len(took), epoch, milliseconds(took[0]), milliseconds(rest[len(rest)/2])), err
}

func (d *demo) comeBack(ctx context.Context) (string, error) {
	missed := len(d.owedTo(d.alice))
	had, err := d.alice.Conversation(ctx, d.id)
	if err != nil {
		return "", err
	}
	missed -= int(had.Messages)
	for _, p := range []*participant{d.alice, d.laptop} {
		if err := d.say(ctx, p, p.name+" writes this while her node is down"); err != nil {
			return "", err
		}
	}
	begin := time.Now()
	if err := d.world.Start(ctx, orgA); err != nil {
		return "", err
	}
	up := time.Since(begin)
	epoch, err := d.agree(ctx, d.members(), d.epochOf(ctx, d.carol))
	if err == nil {
		err = d.heard(ctx, d.members())
	}
	return fmt.Sprintf("serves after %s; alice has the %d messages and %d epochs she missed, others what she wrote: epoch %d",
		milliseconds(up), missed, epoch-had.Epoch, epoch), err
}

// file sends random bytes, which all devices fetch.
func (d *demo) file(ctx context.Context) (string, error) {
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content) // cannot fail: crypto/rand ends the process
	owed := d.members()
	begin := time.Now()
	id, err := d.carol.SendFile(ctx, d.id, "menu.pdf", bytes.NewReader(content), int64(len(content)), "look at page 2")
	if err != nil {
		return "", err
	}
	up := time.Since(begin)
	r := &remark{by: d.carol, id: id, text: "look at page 2", owed: owed}
	d.note(r)
	begin = time.Now()
	err = together([]*participant{d.alice, d.laptop, d.bob}, func(p *participant) error {
		m, err := d.awaitMessage(ctx, p, r)
		if err != nil {
			return err
		}
		if m.Content.File == nil {
			return fmt.Errorf("%s: the message holds no file", p.name)
		}
		got := new(bytes.Buffer)
		if err := p.SaveFile(ctx, d.id, m.Content.File, got, 0); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if sha256.Sum256(got.Bytes()) != sha256.Sum256(content) {
			return fmt.Errorf("%s has saved another file of %d bytes", p.name, got.Len())
		}
		return nil
	})
	return fmt.Sprintf("%s, encrypted and uploaded in %s, saved on 3 devices of 2 other organizations in %s", cli.Size(uint64(len(content))), milliseconds(up), milliseconds(time.Since(begin))), err
}

// awaitMessage waits for a message at a device.
func (d *demo) awaitMessage(ctx context.Context, p *participant, r *remark) (*client.Message, error) {
	var found *client.Message
	err := cluster.Await(ctx, p.Device, func() (bool, error) {
		page, err := p.History(ctx, d.id, client.Query{})
		if err != nil {
			return false, err
		}
		for i := range page.Messages {
			if m := &page.Messages[i]; m.ID == r.id && m.Sender == r.by.id {
				found = m
			}
		}
		return found != nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s waits for a message of %s: %w", p.name, r.by.name, err)
	}
	return found, nil
}
