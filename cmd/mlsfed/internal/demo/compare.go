package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/traffic"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/wire"
)

// faultDrop is the value of MLSFED_DEMO_FAULT with which a test checks that the comparison finds a fault: the
// comparison leaves a delivered message out of what one device has.
const faultDrop = "drop"

// compare compares every device with what was sent, and with all other devices.
func (d *demo) compare(ctx context.Context) (string, error) {
	if err := d.heard(ctx, d.members()); err != nil {
		return "", err
	}
	epoch, err := d.agree(ctx, d.members(), 0)
	if err != nil {
		return "", err
	}
	var faults []string
	read := 0
	for _, p := range d.everybody() {
		have, err := d.history(ctx, p)
		if err != nil {
			return "", err
		}
		read += len(have)
		faults = append(faults, compareHistory(p, have, d.owedTo(p))...)
	}
	number, more, err := d.compareStates(ctx)
	if err != nil {
		return "", err
	}
	faults = append(append(faults, more...), d.recordedAlarms()...)
	if len(faults) > 0 {
		return "", fmt.Errorf("%s:\n  %s", cli.Plural(len(faults), "fault", "faults"), strings.Join(faults, "\n  "))
	}
	return fmt.Sprintf("%d messages in %d histories, none missing or twice, in order; epoch %d, number %s; one order hash, at 3 nodes too",
		read, len(d.everybody()), epoch, number), nil
}

// recordedAlarms returns the alarms that devices have raised.
func (d *demo) recordedAlarms() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.alarms)
}

// history returns all messages of the conversation that a device has.
func (d *demo) history(ctx context.Context, p *participant) ([]client.Message, error) {
	var all []client.Message
	for q := (client.Query{Forward: true, Limit: client.MaxPage}); ; {
		page, err := p.History(ctx, d.id, q)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, page.Messages...)
		if !page.More {
			break
		}
		q.After = page.Next
	}
	if d.opts.fault == faultDrop && p == d.bob {
		i := slices.IndexFunc(all, func(m client.Message) bool { return m.Sender != p.id })
		all = slices.Delete(all, i, i+1)
	}
	return all, nil
}

// compareHistory finds messages that a device misses, has twice, or should not have, and messages out of their
// sender's order.
func compareHistory(p *participant, have []client.Message, owed []*remark) (faults []string) {
	type name struct {
		by wire.DeviceID
		id client.MessageID
	}
	places := make(map[name]int)
	for i, m := range have {
		n := name{m.Sender, m.ID}
		if _, twice := places[n]; twice {
			faults = append(faults, fmt.Sprintf("%s has %s twice", p.name, quote(m.Sender, m.Content.Text)))
		}
		places[n] = i
	}
	last := make(map[wire.DeviceID]int)
	for _, r := range owed {
		n := name{r.by.id, r.id}
		at, ok := places[n]
		if !ok {
			faults = append(faults, fmt.Sprintf("%s misses %s, id %s", p.name, quote(r.by.id, r.text), r.id))
			continue
		}
		if have[at].Content.Text != r.text {
			faults = append(faults, fmt.Sprintf("%s has %q for %s", p.name, have[at].Content.Text, quote(r.by.id, r.text)))
		}
		if before, any := last[r.by.id]; any && at < before {
			faults = append(faults, fmt.Sprintf("%s has %s too late in its sender's order", p.name, quote(r.by.id, r.text)))
		}
		last[r.by.id] = at
		delete(places, n)
	}
	for n, at := range places {
		faults = append(faults, fmt.Sprintf("%s has %s, which was not for it", p.name, quote(n.by, have[at].Content.Text)))
	}
	return faults
}

func quote(by wire.DeviceID, text string) string {
	return fmt.Sprintf("%q of %s/%s", text, by.User().Name(), by.Name())
}

// compareStates compares the states of the members, and the logs of the nodes, with each other.
func (d *demo) compareStates(ctx context.Context) (number string, faults []string, err error) {
	first, err := d.alice.Conversation(ctx, d.id)
	if err != nil {
		return "", nil, err
	}
	if number, err = d.alice.ConversationNumber(ctx, d.id); err != nil {
		return "", nil, err
	}
	for _, p := range d.members() {
		c, err := d.await(ctx, p, func(c *client.Conversation) bool { return c.Sequence >= first.Sequence })
		if err != nil {
			return "", nil, err
		}
		n, err := p.ConversationNumber(ctx, d.id)
		if err != nil {
			return "", nil, err
		}
		if n != number {
			faults = append(faults, fmt.Sprintf("%s is in another state: its number is %s, that of alice is %s", p.name, n, number))
		}
		if c.Sequence != first.Sequence || c.Order != first.Order {
			faults = append(faults, fmt.Sprintf("%s has order hash %v after %d entries, alice %v after %d", p.name, c.Order, c.Sequence, first.Order, first.Sequence))
		}
	}
	for _, org := range []wire.Domain{orgA, orgB, orgC} {
		order, entries, err := d.orderAt(ctx, org, uint64(first.Sequence))
		if err != nil {
			return "", nil, err
		}
		if order != first.Order.String() {
			faults = append(faults, fmt.Sprintf("the node of %s has order hash %s after %d entries, alice %v after %d", org, order, entries, first.Order, first.Sequence))
		}
	}
	return number, faults, nil
}

// orderAt returns a node's order hash, once the node has as many entries as the devices.
func (d *demo) orderAt(ctx context.Context, org wire.Domain, entries uint64) (string, uint64, error) {
	for {
		s, err := d.world.Status(ctx, org)
		if err != nil {
			return "", 0, err
		}
		for _, c := range s.Conversations {
			if c.ID == d.id.String() && c.Entries >= entries {
				return c.Order, c.Entries, nil
			}
		}
		if err := cluster.Pause(ctx, traffic.Quiet/10); err != nil {
			return "", 0, fmt.Errorf("the node of %s does not come to entry %d: %w", org, entries, err)
		}
	}
}
