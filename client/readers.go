package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// A commit's change of the delivery list is held against its change of the group. What the list began with is
// not: a founder can put an address into the create that no member has, and who joins later never sees it. So
// each member compares the whole list with the members' addresses, once for each conversation and run, and when
// it has joined.

// checkedReaders are the conversations whose lists have been compared in this run.
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
		d.lanes.kick(upkeepOf(id))
	}
}

// maxReaders is how many conversations are compared in one round of upkeep: each opens a group and costs a request.
const maxReaders = 16

// tendReaders compares the delivery lists of conversations that this run has not compared, those that were not
// compared for the longest time first. With only, it looks at that conversation alone.
func (d *Device) tendReaders(ctx context.Context, only wire.ConversationID) error {
	if s, _ := d.link.get(); s == nil || !s.has(wire.FeatureDelivery) {
		return nil
	}
	var list []readers
	err := d.turn(ctx, func(u *unit) error {
		due, err := d.dueReaders(u, only)
		for _, c := range due {
			if err != nil {
				return err
			}
			var t *thread
			if t, err = d.glance(u, c.id, c.rec); err != nil {
				return err
			}
			var head wire.DeliveryHead
			head, err = t.readers()
			list = append(list, readers{c.id, head})
		}
		return err
	})
	for _, r := range list {
		if err != nil {
			return err
		}
		err = d.compareReaders(ctx, &r)
	}
	return err
}

// dueReaders are the conversations to be compared next.
func (d *Device) dueReaders(u *unit, only wire.ConversationID) ([]tended, error) {
	var due []tended
	err := someRecords(u, only, func(id wire.ConversationID, rec *conversationRecord) error {
		if rec.State == StateActive && !d.readers.has(id) {
			due = append(due, tended{id: id, rec: rec})
		}
		return nil
	})
	if err != nil || len(due) <= maxReaders {
		return due, err
	}
	for i := range due {
		if _, err := u.getRecord(tendedKey(due[i].id), &due[i].know); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(due, func(a, b tended) int { return cmp.Compare(a.know.Compared, b.know.Compared) })
	return due[:maxReaders], nil
}

// comparedReaders notes that a conversation's delivery list was compared.
func (d *Device) comparedReaders(ctx context.Context, id wire.ConversationID) error {
	d.readers.add(id)
	return d.turn(ctx, func(u *unit) error {
		know := tendedRecord{Version: recordVersion}
		if _, err := u.getRecord(tendedKey(id), &know); err != nil {
			return err
		}
		know.Compared = d.now()
		return u.putRecord(tendedKey(id), &know)
	})
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
		if err := d.comparedReaders(ctx, r.id); err != nil {
			return err
		}
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
