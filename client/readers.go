package client

import (
	"context"
	"fmt"
	"sync"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A commit's change of the delivery list is held against its change of the group. What the list began with is
// not: a founder can put an address into the create that no member has, and who joins later never sees it. So
// each member compares the whole list with the members' addresses, once for each conversation and run, and when
// it has joined.

// checkedReaders are the conversations whose lists have been compared.
type checkedReaders struct {
	mu   sync.Mutex // guards done
	done map[wire.ConversationID]bool
}

// readers is what a conversation's delivery list has to be.
type readers struct {
	id   wire.ConversationID
	want wire.DeliveryHead
}

// lookAtReaders has a conversation's delivery list compared soon, where the node can tell it.
func (d *Device) lookAtReaders(id wire.ConversationID) {
	d.readers.forget(id)
	if s, _ := d.link.get(); s != nil && s.has(wire.FeatureDelivery) {
		d.lanes.kick(laneUpkeep)
	}
}

// maxReaders is how many conversations are looked at in one round of upkeep.
const maxReaders = 256

// tendReaders compares the delivery lists of conversations that were not looked at yet.
func (d *Device) tendReaders(ctx context.Context) error {
	if s, _ := d.link.get(); s == nil || !s.has(wire.FeatureDelivery) {
		return nil
	}
	var list []readers
	err := d.turn(ctx, func(u *unit) error {
		return d.eachActive(u, func(t *thread) error {
			if d.readers.has(t.id) || len(list) == maxReaders {
				return nil
			}
			head, err := t.readers()
			list = append(list, readers{t.id, head})
			return err
		})
	})
	for _, r := range list {
		if err != nil {
			return err
		}
		err = d.compareReaders(ctx, &r)
	}
	return err
}

// compareReaders asks for one list. One of another epoch is compared at the next round.
func (d *Device) compareReaders(ctx context.Context, r *readers) error {
	var a wire.DeliveryAnswer
	if err := d.call(ctx, wire.MethodDelivery, &wire.DeliveryRequest{Conversation: r.id}, &a); err != nil {
		return err
	}
	for _, h := range a.Heads {
		if h.Parent != r.want.Parent {
			continue
		}
		d.readers.add(r.id)
		if h != r.want {
			err := fmt.Errorf("it is delivered to %d addresses, and its members have %d: its founder or a server added a reader in silence, or left a member out", h.Addresses, r.want.Addresses)
			d.log.Error("divergence", "conversation", r.id, "error", err)
			d.emit(Event{Type: EventDivergence, Conversation: r.id, Err: err})
		}
	}
	return nil
}

// readers describes the delivery list that the members make.
func (t *thread) readers() (wire.DeliveryHead, error) {
	var members []mlscore.Member
	t.group.Public().Members(func(m mlscore.Member) bool { members = append(members, m); return true })
	list, err := addresses(members)
	if err != nil {
		return wire.DeliveryHead{}, err
	}
	return wire.DeliveryHeadOf(t.rec.Position.Parent, list)
}

func (c *checkedReaders) has(id wire.ConversationID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done[id]
}

func (c *checkedReaders) add(id wire.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(map[wire.ConversationID]bool)
	}
	c.done[id] = true
}

// forget has a conversation compared again.
func (c *checkedReaders) forget(id wire.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.done, id)
}
